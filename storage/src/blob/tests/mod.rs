//! The store from outside, against bao-tree's own encoder and decoder.

mod damage;
mod partial;
mod room;
mod roundtrip;

use std::{
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{
        BaoContentItem,
        outboard::PreOrderMemOutboard,
        sync::{DecodeResponseIter, encode_ranges_validated},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use mhc_protocol::BlobHash;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{BLOCK_SIZE, BlobError, BlobEvent, BlobOptions, BlobStore, ImportMode, Imported, PartialBlob};
use crate::source::SourceError;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Sizes around every boundary: chunk, group, window.
const SIZES: &[u64] =
    &[0, 1, 1023, 1024, 1025, 16383, 16384, 16385, 262_143, 262_144, 262_208, MIB - 1, MIB, MIB + 1, 5 * MIB + 777];

/// A store in a folder of its own.
struct Fixture {
    dir: TempDir,
    store: BlobStore,
}

impl Fixture {
    fn new() -> Self {
        Self::with(BlobOptions::default())
    }

    fn quota(quota_bytes: u64) -> Self {
        Self::with(BlobOptions { quota_bytes: Some(quota_bytes), ..BlobOptions::default() })
    }

    fn with(options: BlobOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("blobs"), options).unwrap();
        Self { dir, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("blobs")
    }

    /// Stops cleanly and starts again.
    async fn restart(&mut self) {
        self.store.shutdown().await;
        self.store = BlobStore::open(&self.path(), BlobOptions::default()).unwrap();
    }

    /// What a kill -9 at this moment would leave, opened.
    fn after_kill(&self) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        // Every commit is made under this lock: a kill can hit one, a copy of the file mustn't.
        let _structure = self.store.inner.structure();
        copy_dir(&self.path(), &dir.path().join("blobs"));
        let store = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
        Fixture { dir, store }
    }

    fn user_file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn file(&self, kind: &str, hash: BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.path().join(kind).join(&name[..2]).join(&name)
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            copy_dir(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// Bytes that don't repeat.
fn content(size_bytes: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_bytes as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

async fn import(store: &BlobStore, bytes: &[u8]) -> Imported {
    try_import(store, bytes).await.unwrap()
}

async fn try_import(store: &BlobStore, bytes: &[u8]) -> Result<Imported, BlobError> {
    let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    store.import_stream(futures::stream::iter(pieces), u64::MAX).await
}

async fn import_file(store: &BlobStore, path: &Path, mode: ImportMode) -> Result<Imported, BlobError> {
    store.import_file(path, mode, Arc::new(|_| {})).await
}

async fn read(store: &BlobStore, hash: BlobHash, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
    let mut stream = store.read_local(hash, range);
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

async fn encode(store: &BlobStore, hash: BlobHash, ranges: ChunkRanges) -> Result<Vec<u8>, BlobError> {
    let (out, mut pieces) = mpsc::channel::<Bytes>(2);
    let collect = async {
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.recv().await {
            bytes.extend_from_slice(&piece);
        }
        bytes
    };
    let (sent, bytes) = futures::join!(store.encode(hash, ranges, out), collect);
    assert_eq!(sent?, bytes.len() as u64);
    Ok(bytes)
}

/// What bao-tree's own encoder sends.
fn reference_encoding(bytes: &[u8], ranges: &ChunkRanges) -> Vec<u8> {
    let outboard = PreOrderMemOutboard::create(bytes, BLOCK_SIZE);
    let mut encoded = Vec::new();
    encode_ranges_validated(bytes, &outboard, ranges, &mut encoded).unwrap();
    encoded
}

/// What a fetch decodes from another node's answer.
fn items(bytes: &[u8], ranges: &ChunkRanges) -> Vec<BaoContentItem> {
    let encoded = reference_encoding(bytes, ranges);
    let tree = BaoTree::new(bytes.len() as u64, BLOCK_SIZE);
    DecodeResponseIter::new(blake3::hash(bytes), tree, encoded.as_slice(), ranges).map(Result::unwrap).collect()
}

fn chunks(range: Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(range.start)..ChunkNum(range.end))
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Waits until `done` holds of what is here of a blob.
async fn until(store: &BlobStore, hash: BlobHash, done: impl Fn(&ChunkRanges) -> bool) {
    store.watch(hash).wait_for(|ranges| done(ranges)).await.unwrap();
}

/// Waits for the verification that an unclean stop asked for.
async fn verified(store: &BlobStore) {
    while store.verification().blobs_left > 0 {
        tokio::task::yield_now().await;
    }
}

/// Every event until `last`.
async fn events_until(events: &mut tokio::sync::broadcast::Receiver<BlobEvent>, last: BlobEvent) -> Vec<BlobEvent> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(events.recv().await.unwrap());
    }
    seen
}
