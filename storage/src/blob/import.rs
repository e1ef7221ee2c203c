//! Bytes of our own into the store: copied from a stream or a file, or referenced where they are.
//!
//! A copy goes into a temporary file, is hashed there (the tree's size depends on the blob's, which a stream tells
//! only at its end), made durable, moved into place and only then recorded. Memory is a few buffers, whatever the size.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use bao_tree::{
    BaoTree, TreeNode,
    io::sync::{OutboardMut, outboard},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use mhc_protocol::BlobHash;

use super::{
    BlobError, BlobEvent, ImportPhase, ImportProgress, OnProgress, blocking,
    files::{Identity, Temp, delete},
    meta::{Change, Row},
    room::Reservation,
    store::Inner,
    table::{self, Blob, InUse, Place, Reference, all_chunks},
};

/// Bytes read or written at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes a stream is promised at a time, and between looks at the free space.
const STEP_BYTES: u64 = 16 << 20;

/// What an import yields: the hash, the size, and what keeps the blob from being evicted.
pub(super) type Done = (BlobHash, u64, InUse);

/// Imports a stream of at most `limit_bytes`.
pub(super) async fn stream<S>(inner: &Arc<Inner>, bytes: S, limit_bytes: u64) -> Result<Done, BlobError>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let started = Arc::clone(inner);
    let mut copy = blocking(move || Copy::start(&started)).await?;
    let mut bytes = pin!(bytes);
    let mut batch = Vec::new();
    loop {
        let piece = bytes.next().await.transpose().map_err(BlobError::Stream)?;
        let ended = piece.is_none();
        batch.extend(piece);
        if ended || batch.iter().map(Bytes::len).sum::<usize>() >= BUFFER_BYTES {
            let pieces = std::mem::take(&mut batch);
            copy = blocking(move || copy.write_all(&pieces, limit_bytes)).await?;
        }
        if ended {
            return blocking(move || copy.finish(&|_| {})).await;
        }
    }
}

/// Imports a file by copying it.
pub(super) fn copy_file(inner: &Arc<Inner>, path: &Path, progress: &OnProgress) -> Result<Done, BlobError> {
    let (mut file, identity) = open(path)?;
    let mut copy = Copy::start(inner)?;
    copy.reserve(identity.len_bytes)?;
    loop {
        let mut buffer = vec![0; BUFFER_BYTES];
        let read = file.read(&mut buffer).map_err(unreadable(path))?;
        if read == 0 {
            break;
        }
        buffer.truncate(read);
        copy = copy.write_all(&[buffer.into()], u64::MAX)?;
        let bytes_total = identity.len_bytes.max(copy.written_bytes);
        progress(ImportProgress { phase: ImportPhase::Copying, bytes_done: copy.written_bytes, bytes_total });
    }
    copy.finish(progress.as_ref())
}

/// Imports a file where it is.
pub(super) fn reference_file(inner: &Arc<Inner>, path: &Path, progress: &OnProgress) -> Result<Done, BlobError> {
    let path = fs::canonicalize(path).map_err(unreadable(path))?;
    let (file, identity) = open(&path)?;
    let tree = inner.dirs.temp().map_err(BlobError::io("create an import's file"))?;
    let hash = hash(&file, identity.len_bytes, &tree.file, progress.as_ref()).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BlobError::Changed { path: path.clone() },
        _ => unreadable(&path)(error),
    })?;
    let still = file.metadata().is_ok_and(|metadata| Identity::of(&metadata) == identity) && identity.matches(&path);
    if !still {
        return Err(BlobError::Changed { path });
    }
    tree.file.sync_all().map_err(BlobError::io("fsync an import"))?;
    let place = Place::Referenced(Reference { path, identity });
    let held = install(inner, hash, identity.len_bytes, place, None, tree)?;
    Ok((hash, identity.len_bytes, held))
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

/// A copy in progress. Dropping it deletes what was written.
struct Copy {
    inner: Arc<Inner>,
    temp: Temp,
    room: Reservation,
    reserved_bytes: u64,
    written_bytes: u64,
    unchecked_bytes: u64,
}

impl Copy {
    fn start(inner: &Arc<Inner>) -> Result<Self, BlobError> {
        if inner.table.lock().closed {
            return Err(BlobError::Closed);
        }
        let temp = inner.dirs.temp().map_err(BlobError::io("create an import's file"))?;
        let room = Reservation::none(inner);
        Ok(Self { inner: Arc::clone(inner), temp, room, reserved_bytes: 0, written_bytes: 0, unchecked_bytes: 0 })
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.room.grow(bytes)?;
        self.reserved_bytes += bytes;
        Ok(())
    }

    /// Appends, unless that exceeds the limit or the room.
    fn write_all(mut self, pieces: &[Bytes], limit_bytes: u64) -> Result<Self, BlobError> {
        for piece in pieces {
            let length = piece.len() as u64;
            if self.written_bytes + length > limit_bytes {
                return Err(BlobError::TooLarge { limit_bytes });
            }
            self.make_room(length)?;
            self.temp.file.write_all(piece).map_err(BlobError::io("write an import"))?;
            self.written_bytes += length;
        }
        Ok(self)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), BlobError> {
        let lacking = (self.written_bytes + bytes).saturating_sub(self.reserved_bytes);
        if lacking > 0 && self.reserve(lacking.max(STEP_BYTES)).is_err() {
            // The step may be more than what is left to come.
            self.reserve(lacking)?;
        }
        self.unchecked_bytes += bytes;
        if self.unchecked_bytes >= STEP_BYTES {
            self.unchecked_bytes = 0;
            self.inner.check_free()?;
        }
        Ok(())
    }

    /// Hashes what was written and puts it into the store.
    fn finish(self, progress: &dyn Fn(ImportProgress)) -> Result<Done, BlobError> {
        let tree = self.inner.dirs.temp().map_err(BlobError::io("create an import's file"))?;
        let hash =
            hash(&self.temp.file, self.written_bytes, &tree.file, progress).map_err(BlobError::io("hash an import"))?;
        self.temp.file.sync_all().map_err(BlobError::io("fsync an import"))?;
        tree.file.sync_all().map_err(BlobError::io("fsync an import"))?;
        let held = install(&self.inner, hash, self.written_bytes, Place::Owned, Some(self.temp), tree)?;
        Ok((hash, self.written_bytes, held))
    }
}

/// Hashes the first `size_bytes` of a file and writes its tree.
fn hash(data: &File, size_bytes: u64, tree: &File, progress: &dyn Fn(ImportProgress)) -> io::Result<BlobHash> {
    let geometry = table::tree(size_bytes);
    let reader = Positioned { file: data, position: 0, size_bytes, progress };
    let root = outboard(BufReader::with_capacity(BUFFER_BYTES, reader), geometry, TreeFile { geometry, file: tree })?;
    Ok(BlobHash::from_bytes(*root.as_bytes()))
}

/// Reads a file from its beginning without moving its cursor, and tells how far it is.
struct Positioned<'a> {
    file: &'a File,
    position: u64,
    size_bytes: u64,
    progress: &'a dyn Fn(ImportProgress),
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        let bytes_done = self.position.min(self.size_bytes);
        (self.progress)(ImportProgress { phase: ImportPhase::Hashing, bytes_done, bytes_total: self.size_bytes });
        Ok(read)
    }
}

/// Writes hash pairs to where they belong in pre-order.
struct TreeFile<'a> {
    geometry: BaoTree,
    file: &'a File,
}

impl OutboardMut for TreeFile<'_> {
    fn save(&mut self, node: TreeNode, (left, right): &(blake3::Hash, blake3::Hash)) -> io::Result<()> {
        let Some(index) = self.geometry.pre_order_offset(node) else { return Ok(()) };
        self.file.write_all_at(&pair(left, right), index * 64)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A hash pair as it is stored.
pub(super) fn pair(left: &blake3::Hash, right: &blake3::Hash) -> [u8; 64] {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left.as_bytes());
    pair[32..].copy_from_slice(right.as_bytes());
    pair
}

/// Moves durable files into place and records the blob as complete. What is already complete stays as it is, except
/// that a copy replaces a reference.
pub(super) fn install(
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
        (blob.users, blob.writers, blob.instance) = (old.users, old.writers, old.instance);
    }
    state.blobs.insert(hash, blob);
    state.notify(hash);
    drop(state);
    inner.table.emit(BlobEvent::Complete(hash));
    inner.table.hold(hash)
}
