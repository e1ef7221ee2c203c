//! Ways into the store: bytes are copied from a stream or a file, or referenced where they are.
//!
//! Each is hashed on the way, segment by segment, on all cores ([`segments`]), made durable, moved into place and only
//! then recorded. Memory is a segment or two per core, whatever the size.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use mhc_protocol::BlobHash;
use tokio::task::JoinSet;

use super::{
    BlobError, BlobEvent, ImportPhase, ImportProgress, OnProgress, blocking,
    files::{Identity, Temp, delete},
    finished,
    intake::Intake,
    meta::{Change, Row},
    segments::{self, SEGMENT_BYTES},
    store::Inner,
    table::{self, Blob, InUse, Place, Reference, all_chunks},
};

/// Segments in work at once: no disk brings more than so many cores can hash.
const MOST_WORKERS: usize = 16;

/// What an import yields: the hash, the size, and what keeps the blob from being evicted.
pub(super) type Done = (BlobHash, u64, InUse);

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS)
}

/// Imports a stream of at most `limit_bytes`.
pub(super) async fn stream<S>(inner: &Arc<Inner>, bytes: S, limit_bytes: u64) -> Result<Done, BlobError>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let started = Arc::clone(inner);
    let mut upload = Upload::new(blocking(move || Intake::copy(&started, None)).await?, limit_bytes);
    let received = upload.receive(bytes).await;
    // Waited for after an error, too: whoever is told of it finds nothing left behind.
    let written = upload.wait(0).await;
    received.and(written)?;
    blocking(move || upload.finish()).await
}

/// A stream being imported. Its segments are written and hashed on the blocking pool, a few at a time.
struct Upload {
    intake: Arc<Intake>,
    limit_bytes: u64,
    received_bytes: u64,
    next_segment: u64,
    /// What came since the last segment. A full one waits here until it is known not to be the last, because a blob of
    /// a single segment is hashed as its own root.
    tail: Vec<Bytes>,
    tail_bytes: u64,
    tasks: JoinSet<Result<(), BlobError>>,
}

impl Upload {
    fn new(intake: Intake, limit_bytes: u64) -> Self {
        let (intake, tasks) = (Arc::new(intake), JoinSet::new());
        Self { intake, limit_bytes, received_bytes: 0, next_segment: 0, tail: Vec::new(), tail_bytes: 0, tasks }
    }

    async fn receive(&mut self, bytes: impl Stream<Item = io::Result<Bytes>> + Send) -> Result<(), BlobError> {
        let mut bytes = pin!(bytes);
        while let Some(piece) = bytes.next().await {
            let mut piece = piece.map_err(BlobError::Stream)?;
            self.received_bytes += piece.len() as u64;
            if self.received_bytes > self.limit_bytes {
                return Err(BlobError::TooLarge { limit_bytes: self.limit_bytes });
            }
            while !piece.is_empty() {
                if self.tail_bytes == SEGMENT_BYTES {
                    self.hand_over(false);
                    self.wait(workers()).await?;
                }
                self.push(&mut piece);
            }
        }
        self.hand_over(self.next_segment == 0);
        Ok(())
    }

    /// Takes as much of a piece as belongs to the segment.
    fn push(&mut self, piece: &mut Bytes) {
        let length = (SEGMENT_BYTES - self.tail_bytes).min(piece.len() as u64);
        self.tail_bytes += length;
        self.tail.push(piece.split_to(length as usize));
    }

    fn hand_over(&mut self, whole: bool) {
        let (intake, segment, pieces) = (Arc::clone(&self.intake), self.next_segment, std::mem::take(&mut self.tail));
        (self.next_segment, self.tail_bytes) = (segment + 1, 0);
        self.tasks.spawn_blocking(move || intake.put(segment, &pieces.concat(), whole, &mut Vec::new()));
    }

    /// Waits until no more than `most` segments are in work.
    async fn wait(&mut self, most: usize) -> Result<(), BlobError> {
        let mut result = Ok(());
        while self.tasks.len() > most
            && let Some(done) = self.tasks.join_next().await
        {
            result = result.and(finished(done));
        }
        result
    }

    fn finish(self) -> Result<Done, BlobError> {
        let intake = Arc::into_inner(self.intake).ok_or(BlobError::Closed)?;
        install(intake, self.received_bytes, Place::Owned)
    }
}

/// Imports a file by copying it: as many bytes as it has when it is opened.
pub(super) fn copy_file(inner: &Arc<Inner>, path: &Path, progress: &OnProgress) -> Result<Done, BlobError> {
    let (file, identity) = open(path)?;
    let intake = Intake::copy(inner, Some(identity.len_bytes))?;
    let source = Source::new(path, &file, identity.len_bytes);
    source.hash(&intake, ImportPhase::Copying, progress)?;
    let bytes_total = identity.len_bytes;
    progress(ImportProgress { phase: ImportPhase::Hashing, bytes_done: bytes_total, bytes_total });
    install(intake, identity.len_bytes, Place::Owned)
}

/// Imports a file where it is.
pub(super) fn reference_file(inner: &Arc<Inner>, path: &Path, progress: &OnProgress) -> Result<Done, BlobError> {
    let path = fs::canonicalize(path).map_err(unreadable(path))?;
    let (file, identity) = open(&path)?;
    let intake = Intake::reference(inner, identity.len_bytes)?;
    Source::new(&path, &file, identity.len_bytes).hash(&intake, ImportPhase::Hashing, progress)?;
    let still = file.metadata().is_ok_and(|metadata| Identity::of(&metadata) == identity) && identity.matches(&path);
    if !still {
        return Err(BlobError::Changed { path });
    }
    install(intake, identity.len_bytes, Place::Referenced(Reference { path, identity }))
}

fn open(path: &Path) -> Result<(File, Identity), BlobError> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(unreadable(path))?.is_file() {
        return Err(BlobError::NotAFile { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(unreadable(path))?;
    let identity = Identity::of(&file.metadata().map_err(unreadable(path))?);
    Ok((file, identity))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> BlobError {
    move |source| BlobError::Unreadable { path: PathBuf::from(path), source }
}

/// A file whose segments are handed out in order. One is read at a time, so that the disk sees a single reader that
/// goes forward; what was read is hashed and written beside.
struct Source<'a> {
    path: &'a Path,
    file: &'a File,
    size_bytes: u64,
    next_segment: Mutex<u64>,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, file: &'a File, size_bytes: u64) -> Self {
        Self { path, file, size_bytes, next_segment: Mutex::new(0) }
    }

    /// Puts all of it into `intake`, with all cores.
    fn hash(&self, intake: &Intake, phase: ImportPhase, progress: &OnProgress) -> Result<(), BlobError> {
        let segments = segments::count(self.size_bytes);
        let told = Mutex::new(0);
        let work = || {
            let (mut bytes, mut pairs) = (Vec::new(), Vec::new());
            while let Some(segment) = self.read(&mut bytes)? {
                intake.put(segment, &bytes, segments == 1, &mut pairs).inspect_err(|_| self.stop())?;
                // Told under the lock: a step back would look odd.
                let mut bytes_done = told.lock().unwrap_or_else(PoisonError::into_inner);
                *bytes_done += bytes.len() as u64;
                progress(ImportProgress { phase, bytes_done: *bytes_done, bytes_total: self.size_bytes });
            }
            Ok(())
        };
        thread::scope(|scope| {
            let helpers = (1..segments.min(workers() as u64)).filter_map(|_| {
                // With fewer threads than hoped for it only takes longer.
                thread::Builder::new().name("blob-import".into()).spawn_scoped(scope, work).ok()
            });
            let helpers: Vec<_> = helpers.collect();
            let done = work();
            helpers.into_iter().fold(done, |done, helper| done.and(helper.join().unwrap_or_else(|_| Err(panicked()))))
        })
    }

    /// Reads the next segment; none when there are no more.
    fn read(&self, bytes: &mut Vec<u8>) -> Result<Option<u64>, BlobError> {
        let mut next = self.next_segment.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = *next;
        if segment >= segments::count(self.size_bytes) {
            return Ok(None);
        }
        let range = segments::bytes_of(segment, self.size_bytes);
        bytes.resize((range.end - range.start) as usize, 0);
        *next = u64::MAX;
        self.file.read_exact_at(bytes, range.start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BlobError::Changed { path: self.path.to_path_buf() },
            _ => unreadable(self.path)(error),
        })?;
        *next = segment + 1;
        Ok(Some(segment))
    }

    /// After an error nobody needs the rest.
    fn stop(&self) {
        *self.next_segment.lock().unwrap_or_else(PoisonError::into_inner) = u64::MAX;
    }
}

fn panicked() -> BlobError {
    BlobError::Io { step: "hash an import", source: io::Error::other("a thread panicked") }
}

/// Makes an import durable and puts it into the store.
fn install(intake: Intake, size_bytes: u64, place: Place) -> Result<Done, BlobError> {
    let inner = Arc::clone(intake.inner());
    // Its room stays reserved until the blob is in the table.
    let (hash, data, tree, _room) = intake.finish(size_bytes)?;
    let held = move_into_place(&inner, hash, size_bytes, place, data, tree)?;
    Ok((hash, size_bytes, held))
}

/// Moves durable files into place and records the blob as complete. What is already complete stays as it is, except
/// that a copy replaces a reference.
pub(super) fn move_into_place(
    inner: &Arc<Inner>,
    hash: BlobHash,
    size_bytes: u64,
    place: Place,
    data: Option<Temp>,
    tree: Temp,
) -> Result<InUse, BlobError> {
    let _structure = inner.structure();
    if let Some(held) = already_complete(inner, hash, &place)? {
        return Ok(held);
    }
    let mut blob = replacement(inner, hash, size_bytes, place);
    let step = BlobError::io("move an import into place");
    if table::tree(size_bytes).outboard_size() > 0 {
        tree.move_to(&inner.dirs.bao(hash)).map_err(&step)?;
    }
    if let Some(data) = data {
        data.move_to(&inner.dirs.data(hash)).map_err(&step)?;
    }
    blob.pinned = inner.table.lock().blobs.get(&hash).is_some_and(|blob| blob.pinned);
    // On failure what was moved is a stray, or has brought a partial blob more than its row says: both are mended.
    inner.meta.commit(&[Change::Put(hash, Row::of(&blob, true))])?;
    if blob.referenced() {
        // A partial copy we had is of no more use.
        let _ = delete(&inner.dirs.data(hash));
    }
    record(inner, hash, blob)
}

fn already_complete(inner: &Arc<Inner>, hash: BlobHash, place: &Place) -> Result<Option<InUse>, BlobError> {
    let complete = match inner.table.lock().get(hash) {
        Ok(blob) => blob.complete && (!blob.referenced() || matches!(place, Place::Referenced(_))),
        Err(BlobError::Missing) => false,
        Err(error) => return Err(error),
    };
    if complete { inner.table.hold(hash).map(Some) } else { Ok(None) }
}

/// The blob as it will be. From here on the old files' generation is over.
fn replacement(inner: &Inner, hash: BlobHash, size_bytes: u64, place: Place) -> Blob {
    let mut state = inner.table.lock();
    let (now_ms, generation) = (state.now_ms(), state.next_generation());
    if let Some(old) = state.blobs.get_mut(&hash) {
        old.generation = generation;
    }
    let mut blob = Blob::new(size_bytes, place, now_ms);
    blob.ranges = all_chunks(size_bytes);
    blob.durable = blob.ranges.clone();
    blob.complete = true;
    blob.row_dirty = false;
    blob.touched = false;
    blob.generation = state.next_generation();
    blob.instance = blob.generation;
    blob
}

fn record(inner: &Inner, hash: BlobHash, mut blob: Blob) -> Result<InUse, BlobError> {
    let mut state = inner.table.lock();
    if let Some(old) = state.blobs.get(&hash) {
        (blob.users, blob.instance) = (old.users, old.instance);
        (blob.writers, blob.part_writers) = (old.writers, old.part_writers);
    }
    state.blobs.insert(hash, blob);
    state.notify(hash);
    drop(state);
    inner.table.emit(BlobEvent::Complete(hash));
    inner.table.hold(hash)
}
