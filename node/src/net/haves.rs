//! Who said that they hold which blobs. Bounded, and forgotten unless it is repeated.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mhc_protocol::{BlobHash, NodeId, Timestamp, wire::Haves};

/// What isn't repeated within this time is forgotten; nodes repeat every [`REANNOUNCE`].
pub(super) const TTL: Duration = Duration::from_secs(15 * 60);
/// How often a node repeats what it holds.
pub(super) const REANNOUNCE: Duration = Duration::from_secs(4 * 60);
const MAX_PROVIDERS: usize = 32;
const MAX_BLOBS: usize = 32 * 1024;
const MAX_BLOBS_PER_NODE: usize = 16 * 1024;
const MAX_NODES: usize = 1024;
/// How far the clock of whoever announces may be from ours.
const MAX_SKEW_MS: u64 = 25 * 3600 * 1000;

/// The table of providers.
#[derive(Debug, Default)]
pub(super) struct HaveTable {
    blobs: HashMap<BlobHash, Vec<Entry>>,
    nodes: HashMap<NodeId, Announcer>,
}

#[derive(Debug)]
struct Entry {
    node: NodeId,
    complete: bool,
    expires: Instant,
}

#[derive(Debug)]
struct Announcer {
    last: Timestamp,
    blobs: usize,
}

impl HaveTable {
    /// Takes over a message. False when it is a replay, from another time, or the table is full: not a reason
    /// to pass it on, nor to punish anybody.
    pub(super) fn learn(&mut self, haves: &Haves, clock: Timestamp, now: Instant) -> bool {
        if !self.is_news(haves, clock) {
            return false;
        }
        for (hashes, complete) in [(&haves.complete, true), (&haves.partial, false)] {
            for hash in hashes {
                self.insert(*hash, haves.node, complete, now);
            }
        }
        true
    }

    /// Who holds `hash`: complete ones first, the most recently announced first among them.
    pub(super) fn providers(&self, hash: BlobHash, now: Instant) -> Vec<NodeId> {
        let mut entries: Vec<_> =
            self.blobs.get(&hash).into_iter().flatten().filter(|entry| entry.expires > now).collect();
        entries.sort_by_key(|entry| (!entry.complete, std::cmp::Reverse(entry.expires)));
        entries.into_iter().map(|entry| entry.node).collect()
    }

    /// Forgets all that `node` said: it was caught lying.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.retain(|entry| entry.node != node);
        self.nodes.remove(&node);
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        self.retain(|entry| entry.expires > now);
        self.nodes.retain(|_, announcer| announcer.blobs > 0);
    }

    fn is_news(&mut self, haves: &Haves, clock: Timestamp) -> bool {
        let skew_ms = haves.at.saturating_ms_since(clock).max(clock.saturating_ms_since(haves.at));
        if skew_ms > MAX_SKEW_MS || (self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&haves.node)) {
            return false;
        }
        let announcer = self.nodes.entry(haves.node).or_insert(Announcer { last: Timestamp::default(), blobs: 0 });
        let news = haves.at > announcer.last;
        announcer.last = announcer.last.max(haves.at);
        news
    }

    fn insert(&mut self, hash: BlobHash, node: NodeId, complete: bool, now: Instant) {
        let expires = now + TTL;
        let known = self.blobs.len();
        let Some(announcer) = self.nodes.get_mut(&node) else { return };
        if let Some(entry) = self.blobs.get_mut(&hash).and_then(|list| list.iter_mut().find(|e| e.node == node)) {
            (entry.complete, entry.expires) = (complete, expires);
            return;
        }
        if announcer.blobs >= MAX_BLOBS_PER_NODE || (known >= MAX_BLOBS && !self.blobs.contains_key(&hash)) {
            return;
        }
        let list = self.blobs.entry(hash).or_default();
        if list.len() < MAX_PROVIDERS {
            list.push(Entry { node, complete, expires });
            announcer.blobs += 1;
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let nodes = &mut self.nodes;
        self.blobs.retain(|_, list| {
            list.retain(|entry| {
                let kept = keep(entry);
                if let (false, Some(announcer)) = (kept, nodes.get_mut(&entry.node)) {
                    announcer.blobs = announcer.blobs.saturating_sub(1);
                }
                kept
            });
            !list.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn haves(n: u8, at_ms: u64, complete: &[BlobHash], partial: &[BlobHash]) -> Haves {
        let at = CLOCK.saturating_add_ms(at_ms);
        Haves { node: node(n), at, complete: complete.to_vec(), partial: partial.to_vec() }
    }

    #[test]
    fn complete_providers_come_first_and_expire_unless_repeated() {
        let (start, hash) = (Instant::now(), BlobHash::of(b"blob"));
        let mut table = HaveTable::default();
        assert!(table.learn(&haves(1, 1, &[], &[hash]), CLOCK, start));
        assert!(table.learn(&haves(2, 1, &[hash], &[]), CLOCK, start));
        assert_eq!(table.providers(hash, start), [node(2), node(1)]);
        let later = start + TTL / 2;
        assert!(table.learn(&haves(1, 2, &[hash], &[]), CLOCK, later), "it has become complete");
        assert_eq!(table.providers(hash, start + TTL), [node(1)]);
        table.expire(start + TTL);
        assert_eq!(table.nodes.len(), 1);
        table.forget(node(1));
        assert_eq!(table.providers(hash, later), []);
    }

    #[test]
    fn replays_and_far_clocks_are_ignored() {
        let (start, hash) = (Instant::now(), BlobHash::of(b"blob"));
        let mut table = HaveTable::default();
        assert!(table.learn(&haves(1, 5, &[hash], &[]), CLOCK, start));
        assert!(!table.learn(&haves(1, 5, &[hash], &[]), CLOCK, start), "replay");
        assert!(!table.learn(&haves(1, 4, &[hash], &[]), CLOCK, start), "older");
        assert!(!table.learn(&haves(2, MAX_SKEW_MS + 1, &[hash], &[]), CLOCK, start), "tomorrow");
    }

    #[test]
    fn the_table_is_bounded() {
        let start = Instant::now();
        let mut table = HaveTable::default();
        let shared = BlobHash::of(b"shared");
        for n in 0..200 {
            table.learn(&haves(n, 1, &[shared], &[]), CLOCK, start);
        }
        assert_eq!(table.providers(shared, start).len(), MAX_PROVIDERS);
        for batch in 0..40u64 {
            let hashes: Vec<_> =
                (0..1000u64).map(|i| BlobHash::of(&[batch, i].map(u64::to_le_bytes).concat())).collect();
            table.learn(&haves(1, 2 + batch, &hashes, &[]), CLOCK, start);
        }
        assert_eq!(table.nodes[&node(1)].blobs, MAX_BLOBS_PER_NODE);
        assert!(table.blobs.len() <= MAX_BLOBS);
    }
}
