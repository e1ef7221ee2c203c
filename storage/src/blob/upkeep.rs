//! The store's two threads: one writes checkpoints and sweeps, one verifies ([`verify`](super::verify)). They end with
//! the last handle to the store, or at shutdown. Threads, not tasks: all they do is wait for the disk.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use mhc_protocol::BlobHash;

use super::{BlobError, store::Inner, table::Blob, verify};

/// Longest time between a write and the checkpoint that makes it durable.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);

/// Tells the checkpointing thread that there is something to do.
#[derive(Debug, Default)]
pub(super) struct Signal {
    state: Mutex<Wanted>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    dirty: bool,
    now: bool,
    stop: bool,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something isn't durable; `now` doesn't wait for the interval to pass.
    pub(super) fn dirty(&self, now: bool) {
        let mut wanted = self.lock();
        wanted.now |= now;
        if !std::mem::replace(&mut wanted.dirty, true) || now {
            self.wake.notify_all();
        }
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    /// Waits until something is dirty and the interval has passed. False when it is time to end.
    fn wait(&self) -> bool {
        let idle = |wanted: &mut Wanted| !wanted.stop && !wanted.dirty;
        let wanted = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let early = |wanted: &mut Wanted| !wanted.stop && !wanted.now;
        let waited = self.wake.wait_timeout_while(wanted, CHECKPOINT_INTERVAL, early);
        let mut wanted = waited.unwrap_or_else(PoisonError::into_inner).0;
        (wanted.dirty, wanted.now) = (false, false);
        !wanted.stop
    }
}

/// Ends the threads when dropped.
#[derive(Debug)]
pub(super) struct Threads {
    inner: Arc<Inner>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self, BlobError> {
        let step = BlobError::io("start a thread");
        let threads = Self { inner: Arc::clone(inner), handles: Mutex::default() };
        let checkpoints = Arc::clone(inner);
        let checkpoints =
            std::thread::Builder::new().name("blob-upkeep".into()).spawn(move || run(&checkpoints)).map_err(&step)?;
        threads.lock().push(checkpoints);
        let verifier = verify::spawn(inner).map_err(&step)?;
        threads.lock().push(verifier);
        Ok(threads)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends both and waits for what they are at: one fsync, or a few windows.
    pub(super) fn stop(&self) {
        self.inner.signal.stop();
        self.inner.verify.stop();
        for handle in std::mem::take(&mut *self.lock()) {
            // A panic in one was reported when it happened.
            let _ = handle.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(inner: &Inner) {
    while inner.signal.wait() {
        inner.checkpoint_all();
        inner.sweep();
    }
}

impl Inner {
    fn checkpoint_all(&self) {
        if let Err(error) = self.write_deletes() {
            tracing::error!(%error, "removed blobs can't be written down; trying again");
            self.signal.dirty(false);
        }
        for hash in self.which(|blob| blob.row_dirty || blob.ranges != blob.durable) {
            if let Err(error) = self.checkpoint(hash) {
                tracing::error!(blob = %hash, %error, "a blob can't be made durable; trying again");
                self.signal.dirty(false);
            }
        }
    }

    /// Forgets transfers that ended before they brought anything.
    fn sweep(&self) {
        let hollow = |blob: &Blob| {
            blob.users == 0 && blob.ranges.is_empty() && !blob.complete && !blob.pinned && !blob.referenced()
        };
        let hashes = self.which(hollow);
        if !hashes.is_empty()
            && let Err(error) = self.remove_all(&self.structure(), &hashes, hollow)
        {
            tracing::warn!(%error, "empty partial blobs can't be removed");
        }
    }

    fn which(&self, wanted: impl Fn(&Blob) -> bool) -> Vec<BlobHash> {
        let state = self.table.lock();
        state.blobs.iter().filter(|(_, blob)| wanted(blob)).map(|(hash, _)| *hash).collect()
    }
}
