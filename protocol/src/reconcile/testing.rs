//! For tests and measurements: nodes as far as reconciliation sees them, and what it costs them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    convert::Infallible,
};

use super::{Client, Heads, Logs, Page, Position, Start, Step, Store, Stored, Trouble, compare, logs};
use crate::{
    AuthorId, NetworkId, RecordId, SecretKey, Timestamp,
    record::{Body, Draft, MAX_ENVELOPE_BYTES, Record, RecordError, RecordKind, VerifiedRecord},
    wire::{Head, MAX_LOG_BYTES, SyncRequest, SyncResponse},
};

/// When the records were written: 2026-11-23, more or less.
pub const WRITTEN_AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const KIND: RecordKind = RecordKind::new("test.v1");
/// Makes a record have about 400 bytes as it travels.
const BODY_BYTES: usize = 109;

/// The network of all of them.
pub fn network() -> NetworkId {
    SecretKey::from_seed(&[200; 32]).network()
}

/// Bytes that follow from a name and a number.
fn bytes(name: &str, n: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(name.as_bytes()).update(&n.to_be_bytes()).finalize().as_bytes()
}

/// An author whose log has records that needn't exist.
#[derive(Debug, Clone)]
pub struct Writer {
    key: SecretKey,
    head: Option<Head>,
}

impl Writer {
    /// The `n`th author, whose log already has `len` records.
    pub fn new(n: u64, len: u64) -> Self {
        let key = SecretKey::from_seed(&bytes("key", n));
        let id = RecordId::from_bytes(bytes("id", n));
        let head = len.checked_sub(1).map(|seq| Head { author: key.author(), epoch: 0, seq, id });
        Self { key, head }
    }

    /// The end of its log.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Signs the next record, of about 400 bytes.
    pub fn write(&mut self) -> Result<VerifiedRecord, RecordError> {
        let (seq, prev) = self.head.map_or((0, None), |head| (head.seq + 1, Some(head.id)));
        let body = Body { salt: [0; 16], bytes: vec![7; BODY_BYTES] };
        let at = WRITTEN_AT.saturating_add_ms(seq);
        let record = Draft { network: network(), epoch: 0, seq, prev, at, kind: KIND, body }.sign(&self.key)?;
        self.head = Some(Head { author: self.key.author(), epoch: 0, seq, id: record.id() });
        Ok(record)
    }
}

/// A node: heads of logs, and the records it was given. Logs are plain chains.
#[derive(Debug, Clone, Default)]
pub struct Node {
    heads: Heads,
    known: HashSet<RecordId>,
    logs: HashMap<AuthorId, BTreeMap<Position, Vec<u8>>>,
}

impl Node {
    /// With logs that end in `heads`, of which it can show no record.
    pub fn new(heads: Vec<Head>) -> Self {
        let heads = Heads::new(heads);
        let known = heads.as_slice().iter().map(|head| head.id).collect();
        Self { heads, known, logs: HashMap::new() }
    }

    /// Its heads.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Appends records, and tells what became of each.
    pub fn append(&mut self, records: &[VerifiedRecord]) -> Vec<Stored> {
        let mut changed: HashMap<AuthorId, Head> = HashMap::new();
        let mut outcomes = vec![];
        for record in records {
            let (header, id) = (record.header(), record.id());
            let head = changed.get(&header.author).copied().or_else(|| self.head_of(header.author));
            outcomes.push(match header.prev == head.map(|head| head.id) {
                _ if self.known.contains(&id) => Stored::Known,
                false => Stored::Waiting,
                true => Stored::New,
            });
            if outcomes.last() == Some(&Stored::New) {
                let head = Head { author: header.author, epoch: header.epoch, seq: header.seq, id };
                changed.insert(header.author, head);
                self.known.insert(id);
                self.logs.entry(head.author).or_default().insert((head.epoch, head.seq), record.to_bytes());
            }
        }
        self.heads = self.heads.with(changed.into_values().map(|head| (head.author, Some(head))).collect());
        outcomes
    }

    fn head_of(&self, author: AuthorId) -> Option<Head> {
        let heads = self.heads.as_slice();
        heads.binary_search_by_key(&author, |head| head.author).ok().and_then(|at| heads.get(at).copied())
    }

    /// Answers a request as it travels.
    pub fn answer(&self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let response = match SyncRequest::decode(request).map_err(|error| error.to_string())? {
            SyncRequest::Compare { salt, parts, push_bytes, .. } => {
                compare(&self.heads, self, salt, &parts, push_bytes).map(|compared| compared.response)
            }
            SyncRequest::Logs { wants, .. } => logs(self, &wants),
            SyncRequest::Records { .. } | SyncRequest::Have { .. } => return Err("not asked of it".into()),
        };
        let Ok(response) = response;
        response.encode().map_err(|error| error.to_string())
    }
}

impl Logs for Node {
    type Error = Infallible;

    fn log(&self, author: AuthorId, from: Position, max_records: usize, max_bytes: usize) -> Result<Page, Infallible> {
        let mut page = Page::default();
        let mut left = max_bytes;
        for envelope in self.logs.get(&author).into_iter().flat_map(|log| log.range(from..)).map(|(_, bytes)| bytes) {
            if page.envelopes.len() == max_records || left < MAX_ENVELOPE_BYTES {
                page.more = true;
                break;
            }
            left = left.saturating_sub(envelope.len());
            page.envelopes.push(envelope.clone());
        }
        Ok(page)
    }
}

impl Store for Node {
    type Error = Infallible;

    fn head(&self, author: AuthorId) -> Result<Option<Head>, Infallible> {
        Ok(self.head_of(author))
    }

    fn knows(&self, id: RecordId) -> Result<bool, Infallible> {
        Ok(self.known.contains(&id))
    }

    fn may_pull(&self, _: &Head, _: Option<&Head>) -> bool {
        true
    }

    fn pulled(&self, _: &Head, _: Option<&Head>, _: bool) {}
}

/// What a session cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests, each sent after the answer to the one before.
    pub round_trips: u64,
    /// Bytes of requests.
    pub up_bytes: u64,
    /// Bytes of responses.
    pub down_bytes: u64,
    /// Records that were new.
    pub records: u64,
    /// The longest message, in bytes.
    pub longest_bytes: u64,
}

impl Cost {
    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.up_bytes + self.down_bytes
    }

    fn count(&mut self, request: &[u8], response: &[u8]) {
        self.round_trips += 1;
        self.up_bytes += request.len() as u64;
        self.down_bytes += response.len() as u64;
        self.longest_bytes = self.longest_bytes.max(request.len().max(response.len()) as u64);
    }
}

/// What stopped a session that shouldn't have been stopped.
pub type Failure = String;

/// `to` pulls from `from`, over messages as they travel. Stops after `limit` round trips.
pub fn pull(to: &mut Node, from: &Node, salt: u64, start: Start, limit: u64) -> Result<Cost, Failure> {
    let push_bytes = u32::try_from(MAX_LOG_BYTES).unwrap_or(u32::MAX);
    drive(Client::start(network(), to.heads.clone(), salt, push_bytes, start), to, from, limit)
}

/// `to` pulls from `from` what these authors wrote, without asking for anything else.
pub fn pull_within(to: &mut Node, from: &Node, salt: u64, authors: &BTreeSet<AuthorId>) -> Result<Cost, Failure> {
    let push_bytes = u32::try_from(MAX_LOG_BYTES).unwrap_or(u32::MAX);
    drive(Client::within(network(), to.heads.clone(), salt, push_bytes, authors), to, from, u64::MAX)
}

fn drive(session: (Client, SyncRequest), to: &mut Node, from: &Node, limit: u64) -> Result<Cost, Failure> {
    let (mut client, request) = session;
    let trouble = |trouble: Trouble<Infallible>| trouble.to_string();
    let mut cost = Cost::default();
    let mut step = Step::Ask(request);
    loop {
        step = match step {
            Step::Done => return Ok(cost),
            Step::Ask(_) if cost.round_trips == limit => return Ok(cost),
            Step::Ask(request) => ask(&mut client, &request, to, from, &mut cost)?,
            Step::Store(envelopes) => {
                let verified = envelopes.iter().map(|envelope| Record::verify(envelope, WRITTEN_AT));
                let records = verified.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
                client.check(&records).map_err(trouble)?;
                let stored = to.append(&records);
                cost.records += stored.iter().filter(|stored| **stored == Stored::New).count() as u64;
                client.stored(&stored, &*to).map_err(trouble)?
            }
        };
    }
}

/// `to` finds out which logs of `from` it would have to pull, up to the first that it would ask for.
pub fn find(to: &Node, from: &Node, salt: u64) -> Result<Cost, Failure> {
    let (mut client, request) = Client::start(network(), to.heads.clone(), salt, 0, Start::Wide);
    let mut cost = Cost::default();
    let mut step = Step::Ask(request);
    while let Step::Ask(request @ SyncRequest::Compare { .. }) = &step {
        step = ask(&mut client, request, to, from, &mut cost)?;
    }
    Ok(cost)
}

fn ask(client: &mut Client, request: &SyncRequest, to: &Node, from: &Node, cost: &mut Cost) -> Result<Step, Failure> {
    let request = request.encode().map_err(|error| error.to_string())?;
    let response = from.answer(&request)?;
    cost.count(&request, &response);
    let response = SyncResponse::decode(&response).map_err(|error| error.to_string())?;
    client.answered(response, to).map_err(|trouble| trouble.to_string())
}

/// Two nodes with the same `authors` logs of `len` records each, of which then one or the other got `differing` records
/// more, scattered over the authors; with `both`, each got about half of them. Records before those don't exist: no
/// message would carry them.
pub fn scattered(authors: u64, len: u64, differing: u64, both: bool) -> Result<(Node, Node), RecordError> {
    let mut more: BTreeMap<u64, u64> = BTreeMap::new();
    for n in 0..differing {
        let drawn = bytes("draw", n).first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        *more.entry(drawn % authors.max(1)).or_default() += 1;
    }
    let mut heads = vec![];
    let mut records = [vec![], vec![]];
    for n in 0..authors {
        let Some(more) = more.get(&n) else {
            heads.push(quiet(n, len));
            continue;
        };
        let mut writer = Writer::new(n, len);
        heads.extend(writer.head());
        let side = usize::from(both && n % 2 == 1);
        for _ in 0..*more {
            records[side].push(writer.write()?);
        }
    }
    let node = Node::new(heads);
    let (mut a, mut b) = (node.clone(), node);
    a.append(&records[0]);
    b.append(&records[1]);
    Ok((a, b))
}

/// Two nodes with the same `authors` logs of `len` records each, of which the first then got `behind` records more of one
/// author.
pub fn busy(authors: u64, len: u64, behind: u64) -> Result<(Node, Node), RecordError> {
    let mut writer = Writer::new(0, len);
    let quiet = (1..authors).map(|n| quiet(n, len));
    let b = Node::new(quiet.chain(writer.head()).collect());
    let mut a = b.clone();
    let records = (0..behind).map(|_| writer.write()).collect::<Result<Vec<_>, _>>()?;
    a.append(&records);
    Ok((a, b))
}

/// The head of a log that nobody will go on with: no key has to be made for it.
fn quiet(n: u64, len: u64) -> Head {
    let (author, id) = (AuthorId::from_bytes(bytes("author", n)), RecordId::from_bytes(bytes("id", n)));
    Head { author, epoch: 0, seq: len.saturating_sub(1), id }
}

/// A node that has all of `authors` logs with `len` records each.
pub fn whole(authors: u64, len: u64) -> Result<Node, RecordError> {
    let mut records = vec![];
    for n in 0..authors {
        let mut writer = Writer::new(n, 0);
        for _ in 0..len {
            records.push(writer.write()?);
        }
    }
    let mut node = Node::default();
    node.append(&records);
    Ok(node)
}
