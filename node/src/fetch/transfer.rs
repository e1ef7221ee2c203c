//! One task per blob in transfer: finds providers, proves the size, drives the scheduler, and ends when idle.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bao_tree::{ChunkRanges, io::BaoContentItem};
use iroh::endpoint::Connection;
use mhc_protocol::{
    BlobHash, NodeId, Timestamp,
    sched::{CancelReason, Cost, Demand, DemandClass, DemandId, Effect, Failure, Path, Scheduler, UnitId},
};
use mhc_storage::{
    blob::{BlobError, PartialBlob},
    source::SourceError,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span, warn};

use super::{
    ConnectError, Misbehaviour, TransferInfo,
    answer::{Observation, Proof, groups_of_chunks, prove_size},
    engine::{Shared, lock},
    unit::{Unit, UnitError, UnitEvent},
};

/// Candidates considered at once; more are ignored.
const MAX_CANDIDATES: usize = 64;
/// Nodes remembered as unreachable, banned and so on.
const MAX_PEERS: usize = 256;
/// The first wait before a failed provider is tried again; doubles up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How often callers who went away are looked for.
const TICK: Duration = Duration::from_millis(250);
/// How often the transports are asked about round trips.
const PATHS_EVERY: Duration = Duration::from_secs(1);
/// The scheduler's own demand: the last chunk group, so that this node can prove the size to others.
const LAST_GROUP: DemandId = 0;

/// What handles tell a transfer.
pub(super) enum Command {
    /// Prove the size, and bring what lies at byte `from` with it. A closed channel withdraws the question.
    Size { answer: oneshot::Sender<Result<u64, SourceError>>, from: Option<u64> },
    /// Make or replace a reader's demands.
    Want(Want),
    /// The reader left.
    Withdraw(u64),
}

/// A reader's demands, most urgent first, two at most. Their deadlines count from the moment they arrive: a reader
/// doesn't know the transfer's clock.
pub(super) struct Want {
    /// Whose.
    pub(super) reader: u64,
    /// The blob's proven size.
    pub(super) size_bytes: u64,
    /// What it wants.
    pub(super) demands: Vec<Demand>,
    /// Told once why it won't come.
    pub(super) failed: oneshot::Sender<SourceError>,
}

/// Each reader's demands have ids of their own.
const DEMANDS_PER_READER: u64 = 2;

fn demand_id(reader: u64, index: usize) -> DemandId {
    reader * DEMANDS_PER_READER + (index as u64 % DEMANDS_PER_READER)
}

enum Peer {
    Connecting,
    Proving(Connection),
    Ready(Ready),
    /// Not tried again before `retry_at`.
    Away {
        retry_at: Instant,
    },
    Banned,
}

/// A provider that units are given to.
struct Ready {
    connection: Connection,
    /// Listens to what it says it has.
    observer: AbortHandle,
    /// What it said last; it may have anything as long as it says nothing.
    has: Option<ChunkRanges>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.observer.abort();
    }
}

enum Done {
    Candidates(Vec<NodeId>),
    Connected(NodeId, Result<Connection, ConnectError>),
    Proved(NodeId, Result<Proved, UnitError>),
    /// A unit or an observer; what they have to report is in the events and sightings.
    Reported,
}

/// A proven size.
struct Proved {
    size_bytes: u64,
    /// Holds what came with the proof.
    partial: Option<PartialBlob>,
}

/// Somebody who asked for the size.
struct SizeWaiter {
    answer: oneshot::Sender<Result<u64, SourceError>>,
    deadline: Instant,
    /// Where it reads next.
    from: Option<u64>,
}

/// What exists once the size is proven and somebody wants bytes.
struct Active {
    sched: Scheduler,
    /// Makes room for what comes: who reads a part needn't have room for the whole.
    partial: PartialBlob,
    /// Room for all of it, as long as somebody wants all of it.
    whole: Option<PartialBlob>,
}

pub(super) struct Transfer {
    shared: Arc<Shared>,
    hash: BlobHash,
    commands: mpsc::UnboundedReceiver<Command>,
    info: Arc<Mutex<TransferInfo>>,
    size_bytes: Option<u64>,
    size_waiters: Vec<SizeWaiter>,
    /// What came with the proof of the size, until somebody wants bytes.
    proved: Option<PartialBlob>,
    readers: BTreeMap<u64, oneshot::Sender<SourceError>>,
    active: Option<Active>,
    peers: BTreeMap<NodeId, Peer>,
    /// Failures in a row of reaching or asking a node.
    failures: BTreeMap<NodeId, u32>,
    candidates: Vec<NodeId>,
    looking_up: bool,
    last_lookup: Option<Instant>,
    /// When verified bytes last came.
    last_fed: Option<Instant>,
    jobs: JoinSet<Done>,
    units: BTreeMap<UnitId, CancellationToken>,
    events: mpsc::Receiver<UnitEvent>,
    events_of_units: mpsc::Sender<UnitEvent>,
    sightings: mpsc::Receiver<(NodeId, ChunkRanges)>,
    sightings_of_observers: mpsc::Sender<(NodeId, ChunkRanges)>,
    started: Instant,
    idle_since: Instant,
    /// When the transports were last asked about the paths.
    paths_seen: Instant,
    counted_active: bool,
}

impl Transfer {
    pub(super) fn new(
        shared: Arc<Shared>,
        hash: BlobHash,
        commands: mpsc::UnboundedReceiver<Command>,
        info: Arc<Mutex<TransferInfo>>,
    ) -> Self {
        let (events_of_units, events) = mpsc::channel(256);
        let (sightings_of_observers, sightings) = mpsc::channel(16);
        let now = Instant::now();
        let (size_bytes, banned) = {
            let ledger = lock(&shared.ledger);
            (ledger.size(hash), ledger.banned(hash))
        };
        let size_bytes = size_bytes.or_else(|| shared.store.status(hash).map(|blob| blob.size_bytes));
        Self {
            shared,
            hash,
            commands,
            info,
            size_bytes,
            size_waiters: Vec::new(),
            proved: None,
            readers: BTreeMap::new(),
            active: None,
            peers: banned.into_iter().map(|node| (node, Peer::Banned)).collect(),
            failures: BTreeMap::new(),
            candidates: Vec::new(),
            looking_up: false,
            last_lookup: None,
            last_fed: None,
            jobs: JoinSet::new(),
            units: BTreeMap::new(),
            events,
            events_of_units,
            sightings,
            sightings_of_observers,
            started: now,
            idle_since: now,
            paths_seen: now,
            counted_active: false,
        }
    }

    /// Until nobody wants anything for a while, or the fetcher ends. Dropping the jobs aborts them.
    pub(super) async fn run(self) {
        let span = info_span!("transfer", blob = %self.hash.short());
        self.run_inner().instrument(span).await;
    }

    async fn run_inner(mut self) {
        let token = self.shared.token.clone();
        loop {
            self.act();
            if self.has_retired() {
                break;
            }
            let wake = self.next_wake();
            tokio::select! {
                () = token.cancelled() => break,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Some(event) = self.events.recv() => self.on_event(event),
                Some((node, has)) = self.sightings.recv() => self.on_sighting(node, has),
                Some(done) = self.jobs.join_next() => self.on_done(done),
                () = sleep_until(wake) => {}
            }
            // What is there at once is taken at once: one decision for many events.
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event);
            }
            while let Ok(command) = self.commands.try_recv() {
                self.on_command(command).await;
            }
        }
        self.count_active(false);
    }

    // ---- decisions ----

    fn act(&mut self) {
        self.answer_size_waiters();
        self.find_providers();
        self.look_at_paths();
        let now = self.now();
        let effects = self.active.as_mut().map(|active| active.sched.poll(now)).unwrap_or_default();
        for effect in effects {
            self.carry_out(effect);
        }
        self.count_active(!self.readers.is_empty());
        self.publish();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Request { unit, provider, range, class } => self.start_unit(unit, provider, range, class),
            Effect::Cancel { unit, provider, why } => {
                if let Some(cancelled) = self.units.remove(&unit) {
                    cancelled.cancel();
                }
                if why == CancelReason::Stalled {
                    debug!(node = %provider.short(), "a unit stalled");
                    self.shared.metrics.stalls.inc();
                }
            }
            Effect::GiveUp { demand } => self.fail_reader(demand / DEMANDS_PER_READER, SourceError::Lost),
        }
    }

    fn start_unit(&mut self, id: UnitId, node: NodeId, range: std::ops::Range<u64>, class: DemandClass) {
        let (Some(active), Some(Peer::Ready(ready))) = (&mut self.active, self.peers.get(&node)) else {
            if let Some(active) = &mut self.active {
                active.sched.provider_left(node);
            }
            return;
        };
        let cancelled = CancellationToken::new();
        self.units.insert(id, cancelled.clone());
        let unit = Unit {
            id,
            node,
            connection: ready.connection.clone(),
            hash: self.hash,
            range,
            class,
            partial: active.partial.clone(),
            shared: self.shared.clone(),
            events: self.events_of_units.clone(),
            cancelled,
        };
        self.spawn(async move {
            unit.run().await;
            Done::Reported
        });
    }

    /// Looks for candidates and connects to them, while somebody is hungry and providers are few.
    fn find_providers(&mut self) {
        if !self.is_hungry() {
            return;
        }
        let now = Instant::now();
        if !self.looking_up && now >= self.next_lookup() {
            self.look_up();
        }
        let engaged = |peer: &&Peer| matches!(peer, Peer::Connecting | Peer::Proving(_) | Peer::Ready(_));
        let mut room = self.shared.options.max_providers.saturating_sub(self.peers.values().filter(engaged).count());
        for node in self.candidates.clone() {
            let due = match self.peers.get(&node) {
                None => self.peers.len() < MAX_PEERS,
                Some(Peer::Away { retry_at }) => *retry_at <= now,
                Some(Peer::Connecting | Peer::Proving(_) | Peer::Ready(_) | Peer::Banned) => false,
            };
            if due && room > 0 {
                room -= 1;
                self.connect(node);
            }
        }
    }

    /// Asks who is known; looks further when nobody is, or when those known had a look-up's time and brought nothing.
    fn look_up(&mut self) {
        self.looking_up = true;
        let (shared, hash) = (self.shared.clone(), self.hash);
        let limit = Duration::from_millis(shared.options.lookup_timeout_ms);
        let hungry = Duration::from_millis(shared.options.lookup_hungry_ms);
        let further = self.last_lookup.is_some() && self.last_fed.is_none_or(|fed| fed.elapsed() >= hungry);
        self.spawn(async move {
            let known = timeout(limit, shared.peers.candidates(hash)).await.unwrap_or_default();
            if !(further || known.is_empty()) {
                return Done::Candidates(known);
            }
            let mut found = timeout(limit, shared.peers.search(hash)).await.unwrap_or_default();
            found.retain(|node| !known.contains(node));
            found.extend(known);
            Done::Candidates(found)
        });
    }

    fn connect(&mut self, node: NodeId) {
        self.peers.insert(node, Peer::Connecting);
        let shared = self.shared.clone();
        let limit = Duration::from_millis(shared.options.connect_timeout_ms);
        self.spawn(async move {
            let connected = timeout(limit, shared.peers.connect(node)).await;
            Done::Connected(node, connected.unwrap_or_else(|_| Err(ConnectError::Unreachable("timed out".to_owned()))))
        });
    }

    fn prove(&mut self, node: NodeId, connection: Connection) {
        // One of them brings the first bytes, the others prove the size as well.
        let first = !self.peers.values().any(|peer| matches!(peer, Peer::Proving(_)));
        let from = self.size_waiters.iter().find_map(|waiter| waiter.from).filter(|_| first);
        self.peers.insert(node, Peer::Proving(connection.clone()));
        let (shared, hash) = (self.shared.clone(), self.hash);
        let limit = Duration::from_millis(shared.options.scheduler.stall_ms);
        self.spawn(async move {
            let proof = match timeout(limit, prove_size(&connection, hash, from)).await {
                Ok(Ok(proof)) => proof,
                Ok(Err(error)) => return Done::Proved(node, Err(error)),
                Err(_) => return Done::Proved(node, Err(UnitError::Gone("no answer in time".to_owned()))),
            };
            let size_bytes = proof.size_bytes;
            // Without room for them the size is still proven; whoever reads is told.
            let partial = if from.is_some() { keep(&shared, hash, node, proof).await.ok() } else { None };
            Done::Proved(node, Ok(Proved { size_bytes, partial }))
        });
    }

    fn spawn(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.spawn(job);
    }

    // ---- events ----

    async fn on_command(&mut self, command: Command) {
        self.idle_since = Instant::now();
        match command {
            Command::Size { answer, from } => {
                let deadline = Instant::now() + Duration::from_millis(self.shared.options.no_source_ms);
                self.size_waiters.push(SizeWaiter { answer, deadline, from });
            }
            Command::Want(want) => self.on_want(want).await,
            Command::Withdraw(reader) => {
                self.readers.remove(&reader);
                self.withdraw(reader);
            }
        }
    }

    async fn on_want(&mut self, want: Want) {
        let all = want.demands.iter().any(|demand| demand.class == DemandClass::Background);
        let mut ready = self.activate(want.size_bytes).await;
        if ready.is_ok() && all {
            ready = self.reserve_all(want.size_bytes).await;
        }
        if let Err(error) = ready {
            let _ = want.failed.send(error); // A reader that left doesn't want to know.
            return;
        }
        let now = self.now();
        let local = self.shared.local(self.hash);
        let Some(active) = &mut self.active else { return };
        active.sched.set_have(now, groups_of_chunks(&local, want.size_bytes));
        for (index, mut demand) in want.demands.into_iter().enumerate() {
            demand.deadline = demand.deadline.map(|after| now.saturating_add_ms(after.as_millis()));
            active.sched.demand(now, demand_id(want.reader, index), demand);
        }
        let last = want.size_bytes.saturating_sub(1)..want.size_bytes;
        let last = Demand { class: DemandClass::Playhead, deadline: None, range: last, give_up_ms: None };
        active.sched.demand(now, LAST_GROUP, last);
        self.readers.insert(want.reader, want.failed);
    }

    /// Opens the partial blob and the scheduler, if they aren't.
    async fn activate(&mut self, size_bytes: u64) -> Result<(), SourceError> {
        if self.active.is_some() {
            return Ok(());
        }
        let partial = match self.proved.take() {
            Some(partial) => partial,
            None => self.shared.store.partial_in_parts(self.hash, size_bytes).await?,
        };
        self.on_size(size_bytes);
        let have = groups_of_chunks(&self.shared.local(self.hash), size_bytes);
        let mut sched = Scheduler::new(size_bytes, have, self.shared.options.scheduler.clone(), seed());
        for (node, peer) in &self.peers {
            match peer {
                Peer::Ready(ready) => {
                    sched.provider_joined(*node);
                    sched.provider_path(*node, path_of(&ready.connection));
                    if let Some(has) = &ready.has {
                        sched.provider_has(*node, groups_of_chunks(has, size_bytes));
                    }
                }
                Peer::Banned => sched.provider_lied(*node),
                Peer::Connecting | Peer::Proving(_) | Peer::Away { .. } => {}
            }
        }
        self.active = Some(Active { sched, partial, whole: None });
        Ok(())
    }

    /// A download that can't have room for everything would give up its beginning for its end, over and over.
    async fn reserve_all(&mut self, size_bytes: u64) -> Result<(), SourceError> {
        let Some(active) = self.active.as_mut().filter(|active| active.whole.is_none()) else { return Ok(()) };
        active.whole = Some(self.shared.store.partial(self.hash, size_bytes).await?);
        Ok(())
    }

    fn on_event(&mut self, event: UnitEvent) {
        match event {
            UnitEvent::Stored { unit, range } => {
                self.last_fed = Some(Instant::now());
                let now = self.now();
                if let Some(active) = &mut self.active {
                    active.sched.progress(now, unit, range);
                }
            }
            UnitEvent::Ended { unit, node, result } => {
                self.units.remove(&unit);
                self.on_unit_end(unit, node, result);
            }
        }
    }

    fn on_unit_end(&mut self, unit: UnitId, node: NodeId, result: Result<(), UnitError>) {
        let now = self.now();
        let Some(active) = &mut self.active else { return };
        let Err(error) = result else {
            self.failures.remove(&node);
            active.sched.finished(now, unit);
            return;
        };
        if matches!(error, UnitError::Cancelled) {
            return;
        }
        debug!(node = %node.short(), %error, "a unit failed");
        self.shared.metrics.unit_failed(error.reason());
        match error {
            UnitError::Cancelled => {}
            UnitError::Missing => active.sched.failed(now, unit, Failure::Missing),
            UnitError::Gone(_) => {
                active.sched.failed(now, unit, Failure::Broken);
                // All units on a connection end with it: that is one loss.
                if matches!(self.peers.get(&node), Some(Peer::Ready(_))) {
                    self.lose(node);
                }
            }
            UnitError::Lied(how) => {
                active.sched.failed(now, unit, Failure::Lied);
                self.ban(node, how);
            }
            UnitError::Storage(error) => {
                active.sched.failed(now, unit, Failure::Broken);
                self.on_storage_failure(error.into());
            }
        }
    }

    /// Nobody can be served when nothing can be written.
    fn on_storage_failure(&mut self, error: SourceError) {
        warn!(%error, "fetched bytes can't be stored");
        let readers: Vec<u64> = self.readers.keys().copied().collect();
        for reader in readers {
            self.fail_reader(reader, error.clone());
        }
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Reported) => {}
            Ok(Done::Candidates(nodes)) => self.on_candidates(nodes),
            Ok(Done::Connected(node, result)) => self.on_connected(node, result),
            Ok(Done::Proved(node, result)) => self.on_proved(node, result),
            Err(error) if error.is_cancelled() => {}
            // Its unit stalls and is given to another.
            Err(error) => warn!(%error, "a fetch job panicked"),
        }
    }

    fn on_candidates(&mut self, mut nodes: Vec<NodeId>) {
        nodes.truncate(MAX_CANDIDATES);
        self.candidates = nodes;
        self.looking_up = false;
        self.last_lookup = Some(Instant::now());
    }

    fn on_connected(&mut self, node: NodeId, result: Result<Connection, ConnectError>) {
        match result {
            Ok(connection) if self.size_bytes.is_none() => self.prove(node, connection),
            Ok(connection) => self.join(node, connection),
            Err(error) => {
                debug!(node = %node.short(), %error, "a provider can't be reached");
                self.rest(node);
            }
        }
    }

    fn on_proved(&mut self, node: NodeId, result: Result<Proved, UnitError>) {
        let connection = match self.peers.get(&node) {
            Some(Peer::Proving(connection)) => connection.clone(),
            _ => return,
        };
        match result {
            Ok(Proved { size_bytes, partial }) => {
                self.on_size(size_bytes);
                self.proved = self.proved.take().or(partial);
                self.join(node, connection);
            }
            Err(error) => {
                debug!(node = %node.short(), %error, "a provider can't prove the size");
                self.shared.metrics.unit_failed(error.reason());
                match error {
                    UnitError::Lied(how) => self.ban(node, how),
                    UnitError::Missing | UnitError::Gone(_) | UnitError::Cancelled | UnitError::Storage(_) => {
                        self.rest(node);
                    }
                }
            }
        }
    }

    fn on_size(&mut self, size_bytes: u64) {
        self.size_bytes = Some(size_bytes);
        lock(&self.shared.ledger).set_size(self.hash, size_bytes);
    }

    // ---- providers ----

    fn join(&mut self, node: NodeId, connection: Connection) {
        let (observer, path) = (self.observe(node, connection.clone()), path_of(&connection));
        self.peers.insert(node, Peer::Ready(Ready { connection, observer, has: None }));
        if let Some(active) = &mut self.active {
            active.sched.provider_joined(node);
            active.sched.provider_path(node, path);
        }
    }

    /// Tells the scheduler what the transports have measured since.
    fn look_at_paths(&mut self) {
        let now = Instant::now();
        let Some(active) = self.active.as_mut().filter(|_| now >= self.paths_seen + PATHS_EVERY) else { return };
        self.paths_seen = now;
        for (node, peer) in &self.peers {
            if let Peer::Ready(ready) = peer {
                active.sched.provider_path(*node, path_of(&ready.connection));
            }
        }
    }

    /// Listens to what `node` has of the blob. Who doesn't say is asked for anything.
    fn observe(&mut self, node: NodeId, connection: Connection) -> AbortHandle {
        let (sightings, hash) = (self.sightings_of_observers.clone(), self.hash);
        self.jobs.spawn(async move {
            if let Ok(mut observation) = Observation::ask(&connection, hash).await {
                while let Some(has) = observation.next().await {
                    if sightings.send((node, has)).await.is_err() {
                        break;
                    }
                }
            }
            Done::Reported
        })
    }

    fn on_sighting(&mut self, node: NodeId, has: ChunkRanges) {
        let Some(Peer::Ready(ready)) = self.peers.get_mut(&node) else { return };
        if has.is_empty() {
            // Its place is for somebody who has something.
            self.lose(node);
            return;
        }
        if let (Some(active), Some(size_bytes)) = (&mut self.active, self.size_bytes) {
            active.sched.provider_has(node, groups_of_chunks(&has, size_bytes));
        }
        ready.has = Some(has);
    }

    /// The connection ended: try again soon.
    fn lose(&mut self, node: NodeId) {
        if let Some(active) = &mut self.active {
            active.sched.provider_left(node);
        }
        self.rest(node);
    }

    fn rest(&mut self, node: NodeId) {
        let failures = self.failures.entry(node).or_default();
        let wait = FIRST_RETRY.saturating_mul(1 << (*failures).min(10)).min(MAX_RETRY);
        *failures += 1;
        self.peers.insert(node, Peer::Away { retry_at: Instant::now() + wait });
    }

    fn ban(&mut self, node: NodeId, how: super::BadBytes) {
        self.peers.insert(node, Peer::Banned);
        if let Some(active) = &mut self.active {
            active.sched.provider_lied(node);
        }
        if lock(&self.shared.ledger).ban(self.hash, node) {
            warn!(%node, how = how.as_str(), "cut off: the provider sent bad bytes");
            self.shared.metrics.providers_cut_off.inc();
            self.shared.peers.misbehaved(node, Misbehaviour::BadBytes { hash: self.hash, how });
        }
    }

    // ---- readers ----

    fn fail_reader(&mut self, reader: u64, error: SourceError) {
        if let Some(failed) = self.readers.remove(&reader) {
            let _ = failed.send(error); // A reader that left doesn't want to know.
        }
        self.withdraw(reader);
    }

    fn withdraw(&mut self, reader: u64) {
        let Some(active) = &mut self.active else { return };
        for index in 0..DEMANDS_PER_READER as usize {
            active.sched.withdraw(demand_id(reader, index));
        }
        if self.readers.is_empty() {
            active.sched.withdraw(LAST_GROUP);
            active.whole = None;
        }
        self.idle_since = Instant::now();
    }

    fn answer_size_waiters(&mut self) {
        let now = Instant::now();
        let size_bytes = self.size_bytes;
        self.size_waiters.retain(|waiter| !waiter.answer.is_closed());
        let open = std::mem::take(&mut self.size_waiters);
        for waiter in open {
            let result = match size_bytes {
                Some(size_bytes) => Ok(size_bytes),
                None if waiter.deadline <= now => Err(SourceError::NoSource),
                None => {
                    self.size_waiters.push(waiter);
                    continue;
                }
            };
            let _ = waiter.answer.send(result); // It left just now.
            self.idle_since = now;
        }
    }

    // ---- helpers ----

    /// Often while nothing comes, for whatever reason.
    fn next_lookup(&self) -> Instant {
        let Some(last) = self.last_lookup else { return self.started };
        let options = &self.shared.options;
        let hungry = self.last_fed.map_or(last, |fed| fed.max(last)) + Duration::from_millis(options.lookup_hungry_ms);
        hungry.min(last + Duration::from_millis(options.lookup_every_ms))
    }

    fn is_hungry(&self) -> bool {
        !self.size_waiters.is_empty() || self.active.as_ref().is_some_and(|active| active.sched.is_hungry())
    }

    /// Nobody has wanted anything for a while, and nobody just asked.
    fn has_retired(&mut self) -> bool {
        let busy = !self.size_waiters.is_empty() || !self.readers.is_empty() || !self.units.is_empty();
        let idle_until = self.idle_since + Duration::from_millis(self.shared.options.idle_ms);
        !busy && idle_until <= Instant::now() && self.shared.clone().retire(self.hash, &mut self.commands)
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = self.idle_since.max(now) + Duration::from_millis(self.shared.options.idle_ms);
        if !self.size_waiters.is_empty() {
            wake = wake.min(now + TICK);
        }
        if self.is_hungry() {
            let retries = self.peers.values().filter_map(|peer| match peer {
                Peer::Away { retry_at } => Some(*retry_at),
                Peer::Connecting | Peer::Proving(_) | Peer::Ready(_) | Peer::Banned => None,
            });
            let lookup = (!self.looking_up).then(|| self.next_lookup());
            // An overdue retry waits for room or for the candidates to name the node again.
            wake = retries.filter(|at| *at > now).chain(lookup).fold(wake, Instant::min);
        }
        let scheduled = self.active.as_ref().and_then(|active| active.sched.next_wake());
        scheduled.map_or(wake, |at| wake.min(self.started + Duration::from_millis(at.as_millis())))
    }

    /// Milliseconds since the transfer started.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.started.elapsed().as_millis() as u64)
    }

    fn count_active(&mut self, active: bool) {
        if active != self.counted_active {
            self.counted_active = active;
            self.shared.metrics.active.inc_by(if active { 1 } else { -1 });
        }
    }

    fn publish(&self) {
        let ready = self.peers.iter().filter(|(_, peer)| matches!(peer, Peer::Ready(_)));
        *lock(&self.info) = TransferInfo {
            hash: self.hash,
            size_bytes: self.size_bytes,
            readers: self.readers.len() + self.size_waiters.len(),
            providers: ready.map(|(node, _)| *node).collect(),
            units: self.units.len(),
        };
    }
}

/// Stores what came with the proof of a size.
async fn keep(shared: &Arc<Shared>, hash: BlobHash, node: NodeId, proof: Proof) -> Result<PartialBlob, BlobError> {
    let partial = shared.store.partial_in_parts(hash, proof.size_bytes).await?;
    let leaf_bytes =
        |item: &BaoContentItem| if let BaoContentItem::Leaf(leaf) = item { leaf.data.len() as u64 } else { 0 };
    shared.count_received(hash, node, proof.items.iter().map(leaf_bytes).sum());
    partial.write(proof.items).await?;
    Ok(partial)
}

/// Decides between providers that are alike; nothing depends on whether it can be guessed.
fn seed() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// The path that carries the bytes.
fn path_of(connection: &Connection) -> Path {
    let paths = connection.paths();
    let selected = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
    let rtt_ms = selected.and_then(|path| u64::try_from(path.rtt().as_millis()).ok());
    Path { rtt_ms, cost: Cost::Free }
}
