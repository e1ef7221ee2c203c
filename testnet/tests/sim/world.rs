//! A network of nodes under virtual time: links that delay, lose and are cut, disks that fail, clocks that jump,
//! processes that die, and somebody who lies. Everything follows from one seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet},
    rc::Rc,
};

use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, RecordId, SecretKey, Timestamp,
    manifest::{BlobRef, MANIFEST, Manifest, MediaKind},
    network::{ERASE, Erase, GRANT, Grant, Membership, POLICY, Policy, REVOKE, Revoke, Role},
    reconcile::Start,
    record::{Body, Draft, RecordKind, VerifiedRecord},
};
use mhc_storage::{
    kv::KeyRange,
    record::{Head, Records},
};
use mhc_testnet::Rng;

use crate::{
    disk::Fault,
    node::{Effects, Node, now},
};

/// When it begins: 2026-11-24, more or less.
const START_MS: u64 = 1_795_100_000_000;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
pub(crate) const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Sync with everybody, as the node's driver does it.
const SYNC_MS: u64 = 30 * SECOND_MS;
const MAX_SESSIONS: usize = 4;
const SESSION_TIMEOUT_MS: u64 = 20 * SECOND_MS;
/// Gossip goes to so many.
const FANOUT: u64 = 6;
const DAY_MS: i64 = 24 * 3600 * 1000;

enum Event {
    Write(usize),
    Lie,
    Gossip { to: usize, from: usize, bytes: Rc<Vec<u8>> },
    Period(usize),
    Request { to: usize, from: usize, session: u64, bytes: Vec<u8> },
    Response { to: usize, from: usize, session: u64, bytes: Vec<u8> },
    Timeout { node: usize, session: u64 },
    Shuffle,
    Crash(usize),
    Restart(usize),
    Fault(usize),
    Jump(usize),
    Govern,
}

/// The network. The last node's author holds no grant at first; the first node holds the root key.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    rng: Rng,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    payloads: HashMap<u64, Event>,
    next: u64,
    network: NetworkId,
    root: SecretKey,
    /// Which island each node is on.
    island: Vec<u64>,
    /// Directions in which nothing arrives.
    deaf: HashSet<(usize, usize)>,
    chaos: bool,
    waiting: Vec<Vec<(usize, Start)>>,
    grants: Vec<(usize, RecordId)>,
    revision: u64,
    /// What publishing acknowledged: by whom, and the record.
    pub(crate) acknowledged: Vec<(usize, RecordId)>,
    /// What no index may show.
    pub(crate) forged: Vec<RecordId>,
    /// The author that signs two records for one place.
    equivocator: SecretKey,
    trace: blake3::Hasher,
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let key = |n: usize| {
            SecretKey::from_seed(blake3::hash(&[&seed.to_le_bytes()[..], &n.to_le_bytes()].concat()).as_bytes())
        };
        let root = key(usize::MAX);
        let mut world = Self {
            nodes: (0..nodes).map(|n| Node::new(key(n), dir.path())).collect(),
            rng: Rng::new(seed),
            now_ms: START_MS,
            events: BinaryHeap::new(),
            payloads: HashMap::new(),
            next: 0,
            network: root.network(),
            root,
            island: vec![0; nodes],
            deaf: HashSet::new(),
            chaos: true,
            waiting: vec![Vec::new(); nodes],
            grants: Vec::new(),
            revision: 0,
            acknowledged: Vec::new(),
            forged: Vec::new(),
            equivocator: key(usize::MAX - 1),
            trace: blake3::Hasher::new(),
            dir,
        };
        world.found();
        for n in 0..nodes {
            world.after(SYNC_MS, Event::Period(n));
            world.after(10 * SECOND_MS, Event::Write(n));
        }
        world.after(2 * MINUTE_MS, Event::Shuffle);
        world.after(5 * MINUTE_MS, Event::Govern);
        world.after(MINUTE_MS, Event::Lie);
        world
    }

    /// What happened, in 32 bytes: the same for the same seed.
    pub(crate) fn trace(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }

    /// Runs until `end_ms` after the start.
    pub(crate) fn run_until(&mut self, end_ms: u64) {
        let end_ms = START_MS + end_ms;
        while let Some(Reverse((at_ms, _))) = self.events.peek()
            && *at_ms <= end_ms
        {
            let Some(Reverse((at_ms, number))) = self.events.pop() else { break };
            self.now_ms = at_ms;
            if let Some(event) = self.payloads.remove(&number) {
                self.trace.update(&at_ms.to_le_bytes()).update(&number.to_le_bytes());
                self.happen(event);
            }
        }
        self.now_ms = end_ms;
    }

    /// Ends every trouble: all are connected, all run, all clocks are right, and nobody writes any more.
    pub(crate) fn heal(&mut self) {
        self.chaos = false;
        self.island.fill(0);
        self.deaf.clear();
        for n in 0..self.nodes.len() {
            self.nodes[n].disk.heal();
            self.nodes[n].skew_ms = 0;
            if self.nodes[n].records.is_none() {
                self.nodes[n].start(self.dir.path());
            }
            self.want_everybody(n, Start::Wide);
        }
    }

    /// The index of each node, as a digest.
    pub(crate) fn digests(&self) -> Vec<Option<[u8; 32]>> {
        self.nodes.iter().map(|node| node.records.as_ref()?.index_digest().ok()).collect()
    }

    /// Whether a forged grant counts, or it can't be told.
    pub(crate) fn is_ruled_by_forgery(&self, records: &Records) -> bool {
        let authority = records.authority(self.network);
        authority.map_or(true, |authority| authority.grants().any(|held| self.forged.contains(&held.id)))
    }

    /// Where two nodes differ, for a person.
    pub(crate) fn difference(&self, one: usize, other: usize) -> String {
        let (Some(one), Some(other)) = (&self.nodes[one].records, &self.nodes[other].records) else {
            return "one doesn't run".into();
        };
        let heads = |records: &Records| -> BTreeMap<AuthorId, Head> {
            let heads = records.heads(self.network, None, usize::MAX).unwrap_or_default();
            heads.into_iter().map(|head| (head.author, head)).collect()
        };
        let (ours, theirs) = (heads(one), heads(other));
        let authors: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let place =
            |heads: &BTreeMap<AuthorId, Head>, author| heads.get(author).map(|h| (h.epoch, h.seq, h.id.short()));
        let differing = authors.into_iter().filter(|author| place(&ours, author) != place(&theirs, author));
        let name = |author: &AuthorId| match self.nodes.iter().position(|node| node.key.author() == *author) {
            Some(n) => format!("node {n}"),
            None if *author == self.root.author() => "root".into(),
            None => author.short(),
        };
        let differing: Vec<String> = differing
            .map(|author| format!("{}: {:?} {:?}", name(author), place(&ours, author), place(&theirs, author)))
            .collect();
        let shown = |records: &Records| -> BTreeSet<RecordId> {
            let view = records.view(mhc_platform::catalog::NAME);
            let rows = view.and_then(|view| view.scan("content", KeyRange::all(), usize::MAX)).unwrap_or_default();
            rows.iter().filter_map(|(key, _)| Some(RecordId::from_bytes(key.as_slice().try_into().ok()?))).collect()
        };
        let (ours, theirs) = (shown(one), shown(other));
        let place = |records: &Records, id: RecordId| match records.get(id) {
            Ok(Some(record)) => {
                let header = record.header();
                let body = if record.body().is_some() { "whole" } else { "erased" };
                format!("{} {:?} {body}", name(&header.author), (header.epoch, header.seq))
            }
            other => format!("{other:?}"),
        };
        let rows: Vec<String> = ours
            .symmetric_difference(&theirs)
            .map(|id| format!("{}: {} / {}", id.short(), place(one, *id), place(other, *id)))
            .collect();
        let alike = one.authority(self.network).ok() == other.authority(self.network).ok();
        format!("authority alike: {alike}; heads {}; shown by one: {}", differing.join(", "), rows.join(", "))
    }

    // # Time

    /// At a random moment around `about_ms` from now.
    fn after(&mut self, about_ms: u64, event: Event) {
        let delay_ms = about_ms / 2 + self.rng.below(about_ms.max(1));
        self.in_ms(delay_ms, event);
    }

    fn in_ms(&mut self, delay_ms: u64, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.now_ms + delay_ms, self.next)));
        self.payloads.insert(self.next, event);
    }

    /// Over the wire, if there is one and it doesn't lose it.
    fn send(&mut self, from: usize, to: usize, loses: bool, event: Event) {
        let lost = loses && self.chaos && self.rng.below(20) == 0;
        if self.island[from] == self.island[to] && !self.deaf.contains(&(from, to)) && !lost {
            let delay_ms = 5 + self.rng.below(200);
            self.in_ms(delay_ms, event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Gossip { to, from, bytes } => self.hear(to, from, &bytes),
            Event::Request { to, from, session, bytes } => {
                if let Some(bytes) = self.nodes[to].answer(self.network, &bytes) {
                    self.send(to, from, false, Event::Response { to: from, from: to, session, bytes });
                }
            }
            Event::Response { to, from, session, bytes } => self.answered(to, from, session, &bytes),
            Event::Timeout { node, session } => {
                self.nodes[node].give_up(session);
                self.start_sessions(node);
            }
            Event::Period(n) => {
                self.want_everybody(n, Start::Probe);
                self.in_ms(SYNC_MS, Event::Period(n));
            }
            event if self.chaos => self.trouble(event),
            _ => {}
        }
    }

    // # Records

    fn found(&mut self) {
        self.policy(Membership::Curated);
        for n in 0..self.nodes.len() - 1 {
            self.grant(n);
        }
        let equivocator = self.equivocator.author();
        self.sign_grant(equivocator);
    }

    fn policy(&mut self, membership: Membership) {
        self.revision += 1;
        let policy = Policy { revision: self.revision, membership, ..Policy::default() };
        self.as_root(POLICY, policy.encode().expect("within bounds"));
    }

    fn grant(&mut self, n: usize) {
        let to = self.nodes[n].key.author();
        if let Some(id) = self.sign_grant(to) {
            self.grants.push((n, id));
        }
    }

    fn sign_grant(&mut self, to: AuthorId) -> Option<RecordId> {
        let (role, from) = (Role::Artist, Timestamp::from_millis(self.now_ms));
        let grant = Grant { to, role, channel: None, from, until: None, depth: 0, under: None, note: None };
        self.as_root(GRANT, grant.encode().expect("within bounds"))
    }

    /// Signs as the root, on the first node, if that runs and its disk works.
    fn as_root(&mut self, kind: RecordKind, body: Vec<u8>) -> Option<RecordId> {
        let records = self.nodes[0].records.as_ref()?;
        let at = self.nodes[0].clock(self.now_ms);
        self.nodes[0].written();
        let record = now(records.publish(&self.root, self.network, kind, body, [0; 16], at)).ok()?;
        self.nodes[0].forget_stuck();
        self.spread(0, None, &record);
        Some(record.id())
    }

    fn write(&mut self, n: usize) {
        let erases = self.rng.below(8) == 0;
        let last = self.acknowledged.iter().rev().find(|(by, _)| *by == n);
        let (kind, body) = match last.filter(|_| erases) {
            Some((_, id)) => (ERASE, Erase { records: [*id].into() }.encode().expect("within bounds")),
            None => (MANIFEST, self.manifest()),
        };
        let at = self.nodes[n].clock(self.now_ms);
        if let Some(Ok(record)) = self.nodes[n].publish(self.network, kind, body, at) {
            self.acknowledged.push((n, record.id()));
            self.spread(n, None, &record);
        }
    }

    fn manifest(&mut self) -> Vec<u8> {
        let number = self.rng.next_u64();
        let original = BlobRef {
            hash: BlobHash::of(&number.to_le_bytes()),
            bytes: 8,
            content_type: "video/mp4".into(),
            name: None,
        };
        Manifest::new(format!("film {number}"), MediaKind::Video, original).encode().expect("within bounds")
    }

    fn spread(&mut self, n: usize, except: Option<usize>, record: &VerifiedRecord) {
        self.spread_bytes(n, except, &Rc::new(record.to_bytes()));
    }

    fn spread_bytes(&mut self, n: usize, except: Option<usize>, bytes: &Rc<Vec<u8>>) {
        for _ in 0..FANOUT {
            let to = self.any_node();
            if to != n && Some(to) != except {
                self.send(n, to, true, Event::Gossip { to, from: n, bytes: Rc::clone(bytes) });
            }
        }
    }

    fn hear(&mut self, to: usize, from: usize, bytes: &Rc<Vec<u8>>) {
        let at = self.nodes[to].clock(self.now_ms);
        let (pass_on, gap, governs) = self.nodes[to].gossip(self.network, bytes, at);
        if pass_on {
            self.spread_bytes(to, Some(from), bytes);
        }
        if governs {
            self.nodes[to].forget_stuck();
            self.want_everybody(to, Start::Wide);
        }
        if gap {
            self.want(to, from);
        }
    }

    fn any_node(&mut self) -> usize {
        self.rng.below(self.nodes.len() as u64) as usize
    }

    // # Sync

    fn want_everybody(&mut self, n: usize, start: Start) {
        // Beginning behind itself, so that not all ask the first.
        for step in 1..self.nodes.len() {
            self.queue(n, (n + step) % self.nodes.len(), start);
        }
        self.start_sessions(n);
    }

    fn want(&mut self, n: usize, peer: usize) {
        self.queue(n, peer, Start::Wide);
        self.start_sessions(n);
    }

    fn queue(&mut self, n: usize, peer: usize, start: Start) {
        match self.waiting[n].iter_mut().find(|(waiting, _)| *waiting == peer) {
            Some((_, how)) if start == Start::Wide => *how = start,
            None if peer != n => self.waiting[n].push((peer, start)),
            Some(_) | None => {}
        }
    }

    fn start_sessions(&mut self, n: usize) {
        while self.nodes[n].sessions() < MAX_SESSIONS {
            let free = self.waiting[n].iter().position(|(peer, _)| !self.nodes[n].is_busy_with(*peer));
            let Some(free) = free else { return };
            let (peer, start) = self.waiting[n].remove(free);
            let (session, salt) = (self.next, self.rng.next_u64());
            let Some(bytes) = self.nodes[n].pull(self.network, session, peer, salt, start) else { return };
            self.in_ms(SESSION_TIMEOUT_MS, Event::Timeout { node: n, session });
            self.send(n, peer, false, Event::Request { to: peer, from: n, session, bytes });
        }
    }

    fn answered(&mut self, n: usize, peer: usize, session: u64, bytes: &[u8]) {
        let at = self.nodes[n].clock(self.now_ms);
        let Effects { ask, done, governed } = self.nodes[n].answered(self.network, session, bytes, at);
        if let Some(bytes) = ask {
            self.send(n, peer, false, Event::Request { to: peer, from: n, session, bytes });
        }
        if governed {
            self.want_everybody(n, Start::Wide);
        }
        if done {
            self.start_sessions(n);
        }
    }

    // # Trouble

    fn trouble(&mut self, event: Event) {
        match event {
            Event::Write(n) => {
                self.write(n);
                self.after(4 * MINUTE_MS, Event::Write(n));
                match self.rng.below(24) {
                    0 => self.in_ms(0, Event::Crash(n)),
                    1 => self.in_ms(0, Event::Fault(n)),
                    2 => self.in_ms(0, Event::Jump(n)),
                    _ => {}
                }
            }
            Event::Lie => {
                self.lie();
                self.after(2 * MINUTE_MS, Event::Lie);
            }
            Event::Govern => {
                self.govern();
                self.after(6 * MINUTE_MS, Event::Govern);
            }
            Event::Shuffle => {
                self.shuffle();
                self.after(5 * MINUTE_MS, Event::Shuffle);
            }
            Event::Crash(n) => {
                self.nodes[n].crash();
                self.after(MINUTE_MS, Event::Restart(n));
            }
            Event::Restart(n) => {
                self.nodes[n].start(self.dir.path());
                self.want_everybody(n, Start::Wide);
            }
            Event::Fault(n) => {
                let fault = if self.rng.below(2) == 0 { Fault::Full } else { Fault::Written };
                self.nodes[n].disk.fail(fault);
            }
            Event::Jump(n) => {
                self.nodes[n].skew_ms = [-DAY_MS, 0, DAY_MS][self.rng.below(3) as usize];
            }
            _ => {}
        }
    }

    /// Cuts the network into up to four islands, some of them deaf on one side.
    fn shuffle(&mut self) {
        let islands = 1 + self.rng.below(4);
        for island in &mut self.island {
            *island = self.rng.below(islands);
        }
        self.deaf.clear();
        for _ in 0..self.rng.below(self.nodes.len() as u64) {
            let pair = (self.any_node(), self.any_node());
            self.deaf.insert(pair);
        }
    }

    fn govern(&mut self) {
        match self.rng.below(4) {
            0 => {
                let membership = if self.rng.below(2) == 0 { Membership::Members } else { Membership::Curated };
                self.policy(membership);
            }
            1 => {
                let n = self.any_node();
                self.grant(n);
            }
            _ if self.grants.is_empty() => {}
            _ => {
                let at = self.rng.below(self.grants.len() as u64) as usize;
                let (n, grant) = self.grants.swap_remove(at);
                let author = self.nodes[n].key.author();
                let head =
                    self.nodes[0].records.as_ref().and_then(|records| records.head(self.network, author).ok()?);
                let keep = head.filter(|_| self.rng.below(4) > 0).map(|head| (head.epoch, head.seq));
                let revoke = Revoke { grant, keep, reason: None };
                self.as_root(REVOKE, revoke.encode().expect("within bounds"));
            }
        }
    }

    /// Sends what nobody may believe, and two records for one place.
    fn lie(&mut self) {
        let at = Timestamp::from_millis(self.now_ms);
        let stranger = SecretKey::from_seed(blake3::hash(&self.rng.next_u64().to_le_bytes()).as_bytes());
        let (network, body) = (self.network, self.manifest());
        let draft = |kind: RecordKind, bytes: Vec<u8>, salt: u8| {
            let body = Body { salt: [salt; 16], bytes };
            Draft { network, epoch: 0, seq: 0, prev: None, at, kind, body }
        };
        // A stranger's film in a closed network; an admin by its own grace; a signature that isn't one.
        let film = draft(MANIFEST, body.clone(), 0).sign(&stranger).expect("within bounds");
        let (to, role) = (stranger.author(), Role::Admin);
        let grant = Grant { to, role, channel: None, from: at, until: None, depth: 8, under: None, note: None };
        let grant = draft(GRANT, grant.encode().expect("within bounds"), 1).sign(&stranger).expect("within bounds");
        let mut broken = draft(MANIFEST, body.clone(), 2).sign(&stranger).expect("within bounds").to_bytes();
        let last = broken.len() / 2;
        broken[last] ^= 1;
        self.forged.extend([film.id(), grant.id()]);
        let to = self.any_node();
        for bytes in [film.to_bytes(), grant.to_bytes(), broken] {
            let bytes = Rc::new(bytes);
            self.send(to, to, false, Event::Gossip { to, from: to, bytes });
        }
        // Two beginnings of one log, to different nodes.
        for salt in [3, 4] {
            let record = draft(MANIFEST, body.clone(), salt).sign(&self.equivocator).expect("within bounds");
            let (to, bytes) = (self.any_node(), Rc::new(record.to_bytes()));
            self.send(to, to, false, Event::Gossip { to, from: to, bytes });
        }
    }
}
