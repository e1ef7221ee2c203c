//! An import in progress: what is written of it, and the room that takes.
//!
//! The disk is told to write while bytes still come, so that the last fsync is short.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use blake3::Hash;
use mhc_protocol::BlobHash;

use super::{
    BlobError,
    files::Temp,
    room::Reservation,
    segments::{Outline, SEGMENT_BYTES},
    store::Inner,
};

/// Bytes a stream is promised at a time, and between looks at the free space.
const STEP_BYTES: u64 = 16 << 20;
/// Bytes written before the disk is told to begin.
const FLUSH_BYTES: u64 = 32 << 20;

/// What a finished import consists of: its hash, bytes (of a copy) and tree, all durable, and its room.
pub(super) type Finished = (BlobHash, Option<Temp>, Temp, Room);

/// An import in progress. Dropping it deletes what was written. Segments may be put in any order, from any thread.
pub(super) struct Intake {
    inner: Arc<Inner>,
    copy: Option<Copy>,
    tree: Outline,
    /// The last segment so far, and its hash.
    last: Mutex<Option<(u64, Hash)>>,
    room: Mutex<Room>,
}

impl Intake {
    /// Of a copy; of a stream when the size isn't known. Room for the size is made.
    pub(super) fn copy(inner: &Arc<Inner>, size_bytes: Option<u64>) -> Result<Self, BlobError> {
        let temp = inner.dirs.temp().map_err(BlobError::io("create an import's file"))?;
        let intake = Self::new(inner, size_bytes, Some(Copy { temp, flush: Mutex::default() }))?;
        lock(&intake.room).reserve(size_bytes.unwrap_or(0))?;
        Ok(intake)
    }

    /// Of a file that stays where it is.
    pub(super) fn reference(inner: &Arc<Inner>, size_bytes: u64) -> Result<Self, BlobError> {
        Self::new(inner, Some(size_bytes), None)
    }

    fn new(inner: &Arc<Inner>, size_bytes: Option<u64>, copy: Option<Copy>) -> Result<Self, BlobError> {
        if inner.table.lock().closed {
            return Err(BlobError::Closed);
        }
        let tree = Outline::new(&inner.dirs, size_bytes).map_err(BlobError::io("create an import's file"))?;
        let room = Mutex::new(Room::new(inner));
        Ok(Self { inner: Arc::clone(inner), copy, tree, last: Mutex::new(None), room })
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Writes (of a copy) and hashes a segment; `whole` when it is all of the blob. `pairs` is room to work in.
    pub(super) fn put(&self, segment: u64, bytes: &[u8], whole: bool, pairs: &mut Vec<u8>) -> Result<(), BlobError> {
        if let Some(copy) = &self.copy {
            lock(&self.room).take(&self.inner, bytes.len() as u64)?;
            copy.write(bytes, segment * SEGMENT_BYTES).map_err(BlobError::io("write an import"))?;
        }
        let hash = self.tree.put(segment, bytes, whole, pairs).map_err(BlobError::io("write an import's tree"))?;
        let mut last = lock(&self.last);
        if last.is_none_or(|(last, _)| last < segment) {
            *last = Some((segment, hash));
        }
        Ok(())
    }

    /// Completes the tree and makes everything durable. Every segment was put.
    pub(super) fn finish(self, size_bytes: u64) -> Result<Finished, BlobError> {
        let (_, last) = lock(&self.last).ok_or(BlobError::InvalidItem)?;
        let tree = self.tree.finish(&self.inner.dirs, size_bytes, last);
        let (tree, hash) = tree.map_err(BlobError::io("write an import's tree"))?;
        let data = self.copy.map(Copy::sync).transpose().map_err(BlobError::io("fsync an import"))?;
        tree.file.sync_all().map_err(BlobError::io("fsync an import"))?;
        Ok((hash, data, tree, self.room.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of a copy.
struct Copy {
    temp: Temp,
    flush: Mutex<Flush>,
}

/// An fsync that runs beside. Its result counts: an error is reported to only one fsync, which may be this one.
#[derive(Default)]
struct Flush {
    unflushed_bytes: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Copy {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.temp.file.write_all_at(bytes, offset)?;
        let mut flush = lock(&self.flush);
        flush.unflushed_bytes += bytes.len() as u64;
        let idle = flush.running.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && flush.unflushed_bytes >= FLUSH_BYTES {
            flush.wait()?;
            flush.start(self.temp.file.try_clone()?)?;
        }
        Ok(())
    }

    fn sync(self) -> io::Result<Temp> {
        self.flush.into_inner().unwrap_or_else(PoisonError::into_inner).wait()?;
        self.temp.file.sync_all()?;
        Ok(self.temp)
    }
}

impl Flush {
    fn start(&mut self, file: File) -> io::Result<()> {
        self.unflushed_bytes = 0;
        self.running = Some(thread::Builder::new().name("blob-flush".into()).spawn(move || file.sync_data())?);
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        self.running.take().map_or(Ok(()), |running| running.join().unwrap_or_else(panicked))
    }
}

/// The room an import takes.
pub(super) struct Room {
    reservation: Reservation,
    reserved_bytes: u64,
    taken_bytes: u64,
    unchecked_bytes: u64,
}

impl Room {
    fn new(inner: &Arc<Inner>) -> Self {
        let reservation = Reservation::none(inner);
        Self { reservation, reserved_bytes: 0, taken_bytes: 0, unchecked_bytes: 0 }
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.reservation.grow(bytes)?;
        self.reserved_bytes += bytes;
        Ok(())
    }

    /// Counts bytes before they are written.
    fn take(&mut self, inner: &Inner, bytes: u64) -> Result<(), BlobError> {
        self.taken_bytes += bytes;
        let lacking = self.taken_bytes.saturating_sub(self.reserved_bytes);
        if lacking > 0 && self.reserve(lacking.max(STEP_BYTES)).is_err() {
            // The step may be more than what is left to come.
            self.reserve(lacking)?;
        }
        self.unchecked_bytes += bytes;
        if self.unchecked_bytes >= STEP_BYTES {
            self.unchecked_bytes = 0;
            inner.check_free()?;
        }
        Ok(())
    }
}
