//! The ladder over links that fail, come back and change, in virtual time.
//!
//! The transport here does what the real one does: it opens the ways that answer when it dials or looks, closes those of
//! addresses that don't carry, keeps a relay's, and notices by itself that a path is dead only after 15 s.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mhc_protocol::{
    NodeId, Timestamp,
    link::{
        Choice, Closed, Demand, Effect, Ladder, LinkClass, LinkCost, LinkPolicy, Offer, Options, PathState, Route,
        Sample, Switch, TICK_MS, Traffic,
    },
};

use crate::net::{Rng, node, seeds};

const IDLE_MS: u64 = 15_000;
const BUDGET_BYTES: u64 = 1 << 20;

struct Link {
    alive: bool,
    rtt_ms: u64,
    /// Ticks until it changes; none for never.
    flips_in: Option<u64>,
    /// When it was last dead.
    dead_at: u64,
    open_since_heard: u64,
    asked: bool,
}

struct World {
    ladder: Ladder,
    peer: NodeId,
    now_ms: u64,
    rng: Rng,
    links: BTreeMap<Route, Link>,
    open: BTreeSet<Route>,
    carrier: Option<Route>,
    /// Ticks until the transport has dialled.
    dialling: u64,
    busy: bool,
    switches: Vec<Switch>,
    granted: u64,
    granted_beside_alerts: u64,
    waits: u64,
}

fn routes() -> [Route; 4] {
    let ip = |text: &str| Route::Ip(text.parse().unwrap());
    [ip("10.0.0.2:4481"), ip("203.0.113.2:4481"), ip("[200::2]:4481"), Route::Relay("https://relay.example".into())]
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let rtts = [2, 30, 50, 60];
        let link = |(route, rtt_ms): (Route, u64)| {
            let rtt_ms = rtt_ms + rng.below(rtt_ms);
            (route, Link { alive: true, rtt_ms, flips_in: None, dead_at: 0, open_since_heard: 0, asked: false })
        };
        let links: BTreeMap<_, _> = routes().into_iter().zip(rtts).map(link).collect();
        let mut ladder = Ladder::new(Options::default());
        let peer = node(1);
        for route in links.keys() {
            ladder.learn(Timestamp(1_000), peer, route);
        }
        let offer = Offer {
            cost: LinkCost::Precious,
            capability: mhc_protocol::link::Capability::TwoWay,
            budget_bytes: BUDGET_BYTES,
        };
        ladder.offer(Timestamp(1_000), peer, &Route::Satellite, offer);
        Self {
            ladder,
            peer,
            now_ms: 1_000,
            rng,
            links,
            open: BTreeSet::new(),
            carrier: None,
            dialling: 1,
            busy: true,
            switches: vec![],
            granted: 0,
            granted_beside_alerts: 0,
            waits: 0,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms)
    }

    fn flap(&mut self, route: &Route) {
        let ticks = 1 + self.rng.log_uniform(1.0, 240.0) as u64;
        if let Some(link) = self.links.get_mut(route) {
            link.flips_in = Some(ticks);
        }
    }

    fn cut(&mut self, route: &Route, cut: bool) {
        let now_ms = self.now_ms;
        if let Some(link) = self.links.get_mut(route) {
            link.alive = !cut;
            link.dead_at = now_ms;
        }
    }

    /// All that is alive answers; the transport asks who carries and closes other addresses.
    fn look(&mut self) {
        let alive = self.links.iter().filter(|(_, link)| link.alive);
        let mut answering: Vec<_> = alive.map(|(route, _)| route.clone()).collect();
        let first = self.rng.below(answering.len() as u64) as usize;
        answering.rotate_left(first);
        let now = self.now();
        for route in answering {
            if let Some(link) = self.links.get_mut(&route) {
                link.open_since_heard = self.now_ms;
                link.asked = false;
            }
            self.open.insert(route);
            let rtt_ms = |route: &Route| self.links.get(route).map(|link| link.rtt_ms);
            let open: Vec<_> = self.open.iter().map(|route| (route.clone(), rtt_ms(route))).collect();
            // A relay's path says whose it is, an address doesn't.
            let peer = open.iter().any(|(route, _)| matches!(route, Route::Relay(_))).then_some(self.peer);
            if let Some(carrier) = self.ladder.select(now, peer, &open, self.carrier.as_ref()) {
                self.carrier = Some(carrier);
            }
            let keep = self.carrier.clone();
            self.open.retain(|route| matches!(route, Route::Relay(_)) || Some(route) == keep.as_ref());
        }
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let now = self.now();
        let mut flapping = vec![];
        for (route, link) in &mut self.links {
            if let Some(left) = &mut link.flips_in {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    link.alive = !link.alive;
                    link.dead_at = self.now_ms;
                    flapping.push(route.clone());
                }
            }
        }
        flapping.iter().for_each(|route| self.flap(route));
        if self.dialling > 0 {
            self.dialling -= 1;
            if self.dialling == 0 {
                self.look();
                self.dialling = u64::from(self.open.is_empty());
            }
        }
        let mut timed_out = vec![];
        for route in self.open.clone() {
            let carries = self.carrier.as_ref() == Some(&route);
            let jitter = self.rng.below(10);
            let Some(link) = self.links.get_mut(&route) else { continue };
            let heard = link.alive && (link.asked || (carries && self.busy));
            let in_bytes = if heard && carries && self.busy { 150_000 } else { u64::from(heard) * 40 };
            if heard {
                (link.asked, link.open_since_heard) = (false, self.now_ms);
            } else if self.now_ms - link.open_since_heard >= IDLE_MS && !link.alive {
                timed_out.push(route.clone());
            }
            let rtt_ms = Some(link.rtt_ms * (95 + jitter) / 100);
            self.ladder.sample(now, self.peer, &route, Sample { in_bytes, rtt_ms, ..Sample::default() });
        }
        for route in timed_out {
            self.open.remove(&route);
            self.ladder.closed(now, self.peer, &route, Closed::Broken);
            self.dialling = self.dialling.max(u64::from(self.open.is_empty()));
        }
        let open: Vec<_> = self.open.iter().cloned().collect();
        self.ladder.only_open(now, self.peer, &open);
        for effect in self.ladder.tick(now) {
            match effect {
                Effect::Ask(peer, route) => {
                    self.ladder.asked(now, peer, &route);
                    if let Some(link) = self.links.get_mut(&route) {
                        link.asked = true;
                    }
                }
                Effect::Redial(_) => {
                    self.open.clear();
                    self.carrier = None;
                    self.ladder.only_open(now, self.peer, &[]);
                    self.dialling = 1;
                }
                Effect::Probe(..) => self.look(),
                Effect::Switched(_, switch) => self.switches.push(switch),
            }
        }
        self.demand();
    }

    /// A demand of each urgent kind: none waits while something that may carry it is usable, and budgets hold.
    fn demand(&mut self) {
        let view = self.ladder.view(self.now(), self.peer).expect("a peer");
        for traffic in Traffic::ALL {
            let user_asked = self.rng.chance(0.2);
            let bytes = self.rng.below(4_000);
            let demand = Demand { traffic, bytes, needs_answer: true, user_asked };
            let before = self.budget_left();
            let choice = self.ladder.choose(self.peer, &demand);
            let spent = before - self.budget_left();
            self.granted += spent;
            self.granted_beside_alerts += if traffic == Traffic::Alert { 0 } else { spent };
            let ways = match choice {
                Choice::Go(ways) => ways,
                Choice::Wait(_) => vec![],
            };
            let satellite = ways.iter().find(|(route, _)| *route == Route::Satellite);
            assert_eq!(satellite.map_or(0, |(_, bytes)| *bytes), spent);
            let may_go_up = traffic <= Traffic::Record || (traffic == Traffic::Waited && user_asked);
            assert!(satellite.is_none() || may_go_up, "{traffic:?} over the satellite");
            let works = |state| matches!(state, PathState::Up | PathState::Probing);
            let free = view.paths.iter().any(|path| works(path.state) && path.cost == LinkCost::Free);
            if free {
                assert!(
                    ways.iter().any(|(route, _)| *route != Route::Satellite),
                    "{traffic:?} waits at {}",
                    self.now_ms
                );
                assert!(satellite.is_none() || traffic == Traffic::Alert, "free before what costs");
            } else if traffic <= Traffic::Waited && ways.is_empty() {
                self.waits += 1;
                let reserve = if traffic == Traffic::Alert { 0 } else { BUDGET_BYTES / 5 };
                assert!(!may_go_up || bytes == 0 || before <= reserve, "{traffic:?} waits though {before} are left");
            }
        }
        assert!(self.granted <= BUDGET_BYTES && self.granted_beside_alerts <= BUDGET_BYTES / 5 * 4 + 1);
    }

    fn budget_left(&self) -> u64 {
        let view = self.ladder.view(self.now(), self.peer).expect("a peer");
        view.paths.iter().filter_map(|path| path.budget_left_bytes).sum()
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.tick();
        }
    }

    fn carries(&self) -> Option<LinkClass> {
        self.ladder.view(self.now(), self.peer).expect("a peer").class
    }
}

/// Most changes of one's own accord in any minute, beyond one for each that a failure forced.
fn voluntary_per_minute(switches: &[Switch]) -> usize {
    let mut window = VecDeque::new();
    let mut most = 0;
    for switch in switches {
        window.push_back((switch.at, switch.why.is_voluntary()));
        while window.front().is_some_and(|(at, _)| switch.at.saturating_ms_since(*at) >= 60_000) {
            window.pop_front();
        }
        let voluntary = window.iter().filter(|(_, voluntary)| *voluntary).count();
        most = most.max(voluntary.saturating_sub(window.len() - voluntary));
    }
    most
}

#[test]
fn whatever_links_do_nothing_urgent_waits_for_a_path_that_works() {
    for seed in seeds(24) {
        let mut world = World::new(seed);
        for route in routes() {
            if world.rng.chance(0.8) {
                world.flap(&route);
            }
        }
        let (mut lost_ms, mut switches_seen) = (0, 0);
        for step in 0..2_400 {
            world.busy = (step / 300) % 3 != 2;
            world.tick();
            // Alive, and for long enough that a dead path beside it was noticed and dialled anew.
            let patience = if world.busy { 12_000 } else { 24_000 };
            let steady = world.links.values().any(|link| link.alive && world.now_ms - link.dead_at > patience);
            let carried = world.carrier.as_ref().and_then(|route| world.links.get(route));
            let carried_ms = carried.map_or(0, |link| world.now_ms - link.dead_at);
            if steady && carried.is_none_or(|link| !link.alive) && carried_ms > patience {
                lost_ms += TICK_MS;
            }
            switches_seen = switches_seen.max(world.switches.len());
        }
        let voluntary = voluntary_per_minute(&world.switches);
        println!(
            "seed {seed}: {switches_seen} switches, at most {voluntary} a minute of its own accord, {} waits, {} granted",
            world.waits, world.granted
        );
        assert_eq!(lost_ms, 0, "seed {seed}: time on dead paths beside one that worked");
        assert!(voluntary <= 8, "seed {seed}: flaps");
        // Every other change has a failure for a cause: there can be no more of them than that.
        assert!(world.switches.len() <= 2_400, "seed {seed}");
    }
}

#[test]
fn steady_links_are_left_alone() {
    for seed in seeds(8) {
        let mut world = World::new(seed);
        world.run(600_000);
        assert_eq!(world.carries(), Some(LinkClass::Lan), "seed {seed}");
        let (settling, later): (Vec<_>, Vec<_>) = world.switches.iter().partition(|switch| switch.at.0 < 30_000);
        assert!(settling.len() <= 3, "seed {seed}: {settling:?}");
        assert!(later.is_empty(), "seed {seed}: {later:?}");
    }
}

/// The story of the scenario: lan, direct, Yggdrasil are cut one after the other, and come back in reverse.
#[test]
fn down_the_ladder_and_up_again() {
    for seed in seeds(8) {
        let mut world = World::new(seed);
        world.run(20_000);
        let order = routes();
        let classes = [LinkClass::Lan, LinkClass::Direct, LinkClass::Yggdrasil, LinkClass::Relay];
        assert_eq!(world.carries(), Some(LinkClass::Lan));
        for step in 0..3 {
            world.cut(&order[step], true);
            world.run(6_000);
            let switches = &world.switches;
            assert_eq!(world.carries(), Some(classes[step + 1]), "seed {seed}: within 6 s of the cut: {switches:?}");
        }
        for step in (0..3).rev() {
            world.cut(&order[step], false);
            world.run(20_000);
            assert_eq!(world.carries(), Some(classes[step]), "seed {seed}: within 20 s of the healing");
        }
        for switch in &world.switches {
            assert!(!switch.why.to_string().is_empty());
        }
    }
}

#[test]
fn a_path_that_comes_and_goes_is_trusted_less_and_less() {
    let mut world = World::new(1);
    let lan = routes()[0].clone();
    world.run(10_000);
    for _ in 0..30 {
        world.cut(&lan, true);
        world.run(6_000);
        world.cut(&lan, false);
        world.run(14_000);
    }
    let onto_lan = world.switches.iter().filter(|switch| switch.class == LinkClass::Lan).count();
    assert!((2..=8).contains(&onto_lan), "{onto_lan} times in ten minutes");
    world.run(150_000);
    assert_eq!(world.carries(), Some(LinkClass::Lan), "once it keeps up");
}

#[test]
fn a_poor_overlay_loses_to_a_good_relay() {
    let mut world = World::new(1);
    let [lan, direct, overlay, _] = routes();
    world.cut(&lan, true);
    world.cut(&direct, true);
    world.links.get_mut(&overlay).expect("a link").rtt_ms = 900;
    world.run(60_000);
    assert_eq!(world.carries(), Some(LinkClass::Relay));
    world.links.get_mut(&overlay).expect("a link").rtt_ms = 30;
    world.run(200_000);
    assert_eq!(world.carries(), Some(LinkClass::Yggdrasil), "once it is good");
}

#[test]
fn with_the_internet_gone_neighbours_go_first() {
    let mut world = World::new(1);
    world.cut(&routes()[0], true);
    world.run(30_000);
    assert_eq!(world.carries(), Some(LinkClass::Direct));
    world.ladder.set_policy(LinkPolicy::PreferMesh);
    world.run(20_000);
    assert_eq!(world.carries(), Some(LinkClass::Yggdrasil));
    world.ladder.set_policy(LinkPolicy::Normal);
    world.run(20_000);
    assert_eq!(world.carries(), Some(LinkClass::Direct));
}

/// A laptop that slept, or a machine that was busy: silence that nobody could have heard isn't silence.
#[test]
fn time_in_which_the_node_did_not_run_is_forgiven() {
    let mut world = World::new(1);
    world.run(20_000);
    let before = world.switches.len();
    let lan = routes()[0].clone();
    world.ladder.asked(world.now(), world.peer, &lan);
    world.now_ms += 3_600_000;
    let effects = world.ladder.tick(world.now());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Redial(_))), "{effects:?}");
    world.run(5_000);
    assert_eq!((world.carries(), world.switches.len()), (Some(LinkClass::Lan), before));
}

#[test]
fn a_peer_that_seems_gone_is_asked_at_once_and_one_that_answers_stays() {
    let mut world = World::new(1);
    world.run(20_000);
    let before = world.switches.len();
    world.ladder.doubt(world.peer);
    world.run(10_000);
    assert_eq!((world.carries(), world.switches.len()), (Some(LinkClass::Lan), before));
    world.busy = false;
    routes().iter().for_each(|route| world.cut(route, true));
    world.run(1_000);
    world.ladder.doubt(world.peer);
    world.run(2_500);
    assert_eq!(world.carries(), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut ladder = Ladder::new(Options::default());
    let now = Timestamp(1);
    for n in 0..3_000u32 {
        let route = Route::Ip((n.to_be_bytes(), 1).into());
        ladder.learn(now, node(1), &route);
        let mut id = [7; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        ladder.opened(now, NodeId::from_bytes(id), &Route::Ip((n.to_be_bytes(), 2).into()));
    }
    assert!(ladder.open_peers().len() <= 1_024);
    assert!(ladder.view(now, node(1)).is_none_or(|peer| peer.paths.len() <= 48));
    assert!(ladder.tick(now).len() < 10_000);
}
