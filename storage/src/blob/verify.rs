//! Finding out what on disk still matches its hash: in the background after an unclean stop or on demand, and at once
//! when a read fails.
//!
//! Ranges are repaired both ways: what doesn't validate is withdrawn, what validates but wasn't recorded is offered.

use std::{
    collections::{HashSet, VecDeque},
    fs,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bao_tree::{ChunkRanges, io::sync::valid_ranges};
use mhc_protocol::BlobHash;

use super::{
    BlobError, BlobEvent, VerifyProgress,
    files::{Files, Identity},
    meta::{Change, Row},
    read::windows_of,
    store::Inner,
    table::{Place, Reference, all_chunks, bytes_in, whole_groups},
};

/// Windows (256 KiB) verified before the thread rests.
const WINDOWS_PER_TURN: usize = 16;

/// Blobs waiting to be verified.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<BlobHash>,
    queued: HashSet<BlobHash>,
    current: Option<BlobHash>,
    progress: VerifyProgress,
    stop: bool,
}

impl Queue {
    pub(super) fn new(hashes: Vec<BlobHash>) -> Self {
        let queued = hashes.iter().copied().collect();
        Self { state: Mutex::new(Waiting { order: hashes.into(), queued, ..Waiting::default() }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, hash: BlobHash) {
        let mut waiting = self.lock();
        if waiting.queued.insert(hash) {
            waiting.order.push_back(hash);
            self.wake.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    pub(super) fn progress(&self) -> VerifyProgress {
        let waiting = self.lock();
        let blobs_left = waiting.order.len() as u64 + u64::from(waiting.current.is_some());
        VerifyProgress { blobs_left, ..waiting.progress }
    }

    /// The next blob; none when the store closes.
    fn next(&self) -> Option<BlobHash> {
        let idle = |waiting: &mut Waiting| !waiting.stop && waiting.order.is_empty();
        let mut waiting = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if waiting.stop {
            return None;
        }
        let hash = waiting.order.pop_front()?;
        waiting.queued.remove(&hash);
        waiting.current = Some(hash);
        Some(hash)
    }

    fn done(&self, damaged: bool) {
        let mut waiting = self.lock();
        waiting.current = None;
        waiting.progress.blobs_done += 1;
        waiting.progress.blobs_damaged += u64::from(damaged);
    }

    /// Leaves the disk to others for as long as it was used. False when the store closes.
    fn rest(&self, worked: Duration, bytes: u64) -> bool {
        let mut waiting = self.lock();
        waiting.progress.bytes_done += bytes;
        let resting = self.wake.wait_timeout_while(waiting, worked, |waiting| !waiting.stop);
        !resting.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

/// The verifying thread: runs until the queue is stopped.
pub(super) fn run(inner: &Inner) {
    // Below whatever serves people. It works at normal priority, too.
    let _ = rustix::process::setpriority_process(None, 10);
    inner.recheck_references();
    if inner.was_unclean
        && let Err(error) = inner.delete_strays(&inner.structure())
    {
        tracing::warn!(%error, "stray files can't be deleted");
    }
    while let Some(hash) = inner.verify.next() {
        match inner.verify_blob(hash) {
            Ok(Some(damaged)) => inner.verify.done(damaged),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(blob = %hash, %error, "a blob can't be verified");
                inner.verify.done(false);
            }
        }
    }
}

impl Inner {
    /// Looks at every referenced file: those that changed are withdrawn, those that came back are verified.
    fn recheck_references(&self) {
        let references: Vec<_> = {
            let state = self.table.lock();
            let referenced = state.blobs.iter().filter_map(|(hash, blob)| match &blob.place {
                Place::Referenced(reference) => Some((*hash, reference.clone(), blob.generation, blob.complete)),
                Place::Owned => None,
            });
            referenced.collect()
        };
        for (hash, reference, generation, complete) in references {
            match (complete, reference.identity.matches(&reference.path)) {
                (true, false) => self.lose_reference(hash, generation),
                (false, true) => self.verify.push(hash),
                _ => {}
            }
        }
    }

    /// Verifies a whole blob. True when it is damaged; none when the store closes meanwhile.
    fn verify_blob(&self, hash: BlobHash) -> Result<Option<bool>, BlobError> {
        let (place, size_bytes) = {
            let mut state = self.table.lock();
            let blob = match state.get(hash) {
                Ok(blob) => blob,
                Err(BlobError::Missing) => return Ok(Some(false)),
                Err(error) => return Err(error),
            };
            (blob.place.clone(), blob.size_bytes)
        };
        let damaged = match place {
            Place::Owned => self.verify_owned(hash, size_bytes)?,
            Place::Referenced(reference) => self.verify_reference(hash, size_bytes, reference)?,
        };
        if damaged.is_some() {
            let _structure = self.structure();
            self.meta.commit(&[Change::Verified(hash)])?;
        }
        Ok(damaged)
    }

    fn verify_owned(&self, hash: BlobHash, size_bytes: u64) -> Result<Option<bool>, BlobError> {
        let files = match self.files(hash) {
            Err(BlobError::Damaged) => return Ok(Some(true)),
            other => other?,
        };
        // A claimed size may be anything; there is nothing to find behind the file's end.
        let length = files.data.metadata().map_or(0, |metadata| metadata.len()).min(size_bytes);
        let mut damaged =
            self.check(hash, &(&all_chunks(size_bytes) - &whole_groups(&all_chunks(length), size_bytes)))?;
        let finished = self.in_turns(length, |window| {
            damaged |= self.check(hash, &super::groups_of(window, size_bytes))?;
            Ok(())
        })?;
        self.signal.dirty(true);
        Ok(finished.then_some(damaged))
    }

    /// A referenced file counts as a whole: it is either still the blob or it isn't.
    fn verify_reference(
        &self,
        hash: BlobHash,
        size_bytes: u64,
        reference: Reference,
    ) -> Result<Option<bool>, BlobError> {
        let generation = self.table.lock().get(hash)?.generation;
        let Some(identity) = identity_of(&reference).filter(|identity| identity.len_bytes == size_bytes) else {
            return Ok(Some(true));
        };
        let files = Files::open_referenced(&self.dirs, hash, size_bytes, generation, &reference.path);
        let files = files.map_err(BlobError::open)?;
        let mut valid = true;
        let finished = self.in_turns(size_bytes, |window| {
            valid = valid && window.is_subset(&valid_chunks(&files, window));
            Ok(())
        })?;
        if !finished {
            return Ok(None);
        }
        if valid && identity.matches(&reference.path) {
            self.restore_reference(hash, generation, Reference { identity, ..reference })?;
            return Ok(Some(false));
        }
        self.withdraw(hash, None);
        Ok(Some(true))
    }

    fn restore_reference(&self, hash: BlobHash, generation: u64, reference: Reference) -> Result<(), BlobError> {
        let _structure = self.structure();
        let (row, was_complete) = {
            let mut state = self.table.lock();
            let blob = state.get(hash)?;
            if blob.generation != generation {
                return Ok(());
            }
            let was_complete = blob.complete;
            blob.place = Place::Referenced(reference);
            blob.ranges = all_chunks(blob.size_bytes);
            blob.durable = blob.ranges.clone();
            blob.complete = true;
            let row = Row::of(blob, true);
            state.notify(hash);
            (row, was_complete)
        };
        self.meta.commit(&[Change::Put(hash, row)])?;
        if !was_complete {
            self.table.emit(BlobEvent::Complete(hash));
        }
        Ok(())
    }

    /// Calls `verify` for each window of a blob, with rests. False when the store closes meanwhile.
    fn in_turns(
        &self,
        size_bytes: u64,
        mut verify: impl FnMut(&ChunkRanges) -> Result<(), BlobError>,
    ) -> Result<bool, BlobError> {
        let mut begun = Instant::now();
        let mut unreported = 0;
        for (index, window) in windows_of(&all_chunks(size_bytes)).enumerate() {
            let window = ChunkRanges::from(window) & all_chunks(size_bytes);
            verify(&window)?;
            unreported += bytes_in(&window, size_bytes);
            if index % WINDOWS_PER_TURN == WINDOWS_PER_TURN - 1 {
                if !self.verify.rest(begun.elapsed(), std::mem::take(&mut unreported)) {
                    return Ok(false);
                }
                begun = Instant::now();
            }
        }
        Ok(self.verify.rest(Duration::ZERO, unreported))
    }

    /// Brings a blob's ranges in line with what is on disk inside `window` (whole groups). True when something that
    /// was offered isn't valid.
    pub(super) fn check(&self, hash: BlobHash, window: &ChunkRanges) -> Result<bool, BlobError> {
        // What is written while this reads mustn't count as damage: only what was offered before is judged.
        let before = self.table.lock().get(hash)?.ranges.clone() & window.clone();
        let files = match self.files(hash) {
            Err(BlobError::Damaged) => return Ok(true),
            other => other?,
        };
        let valid = valid_chunks(&files, window) & window.clone();
        let bad = &before - &valid;
        if !bad.is_empty() && self.table.lock().get(hash)?.generation == files.generation {
            let referenced = !files.writable;
            self.withdraw(hash, if referenced { None } else { Some(&bad) });
            return Ok(true);
        }
        self.recover(&files, &valid);
        Ok(false)
    }

    /// Offers valid chunks that weren't recorded.
    fn recover(&self, files: &Files, valid: &ChunkRanges) {
        let mut state = self.table.lock();
        let Ok(blob) = state.get(files.hash) else { return };
        if blob.generation != files.generation || blob.referenced() || valid.is_subset(&blob.ranges) {
            return;
        }
        blob.ranges |= valid.clone();
        state.notify(files.hash);
        drop(state);
        self.signal.dirty(false);
    }

    /// Queues every blob, durably: an interrupted verification goes on at the next start.
    pub(super) fn verify_all(&self) -> Result<(), BlobError> {
        let hashes: Vec<_> = self.table.lock().blobs.keys().copied().collect();
        let changes: Vec<_> = hashes.iter().copied().map(Change::Suspect).collect();
        {
            let _structure = self.structure();
            self.meta.commit(&changes)?;
        }
        hashes.into_iter().for_each(|hash| self.verify.push(hash));
        Ok(())
    }
}

/// The valid chunks of a window. What can't be read isn't valid.
fn valid_chunks(files: &Files, window: &ChunkRanges) -> ChunkRanges {
    let mut valid = ChunkRanges::empty();
    for range in valid_ranges(files.outboard(), &files.data, window).into_iter().flatten() {
        valid |= ChunkRanges::from(range);
    }
    valid
}

fn identity_of(reference: &Reference) -> Option<Identity> {
    fs::metadata(&reference.path).ok().filter(fs::Metadata::is_file).map(|metadata| Identity::of(&metadata))
}

/// For the thread's handle.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let inner = Arc::clone(inner);
    std::thread::Builder::new().name("blob-verify".into()).spawn(move || run(&inner))
}
