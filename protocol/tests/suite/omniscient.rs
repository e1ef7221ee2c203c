//! The measure: a scheduler that knows every rate, who lies, who stalls and who leaves when, and plans once.
//!
//! Units of 64 KiB in the order in which they are played, each at the provider that completes it first, from when the
//! player's window reaches it. Providers answer one unit after the other; the downlink is shared by time slots.

use crate::{
    net::{GROUP, Manner, Peer},
    player::{LOOKAHEAD_BYTES, PLAYHEAD_BYTES, Played, RESUME_S, STARTUP_S},
};

const UNIT: u64 = 64 << 10;
const SLOT_S: f64 = 0.010;

struct Downlink {
    rate: f64,
    /// Bytes left in each slot.
    slots: Vec<f64>,
}

impl Downlink {
    fn left(&self, slot: usize) -> f64 {
        self.slots.get(slot).copied().unwrap_or(self.rate * SLOT_S)
    }

    /// When `bytes` that can come at `rate` from `start_s` on are here, if that is before `limit_s`; `takes` them.
    fn complete(&mut self, start_s: f64, bytes: f64, rate: f64, limit_s: f64, takes: bool) -> Option<f64> {
        let (mut left, mut at_s) = (bytes, start_s);
        loop {
            let slot = (at_s / SLOT_S + 1e-6) as usize;
            let span_s = (slot + 1) as f64 * SLOT_S - at_s;
            let part = (rate * span_s).min(self.left(slot)).min(left);
            if takes {
                if self.slots.len() <= slot {
                    self.slots.resize(slot + 1, self.rate * SLOT_S);
                }
                self.slots[slot] -= part;
            }
            left -= part;
            if left <= 0.5 {
                return Some(at_s + span_s.min(part / rate)).filter(|end_s| *end_s <= limit_s);
            }
            at_s = (slot + 1) as f64 * SLOT_S;
            if at_s > limit_s {
                return None;
            }
        }
    }
}

struct Source<'a> {
    peer: &'a Peer,
    /// Until when it is busy.
    free_s: f64,
    left: f64,
}

impl Source<'_> {
    fn start_s(&self, asked_s: f64) -> f64 {
        let half_s = self.peer.rtt_ms as f64 / 2e3;
        // Its bytes are seen half a round trip later.
        (asked_s.max(self.peer.joins_ms as f64 / 1e3) + half_s).max(self.free_s) + half_s
    }

    fn end_s(&self) -> f64 {
        self.peer.leaves_ms.map_or(1e9, |at| at as f64 / 1e3)
    }

    fn has(&self, from: u64, to: u64) -> bool {
        self.left >= (to - from) as f64 && (from / GROUP..to.div_ceil(GROUP)).all(|group| self.peer.holds(group))
    }
}

/// When each unit is here, and the player's way through them.
pub(crate) struct Omniscient<'a> {
    sources: Vec<Source<'a>>,
    downlink: Downlink,
    size: u64,
    bitrate: f64,
    /// When all up to the end of each unit is here.
    here_s: Vec<f64>,
    /// When the player is at the start of each unit.
    at_s: Vec<f64>,
    played: Played,
}

impl<'a> Omniscient<'a> {
    pub(crate) fn play(peers: &'a [Peer], downlink: f64, size: u64, bitrate: f64) -> Played {
        let left = |peer: &Peer| match peer.manner {
            Manner::Honest => f64::MAX,
            Manner::StallsAfter(bytes) => bytes as f64,
            Manner::Lies | Manner::Refuses => 0.0,
        };
        let sources = peers.iter().map(|peer| Source { peer, free_s: 0.0, left: left(peer) }).collect();
        let downlink = Downlink { rate: downlink, slots: Vec::new() };
        let played = Played::default();
        let mut run = Self { sources, downlink, size, bitrate, here_s: vec![], at_s: vec![], played };
        for unit in 0..run.units() {
            run.arrive(unit);
        }
        run.reach(run.units() - 1);
        run.played
    }

    fn units(&self) -> usize {
        self.size.div_ceil(UNIT) as usize
    }

    fn arrive(&mut self, unit: usize) {
        let from = unit as u64 * UNIT;
        let to = (from + UNIT).min(self.size);
        let window = ((PLAYHEAD_BYTES + LOOKAHEAD_BYTES) / UNIT) as usize;
        let asked_s = if unit < window { 0.0 } else { self.reach(unit - window + 1) };
        let bytes = (to - from) as f64;
        let mut best: Option<(f64, usize)> = None;
        for index in 0..self.sources.len() {
            let source = &self.sources[index];
            let limit_s = best.map_or(f64::MAX, |best| best.0).min(source.end_s());
            let (start_s, rate) = (source.start_s(asked_s), source.peer.uplink);
            if !source.has(from, to) || start_s + bytes / rate >= limit_s {
                continue;
            }
            if let Some(end_s) = self.downlink.complete(start_s, bytes, rate, limit_s, false) {
                best = Some((end_s, index));
            }
        }
        let Some((end_s, index)) = best else { panic!("nobody has unit {unit}") };
        let source = &mut self.sources[index];
        let (start_s, rate) = (source.start_s(asked_s), source.peer.uplink);
        source.free_s = end_s - source.peer.rtt_ms as f64 / 2e3;
        source.left -= bytes;
        self.downlink.complete(start_s, bytes, rate, f64::MAX, true);
        let before_s = self.here_s.last().copied().unwrap_or(0.0);
        self.here_s.push(end_s.max(before_s));
    }

    /// When the player is at the start of `unit`; what it needs for that is planned already.
    fn reach(&mut self, unit: usize) -> f64 {
        if self.at_s.is_empty() {
            let startup_s = self.here_with(0, STARTUP_S);
            self.at_s.push(startup_s);
            self.played.startup_s = startup_s;
        }
        while self.at_s.len() <= unit {
            let at = self.at_s.len() - 1;
            let mut reached_s = self.at_s[at] + UNIT as f64 / self.bitrate;
            if self.here_s[at + 1] > reached_s {
                let resumed_s = self.here_with(at + 1, RESUME_S);
                self.played.stalled_s += resumed_s - reached_s;
                self.played.stalls += 1;
                reached_s = resumed_s;
            }
            self.at_s.push(reached_s);
        }
        self.at_s[unit]
    }

    /// When `media_s` from `unit` on are here.
    fn here_with(&self, unit: usize, media_s: f64) -> f64 {
        let last = unit + (media_s * self.bitrate / UNIT as f64).ceil() as usize - 1;
        self.here_s[last.min(self.units() - 1)]
    }
}
