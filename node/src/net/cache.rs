//! The cache of known peers: whom this node reached before, so that it finds its network again without anybody
//! else's help.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mhc_protocol::{NodeId, Timestamp, cbor, relay::Relay};
use mhc_storage::{
    kv::KeyRange,
    record::{Private, RecordsError},
};
use serde::{Deserialize, Serialize};

use super::{book::Peer, peers::Membership, shared::Shared};

const TABLE: &str = "peers";
const MAX_CACHED: usize = 256;
const MAX_ENTRY_BYTES: usize = 8 * 1024;
const PERIOD: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Entry {
    v: u8,
    p2p: Vec<String>,
    iroh: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relays: Vec<Relay>,
    name: String,
    seen: Timestamp,
}

fn table(shared: &Shared) -> Private {
    shared.records.private(TABLE)
}

/// Puts the cached peers into the book; they are dialled from then on. A damaged entry is skipped.
pub(super) fn load(shared: &Shared) -> Result<usize, RecordsError> {
    let mut entries: Vec<_> = read(shared)?.into_iter().collect();
    entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.seen));
    let mut book = shared.book();
    for (node, entry) in &entries {
        let parse = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<SocketAddr>>();
        book.learn_addrs(*node, &parse(&entry.p2p), &parse(&entry.iroh));
        book.learn_relays(*node, &entry.relays);
        book.want(*node);
        if let Some(peer) = book.entry(*node) {
            (peer.name, peer.last_seen, peer.dirty) = (entry.name.clone(), entry.seen, false);
        }
    }
    Ok(entries.len())
}

fn read(shared: &Shared) -> Result<Vec<(NodeId, Entry)>, RecordsError> {
    let rows = table(shared).scan(KeyRange::all(), 2 * MAX_CACHED)?;
    let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
        let node = NodeId::from_bytes(key.try_into().ok()?);
        let entry: Entry = cbor::decode(&value, MAX_ENTRY_BYTES).ok()?;
        (entry.v == 1).then_some((node, entry))
    };
    Ok(rows.into_iter().filter_map(decode).collect())
}

/// Saves what changed: when a peer greets, so that a node that is killed then still knows it, else from time
/// to time.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut greetings = shared.greetings.subscribe();
    loop {
        let _ = tokio::time::timeout(PERIOD, greetings.changed()).await;
        if let Err(error) = save(&shared).await {
            tracing::warn!(%error, "known peers not saved");
        }
        // However many greet, the disk is written to once a second at most.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Saves what changed. Peers of other networks and strangers aren't kept; the longest unseen make room.
pub(super) async fn save(shared: &Shared) -> Result<(), RecordsError> {
    let mut changes = vec![];
    {
        let mut book = shared.book();
        let dirty: Vec<_> = book.iter().filter(|(_, peer)| peer.dirty).map(|(node, _)| node).collect();
        for node in dirty {
            let Some(peer) = book.entry(node) else { continue };
            peer.dirty = false;
            if peer.membership == Membership::OtherNetwork {
                changes.push((node.as_bytes().to_vec(), None));
            } else if peer.wanted {
                changes.push((node.as_bytes().to_vec(), encode(peer)));
            }
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    changes.extend(surplus(shared)?.into_iter().map(|node| (node.as_bytes().to_vec(), None)));
    table(shared).update(changes).await
}

fn encode(peer: &Peer) -> Option<Vec<u8>> {
    let texts = |addrs: &[SocketAddr]| addrs.iter().map(SocketAddr::to_string).collect();
    let (p2p, iroh, relays) = (texts(&peer.p2p), texts(&peer.iroh), peer.relays.clone());
    let entry = Entry { v: 1, p2p, iroh, relays, name: peer.name.clone(), seen: peer.last_seen };
    cbor::encode(&entry).ok()
}

/// The nodes beyond what is kept.
fn surplus(shared: &Shared) -> Result<Vec<NodeId>, RecordsError> {
    let mut entries = read(shared)?;
    entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.seen));
    Ok(entries.into_iter().skip(MAX_CACHED).map(|(node, _)| node).collect())
}
