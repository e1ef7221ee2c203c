//! What fetch remembers of recent blobs after their transfer ended.

use std::collections::{BTreeMap, BTreeSet};

use mhc_protocol::{BlobHash, NodeId};

/// Blobs remembered; the least recently used is forgotten first.
const MAX_BLOBS: usize = 1024;
/// Providers remembered of one blob.
const MAX_PROVIDERS: usize = 256;

#[derive(Debug, Default)]
struct Entry {
    used: u64,
    size_bytes: Option<u64>,
    banned: BTreeSet<NodeId>,
    received: BTreeMap<NodeId, u64>,
}

/// Proven sizes, bans and byte counts by blob.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    blobs: BTreeMap<BlobHash, Entry>,
    clock: u64,
}

impl Ledger {
    pub(super) fn size(&self, hash: BlobHash) -> Option<u64> {
        self.blobs.get(&hash)?.size_bytes
    }

    pub(super) fn set_size(&mut self, hash: BlobHash, size_bytes: u64) {
        self.entry(hash).size_bytes = Some(size_bytes);
    }

    /// Returns false when it was banned before.
    pub(super) fn ban(&mut self, hash: BlobHash, node: NodeId) -> bool {
        let banned = &mut self.entry(hash).banned;
        (banned.len() < MAX_PROVIDERS) && banned.insert(node)
    }

    pub(super) fn banned(&self, hash: BlobHash) -> Vec<NodeId> {
        self.blobs.get(&hash).map(|entry| entry.banned.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn add(&mut self, hash: BlobHash, node: NodeId, bytes: u64) {
        let received = &mut self.entry(hash).received;
        if received.len() < MAX_PROVIDERS || received.contains_key(&node) {
            *received.entry(node).or_default() += bytes;
        }
    }

    pub(super) fn received(&self, hash: BlobHash) -> Vec<(NodeId, u64)> {
        let entry = self.blobs.get(&hash);
        entry.map(|entry| entry.received.iter().map(|(node, bytes)| (*node, *bytes)).collect()).unwrap_or_default()
    }

    fn entry(&mut self, hash: BlobHash) -> &mut Entry {
        self.clock += 1;
        if self.blobs.len() >= MAX_BLOBS && !self.blobs.contains_key(&hash) {
            let oldest = self.blobs.iter().min_by_key(|(_, entry)| entry.used).map(|(hash, _)| *hash);
            oldest.map(|hash| self.blobs.remove(&hash));
        }
        let entry = self.blobs.entry(hash).or_default();
        entry.used = self.clock;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_blob_is_forgotten() {
        let mut ledger = Ledger::default();
        let hash = |n: usize| BlobHash::of(&n.to_le_bytes());
        let node = NodeId::from_bytes([1; 32]);
        for n in 0..MAX_BLOBS {
            ledger.set_size(hash(n), n as u64);
        }
        ledger.add(hash(0), node, 5);
        ledger.add(hash(MAX_BLOBS), node, 7);
        assert_eq!((ledger.size(hash(0)), ledger.size(hash(1))), (Some(0), None));
        assert_eq!(ledger.received(hash(0)), [(node, 5)]);
        assert!(ledger.ban(hash(0), node));
        assert!(!ledger.ban(hash(0), node));
    }
}
