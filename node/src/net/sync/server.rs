//! Answers what others ask while they sync.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bao_tree::{ChunkNum, ChunkRanges};
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use mhc_protocol::{
    BlobHash, NetworkId, NodeId,
    reconcile::{Compared, compare, logs},
    wire::{Have, MAX_HAVE_RANGES, MAX_SYNC_REQUEST_BYTES, SyncRequest, SyncResponse},
};
use mhc_storage::record::RecordsError;
use tokio::sync::Semaphore;

use super::local::Reader;

use crate::net::{
    book::Fault,
    ids,
    shared::{Shared, Tasks},
    throttle::{Rate, Throttle},
};

const MAX_STREAMS: usize = 32;
const MAX_STREAMS_PER_CONNECTION: usize = 4;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A page is up to a megabyte: this is as fast as a late joiner needs it.
const RATE: Rate = Rate { burst: 256.0, per_s: 64.0 };
const MAX_WAIT: Duration = Duration::from_secs(5);
const MAX_THROTTLED: usize = 4096;
/// Each comparison hashes up to all heads: one core at most does that for others.
const MAX_COMPARING: usize = 1;

const RESET_LIMIT: VarInt = VarInt::from_u32(2);
const RESET_FAILED: VarInt = VarInt::from_u32(3);
const RESET_MALFORMED: VarInt = VarInt::from_u32(4);

/// What all connections that sync from us share.
#[derive(Debug)]
pub(in crate::net) struct Server {
    streams: Arc<Semaphore>,
    comparing: Semaphore,
    throttle: Mutex<Throttle<NodeId>>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            comparing: Semaphore::new(MAX_COMPARING),
            throttle: Mutex::new(Throttle::new(RATE, MAX_THROTTLED)),
        }
    }
}

/// Answers the requests of one connection.
pub(in crate::net) async fn serve(shared: &Arc<Shared>, conn: Connection) {
    let node = ids::node_of_endpoint(conn.remote_id());
    let places = Arc::new(Semaphore::new(MAX_STREAMS_PER_CONNECTION));
    let tasks = Tasks { cancel: shared.tasks.cancel.child_token(), tracker: shared.tasks.tracker.clone() };
    let _stop = tasks.cancel.clone().drop_guard();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((send, recv)) = conn.accept_bi().await else { return };
        let Ok(overall) = Arc::clone(&shared.sync_server.streams).acquire_owned().await else { return };
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            answer(&shared, node, send, recv).await;
            drop((place, overall));
        });
    }
}

async fn answer(shared: &Arc<Shared>, node: NodeId, mut send: SendStream, mut recv: RecvStream) {
    match respond(shared, node, &mut recv).await {
        Ok(bytes) => {
            let written = tokio::time::timeout(WRITE_TIMEOUT, send.write_all(&bytes)).await;
            if matches!(written, Ok(Ok(()))) && send.finish().is_ok() {
                shared.metrics.sync_requests_served.inc();
            }
        }
        Err(code) => {
            let _ = send.reset(code);
            let _ = recv.stop(code);
        }
    }
}

async fn respond(shared: &Arc<Shared>, node: NodeId, recv: &mut RecvStream) -> Result<Vec<u8>, VarInt> {
    let wait = {
        let mut throttle = shared.sync_server.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.take(&node, Instant::now())
    };
    if wait > MAX_WAIT {
        shared.report(node, &Fault::Flood);
        return Err(RESET_LIMIT);
    }
    tokio::time::sleep(wait).await;
    let read = tokio::time::timeout(REQUEST_TIMEOUT, recv.read_to_end(MAX_SYNC_REQUEST_BYTES)).await;
    let bytes = read.map_err(|_| RESET_LIMIT)?.map_err(|_| RESET_MALFORMED)?;
    let request = SyncRequest::decode(&bytes).map_err(|error| {
        shared.report(node, &Fault::JunkSync(error.to_string()));
        RESET_MALFORMED
    })?;
    let turn = match request {
        SyncRequest::Compare { .. } => shared.sync_server.comparing.acquire().await.ok(),
        SyncRequest::Logs { .. } | SyncRequest::Records { .. } | SyncRequest::Have { .. } => None,
    };
    let task = Arc::clone(shared);
    let response = tokio::task::spawn_blocking(move || response(&task, node, &request)).await;
    drop(turn);
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(peer = %node, %error, "sync request not answered");
        RESET_FAILED
    };
    let response = response.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    response.encode().map_err(|error| failed(&error))
}

fn response(shared: &Shared, node: NodeId, request: &SyncRequest) -> Result<SyncResponse, RecordsError> {
    // Of networks that this node doesn't follow there is nothing to tell, whatever it still holds.
    let reader = |network: NetworkId| {
        shared.networks.get(network).map(|followed| (followed, Reader { records: &shared.records, network }))
    };
    match request {
        SyncRequest::Compare { network, salt, parts, push_bytes } => {
            let Some((followed, reader)) = reader(*network) else {
                return Ok(SyncResponse::Compare { parts: vec![], heads: vec![], more: false, envelopes: vec![] });
            };
            let Compared { response, rivals } = compare(&followed.heads.get()?, &reader, *salt, parts, *push_bytes)?;
            if followed.pulls.found_rivals(node, rivals) {
                let _ = shared.sync_pokes.try_send((node, *network));
            }
            Ok(response)
        }
        SyncRequest::Logs { network, wants } => match reader(*network) {
            Some((_, reader)) => logs(&reader, wants),
            None => Ok(SyncResponse::Logs { envelopes: vec![], more: false }),
        },
        SyncRequest::Records { network, ids } => match reader(*network) {
            Some((_, reader)) => Ok(SyncResponse::Records { envelopes: reader.records(ids)? }),
            None => Ok(SyncResponse::Records { envelopes: vec![] }),
        },
        SyncRequest::Have { hash } => Ok(SyncResponse::Have(have(shared, *hash))),
    }
}

fn have(shared: &Shared, hash: BlobHash) -> Have {
    match shared.blobs.status(hash) {
        None => Have::Absent,
        Some(status) if status.complete => Have::Complete { size_bytes: status.size_bytes },
        Some(status) => {
            Have::Partial { size_bytes: status.size_bytes, chunks: chunks(&status.ranges, status.size_bytes) }
        }
    }
}

fn chunks(ranges: &ChunkRanges, size_bytes: u64) -> Vec<std::ops::Range<u64>> {
    let end = ChunkNum::chunks(size_bytes).0;
    let bounds = ranges.boundaries();
    let pairs = bounds.chunks(2).map(|pair| pair[0].0..pair.get(1).map_or(end, |bound| bound.0.min(end)));
    pairs.filter(|range| range.start < range.end).take(MAX_HAVE_RANGES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bitfield, the blob's size, and the ranges that are told.
    type Case = (ChunkRanges, u64, &'static [(u64, u64)]);

    #[test]
    fn bitfields_become_ranges_within_the_blob() {
        let cases: [Case; 5] = [
            (ChunkRanges::empty(), 5000, &[]),
            (ChunkRanges::all(), 5000, &[(0, 5)]),
            (ChunkRanges::from(ChunkNum(16)..ChunkNum(32)), 1 << 20, &[(16, 32)]),
            (ChunkRanges::from(ChunkNum(16)..ChunkNum(32)), 20 * 1024, &[(16, 20)]),
            (ChunkRanges::from(ChunkNum(32)..), 20 * 1024, &[]),
        ];
        for (ranges, size_bytes, expected) in cases {
            let got: Vec<_> = chunks(&ranges, size_bytes).iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(got, expected, "{ranges:?} of {size_bytes}");
        }
    }
}
