//! A provider that misbehaves on purpose, for tests: a real peer on a real endpoint that answers `/iroh-bytes/4` with
//! lies, silence or halves. Built with the feature `testing` only.
//!
//! Bind an endpoint with the ALPN `/iroh-bytes/4`, give it to [`HostileProvider::run`] and let the node under test
//! connect to it. Where the endpoint is shared with other protocols, hand over single connections with
//! [`HostileProvider::serve`].

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bao_tree::{
    ChunkNum, ChunkRanges,
    io::{outboard::PreOrderMemOutboard, sync::encode_ranges_validated},
};
use bytes::Bytes;
use iroh::{
    Endpoint,
    endpoint::{Connection, RecvStream, SendStream, VarInt},
};
use iroh_blobs::protocol::{GetRequest, Request};
use mhc_protocol::BlobHash;
use mhc_storage::blob::BLOCK_SIZE;
use tokio::task::JoinSet;

/// How it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostility {
    /// It doesn't: for comparison, and to switch over in the middle with [`HostileProvider::turn`].
    None,
    /// One bit of the last leaf is wrong.
    FlipLeaf,
    /// One bit of the first hash pair is wrong (for blobs of one chunk group: of the leaf).
    FlipParent,
    /// The answer ends cleanly after half of it.
    Truncate,
    /// The request is read, and nothing is ever sent.
    StallAtStart,
    /// Half of the answer is sent, then nothing more.
    StallInTheMiddle,
    /// A valid encoding of other bytes of the same length.
    OtherData,
    /// This size is claimed.
    ClaimSize(u64),
    /// Every request for a blob it lacks is answered with junk; the blobs it has, correctly.
    JunkForUnknown,
    /// Half of the answer is sent, then the connection is closed.
    CloseConnection,
    /// The answer is right, and more bytes follow.
    Surplus,
    /// Every stream is reset.
    Reset,
}

/// Settings of a hostile provider.
#[derive(Debug, Clone, Copy)]
pub struct HostileOptions {
    /// How it misbehaves.
    pub hostility: Hostility,
    /// Requests that ask for the last chunk wherever it is are answered correctly, so that it gets to serve units.
    pub honest_size_proof: bool,
}

/// A running hostile provider. Stops when dropped.
pub struct HostileProvider {
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    blobs: BTreeMap<BlobHash, Bytes>,
    options: Mutex<HostileOptions>,
    requests: AtomicU64,
}

impl HostileProvider {
    /// Accepts on `endpoint` and misbehaves about `blobs`.
    pub fn run(endpoint: Endpoint, blobs: Vec<Bytes>, options: HostileOptions) -> Self {
        let state = Arc::new(State::new(blobs, options));
        let mut tasks = JoinSet::new();
        let accepting = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = endpoint.accept().await {
                let state = accepting.clone();
                connections.spawn(async move {
                    if let Ok(connection) = incoming.await {
                        state.serve(connection).await;
                    }
                });
            }
        });
        Self { state, _tasks: tasks }
    }

    /// Misbehaves on one connection until it closes.
    pub async fn serve(connection: Connection, blobs: Vec<Bytes>, options: HostileOptions) {
        Arc::new(State::new(blobs, options)).serve(connection).await;
    }

    /// Requests that were read so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Misbehaves in another way from the next request on.
    pub fn turn(&self, options: HostileOptions) {
        *self.state.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }
}

impl State {
    fn new(blobs: Vec<Bytes>, options: HostileOptions) -> Self {
        let blobs = blobs.into_iter().map(|bytes| (BlobHash::of(&bytes), bytes)).collect();
        Self { blobs, options: Mutex::new(options), requests: AtomicU64::new(0) }
    }

    async fn serve(self: Arc<Self>, connection: Connection) {
        let mut streams = JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            let (state, connection) = (self.clone(), connection.clone());
            streams.spawn(async move {
                // A test peer: when the other side goes away there is nothing to tell.
                let _ = state.answer(&connection, send, receive).await;
            });
        }
    }

    async fn answer(&self, connection: &Connection, mut send: SendStream, mut receive: RecvStream) -> Option<()> {
        let (Request::Get(request), _) = Request::read_async(&mut receive).await.ok()? else { return None };
        self.requests.fetch_add(1, Ordering::Relaxed);
        let hash = BlobHash::from_bytes(*request.hash.as_bytes());
        let options = *self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = ranges_of(&request);
        let proof = ranges.contains(&ChunkNum(u64::MAX));
        let hostility = if proof && options.honest_size_proof { Hostility::None } else { options.hostility };
        let Some(bytes) = self.blobs.get(&hash) else {
            return self.unknown(hostility, send).await;
        };
        let (size, mut body) = (bytes.len() as u64, encode(bytes, &ranges));
        match hostility {
            Hostility::None | Hostility::JunkForUnknown => {}
            Hostility::FlipLeaf => flip(body.last_mut()),
            Hostility::FlipParent => flip(body.first_mut()),
            Hostility::OtherData => {
                let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 0xff).collect();
                body = encode(&other, &ranges);
            }
            Hostility::ClaimSize(claimed) => return write(&mut send, claimed, &body).await,
            Hostility::Surplus => body.extend_from_slice(&[7; 100]),
            Hostility::Reset => return send.reset(VarInt::from_u32(3)).ok(),
            Hostility::StallAtStart => return pending().await,
            Hostility::Truncate => body.truncate(body.len() / 2),
            Hostility::StallInTheMiddle | Hostility::CloseConnection => {
                body.truncate(body.len() / 2);
                send.write_all(&size.to_le_bytes()).await.ok()?;
                send.write_all(&body).await.ok()?;
                if hostility == Hostility::CloseConnection {
                    connection.close(VarInt::from_u32(1), b"hostile");
                }
                return pending().await;
            }
        }
        write(&mut send, size, &body).await
    }

    async fn unknown(&self, hostility: Hostility, mut send: SendStream) -> Option<()> {
        if hostility == Hostility::JunkForUnknown {
            let junk: Vec<u8> = (0..100_000u32).map(|n| (n * 31 + 7) as u8).collect();
            return write(&mut send, 1 << 20, &junk).await;
        }
        send.reset(VarInt::from_u32(3)).ok()
    }
}

async fn write(send: &mut SendStream, size: u64, body: &[u8]) -> Option<()> {
    send.write_all(&size.to_le_bytes()).await.ok()?;
    send.write_all(body).await.ok()?;
    send.finish().ok()?;
    send.stopped().await.ok();
    Some(())
}

fn flip(byte: Option<&mut u8>) {
    if let Some(byte) = byte {
        *byte ^= 1;
    }
}

/// The ranges asked of the blob itself.
pub(super) fn ranges_of(request: &GetRequest) -> ChunkRanges {
    request.ranges[0].clone()
}

/// The bao encoding of `ranges` of `bytes`, without the size.
fn encode(bytes: &[u8], ranges: &ChunkRanges) -> Vec<u8> {
    let outboard = PreOrderMemOutboard::create(bytes, BLOCK_SIZE);
    let mut encoded = Vec::new();
    // Only fails when the outboard isn't that of the bytes.
    let _ = encode_ranges_validated(bytes, &outboard, ranges, &mut encoded);
    encoded
}
