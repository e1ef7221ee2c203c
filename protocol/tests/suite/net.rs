//! A network in virtual time: providers with uplinks, round trips and manners, and the client's downlink.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use mhc_protocol::{
    NodeId, Timestamp,
    sched::{CancelReason, Cost, Effect, Failure, GROUP_BYTES, Groups, Options, Path, Scheduler, UnitId},
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GROUP: u64 = GROUP_BYTES;
/// Bytes per second of one Mbit/s.
pub(crate) const MBIT: f64 = 125_000.0;

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn log_uniform(&mut self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.unit())
    }
}

/// `MHC_SEED` if that is set; else `count` fixed seeds and a random one, which is printed.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("MHC_SEED").ok().and_then(|seed| seed.parse().ok());
    let random = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64 >> 10;
    println!("MHC_SEED={}", given.unwrap_or(random));
    given.map_or_else(|| (1..=count).chain([random]).collect(), |seed| vec![seed])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Says it has everything, sends garbage.
    Lies,
    /// Sends nothing any more once it has sent this much.
    StallsAfter(u64),
    /// Refuses everything.
    Refuses,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) manner: Manner,
    /// Bytes per second.
    pub(crate) uplink: f64,
    pub(crate) rtt_ms: u64,
    /// `None`: all of it.
    pub(crate) has: Option<Groups>,
    pub(crate) joins_ms: u64,
    pub(crate) leaves_ms: Option<u64>,
    /// Answers one unit after the other instead of all at once.
    pub(crate) is_fifo: bool,
    /// Tells its round trip and bitfield at the start.
    pub(crate) is_known: bool,
    pub(crate) cost: Cost,
}

impl Peer {
    pub(crate) fn honest(mbits: f64, rtt_ms: u64) -> Self {
        Self {
            manner: Manner::Honest,
            uplink: mbits * MBIT,
            rtt_ms,
            has: None,
            joins_ms: 0,
            leaves_ms: None,
            is_fifo: false,
            is_known: true,
            cost: Cost::Free,
        }
    }

    pub(crate) fn with(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    pub(crate) fn holds(&self, group: u64) -> bool {
        self.has.as_ref().is_none_or(|has| has.contains(&group))
    }
}

pub(crate) fn node(index: usize) -> NodeId {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// A unit at its provider.
struct Job {
    unit: UnitId,
    /// From when on it is answered.
    from_us: u64,
    /// Bytes of the answer that there will be.
    first: u64,
    length: u64,
    sent: f64,
    /// Up to where whole groups are on their way.
    reported: u64,
    /// How it ends after that.
    end: Option<End>,
    /// The provider learns then that it is cancelled.
    until_us: u64,
}

#[derive(Clone, Copy)]
enum End {
    Finished,
    Failed(Failure),
}

enum Event {
    Bytes(Range<u64>),
    End(End),
}

/// What is counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Bytes that were new.
    pub(crate) fresh: u64,
    /// Bytes that came for nothing: we had them, or their unit was cancelled.
    pub(crate) waste: u64,
    /// The same while something demanded wasn't asked for yet.
    pub(crate) waste_before_end_game: u64,
    /// Of each provider, what came of it.
    pub(crate) by_peer: Vec<u64>,
    pub(crate) requests: u64,
    /// The longest unit, and the most units in flight at one provider.
    pub(crate) longest: u64,
    pub(crate) most_units: usize,
    /// Of each effect, in order.
    pub(crate) trace: u64,
    /// Calls of the scheduler's `poll`, and the real time that they and `progress` took.
    pub(crate) polls: u32,
    pub(crate) poll_time: Duration,
    pub(crate) progresses: u32,
    pub(crate) progress_time: Duration,
}

pub(crate) struct Net {
    pub(crate) sched: Scheduler,
    pub(crate) peers: Vec<Peer>,
    pub(crate) now_us: u64,
    step_us: u64,
    downlink: f64,
    size_bytes: u64,
    options: Options,
    jobs: Vec<Vec<Job>>,
    /// Where each unit is.
    running: BTreeMap<UnitId, (usize, Range<u64>)>,
    arriving: BTreeMap<(u64, u64), (UnitId, usize, Event)>,
    counter: u64,
    has: Vec<bool>,
    sent: Vec<u64>,
    outstanding: Vec<u64>,
    pub(crate) counts: Counts,
    /// Wanted bytes, for what is demanded and isn't asked for.
    pub(crate) wanted: Vec<Range<u64>>,
    must_poll: bool,
}

impl Net {
    pub(crate) fn new(size_bytes: u64, peers: Vec<Peer>, downlink: f64, step_us: u64, seed: u64) -> Self {
        let options = Options::default();
        let count = peers.len();
        let mut net = Self {
            sched: Scheduler::new(size_bytes, Groups::empty(), options.clone(), seed),
            peers,
            now_us: 0,
            step_us,
            downlink,
            size_bytes,
            options,
            jobs: (0..count).map(|_| Vec::new()).collect(),
            running: BTreeMap::new(),
            arriving: BTreeMap::new(),
            counter: 0,
            has: vec![false; size_bytes.div_ceil(GROUP_BYTES) as usize],
            sent: vec![0; count],
            outstanding: vec![0; count],
            counts: Counts { by_peer: vec![0; count], ..Counts::default() },
            wanted: Vec::new(),
            must_poll: true,
        };
        net.churn();
        net
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.now_us / 1_000)
    }

    pub(crate) fn has_group(&self, group: u64) -> bool {
        self.has.get(group as usize).copied().unwrap_or(true)
    }

    pub(crate) fn has_all(&self) -> bool {
        self.counts.fresh >= self.size_bytes
    }

    /// Call after a demand.
    pub(crate) fn touch(&mut self) {
        self.must_poll = true;
    }

    /// Time goes on by one step.
    pub(crate) fn step(&mut self) {
        self.poll();
        self.send();
        self.now_us += self.step_us;
        self.churn();
        self.deliver();
    }

    /// Providers that come or go.
    fn churn(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            let now_ms = self.now_us / 1_000;
            let was = |at_ms: u64| self.now_us > 0 && at_ms * 1_000 <= self.now_us - self.step_us;
            if peer.joins_ms <= now_ms && !was(peer.joins_ms) {
                self.sched.provider_joined(node(index));
                let rtt_ms = peer.is_known.then_some(peer.rtt_ms);
                self.sched.provider_path(node(index), Path { rtt_ms, cost: peer.cost });
                if let (true, Some(has)) = (peer.is_known, &peer.has) {
                    self.sched.provider_has(node(index), has.clone());
                }
                self.must_poll = true;
            }
            if peer.leaves_ms.is_some_and(|at| at <= now_ms && !was(at)) {
                self.sched.provider_left(node(index));
                self.jobs[index].clear();
                self.must_poll = true;
            }
        }
    }

    fn poll(&mut self) {
        let due = self.sched.next_wake().is_some_and(|at| at <= self.now());
        if !std::mem::take(&mut self.must_poll) && !due {
            return;
        }
        let since = Instant::now();
        let effects = self.sched.poll(self.now());
        self.counts.poll_time += since.elapsed();
        self.counts.polls += 1;
        for effect in effects {
            match effect {
                Effect::Request { unit, provider, range, .. } => self.request(unit, provider, range),
                Effect::Cancel { unit, provider, why } => self.cancel(unit, provider, why),
                Effect::GiveUp { .. } => {}
            }
        }
    }

    fn index(&self, provider: NodeId) -> usize {
        provider.as_bytes()[..8].iter().fold(0, |index, byte| index << 8 | usize::from(*byte))
    }

    fn request(&mut self, unit: UnitId, provider: NodeId, range: Range<u64>) {
        let index = self.index(provider);
        let (peer, now_ms) = (&self.peers[index], self.now_us / 1_000);
        let length = range.end - range.start;
        self.counts.trace = self.counts.trace.wrapping_mul(31).wrapping_add(range.start ^ unit ^ index as u64);
        assert!(!self.sched.is_banned(provider), "no unit for who lied");
        assert!(peer.joins_ms <= now_ms && peer.leaves_ms.is_none_or(|at| at > now_ms), "no unit for who isn't here");
        assert!(self.wanted.iter().any(|wanted| wanted.start < range.end && range.start < wanted.end), "is demanded");
        if peer.is_known {
            assert!(peer.holds(range.start / GROUP_BYTES) && peer.holds((range.end - 1) / GROUP_BYTES), "it has it");
        }
        assert!(length <= self.options.max_unit_bytes);
        self.outstanding[index] += length;
        assert!(self.outstanding[index] <= self.options.max_outstanding_bytes, "{}", self.outstanding[index]);
        let held = (range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES)).take_while(|group| peer.holds(*group));
        let held = (held.count() as u64 * GROUP_BYTES).min(length);
        let (length, end) = match peer.manner {
            Manner::Honest | Manner::StallsAfter(_) if held == length => (length, End::Finished),
            Manner::Honest | Manner::StallsAfter(_) => (held, End::Failed(Failure::Missing)),
            Manner::Refuses => (0, End::Failed(Failure::Missing)),
            Manner::Lies => (GROUP_BYTES.min(length), End::Failed(Failure::Lied)),
        };
        let job = Job {
            unit,
            from_us: self.now_us + peer.rtt_ms * 500,
            first: range.start,
            length,
            sent: 0.0,
            reported: 0,
            end: Some(end),
            until_us: u64::MAX,
        };
        self.jobs[index].push(job);
        self.running.insert(unit, (index, range));
        self.counts.requests += 1;
        self.counts.longest = self.counts.longest.max(length);
        let in_flight = self.running.values().filter(|(at, _)| *at == index).count();
        assert!(in_flight <= self.options.max_units);
        self.counts.most_units = self.counts.most_units.max(in_flight);
    }

    fn cancel(&mut self, unit: UnitId, provider: NodeId, _why: CancelReason) {
        let index = self.index(provider);
        if let Some((at, rest)) = self.running.remove(&unit) {
            assert_eq!(at, index);
            self.outstanding[index] -= rest.end - rest.start;
        }
        let until_us = self.now_us + self.peers[index].rtt_ms * 500;
        if let Some(job) = self.jobs[index].iter_mut().find(|job| job.unit == unit) {
            job.until_us = until_us;
        }
    }

    /// Every provider shares its uplink among its units; all share the downlink.
    fn send(&mut self) {
        let step_s = self.step_us as f64 / 1e6;
        let now_us = self.now_us;
        let mut budgets = vec![0.0; self.peers.len()];
        for (index, peer) in self.peers.iter().enumerate() {
            self.jobs[index].retain(|job| job.until_us > now_us);
            let left = match peer.manner {
                Manner::StallsAfter(bytes) => bytes.saturating_sub(self.sent[index]) as f64,
                Manner::Honest | Manner::Lies | Manner::Refuses => f64::MAX,
            };
            if self.jobs[index].iter().any(|job| job.from_us <= now_us) {
                budgets[index] = (peer.uplink * step_s).min(left);
            }
        }
        let total: f64 = budgets.iter().sum();
        let scale = (self.downlink * step_s / total).min(1.0);
        for (index, budget) in budgets.into_iter().enumerate() {
            if budget > 0.0 {
                self.send_of(index, budget * scale);
            }
        }
    }

    fn send_of(&mut self, index: usize, budget: f64) {
        let (peer, now_us) = (&self.peers[index], self.now_us);
        let at_us = now_us + self.step_us + peer.rtt_ms * 500;
        let mut left = budget;
        while left > 0.5 {
            let needy = |job: &&mut Job| job.from_us <= now_us && job.sent < job.length as f64;
            let count = if peer.is_fifo { 1 } else { self.jobs[index].iter_mut().filter(needy).count() };
            let share = left / count.max(1) as f64;
            let before = left;
            for job in self.jobs[index].iter_mut().filter(needy).take(count) {
                let part = share.min(job.length as f64 - job.sent);
                job.sent += part;
                left -= part;
            }
            if left == before {
                break;
            }
        }
        self.sent[index] += (budget - left) as u64;
        for job in self.jobs[index].iter_mut().filter(|job| job.from_us <= now_us) {
            let whole = if job.sent + 0.5 >= job.length as f64 {
                job.length
            } else {
                job.sent as u64 / GROUP_BYTES * GROUP_BYTES
            };
            if whole > job.reported {
                let bytes = job.first + job.reported..job.first + whole;
                job.reported = whole;
                self.counter += 1;
                self.arriving.insert((at_us, self.counter), (job.unit, index, Event::Bytes(bytes)));
            }
            if whole == job.length
                && let Some(end) = job.end.take()
            {
                self.counter += 1;
                self.arriving.insert((at_us, self.counter), (job.unit, index, Event::End(end)));
            }
        }
        self.jobs[index].retain(|job| job.end.is_some());
    }

    fn deliver(&mut self) {
        let later = self.arriving.split_off(&(self.now_us + 1, 0));
        for (_, (unit, index, event)) in std::mem::replace(&mut self.arriving, later) {
            match event {
                Event::Bytes(range) => self.bytes(unit, index, range),
                Event::End(end) => {
                    let Some((index, rest)) = self.running.remove(&unit) else { continue };
                    self.outstanding[index] -= rest.end - rest.start;
                    match end {
                        End::Finished => self.sched.finished(self.now(), unit),
                        End::Failed(failure) => self.sched.failed(self.now(), unit, failure),
                    }
                    self.must_poll = true;
                }
            }
        }
    }

    fn bytes(&mut self, unit: UnitId, index: usize, range: Range<u64>) {
        let length = range.end - range.start;
        self.counts.by_peer[index] += length;
        let Some((_, rest)) = self.running.get_mut(&unit).filter(|_| self.peers[index].manner != Manner::Lies) else {
            return self.wasted(length);
        };
        rest.start = range.end;
        self.outstanding[index] -= length;
        let mut known = 0;
        for group in range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES) {
            let bytes = GROUP_BYTES.min(self.size_bytes - group * GROUP_BYTES);
            known += if std::mem::replace(&mut self.has[group as usize], true) { bytes } else { 0 };
        }
        self.counts.fresh += length - known;
        self.wasted(known);
        let since = Instant::now();
        self.sched.progress(self.now(), unit, range);
        self.counts.progress_time += since.elapsed();
        self.counts.progresses += 1;
        self.must_poll = true;
    }

    fn wasted(&mut self, bytes: u64) {
        if bytes > 0 {
            self.counts.waste += bytes;
            let asked = |group: u64| {
                let at = group * GROUP_BYTES;
                self.running.values().any(|(_, rest)| rest.start <= at && at < rest.end)
            };
            let wanted = self.wanted.iter().flat_map(|run| run.start / GROUP_BYTES..run.end.div_ceil(GROUP_BYTES));
            let is_end_game = wanted.filter(|group| !self.has_group(*group)).take(4_096).all(asked);
            self.counts.waste_before_end_game += if is_end_game { 0 } else { bytes };
        }
    }
}
