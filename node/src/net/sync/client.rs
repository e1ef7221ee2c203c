//! Pulls what this node misses from one peer.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::endpoint::{Connection, ReadToEndError};
use mhc_protocol::{
    AuthorId, NetworkId, NodeId, RecordId,
    record::{Record, RecordError, VerifiedRecord},
    wire::{Head, MAX_HEADS, MAX_LOG_RECORDS, MAX_SYNC_RESPONSE_BYTES, SyncRequest, SyncResponse, WireError},
};
use mhc_storage::record::{Outcome, Records, RecordsError};

use crate::{
    fetch::ConnectError,
    net::{book::Fault, endpoint, gossip, ids, metrics::Outcomes, shared::Shared},
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most heads looked at in one session: no network has so many authors, and the peer pays for each.
const MAX_HEAD_PAGES: usize = 1024;
const MAX_STUCK: usize = 4096;

/// Why a session broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("no connection: {0}")]
    Connect(#[from] ConnectError),
    #[error("the peer doesn't answer: {0}")]
    Gone(String),
    #[error("the peer misbehaved: {0:?}")]
    Misbehaved(Fault),
    #[error("our store: {0}")]
    Store(#[from] RecordsError),
}

/// Heads that differ from ours although pulling their logs brings nothing, as the losing side of a fork does
/// for ever. They are left alone until either side changes.
#[derive(Debug, Default)]
pub(in crate::net) struct Stuck(Mutex<HashSet<(AuthorId, RecordId, Option<RecordId>)>>);

impl Stuck {
    fn is(&self, remote: &Head, local: Option<Head>) -> bool {
        self.lock().contains(&(remote.author, remote.id, local.map(|head| head.id)))
    }

    fn set(&self, remote: &Head, local: Option<Head>) {
        let mut stuck = self.lock();
        if stuck.len() >= MAX_STUCK {
            stuck.clear();
        }
        stuck.insert((remote.author, remote.id, local.map(|head| head.id)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(AuthorId, RecordId, Option<RecordId>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Position in a log.
type Position = (u64, u64);

/// Pulls everything that `node` has and we miss. Returns how many records were new.
pub(super) async fn pull(shared: &Arc<Shared>, node: NodeId) -> Result<u64, SyncError> {
    let conn = endpoint::connect(shared, node, endpoint::SYNC_ALPN).await?;
    let mut session = Session { shared, conn, new: 0 };
    let mut ours = OurHeads::new(&shared.records, shared.network);
    let mut after = None;
    for _ in 0..MAX_HEAD_PAGES {
        let (entries, more) = session.heads(after).await?;
        for theirs in &entries {
            let ours = ours.of(theirs.author)?;
            if let Some(from) = missing(ours, theirs).filter(|_| !shared.stuck.is(theirs, ours)) {
                session.pull_log(theirs, ours, from).await?;
            }
        }
        after = entries.last().map(|head| head.author);
        if !more || after.is_none() {
            break;
        }
    }
    Ok(session.new)
}

/// From where on their log has something that ours lacks.
fn missing(ours: Option<Head>, theirs: &Head) -> Option<Position> {
    let Some(ours) = ours else { return Some((0, 0)) };
    match (theirs.epoch, theirs.seq).cmp(&(ours.epoch, ours.seq)) {
        std::cmp::Ordering::Greater => Some((ours.epoch, ours.seq + 1)),
        // The same position and another record: somewhere before, the author signed two.
        std::cmp::Ordering::Equal if theirs.id != ours.id => Some((0, 0)),
        _ => None,
    }
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    conn: Connection,
    new: u64,
}

impl Session<'_> {
    async fn heads(&self, after: Option<AuthorId>) -> Result<(Vec<Head>, bool), SyncError> {
        let request = SyncRequest::Heads { network: self.shared.network, after };
        match self.ask(&request).await? {
            SyncResponse::Heads { entries, more }
                if entries.first().map(|head| head.author) > after || entries.is_empty() =>
            {
                Ok((entries, more))
            }
            _ => Err(junk("heads that weren't asked for")),
        }
    }

    /// Pulls one log from `from` on. When its records don't connect to ours, the fork lies further back: once
    /// more from the start.
    async fn pull_log(&mut self, theirs: &Head, ours: Option<Head>, from: Position) -> Result<(), SyncError> {
        let mut tally = self.pull_pages(theirs, from).await?;
        if tally.new == 0 && tally.pending > 0 && from != (0, 0) {
            tally = self.pull_pages(theirs, (0, 0)).await?;
        }
        self.new += tally.new;
        if tally.new == 0 {
            self.shared.stuck.set(theirs, ours);
        }
        Ok(())
    }

    async fn pull_pages(&self, theirs: &Head, mut from: Position) -> Result<Tally, SyncError> {
        let mut total = Tally::default();
        while from <= (theirs.epoch, theirs.seq) {
            let (envelopes, more) = self.log(theirs.author, from).await?;
            let Some(records) = self.verified(envelopes, theirs.author, from).await? else { break };
            let Some(last) = records.iter().map(|record| (record.header().epoch, record.header().seq)).max() else {
                break;
            };
            let tally = self.append(records).await?;
            total.new += tally.new;
            total.pending += tally.pending;
            if !more || (tally.new == 0 && tally.pending > 0) {
                break;
            }
            // Once more from the last position: evidence of a fork at it may be on the next page.
            from = if last > from { last } else { (last.0, last.1 + 1) };
        }
        Ok(total)
    }

    async fn log(&self, author: AuthorId, (epoch, seq): Position) -> Result<(Vec<Vec<u8>>, bool), SyncError> {
        let max = u32::try_from(MAX_LOG_RECORDS).unwrap_or(u32::MAX);
        let request = SyncRequest::Log { network: self.shared.network, author, epoch, seq, max };
        match self.ask(&request).await? {
            SyncResponse::Log { envelopes, more } => Ok((envelopes, more)),
            _ => Err(junk("another answer than a log")),
        }
    }

    /// Checks a page. None when its records can't be taken now and nobody is to blame.
    async fn verified(
        &self,
        envelopes: Vec<Vec<u8>>,
        author: AuthorId,
        from: Position,
    ) -> Result<Option<Vec<VerifiedRecord>>, SyncError> {
        let now = ids::now();
        let verify =
            move || envelopes.iter().map(|envelope| Record::verify(envelope, now)).collect::<Result<Vec<_>, _>>();
        let verified = tokio::task::spawn_blocking(verify).await.map_err(|error| SyncError::Gone(error.to_string()))?;
        let records = match verified {
            Ok(records) => records,
            Err(RecordError::Time | RecordError::Version(_)) => return Ok(None),
            Err(error) => return Err(SyncError::Misbehaved(Fault::BadRecord(error.to_string()))),
        };
        let asked = |record: &VerifiedRecord| {
            let header = record.header();
            header.network == self.shared.network && header.author == author && (header.epoch, header.seq) >= from
        };
        match records.iter().all(asked) {
            true => Ok(Some(records)),
            false => Err(junk("records that weren't asked for")),
        }
    }

    async fn append(&self, records: Vec<VerifiedRecord>) -> Result<Tally, SyncError> {
        let outcomes = self.shared.records.append(records).await?;
        for outcome in &outcomes {
            let outcome = gossip::label(outcome);
            self.shared.metrics.sync_records.get_or_create(&Outcomes { outcome }).inc();
        }
        let count = |wanted: &[Outcome]| outcomes.iter().filter(|outcome| wanted.contains(outcome)).count() as u64;
        Ok(Tally { new: count(&[Outcome::Appended, Outcome::Forked]), pending: count(&[Outcome::Pending]) })
    }

    async fn ask(&self, request: &SyncRequest) -> Result<SyncResponse, SyncError> {
        let request = request.encode().map_err(|error| SyncError::Gone(error.to_string()))?;
        let exchange = tokio::time::timeout(RESPONSE_TIMEOUT, exchange(&self.conn, &request)).await;
        let bytes = exchange.map_err(|_| SyncError::Gone("time-out".into()))??;
        SyncResponse::decode(&bytes).map_err(|error: WireError| junk(&error.to_string()))
    }
}

#[derive(Debug, Default)]
struct Tally {
    new: u64,
    pending: u64,
}

fn junk(what: &str) -> SyncError {
    SyncError::Misbehaved(Fault::JunkSync(what.into()))
}

async fn exchange(conn: &Connection, request: &[u8]) -> Result<Vec<u8>, SyncError> {
    fn gone(error: impl std::fmt::Display) -> SyncError {
        SyncError::Gone(error.to_string())
    }
    let (mut send, mut recv) = conn.open_bi().await.map_err(gone)?;
    send.write_all(request).await.map_err(gone)?;
    send.finish().map_err(gone)?;
    match recv.read_to_end(MAX_SYNC_RESPONSE_BYTES).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::TooLong) => Err(junk("an answer over the limit")),
        Err(error) => Err(gone(error)),
    }
}

/// Our heads, walked beside theirs: both are in the order of authors.
struct OurHeads<'a> {
    records: &'a Records,
    network: NetworkId,
    page: VecDeque<Head>,
    after: Option<AuthorId>,
    done: bool,
}

impl<'a> OurHeads<'a> {
    fn new(records: &'a Records, network: NetworkId) -> Self {
        Self { records, network, page: VecDeque::new(), after: None, done: false }
    }

    /// The head of `author`'s log; authors must be asked for in ascending order.
    fn of(&mut self, author: AuthorId) -> Result<Option<Head>, RecordsError> {
        loop {
            while let Some(head) = self.page.front() {
                match head.author.cmp(&author) {
                    std::cmp::Ordering::Less => drop(self.page.pop_front()),
                    std::cmp::Ordering::Equal => return Ok(Some(*head)),
                    std::cmp::Ordering::Greater => return Ok(None),
                }
            }
            if self.done {
                return Ok(None);
            }
            self.refill()?;
        }
    }

    fn refill(&mut self) -> Result<(), RecordsError> {
        let heads = self.records.heads(self.network, self.after, MAX_HEADS)?;
        self.done = heads.len() < MAX_HEADS;
        self.after = heads.last().map(|head| head.author).or(self.after);
        self.page =
            heads.into_iter().map(|h| Head { author: h.author, epoch: h.epoch, seq: h.seq, id: h.id }).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(epoch: u64, seq: u64, id: u8) -> Head {
        Head { author: AuthorId::from_bytes([1; 32]), epoch, seq, id: RecordId::from_bytes([id; 32]) }
    }

    #[test]
    fn what_is_missing_follows_from_the_heads() {
        let cases = [
            (None, head(0, 5, 1), Some((0, 0)), "an author we don't know"),
            (Some(head(0, 5, 1)), head(0, 5, 1), None, "the same"),
            (Some(head(0, 5, 1)), head(0, 9, 2), Some((0, 6)), "they are ahead"),
            (Some(head(0, 9, 1)), head(0, 5, 2), None, "they are behind"),
            (Some(head(0, 5, 1)), head(0, 5, 2), Some((0, 0)), "a fork"),
            (Some(head(0, 5, 1)), head(1, 0, 2), Some((0, 6)), "a new epoch"),
            (Some(head(1, 0, 1)), head(0, 9, 2), None, "an old epoch"),
        ];
        for (ours, theirs, expected, name) in cases {
            assert_eq!(missing(ours, &theirs), expected, "{name}");
        }
    }

    #[test]
    fn what_brings_nothing_is_left_alone_until_it_changes() {
        let stuck = Stuck::default();
        stuck.set(&head(0, 5, 1), Some(head(0, 5, 2)));
        assert!(stuck.is(&head(0, 5, 1), Some(head(0, 5, 2))));
        assert!(!stuck.is(&head(0, 6, 3), Some(head(0, 5, 2))), "theirs changed");
        assert!(!stuck.is(&head(0, 5, 1), Some(head(0, 6, 4))), "ours changed");
    }
}
