//! [`Ladder`]: the paths of every peer, and which of them carries.

use std::collections::{BTreeMap, VecDeque};

use super::{
    LinkClass, Route,
    explain::{self, PeerView, Switch, Why},
    path::{DownWhy, Path},
    types::{Closed, Demand, LinkCost, LinkPolicy, Offer, Options, PathState, Sample, TICK_MS, Traffic},
};
use crate::{NodeId, Timestamp};

/// Peers that are kept; more are carried as the transport likes.
const MAX_PEERS: usize = 1024;
/// Ways kept of one peer.
const MAX_ROUTES: usize = 48;
/// Changes that are shown of one peer.
const MAX_SWITCHES: usize = 16;

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the peer something over this path that it must acknowledge, and say so with [`Ladder::asked`].
    Ask(NodeId, Route),
    /// No open path to the peer works: close what leads there and dial it anew, all its addresses at once.
    Redial(NodeId),
    /// A way that would be better than the one in use may work (again): have the transport look.
    Probe(NodeId, Route),
    /// Another path carries since this moment. For the log.
    Switched(NodeId, Switch),
}

/// Which way a demand goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This way, up to so many bytes. An alert goes by all of them, anything else by the first.
    Go(Vec<(Route, u64)>),
    /// No way that works may carry it now. In words.
    Wait(&'static str),
}

#[derive(Debug, Default)]
struct Peer {
    paths: BTreeMap<Route, Path>,
    /// What carries.
    carrier: Option<Route>,
    why: Option<Why>,
    switches: VecDeque<Switch>,
    switch_count: u64,
    /// Changes that weren't told yet.
    untold: Vec<Switch>,
    /// When a working path was last left for a better one.
    moved: Option<Timestamp>,
    probed: Option<Timestamp>,
    /// Looks in a row that found nothing.
    vain_probes: u32,
    /// All open paths were dead, and that was told.
    redialled: bool,
}

/// The ways to all peers.
#[derive(Debug)]
pub struct Ladder {
    options: Options,
    policy: LinkPolicy,
    peers: BTreeMap<NodeId, Peer>,
    /// Whose a way is: the transport asks by ways alone.
    owners: BTreeMap<Route, NodeId>,
    ticked: Option<Timestamp>,
}

impl Ladder {
    /// A ladder that knows nobody.
    pub fn new(options: Options) -> Self {
        Self { options, policy: LinkPolicy::default(), peers: BTreeMap::new(), owners: BTreeMap::new(), ticked: None }
    }

    /// Which way it leans.
    pub fn policy(&self) -> LinkPolicy {
        self.policy
    }

    /// Leans another way from now on. Paths that work are left for what is better now, one look at a time.
    pub fn set_policy(&mut self, policy: LinkPolicy) {
        self.policy = policy;
        for peer in self.peers.values_mut() {
            (peer.moved, peer.probed, peer.vain_probes) = (None, None, 0);
        }
    }

    // # What is known

    fn path(&mut self, now: Timestamp, node: NodeId, route: &Route) -> Option<&mut Path> {
        if !self.peers.contains_key(&node) && self.peers.len() >= MAX_PEERS {
            let idle = self.peers.iter().find(|(_, peer)| peer.paths.values().all(|path| !path.open));
            let idle = idle.map(|(node, _)| *node)?;
            self.forget(idle);
        }
        let peer = self.peers.entry(node).or_default();
        if !peer.paths.contains_key(route) {
            if peer.paths.len() >= MAX_ROUTES {
                let worst = peer.paths.iter().filter(|(_, path)| !path.open && path.budget.is_none());
                let worst = worst.min_by_key(|(_, path)| (path.has_worked(), path.since));
                let worst = worst.map(|(route, _)| route.clone())?;
                peer.paths.remove(&worst);
                self.owners.remove(&worst);
            }
            peer.paths.insert(route.clone(), Path::new(now, route.class()));
            // Relays, the satellite uplink and bundles lead to many.
            if matches!(route, Route::Ip(_)) {
                self.owners.insert(route.clone(), node);
            }
        }
        peer.paths.get_mut(route)
    }

    /// A way that the peer may be reached by.
    pub fn learn(&mut self, now: Timestamp, node: NodeId, route: &Route) {
        let _ = self.path(now, node, route);
    }

    /// A link that the shell knows to be there, with what may go over it. What of an earlier offer's budget wasn't used is
    /// replaced.
    pub fn offer(&mut self, now: Timestamp, node: NodeId, route: &Route, offer: Offer) {
        if let Some(path) = self.path(now, node, route) {
            path.offer(now, offer);
        }
    }

    /// The transport has this path open.
    pub fn opened(&mut self, now: Timestamp, node: NodeId, route: &Route) {
        if let Some(path) = self.path(now, node, route) {
            path.opened(now);
        }
    }

    /// What moved over an open path since the last sample.
    pub fn sample(&mut self, now: Timestamp, node: NodeId, route: &Route, sample: Sample) {
        self.opened(now, node, route);
        let options = self.options.clone();
        if let Some(path) = self.peers.get_mut(&node).and_then(|peer| peer.paths.get_mut(route)) {
            path.sample(now, sample, &options);
        }
    }

    /// The path was asked whether it is there.
    pub fn asked(&mut self, now: Timestamp, node: NodeId, route: &Route) {
        if let Some(path) = self.peers.get_mut(&node).and_then(|peer| peer.paths.get_mut(route)) {
            path.was_asked(now);
        }
    }

    /// The transport has this path no more.
    pub fn closed(&mut self, now: Timestamp, node: NodeId, route: &Route, why: Closed) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if let Some(path) = peer.paths.get_mut(route) {
            path.closed(now, why);
        }
    }

    /// The open paths of a peer that aren't in `open` are closed: the transport has only these.
    pub fn only_open(&mut self, now: Timestamp, node: NodeId, open: &[Route]) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        for (route, path) in peer.paths.iter_mut().filter(|(route, path)| path.open && !open.contains(route)) {
            let why = match open.is_empty() {
                // The connection went with it.
                true => Closed::Ended,
                false if peer.carrier.as_ref() == Some(route) => Closed::Broken,
                false => Closed::Reserve,
            };
            path.closed(now, why);
        }
    }

    /// Whether a path is known to be dead.
    pub fn is_down(&self, node: NodeId, route: &Route) -> bool {
        let path = self.peers.get(&node).and_then(|peer| peer.paths.get(route));
        path.is_some_and(|path| path.state == PathState::Down)
    }

    /// Peers with a path open, as far as is known.
    pub fn open_peers(&self) -> Vec<NodeId> {
        let open = |peer: &Peer| peer.paths.values().any(|path| path.open);
        self.peers.iter().filter(|(_, peer)| open(peer)).map(|(node, _)| *node).collect()
    }

    /// An interface of this machine came or went: paths whose own end isn't there any more are down, the others are asked
    /// at once, and everything is worth another look.
    pub fn kick(&mut self, now: Timestamp, gone: &[(NodeId, Route)]) {
        for (node, route) in gone {
            let path = self.peers.get_mut(node).and_then(|peer| peer.paths.get_mut(route));
            if let Some(path) = path.filter(|path| path.open && path.state != PathState::Down) {
                path.fail(now, DownWhy::Interface);
            }
        }
        for peer in self.peers.values_mut() {
            (peer.probed, peer.vain_probes) = (None, 0);
            peer.paths.values_mut().for_each(Path::doubt);
        }
    }

    /// Something says that the peer may have gone: its open paths are asked at once, and believed dead sooner.
    pub fn doubt(&mut self, node: NodeId) {
        for path in self.peers.get_mut(&node).into_iter().flat_map(|peer| peer.paths.values_mut()) {
            path.doubt();
        }
    }

    /// Forgets a peer.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.remove(&node) {
            self.owners.retain(|route, owner| *owner != node || !peer.paths.contains_key(route));
        }
    }

    // # What is decided

    /// Which of the paths that a transport has open to one peer, with their round trips in milliseconds where it knows
    /// them, carries. None when it may stay as it is: no path is any good. Without the peer's name it is told from the
    /// addresses.
    pub fn select(
        &mut self,
        now: Timestamp,
        node: Option<NodeId>,
        paths: &[(Route, Option<u64>)],
        current: Option<&Route>,
    ) -> Option<Route> {
        let open: Vec<Route> = paths.iter().map(|(route, _)| route.clone()).collect();
        let open = open.as_slice();
        let Some(node) = node.or_else(|| open.iter().find_map(|route| self.owners.get(route).copied())) else {
            return self.best_of_strangers(open, current);
        };
        for (route, rtt_ms) in paths {
            if let Some(path) = self.path(now, node, route) {
                path.opened(now);
                path.rtt_ms = rtt_ms.or(path.rtt_ms);
            }
        }
        let (policy, options) = (self.policy, self.options.clone());
        let peer = self.peers.get_mut(&node)?;
        peer.decide(now, open, policy, &options);
        peer.carrier.clone().filter(|carrier| open.contains(carrier))
    }

    /// By kind alone: nothing else is known.
    fn best_of_strangers(&self, open: &[Route], current: Option<&Route>) -> Option<Route> {
        let base = |route: &&Route| Path::base_ms(route.class(), self.policy);
        let best = open.iter().min_by_key(base)?;
        let keep = current.filter(|current| open.contains(current) && base(current) <= base(&best));
        Some(keep.unwrap_or(best).clone())
    }

    /// Time passes; call it every [`TICK_MS`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        let gap_ms = self.ticked.map_or(0, |at| now.saturating_ms_since(at).saturating_sub(2 * TICK_MS));
        self.ticked = Some(now);
        let (policy, options) = (self.policy, self.options.clone());
        let mut effects = vec![];
        for (node, peer) in &mut self.peers {
            if gap_ms > 0 {
                peer.paths.values_mut().for_each(|path| path.forgive(gap_ms));
            }
            peer.tick(now, *node, policy, &options, &mut effects);
        }
        effects
    }

    /// Which way this demand goes now, and how many bytes of it. What is granted of a budget is debited at once; say with
    /// [`Ladder::settle`] what was really used.
    pub fn choose(&mut self, node: NodeId, demand: &Demand) -> Choice {
        let policy = self.policy;
        let Some(peer) = self.peers.get_mut(&node) else { return Choice::Wait("no way to the peer is known") };
        let usable = |path: &Path| path.is_usable() || (path.open && path.state == PathState::Suspect);
        let able: Vec<_> = peer.paths.iter().filter(|(_, path)| usable(path)).collect();
        if able.is_empty() {
            return Choice::Wait("no way to the peer works");
        }
        let able: Vec<_> = able.into_iter().filter(|(_, path)| path.may_carry(demand)).collect();
        if able.is_empty() {
            return Choice::Wait("what works may not carry bytes of this kind");
        }
        let mut ways: Vec<_> =
            able.into_iter().filter(|(_, path)| path.room(demand) > 0 || demand.bytes == 0).collect();
        if ways.is_empty() {
            return Choice::Wait("the budget of what works is spent");
        }
        let carrier = peer.carrier.clone();
        // The cheapest first; what carries already before what would have to be opened; what works before what may.
        ways.sort_by_key(|(route, path)| {
            (path.cost, path.state == PathState::Suspect, carrier.as_ref() != Some(route), path.score(policy))
        });
        let most = if demand.traffic == Traffic::Alert { usize::MAX } else { 1 };
        let chosen: Vec<Route> = ways.into_iter().take(most).map(|(route, _)| route.clone()).collect();
        let grant = |route: Route| {
            let budget = peer.paths.get_mut(&route).and_then(|path| path.budget.as_mut());
            let bytes = budget.map_or(demand.bytes, |budget| budget.take(demand.traffic, demand.bytes));
            (route, bytes)
        };
        Choice::Go(chosen.into_iter().map(grant).collect())
    }

    /// A grant of [`Ladder::choose`] turned out to cost so much.
    pub fn settle(&mut self, node: NodeId, route: &Route, granted_bytes: u64, used_bytes: u64) {
        let path = self.peers.get_mut(&node).and_then(|peer| peer.paths.get_mut(route));
        if let Some(budget) = path.and_then(|path| path.budget.as_mut()) {
            budget.settle(granted_bytes, used_bytes);
        }
    }

    // # What is shown

    /// The ways to a peer.
    pub fn view(&self, now: Timestamp, node: NodeId) -> Option<PeerView> {
        let peer = self.peers.get(&node)?;
        let carries = |route: &Route| peer.carrier.as_ref() == Some(route);
        let show = |(route, path): (&Route, &Path)| {
            explain::path(now, route, path, carries(route) && path.open, path.score(self.policy))
        };
        let mut paths: Vec<_> = peer.paths.iter().map(show).collect();
        paths.sort_by_key(|path| (!path.carries, path.state == PathState::Down, path.class));
        let carrier = peer.carrier.as_ref().filter(|route| peer.paths.get(route).is_some_and(|path| path.open));
        let why = match (carrier, &peer.why) {
            (Some(_), Some(why)) => why.to_string(),
            (Some(_), None) => String::new(),
            (None, _) => "no way is open".into(),
        };
        Some(PeerView {
            class: carrier.map(Route::class),
            why,
            paths,
            switches: peer.switches.iter().cloned().collect(),
            switch_count: peer.switch_count,
        })
    }

    /// Bytes in and out by kind of link, over all peers.
    pub fn bytes_by_class(&self) -> BTreeMap<LinkClass, (u64, u64)> {
        let mut sums = BTreeMap::new();
        for path in self.peers.values().flat_map(|peer| peer.paths.values()) {
            let sum: &mut (u64, u64) = sums.entry(path.class).or_default();
            *sum = (sum.0.saturating_add(path.in_bytes), sum.1.saturating_add(path.out_bytes));
        }
        sums
    }
}

impl Peer {
    fn tick(&mut self, now: Timestamp, node: NodeId, policy: LinkPolicy, options: &Options, effects: &mut Vec<Effect>) {
        let alone = self.paths.values().filter(|path| path.cost == LinkCost::Free).count() < 2;
        let mut died = false;
        for (route, path) in &mut self.paths {
            died |= path.tick(now, alone, options);
            if path.wants_asking(now, options) {
                effects.push(Effect::Ask(node, route.clone()));
            }
        }
        let open: Vec<Route> =
            self.paths.iter().filter(|(_, path)| path.open).map(|(route, _)| route.clone()).collect();
        let carrier = self.carrier.as_ref().and_then(|carrier| self.paths.get(carrier)).filter(|path| path.open);
        let works = |path: &Path| path.state != PathState::Down;
        let stuck = match carrier {
            // A transport goes on sending where it sent until it is made to begin anew.
            Some(carrier) => !works(carrier),
            None => !open.is_empty() && !self.paths.values().any(|path| path.open && works(path)),
        };
        if stuck && (died || !self.redialled) {
            effects.push(Effect::Redial(node));
        }
        self.redialled = stuck;
        if carrier.is_some() && !stuck {
            effects.extend(self.probe(now, &open, policy, options).map(|route| Effect::Probe(node, route)));
        }
        effects.extend(std::mem::take(&mut self.untold).into_iter().map(|switch| Effect::Switched(node, switch)));
    }

    /// Which of the open paths should carry instead of the one that does, and why. None to stay.
    fn better(&self, now: Timestamp, open: &[Route], policy: LinkPolicy, options: &Options) -> Option<(Route, Why)> {
        let known = || open.iter().filter_map(|route| Some((route, self.paths.get(route)?)));
        let rank = |path: &Path| (path.state == PathState::Down, !path.is_usable(), path.score(policy));
        let (best, best_path) = known().min_by_key(|(_, path)| rank(path))?;
        if best_path.state == PathState::Down {
            return None;
        }
        let current = self.carrier.as_ref().and_then(|carrier| Some((carrier, self.paths.get(carrier)?)));
        let why = match current {
            None => Why::First,
            Some((route, path)) if !open.contains(route) => match path.has_failed() {
                true => Why::Failed { from: path.class },
                false => Why::Closed { from: path.class },
            },
            Some((route, path)) if path.is_usable() => {
                // The best may not have settled yet where another, that is better than the current one, has.
                let (score, base) = (path.score(policy), Path::base_ms(path.class, policy));
                let settled = |(other, path): &(&Route, &Path)| {
                    let down = Path::base_ms(path.class, policy) > base;
                    *other != route
                        && path.is_usable()
                        && path.is_settled(now, options)
                        && path.score(policy) + options.margin(score, down) <= score
                };
                let (better, better_path) = known().filter(settled).min_by_key(|(_, path)| path.score(policy))?;
                if self.moved.is_some_and(|at| now.saturating_ms_since(at) < options.dwell_ms) {
                    return None;
                }
                let why = Why::Better { from: path.class, from_score: score, score: better_path.score(policy) };
                return Some((better.clone(), why));
            }
            Some((route, _)) if route == best => return None,
            Some((_, path)) => Why::Failed { from: path.class },
        };
        Some((best.clone(), why))
    }

    fn decide(&mut self, now: Timestamp, open: &[Route], policy: LinkPolicy, options: &Options) {
        let Some((route, why)) = self.better(now, open, policy, options) else { return };
        if why.is_voluntary() {
            self.moved = Some(now);
        } else {
            // Something failed: what else there is is worth a look at once, and settling in isn't flapping.
            (self.probed, self.moved) = (None, None);
        }
        self.why = Some(why);
        if self.carrier.as_ref() != Some(&route) {
            self.switch(now, route, why);
        }
    }

    fn switch(&mut self, now: Timestamp, to: Route, why: Why) {
        let from = self.carrier.replace(to.clone());
        (self.why, self.vain_probes) = (Some(why), 0);
        self.switch_count += 1;
        let switch = Switch { at: now, from, class: to.class(), to, why };
        if self.untold.len() < MAX_SWITCHES {
            self.untold.push(switch.clone());
        }
        if self.switches.len() == MAX_SWITCHES {
            self.switches.pop_front();
        }
        self.switches.push_back(switch);
    }

    /// A way that would be better than the one in use and is worth a look now: one that isn't open, or that is and has
    /// become better.
    fn probe(&mut self, now: Timestamp, open: &[Route], policy: LinkPolicy, options: &Options) -> Option<Route> {
        let current = self.paths.get(self.carrier.as_ref()?)?;
        let (busy, class, score) = (current.is_busy(now, options), current.class, current.score(policy));
        // What it was measured to be lately, else the least that its kind costs.
        let hope = |path: &Path| match path.has_worked() && path.silent_ms(now) < options.max_probe_ms {
            true => path.score(policy),
            false => Path::base_ms(path.class, policy),
        };
        let worth = |path: &Path| {
            !path.open
                && path.cost == LinkCost::Free
                && Path::base_ms(path.class, policy) < Path::base_ms(class, policy)
                && hope(path) + options.margin(score, false) <= score
        };
        let best = self.paths.iter().filter(|(_, path)| worth(path));
        let best = best.min_by_key(|(_, path)| (!path.has_worked(), hope(path)));
        let lately = |path: &Path| path.has_worked() && now.saturating_ms_since(path.since) < options.memory_ms;
        let backoff_ms = options.probe_ms.saturating_mul(1 << self.vain_probes.min(8)).min(options.max_probe_ms);
        let (route, every_ms) = match (self.better(now, open, policy, options), best) {
            (Some((route, _)), _) => (route, options.probe_ms),
            (None, Some((route, path))) if busy && lately(path) => (route.clone(), options.probe_ms),
            (None, Some((route, _))) if busy => (route.clone(), backoff_ms),
            (None, Some((route, _))) => (route.clone(), options.max_probe_ms),
            (None, None) => return None,
        };
        if self.probed.is_some_and(|at| now.saturating_ms_since(at) < every_ms) {
            return None;
        }
        (self.probed, self.vain_probes) = (Some(now), self.vain_probes.saturating_add(1));
        self.paths.values_mut().for_each(|path| path.look(now));
        Some(route)
    }
}
