//! Records by gossip: those that arrive go to the log, those we publish go out of the outbox.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use libp2p::gossipsub::MessageAcceptance;
use mhc_protocol::{
    NetworkId, Timestamp,
    network::Scope,
    record::{Record, RecordError, VerifiedRecord},
    wire::Topic,
};
use mhc_storage::record::{Outcome, RecordsError};
use tokio::sync::{broadcast::error::RecvError, mpsc, oneshot};

use super::{
    actor::{Arrived, Command, Published, Verdict},
    book::Fault,
    ids,
    metrics::Outcomes,
    shared::Shared,
};

const BATCH: usize = 64;
const OUTBOX_PERIOD: Duration = Duration::from_secs(5);
/// A record we had already is passed on while it is news to others.
const NEWS_MS: u64 = 10 * 60 * 1000;

/// The label of the metrics.
pub(super) fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Appended => "appended",
        Outcome::Duplicate => "duplicate",
        Outcome::Pending => "pending",
        Outcome::Forked => "forked",
        Outcome::Refused(_) => "refused",
    }
}

/// Takes what the swarm received to the log, and the log's answer back, until either side is gone.
pub(super) async fn ingest(
    shared: Arc<Shared>,
    mut arrivals: mpsc::Receiver<Arrived>,
    verdicts: mpsc::Sender<Verdict>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while arrivals.recv_many(&mut batch, BATCH).await > 0 {
        for verdict in judge(&shared, std::mem::take(&mut batch)).await {
            if verdicts.send(verdict).await.is_err() {
                return;
            }
        }
    }
}

/// What one message is.
enum Message {
    Good(Box<VerifiedRecord>),
    /// Not the sender's fault, but of no use.
    Useless,
    Junk(Fault),
}

async fn judge(shared: &Arc<Shared>, batch: Vec<Arrived>) -> Vec<Verdict> {
    let (task, now) = (Arc::clone(shared), ids::now());
    let verify = move || {
        let wanted = Wanted::default();
        let check = |arrived: Arrived| {
            let message = match Record::verify(&arrived.data, now) {
                Ok(record) if record.header().network == arrived.network => match wanted.has(&task, &record) {
                    true => Message::Good(Box::new(record)),
                    false => Message::Useless,
                },
                Ok(_) => Message::Junk(Fault::JunkGossip("a record of another network".into())),
                Err(RecordError::Time | RecordError::Version(_)) => Message::Useless,
                Err(error) => Message::Junk(Fault::BadRecord(error.to_string())),
            };
            (arrived, message)
        };
        batch.into_iter().map(check).collect::<Vec<_>>()
    };
    let Ok(checked) = tokio::task::spawn_blocking(verify).await else { return vec![] };
    let records = checked.iter().filter_map(|(_, message)| match message {
        Message::Good(record) => Some(VerifiedRecord::clone(record)),
        _ => None,
    });
    let records: Vec<_> = records.collect();
    let outcomes = match records.is_empty() {
        true => Ok(vec![]),
        false => shared.records.append(records).await,
    };
    let mut outcomes = Stored::new(outcomes);
    checked.into_iter().map(|(arrived, message)| verdict(shared, arrived, message, &mut outcomes)).collect()
}

/// What of each network is wanted, looked up once for a batch.
#[derive(Default)]
struct Wanted(RefCell<HashMap<NetworkId, Option<Scope>>>);

impl Wanted {
    fn has(&self, shared: &Shared, record: &VerifiedRecord) -> bool {
        let header = record.header();
        let mut scopes = self.0.borrow_mut();
        let scope = scopes.entry(header.network).or_insert_with(|| {
            // None when the network isn't followed (any more), or the store can't tell now: sync brings it later.
            shared.networks.get(header.network).and_then(|followed| followed.scope().ok())
        });
        scope.as_ref().is_some_and(|scope| scope.contains(header.author))
    }
}

/// The outcomes of a batch in order, or the same failure for all.
struct Stored(Result<std::vec::IntoIter<Outcome>, RecordsError>);

impl Stored {
    fn new(outcomes: Result<Vec<Outcome>, RecordsError>) -> Self {
        if let Err(error) = &outcomes {
            tracing::error!(%error, "gossiped records not stored");
        }
        Self(outcomes.map(Vec::into_iter))
    }

    fn next(&mut self) -> Option<Outcome> {
        self.0.as_mut().ok().and_then(Iterator::next)
    }
}

fn verdict(shared: &Shared, arrived: Arrived, message: Message, outcomes: &mut Stored) -> Verdict {
    let Arrived { message: id, from, .. } = arrived;
    let (label, acceptance) = match message {
        Message::Good(record) => {
            let outcome = outcomes.next();
            if let (Some(Outcome::Pending | Outcome::Refused(_)), Some(node)) = (outcome, ids::node_of(&from)) {
                // Whoever brought it has what is before it.
                let _ = shared.sync_pokes.try_send((node, record.header().network));
            }
            (outcome.as_ref().map_or("failed", label), accept(outcome, record.header().at, ids::now()))
        }
        Message::Useless => ("refused", MessageAcceptance::Ignore),
        Message::Junk(fault) => {
            if let Some(node) = ids::node_of(&from) {
                shared.report(node, &fault);
            }
            ("rejected", MessageAcceptance::Reject)
        }
    };
    shared.metrics.gossip_records_received.get_or_create(&Outcomes { outcome: label }).inc();
    Verdict { message: id, from, acceptance }
}

/// Whether a valid record travels on. Refused ones stop here, without blame: whoever passed them on may not
/// have had what we have.
fn accept(outcome: Option<Outcome>, at: Timestamp, now: Timestamp) -> MessageAcceptance {
    match outcome {
        Some(Outcome::Appended | Outcome::Pending | Outcome::Forked) => MessageAcceptance::Accept,
        Some(Outcome::Duplicate) if now.saturating_ms_since(at) < NEWS_MS => MessageAcceptance::Accept,
        _ => MessageAcceptance::Ignore,
    }
}

/// Gossips what this node publishes until somebody got it.
pub(super) async fn outbox(shared: Arc<Shared>) {
    let mut committed = shared.records.subscribe();
    let mut period = tokio::time::interval(OUTBOX_PERIOD);
    loop {
        if let Err(error) = drain(&shared).await {
            tracing::error!(%error, "outbox");
        }
        // Any of: a record of ours, a new subscriber, time.
        loop {
            tokio::select! {
                commit = committed.recv() => match commit {
                    Ok(commit) if !commit.local => continue,
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                },
                () = shared.outbox_poke.notified() => break,
                _ = period.tick() => break,
            }
        }
    }
}

async fn drain(shared: &Shared) -> Result<(), RecordsError> {
    // Where nobody listens; what is for others needn't wait.
    let mut deserted = HashSet::new();
    let mut after = None;
    loop {
        let waiting = shared.records.outbox_after(after, BATCH)?;
        let full = waiting.len() == BATCH;
        after = waiting.last().map(|(number, _)| *number);
        let mut sent = vec![];
        for (number, record) in waiting {
            let network = record.header().network;
            if deserted.contains(&network) {
                continue;
            }
            match publish(shared, &record).await {
                Published::Sent => drop(shared.metrics.gossip_records_published.inc()),
                Published::Never => {}
                Published::Nobody => {
                    deserted.insert(network);
                    continue;
                }
            }
            sent.push(number);
        }
        if !sent.is_empty() {
            shared.records.outbox_sent(sent).await?;
        }
        if !full || deserted.len() == shared.networks.told().len() {
            return Ok(());
        }
    }
}

async fn publish(shared: &Shared, record: &VerifiedRecord) -> Published {
    let network = record.header().network;
    if !shared.networks.follows(network) {
        return Published::Never;
    }
    let (reply, published) = oneshot::channel();
    let command = Command::Publish(Topic::Records(network), record.to_bytes(), reply);
    match shared.commands.send(command).await {
        Ok(()) => published.await.unwrap_or(Published::Nobody),
        Err(_) => Published::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mhc_storage::record::Refusal;

    #[test]
    fn what_travels_on() {
        let now = Timestamp::from_millis(1_795_000_000_000);
        let old = Timestamp::from_millis(now.0 - NEWS_MS);
        let (accept_it, ignore) = (MessageAcceptance::Accept, MessageAcceptance::Ignore);
        let cases = [
            (Some(Outcome::Appended), old, &accept_it),
            (Some(Outcome::Pending), old, &accept_it),
            (Some(Outcome::Forked), old, &accept_it),
            (Some(Outcome::Duplicate), now, &accept_it),
            (Some(Outcome::Duplicate), old, &ignore),
            (Some(Outcome::Refused(Refusal::LosingBranch)), now, &ignore),
            (None, now, &ignore),
        ];
        for (outcome, at, expected) in cases {
            let got = accept(outcome, at, now);
            assert_eq!(std::mem::discriminant(&got), std::mem::discriminant(expected), "{outcome:?}");
        }
    }
}
