//! The scheduler in virtual time, against providers that have parts, stall, lie, leave and answer slowly.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn playhead(range: Range<u64>) -> Demand {
    Demand { class: DemandClass::Playhead, deadline: None, range, give_up_ms: Some(10_000) }
}

fn background(range: Range<u64>) -> Demand {
    Demand { class: DemandClass::Background, deadline: None, range, give_up_ms: None }
}

/// How a simulated provider answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Refuses a request unless it has all of it, instead of sending the part that it has.
    AllOrNothing,
    /// Never answers.
    Stalls,
    /// Sends this many groups of each answer, then nothing more.
    StallsAfter(u64),
    /// Sends this many groups of each answer, then ends it.
    Truncates(u64),
    /// Bad bytes.
    Lies,
    /// The stream breaks at once.
    Breaks,
}

#[derive(Debug, Clone)]
struct Peer {
    manner: Manner,
    has: Groups,
    group_ms: u64,
    rtt_ms: u64,
    leaves_at: Option<u64>,
}

impl Peer {
    fn honest(has: Groups) -> Self {
        Self { manner: Manner::Honest, has, group_ms: 2, rtt_ms: 10, leaves_at: None }
    }

    fn with(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }
}

/// What happens to a unit, in order.
enum Event {
    Stored(Range<u64>),
    Finished,
    Failed(Failure),
}

struct Sim {
    sched: Scheduler,
    peers: BTreeMap<NodeId, Peer>,
    /// By time; the counter keeps the order of events at one moment.
    events: BTreeMap<(u64, u64), (UnitId, Event)>,
    counter: u64,
    now: u64,
    size_bytes: u64,
    running: BTreeMap<UnitId, NodeId>,
    requested_bytes: u64,
    gave_up: Vec<DemandId>,
    /// Ends the run once it is there.
    goal: Option<Groups>,
}

impl Sim {
    fn new(size_bytes: u64, peers: Vec<Peer>) -> Self {
        Self::with_options(size_bytes, peers, Options::default())
    }

    fn with_options(size_bytes: u64, peers: Vec<Peer>, options: Options) -> Self {
        let mut sched = Scheduler::new(size_bytes, Groups::empty(), options, 7);
        let peers: BTreeMap<NodeId, Peer> = (1..).map(node).zip(peers).collect();
        peers.keys().for_each(|id| sched.provider_joined(*id));
        let (events, running) = (BTreeMap::new(), BTreeMap::new());
        Self {
            sched,
            peers,
            events,
            counter: 0,
            now: 0,
            size_bytes,
            running,
            requested_bytes: 0,
            gave_up: vec![],
            goal: None,
        }
    }

    fn demand(&mut self, id: DemandId, demand: Demand) {
        self.sched.demand(Timestamp(self.now), id, demand);
    }

    /// Runs until nothing can happen or `until_ms`.
    fn run(&mut self, until_ms: u64) {
        loop {
            self.decide();
            let event = self.events.keys().next().map(|key| key.0);
            let wake = self.sched.next_wake().map(Timestamp::as_millis);
            let leave = self.peers.values().filter_map(|peer| peer.leaves_at).min();
            let Some(next) = [event, wake, leave].into_iter().flatten().min() else { return };
            let arrived = self.goal.as_ref().is_some_and(|goal| self.has_all(goal));
            if arrived || next > until_ms || (!self.sched.is_hungry() && self.events.is_empty()) {
                return;
            }
            self.now = self.now.max(next).max(if wake == Some(next) { self.now + 1 } else { 0 });
            self.leave();
            self.happen();
        }
    }

    fn decide(&mut self) {
        for effect in self.sched.poll(Timestamp(self.now)) {
            match effect {
                Effect::Request { unit, provider, range, .. } => self.request(unit, provider, range),
                Effect::Cancel { unit, provider, .. } => {
                    let had = self.running.remove(&unit);
                    assert!(had.is_none_or(|had| had == provider));
                    self.events.retain(|_, (of, _)| *of != unit);
                }
                Effect::GiveUp { demand } => self.gave_up.push(demand),
            }
        }
        for (id, peer) in &self.peers {
            let in_flight = self.sched.in_flight(*id);
            assert!(in_flight <= Options::default().max_units, "bounded in flight");
            assert!(self.sched.outstanding_bytes(*id) <= Options::default().max_outstanding_bytes, "bounded bytes");
            assert!(in_flight == 0 || peer.leaves_at.is_none_or(|at| at > self.now), "nothing asked of who left");
        }
    }

    fn request(&mut self, unit: UnitId, provider: NodeId, range: Range<u64>) {
        assert!(!self.sched.is_banned(provider), "no unit for a banned provider");
        assert!(range.start.is_multiple_of(GROUP_BYTES) && range.start < range.end.max(1));
        assert!(range.end == self.size_bytes || range.end.is_multiple_of(GROUP_BYTES));
        self.running.insert(unit, provider);
        self.requested_bytes += range.end - range.start;
        let peer = self.peers[&provider].clone();
        let run = run_of(range, self.size_bytes);
        let asked = run.end - run.start;
        let held = Spans::of(&peer.has, run.end).first_in(run.clone()).filter(|held| held.start == run.start);
        let held = held.map_or(0, |held| held.end - held.start);
        let (send, end) = match peer.manner {
            Manner::Honest if held == asked => (held, Some(Event::Finished)),
            Manner::AllOrNothing if held == asked => (held, Some(Event::Finished)),
            Manner::Honest => (held, Some(Event::Failed(Failure::Missing))),
            Manner::AllOrNothing => (0, Some(Event::Failed(Failure::Missing))),
            Manner::Stalls => (0, None),
            Manner::StallsAfter(n) if held.min(n) == asked => (asked, Some(Event::Finished)),
            Manner::StallsAfter(n) => (held.min(n), None),
            Manner::Truncates(n) if held.min(n) == asked => (asked, Some(Event::Finished)),
            Manner::Truncates(n) => (held.min(n), Some(Event::Failed(Failure::Missing))),
            Manner::Lies => (0, Some(Event::Failed(Failure::Lied))),
            Manner::Breaks => (0, Some(Event::Failed(Failure::Broken))),
        };
        let mut at = self.now + peer.rtt_ms;
        for group in run.start..run.start + send {
            at += peer.group_ms;
            self.plan(at, unit, Event::Stored(bytes_of(group..group + 1, self.size_bytes)));
        }
        if let Some(end) = end {
            self.plan(at, unit, end);
        }
    }

    fn plan(&mut self, at: u64, unit: UnitId, event: Event) {
        self.counter += 1;
        self.events.insert((at, self.counter), (unit, event));
    }

    fn happen(&mut self) {
        let later = self.events.split_off(&(self.now + 1, 0));
        for (_, (unit, event)) in std::mem::replace(&mut self.events, later) {
            let over = !matches!(event, Event::Stored(_));
            match event {
                Event::Stored(range) => self.sched.progress(Timestamp(self.now), unit, range),
                Event::Finished => self.sched.finished(Timestamp(self.now), unit),
                Event::Failed(failure) => self.sched.failed(Timestamp(self.now), unit, failure),
            }
            if over {
                self.running.remove(&unit);
            }
        }
    }

    fn leave(&mut self) {
        for (id, peer) in &mut self.peers {
            if peer.leaves_at.is_some_and(|at| at <= self.now) {
                peer.leaves_at = None;
                peer.manner = Manner::Stalls;
                self.sched.provider_left(*id);
            }
        }
    }

    fn has_all(&self, groups: &Groups) -> bool {
        groups.is_subset(&self.sched.have())
    }
}

fn all(size_bytes: u64) -> Groups {
    Groups::from(0..group_count(size_bytes))
}

#[test]
fn one_honest_provider_suffices_beside_any_other() {
    let size = 5 * MIB + 777;
    let bad = [
        Manner::Stalls,
        Manner::StallsAfter(3),
        Manner::Truncates(1),
        Manner::Truncates(0),
        Manner::Lies,
        Manner::Breaks,
    ];
    for manner in bad {
        let honest = Peer::honest(all(size));
        let mut sim = Sim::new(size, vec![honest.clone().with(manner), honest]);
        sim.demand(1, playhead(0..size));
        sim.run(60_000);
        assert!(sim.has_all(&all(size)), "{manner:?} at {}", sim.now);
        assert!(sim.gave_up.is_empty(), "{manner:?}: {:?}", sim.gave_up);
        assert_eq!(sim.sched.is_banned(node(1)), manner == Manner::Lies);
    }
}

#[test]
fn halves_of_two_providers_make_the_whole_even_off_the_unit_grid() {
    let size = 4 * MIB;
    for (manner, cut) in [(Manner::Honest, 37), (Manner::AllOrNothing, 37), (Manner::AllOrNothing, 129)] {
        let first = Peer::honest(Groups::from(0..cut)).with(manner);
        let second = Peer::honest(Groups::from(cut..256)).with(manner);
        let mut sim = Sim::new(size, vec![first, second]);
        sim.demand(1, playhead(0..size));
        sim.run(60_000);
        assert!(sim.has_all(&all(size)), "{manner:?} {cut}: {:?}", sim.sched.have());
    }
}

#[test]
fn what_nobody_has_is_given_up_and_the_rest_is_kept() {
    let size = 2 * MIB;
    let mut sim = Sim::new(size, vec![Peer::honest(Groups::from(0..50)).with(Manner::AllOrNothing)]);
    sim.demand(1, playhead(0..size));
    sim.run(60_000);
    assert_eq!(sim.gave_up, [1]);
    assert_eq!(sim.sched.have(), Groups::from(0..50));
    assert!(sim.now >= 10_000 && sim.now < 13_000, "{}", sim.now);
}

#[test]
fn without_providers_it_gives_up_in_time_and_waits_for_none() {
    let mut sim = Sim::new(MIB, vec![]);
    sim.demand(1, playhead(0..MIB));
    assert_eq!(sim.sched.next_wake(), Some(Timestamp(10_000)));
    sim.run(60_000);
    assert_eq!((sim.gave_up, sim.now), (vec![1], 10_000));
}

#[test]
fn the_playhead_goes_before_the_background() {
    let size = 64 * MIB;
    let mut sim = Sim::new(size, vec![Peer { group_ms: 20, ..Peer::honest(all(size)) }]);
    sim.demand(1, background(0..size));
    sim.run(200);
    sim.demand(2, playhead(32 * MIB..32 * MIB + MIB));
    let asked_before = sim.now;
    sim.run(2_000);
    assert!(sim.has_all(&Groups::from(run_of(32 * MIB..33 * MIB, size))));
    assert!(sim.now - asked_before < 2_000 && !sim.has_all(&all(size)));
}

#[test]
fn withdrawn_bytes_are_cancelled_and_not_asked_again() {
    let mut sim = Sim::new(8 * MIB, vec![Peer::honest(all(8 * MIB)).with(Manner::Stalls)]);
    sim.demand(1, playhead(0..MIB));
    sim.decide();
    assert!(sim.sched.in_flight(node(1)) > 0);
    sim.sched.withdraw(1);
    let effects = sim.sched.poll(Timestamp(1));
    assert!(!effects.is_empty());
    assert!(effects.iter().all(|e| matches!(e, Effect::Cancel { why: CancelReason::Withdrawn, .. })), "{effects:?}");
    assert!(sim.sched.is_idle());
}

#[test]
fn a_lagging_unit_is_asked_of_a_second_provider_at_the_end() {
    let size = MIB / 4;
    let slow = Peer { group_ms: 2_900, ..Peer::honest(all(size)) };
    let mut sim = Sim::new(size, vec![slow]);
    sim.demand(1, playhead(0..size));
    sim.run(100);
    sim.peers.insert(node(9), Peer::honest(all(size)));
    sim.sched.provider_joined(node(9));
    sim.run(2_000);
    assert!(sim.has_all(&all(size)));
    assert!(sim.now < 1_000, "{}", sim.now);
}

#[test]
fn the_window_grows_with_success_and_shrinks_with_a_stall() {
    let size = 1024 * MIB;
    let mut sim = Sim::new(size, vec![Peer::honest(all(size))]);
    sim.demand(1, background(0..size));
    sim.decide();
    assert_eq!(sim.sched.in_flight(node(1)), 2);
    sim.run(200);
    let grown = sim.sched.outstanding_bytes(node(1));
    assert!(grown > 2 * MIB, "{grown}");
    sim.peers.get_mut(&node(1)).unwrap().manner = Manner::Stalls;
    sim.run(6_000);
    assert!(sim.sched.in_flight(node(1)) <= 1);
}

#[test]
fn an_empty_blob_is_one_empty_group() {
    let mut sim = Sim::new(0, vec![Peer::honest(Groups::from(0..1))]);
    sim.demand(1, background(0..0));
    sim.run(1_000);
    assert!(sim.has_all(&Groups::from(0..1)));
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Honest),
        Just(Manner::AllOrNothing),
        Just(Manner::Stalls),
        (0..20u64).prop_map(Manner::StallsAfter),
        (0..20u64).prop_map(Manner::Truncates),
        Just(Manner::Lies),
        Just(Manner::Breaks),
    ]
}

fn some_groups() -> impl Strategy<Value = Groups> {
    prop::collection::vec((0..400u64, 1..200u64), 0..4).prop_map(|runs| {
        runs.into_iter().fold(Groups::empty(), |all, (start, length)| all.union(&Groups::from(start..start + length)))
    })
}

fn some_peer() -> impl Strategy<Value = Peer> {
    let leaves = prop::option::weighted(0.2, 0..5_000u64);
    (manner(), some_groups(), 1..20u64, 1..300u64, leaves).prop_map(|(manner, has, group_ms, rtt_ms, leaves_at)| Peer {
        manner,
        has,
        group_ms,
        rtt_ms,
        leaves_at,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a provider that answers and stays has, arrives; bounds hold on the way (`Sim::decide` checks them).
    #[test]
    fn what_some_answering_provider_has_arrives(peers in prop::collection::vec(some_peer(), 1..7), size in 1..6 * MIB) {
        let answering = |peer: &&Peer| {
            peer.leaves_at.is_none() && matches!(peer.manner, Manner::Honest | Manner::AllOrNothing)
        };
        let promised: Groups = peers.iter().filter(answering).fold(Groups::empty(), |all, peer| all.union(&peer.has));
        let promised: Groups = promised.intersection(&all(size));
        let mut sim = Sim::new(size, peers.clone());
        sim.demand(1, background(0..size));
        sim.goal = Some(promised.clone());
        sim.run(3_600_000);
        let missing: Groups = promised.difference(&sim.sched.have());
        prop_assert!(missing.is_empty(), "missing {missing:?} after {} ms", sim.now);
        let had: Groups = peers.iter().fold(Groups::empty(), |all, peer| all.union(&peer.has));
        prop_assert!(sim.sched.have().is_subset(&had), "nothing comes from nowhere");
    }

    /// Spans are what merging whole sets gives.
    #[test]
    fn spans_agree_with_groups(steps in prop::collection::vec((any::<bool>(), 0..60u64, 0..20u64), 0..40)) {
        let (mut spans, mut groups) = (Spans::default(), Groups::empty());
        for (adds, start, length) in steps {
            let run = start..start + length;
            // `Groups::from` takes no empty ranges.
            let changed = if length == 0 { Groups::empty() } else { Groups::from(run.clone()) };
            match adds {
                true => (spans.insert(run.clone()), groups.union_with(&changed)).0,
                false => (spans.remove(run.clone()), groups.difference_with(&changed)).0,
            }
            prop_assert_eq!(spans.to_groups(), groups.clone());
            prop_assert_eq!(spans.covers(&run), changed.is_subset(&groups));
            prop_assert_eq!(spans.contains(start), groups.contains(&start));
        }
    }

    /// Little is asked twice while all is well.
    #[test]
    fn honest_providers_are_rarely_asked_twice(count in 1..6usize, size in MIB..20 * MIB, group_ms in 1..10u64) {
        let peer = Peer { group_ms, ..Peer::honest(all(size)) };
        let mut sim = Sim::new(size, vec![peer; count]);
        sim.demand(1, playhead(0..size));
        sim.run(3_600_000);
        prop_assert!(sim.has_all(&all(size)));
        prop_assert!(sim.requested_bytes <= size + size / 10 + GROUP_BYTES, "{} of {size}", sim.requested_bytes);
    }
}

#[test]
fn groups_and_bytes_agree() {
    let cases = [(0..1, 1, 0..1), (0..GROUP_BYTES, 3 * GROUP_BYTES, 0..1), (1..GROUP_BYTES + 1, 3 * GROUP_BYTES, 0..2)];
    for (bytes, size, run) in cases {
        assert_eq!(run_of(bytes, size), run);
    }
    assert!(run_of(5..5, 100).is_empty() && run_of(200..300, 100).is_empty());
    assert_eq!(bytes_of(1..3, GROUP_BYTES * 2 + 5), GROUP_BYTES..GROUP_BYTES * 2 + 5);
    assert_eq!(run_of(0..u64::MAX, u64::MAX), 0..u64::MAX.div_ceil(GROUP_BYTES));
}
