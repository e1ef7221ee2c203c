//! A player that demands a moving window, as `node::fetch`'s readers do.

use mhc_protocol::{
    Timestamp,
    sched::{Demand, DemandClass, DemandId, GROUP_BYTES},
};

use crate::net::{MIB, Net};

pub(crate) const PLAYHEAD_BYTES: u64 = MIB;
pub(crate) const LOOKAHEAD_BYTES: u64 = 8 * MIB;
/// The demand follows the player in steps of this.
const STEP_BYTES: u64 = 256 << 10;
/// Media that is there before playing begins, and before it goes on after a stall.
pub(crate) const STARTUP_S: f64 = 3.0;
pub(crate) const RESUME_S: f64 = 0.5;

/// How it went.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Played {
    pub(crate) startup_s: f64,
    pub(crate) stalled_s: f64,
    pub(crate) stalls: u32,
}

pub(crate) struct Player {
    reader: u64,
    /// Bytes per second.
    bitrate: f64,
    end: u64,
    position: f64,
    /// All before is local.
    frontier: u64,
    demanded_at: Option<u64>,
    /// Plays once the frontier is here.
    waits_for: Option<u64>,
    pub(crate) has_started: bool,
    pub(crate) played: Played,
}

impl Player {
    /// Plays from `start` to `end`.
    pub(crate) fn new(reader: u64, start: u64, end: u64, bitrate: f64) -> Self {
        Self {
            reader,
            bitrate,
            end,
            position: start as f64,
            frontier: start,
            demanded_at: None,
            waits_for: Some((start + (bitrate * STARTUP_S) as u64).min(end)),
            has_started: false,
            played: Played::default(),
        }
    }

    /// All of it is local: nothing can stall any more.
    pub(crate) fn is_fed(&self) -> bool {
        self.frontier >= self.end && self.has_started
    }

    /// One step of the network, and of the player.
    pub(crate) fn tick(&mut self, net: &mut Net, step_s: f64) {
        while self.frontier < self.end && net.has_group(self.frontier / GROUP_BYTES) {
            self.frontier = ((self.frontier / GROUP_BYTES + 1) * GROUP_BYTES).min(self.end);
        }
        if self.waits_for.is_some_and(|at| self.frontier >= at) {
            (self.waits_for, self.has_started) = (None, true);
        }
        match (self.waits_for, self.has_started) {
            (Some(_), false) => self.played.startup_s += step_s,
            (Some(_), true) => self.played.stalled_s += step_s,
            (None, _) => self.play(step_s),
        }
        let position = self.position as u64;
        if self.demanded_at.is_none_or(|at| position >= at + STEP_BYTES) {
            self.demand(net, position);
        }
    }

    fn play(&mut self, step_s: f64) {
        self.position += self.bitrate * step_s;
        if self.position >= self.frontier as f64 && self.frontier < self.end {
            self.position = self.frontier as f64;
            self.waits_for = Some((self.frontier + (self.bitrate * RESUME_S) as u64).min(self.end));
            self.played.stalls += 1;
        }
    }

    fn demand(&mut self, net: &mut Net, position: u64) {
        self.demanded_at = Some(position);
        let split = (position + PLAYHEAD_BYTES).min(self.end);
        let end = (split + LOOKAHEAD_BYTES).min(self.end);
        let now = net.now();
        let later = Timestamp(now.0 + ((split - position) as f64 / self.bitrate * 1e3) as u64);
        let demand = |class, deadline, range| Demand { class, deadline: Some(deadline), range, give_up_ms: None };
        let id: DemandId = self.reader * 2;
        net.sched.demand(now, id, demand(DemandClass::Playhead, now, position..split));
        net.sched.demand(now, id + 1, demand(DemandClass::Lookahead, later, split..end));
        let reader = self.reader as usize;
        if net.wanted.len() <= reader {
            net.wanted.resize(reader + 1, 0..0);
        }
        net.wanted[reader] = position..end;
        net.touch();
    }
}
