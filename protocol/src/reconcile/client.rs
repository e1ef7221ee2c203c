//! The side that asks.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{
    FANOUT, Heads, LIST_HEADS, MAX_BARREN, MAX_COMPARES, MAX_OPEN, Position, cut, fingerprint, mark, pieces,
    pull::{Next, Pull, Tally},
};
use crate::{
    AuthorId, NetworkId, RecordId,
    record::VerifiedRecord,
    wire::{
        Bound, Content, Head, MAX_HEADS, MAX_MARKS, MAX_PARTS, MAX_SYNC_REQUEST_BYTES, MAX_WANTS, Part, SyncRequest,
        SyncResponse,
    },
};

/// What parts and lists of a request take at most, in bytes.
const REQUEST_BYTES: usize = MAX_SYNC_REQUEST_BYTES - 1024;
/// A part without its bound, and a mark, at most, in bytes.
const PART_BYTES: usize = 16;
const MARK_BYTES: usize = 28;

/// How a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With many fingerprints, or with everything if that is little: something is expected to differ.
    Wide,
    /// With one fingerprint, in under 100 bytes, at the price of another round trip when something differs.
    Probe,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the server.
    Ask(SyncRequest),
    /// Verify, check and store these records.
    Store(Vec<Vec<u8>>),
    /// Nothing: the session is over.
    Done,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is kept now, in its log or as evidence.
    New,
    /// It was kept before.
    Known,
    /// It waits for a record before it, or would if there were room.
    Waiting,
    /// It isn't kept.
    Refused,
}

/// Why a session can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble<E> {
    /// The server doesn't do what the protocol says.
    #[error("junk: {0}")]
    Junk(&'static str),
    /// Our own store failed.
    #[error("our store: {0}")]
    Store(E),
}

/// What a client needs to know of its own store, as it is at that moment.
pub trait Store {
    /// Why asking it failed.
    type Error;

    /// The head of an author's log.
    fn head(&self, author: AuthorId) -> Result<Option<Head>, Self::Error>;

    /// Whether the record is kept, in its log or as evidence.
    fn knows(&self, id: RecordId) -> Result<bool, Self::Error>;

    /// Whether this session may pull a log: it isn't when another session does, or when it brought nothing before.
    fn may_pull(&self, theirs: &Head, ours: Option<&Head>) -> bool;

    /// The session is done with a log that it was allowed to pull.
    fn pulled(&self, theirs: &Head, ours: Option<&Head>, brought: bool);
}

/// What an answer is expected to.
#[derive(Debug, Default)]
enum Asked {
    #[default]
    Nothing,
    Fingerprints(Vec<Span>),
    Lists(Vec<Span>),
    /// So many of the first pulls.
    Logs(usize),
}

type Span = (Bound, Bound);

/// Where the records of a page come from.
#[derive(Debug, Default)]
enum Came {
    #[default]
    Nothing,
    /// With heads of these authors.
    Pushed(Vec<AuthorId>),
    /// For so many of the first pulls.
    Wanted { count: usize, more: bool },
}

/// A session in which one node pulls from another. See the module for how to drive it.
#[derive(Debug)]
pub struct Client {
    network: NetworkId,
    salt: u64,
    push_bytes: u32,
    ours: Heads,
    /// Parts that differ or may, by their lower bound.
    open: BTreeMap<Bound, Bound>,
    asked: Asked,
    pulls: VecDeque<Pull>,
    came: Came,
    page: Vec<(AuthorId, Position)>,
    /// Most heads in the next request that lists them.
    list_heads: usize,
    compares: u32,
    barren: u32,
}

impl Client {
    /// A session, and its first request. `salt` is random; with the answer to a list may come up to `push_bytes` of
    /// records.
    pub fn start(network: NetworkId, ours: Heads, salt: u64, push_bytes: u32, start: Start) -> (Self, SyncRequest) {
        let mut client = Self::new(network, ours, salt, push_bytes, [(Bound::start(), Bound::end())].into());
        let request = match start {
            Start::Probe if !client.ours.as_slice().is_empty() => {
                client.fingerprint(vec![(Bound::start(), Bound::end())], 1)
            }
            _ => client.compare(),
        };
        (client, request)
    }

    /// A session about the logs of some authors only: nothing is asked, and nothing taken, of anybody else's. What it
    /// costs follows the number of these authors. At least one.
    pub fn within(
        network: NetworkId,
        ours: Heads,
        salt: u64,
        push_bytes: u32,
        authors: &BTreeSet<AuthorId>,
    ) -> (Self, SyncRequest) {
        let open = authors.iter().map(|author| (Bound::before(*author), Bound::after(*author))).collect();
        let mut client = Self::new(network, ours, salt, push_bytes, open);
        let request = client.compare();
        (client, request)
    }

    fn new(network: NetworkId, ours: Heads, salt: u64, push_bytes: u32, open: BTreeMap<Bound, Bound>) -> Self {
        Self {
            network,
            salt,
            push_bytes,
            ours,
            open,
            asked: Asked::Nothing,
            pulls: VecDeque::new(),
            came: Came::Nothing,
            page: Vec::new(),
            list_heads: MAX_MARKS,
            compares: 0,
            barren: 0,
        }
    }

    /// Takes a response.
    pub fn answered<S: Store>(&mut self, response: SyncResponse, store: &S) -> Result<Step, Trouble<S::Error>> {
        let envelopes = match (std::mem::take(&mut self.asked), response) {
            (Asked::Fingerprints(asked), SyncResponse::Compare { parts, heads, more: false, envelopes })
                if heads.is_empty() && envelopes.is_empty() =>
            {
                self.refine(&asked, &parts)?;
                envelopes
            }
            (Asked::Lists(asked), SyncResponse::Compare { parts, heads, more, envelopes }) if parts.is_empty() => {
                let bytes: usize = envelopes.iter().map(Vec::len).sum();
                if bytes > self.push_bytes as usize {
                    return Err(Trouble::Junk("more records than were asked for"));
                }
                self.reopen(&asked, &heads, more)?;
                self.begin(&heads, store)?;
                self.came = Came::Pushed(heads.iter().map(|head| head.author).collect());
                envelopes
            }
            (Asked::Logs(count), SyncResponse::Logs { envelopes, more }) => {
                self.came = Came::Wanted { count, more };
                envelopes
            }
            _ => return Err(Trouble::Junk("another answer than was asked for")),
        };
        match envelopes.is_empty() {
            true => self.stored(&[], store),
            false => Ok(Step::Store(envelopes)),
        }
    }

    /// Checks that the verified records of a page were asked for, all or some of them, in the order they came. They may
    /// then be stored.
    pub fn check<E>(&mut self, records: &[VerifiedRecord]) -> Result<(), Trouble<E>> {
        const UNASKED: &str = "records that weren't asked for";
        let allowed: Vec<(AuthorId, Position)> = match &self.came {
            Came::Nothing => vec![],
            Came::Pushed(authors) => authors.iter().map(|author| (*author, super::LOG_START)).collect(),
            Came::Wanted { count, .. } => {
                self.pulls.iter().take(*count).map(|pull| (pull.theirs.author, pull.from())).collect()
            }
        };
        let mut logs = allowed.iter();
        let mut log = logs.next();
        let mut last = super::LOG_START;
        self.page.clear();
        for record in records {
            let header = record.header();
            let place = (header.epoch, header.seq);
            while log.is_some_and(|(author, _)| *author != header.author) {
                log = logs.next();
                last = super::LOG_START;
            }
            let from = log.map(|(_, from)| *from);
            if header.network != self.network || from.is_none_or(|from| place < from) || place < last {
                return Err(Trouble::Junk(UNASKED));
            }
            last = place;
            self.page.push((header.author, place));
        }
        Ok(())
    }

    /// Takes what became of the records that were checked last, in their order.
    pub fn stored<S: Store>(&mut self, stored: &[Stored], store: &S) -> Result<Step, Trouble<S::Error>> {
        let page = std::mem::take(&mut self.page);
        let last = page.last().map(|(author, _)| *author);
        let mut tallies: HashMap<AuthorId, Tally> = HashMap::new();
        for ((author, position), stored) in page.into_iter().zip(stored) {
            tallies.entry(author).or_default().add(position, *stored);
        }
        match std::mem::take(&mut self.came) {
            Came::Nothing => {}
            Came::Pushed(_) => self.pushed(last, &tallies, store)?,
            Came::Wanted { count, more } => {
                self.wanted(count, more, last, &tallies, store);
                self.barren = if stored.contains(&Stored::New) { 0 } else { self.barren + 1 };
            }
        }
        Ok(self.next())
    }

    fn next(&mut self) -> Step {
        if self.barren > MAX_BARREN {
            return Step::Done;
        }
        if !self.pulls.is_empty() {
            let wants: Vec<_> = self.pulls.iter().take(MAX_WANTS).map(Pull::want).collect();
            self.asked = Asked::Logs(wants.len());
            return Step::Ask(SyncRequest::Logs { network: self.network, wants });
        }
        if self.open.is_empty() || self.compares >= MAX_COMPARES {
            return Step::Done;
        }
        Step::Ask(self.compare())
    }

    /// Asks about parts that may differ: first those that are too long to be listed, then the rest.
    fn compare(&mut self) -> SyncRequest {
        let long = |(lower, upper): &(&Bound, &Bound)| self.ours.between(lower, upper).len() > LIST_HEADS;
        let spans = |(lower, upper): (&Bound, &Bound)| (lower.clone(), upper.clone());
        let long: Vec<Span> = match self.open.len() <= MAX_OPEN {
            true => self.open.iter().filter(long).take(MAX_PARTS / 4).map(spans).collect(),
            false => vec![],
        };
        match long.is_empty() {
            true => self.list(),
            false => self.fingerprint(long, FANOUT),
        }
    }

    /// Tells fingerprints of open parts, each cut into at most `fanout`.
    fn fingerprint(&mut self, spans: Vec<Span>, fanout: usize) -> SyncRequest {
        let most = ((MAX_PARTS - spans.len()) / spans.len().max(1)).min(fanout);
        let (mut parts, mut asked, mut bytes) = (vec![], vec![], 0);
        let mut end = Bound::start();
        for (lower, upper) in spans {
            let heads = self.ours.between(&lower, &upper);
            let cuts: Vec<(Bound, u64)> = cut(heads, &upper, pieces(heads.len(), most))
                .map(|(upper, heads)| (upper, fingerprint(self.salt, heads)))
                .collect();
            let bounds: usize = cuts.iter().map(|(upper, _)| upper.len_bytes() + PART_BYTES).sum();
            bytes += bounds + lower.len_bytes() + PART_BYTES;
            if bytes > REQUEST_BYTES {
                break;
            }
            self.open.remove(&lower);
            if end < lower {
                parts.push(Part { upper: lower.clone(), content: Content::Skipped });
            }
            end = lower;
            for (upper, fingerprint) in cuts {
                parts.push(Part { upper: upper.clone(), content: Content::Fingerprint(fingerprint) });
                // Each piece is asked about by itself, so that what comes back is smaller than what was there before.
                asked.push((std::mem::replace(&mut end, upper.clone()), upper));
            }
        }
        self.asked = Asked::Fingerprints(asked);
        self.request(parts)
    }

    /// Lists what we have in open parts.
    fn list(&mut self) -> SyncRequest {
        let (mut parts, mut asked, mut bytes, mut marks) = (vec![], vec![], 0, 0);
        let mut end = Bound::start();
        while let Some((lower, upper)) = self.open.pop_first() {
            bytes += lower.len_bytes() + upper.len_bytes() + 2 * PART_BYTES;
            if bytes + MARK_BYTES > REQUEST_BYTES || marks == self.list_heads || parts.len() + 2 > MAX_PARTS {
                self.open.insert(lower, upper);
                break;
            }
            let heads = self.ours.between(&lower, &upper);
            let room = (self.list_heads - marks).min((REQUEST_BYTES - bytes) / MARK_BYTES);
            let (listed, rest) = heads.split_at(heads.len().min(room));
            let upper = match (listed.last(), rest.first()) {
                (Some(last), Some(next)) => {
                    let middle = Bound::between(last.author, next.author);
                    self.open.insert(middle.clone(), upper);
                    middle
                }
                _ => upper,
            };
            if end < lower {
                parts.push(Part { upper: lower.clone(), content: Content::Skipped });
            }
            let listed: Vec<_> = listed.iter().map(|head| mark(self.salt, head)).collect();
            marks += listed.len();
            bytes += listed.iter().map(|mark| 10 + int_bytes(mark.epoch) + int_bytes(mark.seq)).sum::<usize>();
            parts.push(Part { upper: upper.clone(), content: Content::Listed(listed) });
            end = upper.clone();
            asked.push((lower, upper));
        }
        self.asked = Asked::Lists(asked);
        self.request(parts)
    }

    fn request(&mut self, parts: Vec<Part>) -> SyncRequest {
        self.compares += 1;
        SyncRequest::Compare { network: self.network, salt: self.salt, parts, push_bytes: self.push_bytes }
    }

    /// Opens the smaller parts of the server that differ from ours.
    fn refine<E>(&mut self, asked: &[Span], parts: &[Part]) -> Result<(), Trouble<E>> {
        let mut lower = Bound::start();
        for Part { upper, content } in parts {
            if let Content::Fingerprint(theirs) = content {
                let around = asked.partition_point(|(start, _)| *start <= lower).checked_sub(1);
                if around.and_then(|at| asked.get(at)).is_none_or(|(_, end)| upper > end) {
                    return Err(Trouble::Junk("parts that weren't asked about"));
                }
                if *theirs != fingerprint(self.salt, self.ours.between(&lower, upper)) {
                    self.open.insert(lower, upper.clone());
                }
            }
            lower = upper.clone();
        }
        Ok(())
    }

    /// Checks that the heads belong to what was listed, and opens again what the answer didn't reach.
    fn reopen<E>(&mut self, asked: &[Span], heads: &[Head], more: bool) -> Result<(), Trouble<E>> {
        for head in heads {
            let around = asked.partition_point(|(start, _)| !start.is_after(head.author)).checked_sub(1);
            if around.and_then(|at| asked.get(at)).is_none_or(|(_, end)| !end.is_after(head.author)) {
                return Err(Trouble::Junk("heads that weren't asked for"));
            }
        }
        // What an answer doesn't reach is listed again: not so much more than answers hold.
        self.list_heads = if more { self.list_heads / 2 } else { self.list_heads * 2 }.clamp(MAX_HEADS, MAX_MARKS);
        if let Some(last) = heads.last().filter(|_| more) {
            let reached = Bound::after(last.author);
            for (lower, upper) in asked.iter().filter(|(_, upper)| *upper > reached) {
                self.open.insert(lower.max(&reached).clone(), upper.clone());
            }
        }
        Ok(())
    }

    fn begin<S: Store>(&mut self, heads: &[Head], store: &S) -> Result<(), Trouble<S::Error>> {
        for theirs in heads {
            let ours = store.head(theirs.author).map_err(Trouble::Store)?;
            let pull = Pull::begin(ours, *theirs, || store.knows(theirs.id)).map_err(Trouble::Store)?;
            if let Some(pull) = pull
                && store.may_pull(theirs, ours.as_ref())
            {
                self.pulls.push_back(pull);
            }
        }
        Ok(())
    }

    /// Records came with heads: whole logs, only the last one may not be.
    fn pushed<S: Store>(
        &mut self,
        last: Option<AuthorId>,
        tallies: &HashMap<AuthorId, Tally>,
        store: &S,
    ) -> Result<(), Trouble<S::Error>> {
        for pull in std::mem::take(&mut self.pulls) {
            let author = pull.theirs.author;
            let next = match tallies.get(&author) {
                None => Next::Ask(pull),
                Some(tally) if last == Some(author) => {
                    let head = store.head(author).map_err(Trouble::Store)?;
                    let all = head.is_some_and(|head| head.id == pull.theirs.id);
                    pull.pushed(tally, all)
                }
                Some(tally) => pull.pushed(tally, true),
            };
            self.pulls.extend(go_on(next, store));
        }
        Ok(())
    }

    /// Records came that were wanted: with `more`, the logs before that of the last record are whole and those after it
    /// are yet to come.
    fn wanted<S: Store>(
        &mut self,
        count: usize,
        more: bool,
        last: Option<AuthorId>,
        tallies: &HashMap<AuthorId, Tally>,
        store: &S,
    ) {
        let rest = self.pulls.split_off(count.min(self.pulls.len()));
        let asked = std::mem::take(&mut self.pulls);
        let reached = last.and_then(|last| asked.iter().position(|pull| pull.theirs.author == last)).unwrap_or(0);
        let nothing = Tally::default();
        for (at, pull) in asked.into_iter().enumerate() {
            let tally = tallies.get(&pull.theirs.author).unwrap_or(&nothing);
            let next = match (more, at.cmp(&reached)) {
                (true, std::cmp::Ordering::Greater) => Next::Ask(pull),
                (true, std::cmp::Ordering::Equal) => pull.partial(tally),
                _ => pull.whole(tally),
            };
            self.pulls.extend(go_on(next, store));
        }
        self.pulls.extend(rest);
    }
}

/// The pull if it goes on; the store is told of those that don't.
fn go_on<S: Store>(next: Next, store: &S) -> Option<Pull> {
    match next {
        Next::Ask(pull) => Some(pull),
        Next::Over(pull, brought) => {
            store.pulled(&pull.theirs, pull.ours.as_ref(), brought);
            None
        }
    }
}

/// What a number takes in CBOR.
fn int_bytes(number: u64) -> usize {
    match number {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}
