//! A node without network or clock: the real record store, the real services' index, the real reconciliation.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    future::Future,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use mhc_protocol::{
    AuthorId, NetworkId, RecordId, SecretKey, Timestamp,
    network::is_governance,
    reconcile::{self, Client, Heads, Start, Step, Store, Stored, Trouble},
    record::{Record, RecordKind, VerifiedRecord},
    wire::{Head, MAX_LOG_BYTES, SyncRequest, SyncResponse},
};
use mhc_storage::record::{EngineOpener, Outcome, Projection, Records, RecordsError, RecordsOptions};

use crate::disk::Disk;

/// A node, running or not.
pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) disk: Disk,
    /// The store while it runs.
    pub(crate) records: Option<Records>,
    /// How far its clock is off, in milliseconds.
    pub(crate) skew_ms: i64,
    /// Its sessions, by number: with whom, and the state.
    sessions: HashMap<u64, (usize, Client)>,
    stuck: RefCell<HashSet<(AuthorId, RecordId, Option<RecordId>)>>,
    /// Its heads, until something is written.
    heads: RefCell<Option<Heads>>,
    /// Gossip it has heard, as gossipsub remembers it.
    heard: HashSet<blake3::Hash>,
}

/// What a node wants done.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// A request of a session.
    pub(crate) ask: Option<Vec<u8>>,
    /// The session is over.
    pub(crate) done: bool,
    /// What is allowed has changed: sync with everybody.
    pub(crate) governed: bool,
}

/// A future of a store that works on the caller's thread is ready at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the store waited"),
    }
}

impl Node {
    pub(crate) fn new(key: SecretKey, dir: &Path) -> Self {
        let mut node = Self {
            key,
            disk: Disk::default(),
            records: None,
            skew_ms: 0,
            sessions: HashMap::new(),
            stuck: RefCell::default(),
            heads: RefCell::default(),
            heard: HashSet::new(),
        };
        node.start(dir);
        node
    }

    pub(crate) fn start(&mut self, dir: &Path) {
        let disk = self.disk.clone();
        let engine: EngineOpener = Arc::new(move |_| Ok(Box::new(disk.clone())));
        let services = mhc_platform::services().into_iter().map(|service| service as Arc<dyn Projection>).collect();
        let options = RecordsOptions { min_free_bytes: 0, reserve_bytes: 0, engine };
        // A disk that fails just then is tried again by whoever restarts the node.
        self.records = Records::open_on_caller(dir, options, services).ok();
    }

    /// Loses everything but the disk.
    pub(crate) fn crash(&mut self) {
        self.records = None;
        self.sessions.clear();
        self.stuck.get_mut().clear();
        self.heard.clear();
        self.written();
    }

    /// Something was written, or may have been.
    pub(crate) fn written(&self) {
        self.heads.take();
    }

    fn heads(&self, network: NetworkId) -> Option<Heads> {
        if let Some(heads) = &*self.heads.borrow() {
            return Some(heads.clone());
        }
        let heads = self.records.as_ref()?.heads(network, None, usize::MAX).ok()?;
        let heads = Heads::new(heads.into_iter().map(wire_head).collect());
        self.heads.replace(Some(heads.clone()));
        Some(heads)
    }

    pub(crate) fn clock(&self, at_ms: u64) -> Timestamp {
        Timestamp::from_millis(at_ms.saturating_add_signed(self.skew_ms))
    }

    pub(crate) fn publish(
        &self,
        network: NetworkId,
        kind: RecordKind,
        body: Vec<u8>,
        at: Timestamp,
    ) -> Option<Result<VerifiedRecord, RecordsError>> {
        let records = self.records.as_ref()?;
        self.written();
        Some(now(records.publish(&self.key, network, kind, body, [0; 16], at)))
    }

    /// Takes gossip; returns whether to pass it on, whether something before it is missing, and whether it governs.
    pub(crate) fn gossip(&mut self, network: NetworkId, bytes: &[u8], at: Timestamp) -> (bool, bool, bool) {
        let Some(records) = &self.records else { return (false, false, false) };
        if !self.heard.insert(blake3::hash(bytes)) {
            return (false, false, false);
        }
        let Ok(record) = Record::verify(bytes, at) else { return (false, false, false) };
        if record.header().network != network {
            return (false, false, false);
        }
        let governs = is_governance(&record.header().kind);
        self.heads.take();
        match now(records.append(vec![record])).map(|outcomes| outcomes.first().copied()) {
            Ok(Some(Outcome::Appended | Outcome::Forked)) => (true, false, governs),
            Ok(Some(Outcome::Pending)) => (true, true, false),
            Ok(Some(Outcome::Refused(_))) => (false, true, false),
            _ => (false, false, false),
        }
    }

    // # Sync

    pub(crate) fn is_busy_with(&self, peer: usize) -> bool {
        self.sessions.values().any(|(with, _)| *with == peer)
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Begins a session.
    pub(crate) fn pull(
        &mut self,
        network: NetworkId,
        session: u64,
        peer: usize,
        salt: u64,
        start: Start,
    ) -> Option<Vec<u8>> {
        let heads = self.heads(network)?;
        // As the real node: logs that are left alone would be pushed again and again.
        let is_alone = self.sessions.is_empty() && self.stuck.get_mut().is_empty();
        let push_bytes = if is_alone { u32::try_from(MAX_LOG_BYTES).unwrap_or(u32::MAX) } else { 0 };
        let (client, request) = Client::start(network, heads, salt, push_bytes, start);
        self.sessions.insert(session, (peer, client));
        request.encode().ok()
    }

    pub(crate) fn give_up(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// Answers another node's request.
    pub(crate) fn answer(&self, network: NetworkId, request: &[u8]) -> Option<Vec<u8>> {
        let logs = Logs { records: self.records.as_ref()?, network };
        let response = match SyncRequest::decode(request).ok()? {
            SyncRequest::Compare { salt, parts, push_bytes, .. } => {
                reconcile::compare(&self.heads(network)?, &logs, salt, &parts, push_bytes)
                    .map(|compared| compared.response)
            }
            SyncRequest::Logs { wants, .. } => reconcile::logs(&logs, &wants),
            SyncRequest::Records { .. } | SyncRequest::Have { .. } => return None,
        };
        response.ok()?.encode().ok()
    }

    /// Takes the answer of a session.
    pub(crate) fn answered(&mut self, network: NetworkId, session: u64, bytes: &[u8], at: Timestamp) -> Effects {
        let Some((peer, mut client)) = self.sessions.remove(&session) else { return Effects::default() };
        let mut effects = Effects::default();
        match self.go_on(network, &mut client, bytes, at, &mut effects.governed) {
            Some(request) => {
                self.sessions.insert(session, (peer, client));
                effects.ask = Some(request);
            }
            None => effects.done = true,
        }
        if effects.governed {
            self.stuck.get_mut().clear();
        }
        effects
    }

    fn go_on(
        &self,
        network: NetworkId,
        client: &mut Client,
        bytes: &[u8],
        at: Timestamp,
        governed: &mut bool,
    ) -> Option<Vec<u8>> {
        let records = self.records.as_ref()?;
        let store = OurStore { records, network, stuck: &self.stuck };
        let mut step = client.answered(SyncResponse::decode(bytes).ok()?, &store).ok()?;
        loop {
            step = match step {
                Step::Done => return None,
                Step::Ask(request) => return request.encode().ok(),
                Step::Store(envelopes) => {
                    let verified: Result<Vec<_>, _> =
                        envelopes.iter().map(|envelope| Record::verify(envelope, at)).collect();
                    let page = verified.ok()?;
                    client.check::<RecordsError>(&page).ok()?;
                    self.written();
                    let outcomes = now(records.append(page.clone())).ok()?;
                    let is_new = |outcome: &Outcome| matches!(outcome, Outcome::Appended | Outcome::Forked);
                    *governed |= page
                        .iter()
                        .zip(&outcomes)
                        .any(|(record, outcome)| is_governance(&record.header().kind) && is_new(outcome));
                    let stored: Vec<_> = outcomes.iter().map(stored).collect();
                    let next: Result<Step, Trouble<RecordsError>> = client.stored(&stored, &store);
                    next.ok()?
                }
            };
        }
    }

    pub(crate) fn forget_stuck(&self) {
        self.stuck.borrow_mut().clear();
    }
}

fn stored(outcome: &Outcome) -> Stored {
    match outcome {
        Outcome::Appended | Outcome::Forked => Stored::New,
        Outcome::Duplicate => Stored::Known,
        Outcome::Pending => Stored::Waiting,
        Outcome::Refused(_) => Stored::Refused,
    }
}

fn wire_head(head: mhc_storage::record::Head) -> Head {
    Head { author: head.author, epoch: head.epoch, seq: head.seq, id: head.id }
}

struct Logs<'a> {
    records: &'a Records,
    network: NetworkId,
}

impl reconcile::Logs for Logs<'_> {
    type Error = RecordsError;

    fn log(
        &self,
        author: AuthorId,
        from: reconcile::Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<reconcile::Page, RecordsError> {
        let records = self.records.log(self.network, author, from, max_records + 1, max_bytes)?;
        let mut envelopes: Vec<_> = records.iter().map(|record| record.to_bytes()).collect();
        let bytes: usize = envelopes.iter().map(Vec::len).sum();
        let more = envelopes.len() > max_records || bytes + mhc_protocol::record::MAX_ENVELOPE_BYTES > max_bytes;
        envelopes.truncate(max_records);
        Ok(reconcile::Page { envelopes, more })
    }
}

struct OurStore<'a> {
    records: &'a Records,
    network: NetworkId,
    stuck: &'a RefCell<HashSet<(AuthorId, RecordId, Option<RecordId>)>>,
}

impl Store for OurStore<'_> {
    type Error = RecordsError;

    fn head(&self, author: AuthorId) -> Result<Option<Head>, RecordsError> {
        Ok(self.records.head(self.network, author)?.map(wire_head))
    }

    fn knows(&self, id: RecordId) -> Result<bool, RecordsError> {
        self.records.knows(id)
    }

    fn may_pull(&self, theirs: &Head, ours: Option<&Head>) -> bool {
        !self.stuck.borrow().contains(&(theirs.author, theirs.id, ours.map(|head| head.id)))
    }

    fn pulled(&self, theirs: &Head, ours: Option<&Head>, brought: bool) {
        if !brought {
            self.stuck.borrow_mut().insert((theirs.author, theirs.id, ours.map(|head| head.id)));
        }
    }
}
