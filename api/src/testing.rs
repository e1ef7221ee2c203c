//! For tests of anything that serves bytes over HTTP: a source in memory that can be told to fail, and requests
//! that the gateway's checks let through.

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    http::{Request, header},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use mhc_protocol::BlobHash;
use mhc_storage::source::{RangeSource, SourceError};
use tokio::sync::watch;

/// The address test gateways pretend to be bound to.
pub const BOUND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8480);
/// The operator's token of test gateways.
pub const TOKEN: &str = "test-operator-token";

/// A request from `method`, `uri` and a body, with the right Host.
pub fn request(method: &str, uri: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri).header(header::HOST, BOUND.to_string());
    request.body(body.into()).unwrap_or_default()
}

/// The same, with the operator's token.
pub fn operator_request(method: &str, uri: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = request(method, uri, body);
    if let Ok(value) = format!("Bearer {TOKEN}").parse() {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    request
}

/// How a blob of a [`MemorySource`] behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has it, though its size is known.
    NoSource,
    /// Reads fail with this error once they come to the byte at this offset.
    FailAt(u64, SourceError),
    /// Reads end as if complete at this offset.
    EndAt(u64),
    /// Reads wait for ever at this offset.
    StallAt(u64),
}

#[derive(Debug, Clone)]
struct Entry {
    bytes: Bytes,
    fault: Option<Fault>,
}

/// A [`RangeSource`] in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemorySource {
    blobs: Arc<Mutex<HashMap<BlobHash, Entry>>>,
    open_reads: watch::Sender<usize>,
    piece_bytes: usize,
}

impl Default for MemorySource {
    fn default() -> Self {
        Self { blobs: Arc::default(), open_reads: watch::Sender::new(0), piece_bytes: 1000 }
    }
}

impl MemorySource {
    /// Adds a blob.
    pub fn add(&self, bytes: impl Into<Bytes>) -> BlobHash {
        self.insert(bytes.into(), None)
    }

    /// Adds a blob that misbehaves.
    pub fn add_faulty(&self, bytes: impl Into<Bytes>, fault: Fault) -> BlobHash {
        self.insert(bytes.into(), Some(fault))
    }

    /// Streams that were begun and not dropped yet, as their number changes.
    pub fn open_reads(&self) -> watch::Receiver<usize> {
        self.open_reads.subscribe()
    }

    fn insert(&self, bytes: Bytes, fault: Option<Fault>) -> BlobHash {
        let hash = BlobHash::of(&bytes);
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, Entry { bytes, fault });
        hash
    }

    fn entry(&self, hash: BlobHash) -> Option<Entry> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned()
    }

    fn pieces(&self, entry: Entry, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let (stop, after): (u64, BoxStream<'static, _>) = match entry.fault {
            None => (range.end, stream::empty().boxed()),
            Some(Fault::NoSource) => (range.start, stream::iter([Err(SourceError::NoSource)]).boxed()),
            Some(Fault::FailAt(at, error)) => (at, stream::iter([Err(error)]).boxed()),
            Some(Fault::EndAt(at)) => (at, stream::empty().boxed()),
            Some(Fault::StallAt(at)) => (at, stream::pending().boxed()),
        };
        let good = entry.bytes.slice(range.start as usize..stop.clamp(range.start, range.end) as usize);
        let pieces: Vec<_> = good.chunks(self.piece_bytes).map(|piece| Ok(good.slice_ref(piece))).collect();
        let after = if stop < range.end { after } else { stream::empty().boxed() };
        stream::iter(pieces).chain(after).boxed()
    }
}

impl RangeSource for MemorySource {
    fn size(&self, hash: BlobHash) -> BoxFuture<'_, Result<u64, SourceError>> {
        let size = self.entry(hash).map(|entry| entry.bytes.len() as u64).ok_or(SourceError::NoSource);
        async move { size }.boxed()
    }

    fn read(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let open = OpenRead::new(self.open_reads.clone());
        let pieces = match self.entry(hash) {
            None => stream::iter([Err(SourceError::NoSource)]).boxed(),
            Some(entry) if range.end > entry.bytes.len() as u64 || range.start > range.end => {
                stream::iter([Err(SourceError::OutOfRange { size: entry.bytes.len() as u64 })]).boxed()
            }
            Some(entry) => self.pieces(entry, range),
        };
        pieces
            .inspect(move |_| {
                let _held = &open;
            })
            .boxed()
    }
}

struct OpenRead(watch::Sender<usize>);

impl OpenRead {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count)
    }
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
