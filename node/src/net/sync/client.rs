//! One session: pulls what this node misses from one peer. What to ask is decided by `mhc_protocol::reconcile`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iroh::endpoint::{Connection, ReadToEndError};
use mhc_protocol::{
    AuthorId, NodeId,
    network::Scope,
    reconcile::{Client, Heads, Start, Step, Stored, Trouble},
    record::{Record, RecordError, VerifiedRecord},
    wire::{MAX_FOUND, MAX_LOG_BYTES, MAX_SYNC_RESPONSE_BYTES, SyncRequest, SyncResponse, Want, WireError},
};
use mhc_storage::record::{Outcome, RecordsError, Refusal};

use super::local::Local;
use crate::{
    fetch::ConnectError,
    net::{book::Fault, endpoint, gossip, ids, metrics::Outcomes, networks::Followed, shared::Shared},
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

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

impl From<Trouble<RecordsError>> for SyncError {
    fn from(trouble: Trouble<RecordsError>) -> Self {
        match trouble {
            Trouble::Junk(what) => junk(what),
            Trouble::Store(error) => Self::Store(error),
        }
    }
}

/// What a session brought.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pulled {
    /// Records that were new.
    pub(super) new: u64,
    /// Whether logs were left to other sessions.
    pub(super) skipped: bool,
}

/// How a session begins, from both sides' interest.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Opening {
    /// All is compared.
    Everything(Start),
    /// Only these logs are asked about: the rest isn't wanted here.
    Only(BTreeSet<AuthorId>),
    /// What the peer has is asked for, without telling what is here: it keeps little, and would lack nearly all.
    WhatTheyKeep,
}

/// Pulls everything of a network that `node` has and we want and miss, but for what other sessions are pulling.
pub(super) async fn pull(
    shared: &Arc<Shared>,
    node: NodeId,
    followed: &Arc<Followed>,
    start: Start,
) -> Result<Pulled, SyncError> {
    let conn = endpoint::connect(shared, node, endpoint::SYNC_ALPN).await?;
    let session = followed.pulls.open();
    let local = Arc::new(Local { records: shared.records.clone(), network: followed.network, session });
    let (salt, push_bytes) = (salt()?, u32::try_from(MAX_LOG_BYTES).unwrap_or(u32::MAX));
    find_publishers(shared, &conn, node, followed).await?;
    let (opening, network, heads) = (opening(shared, node, followed, start), followed.network, &followed.heads);
    let (wanted, heads) = (Arc::clone(followed), Arc::clone(heads));
    let begin = move || -> Result<_, SyncError> {
        let opening = match wanted.scope()? {
            Scope::All => opening,
            Scope::Only(authors) => Opening::Only(authors),
        };
        Ok(match opening {
            Opening::Everything(start) => Client::start(network, heads.get()?, salt, push_bytes, start),
            Opening::Only(authors) => Client::within(network, heads.get()?, salt, push_bytes, &authors),
            Opening::WhatTheyKeep => Client::start(network, Heads::default(), salt, 0, Start::Wide),
        })
    };
    let (mut client, request) = blocking(begin).await?;
    let mut pulled = Pulled { new: pull_rivals(shared, &conn, node, followed).await?, skipped: false };
    let mut step = Step::Ask(request);
    loop {
        // Not followed any more: nothing of it comes in.
        if !shared.networks.follows(network) {
            return Ok(pulled);
        }
        (client, step) = match step {
            Step::Done => break,
            Step::Ask(mut request) => {
                let mut turn = None;
                if let SyncRequest::Compare { push_bytes, .. } = &mut request {
                    let may_push;
                    (turn, may_push) = local.session.turn().await;
                    *push_bytes = if may_push { *push_bytes } else { 0 };
                }
                let response = ask(shared, &conn, &request).await?;
                let answered = advance(client, &local, move |client, local| client.answered(response, local)).await?;
                drop(turn);
                answered
            }
            Step::Store(envelopes) => {
                let records = verified(envelopes).await?;
                client.check::<RecordsError>(&records)?;
                let stored = append(shared, records).await?;
                pulled.new += count_new(&stored);
                local.session.stored();
                advance(client, &local, move |client, local| client.stored(&stored, local)).await?
            }
        };
    }
    pulled.skipped = local.session.has_skipped();
    Ok(pulled)
}

fn opening(shared: &Shared, node: NodeId, followed: &Followed, start: Start) -> Opening {
    match shared.book().keeps_all(node, followed.network) {
        true => Opening::Everything(start),
        false => Opening::WhatTheyKeep,
    }
}

/// Has the peer show the records of essential contents whose authors aren't known here: a record proves its author, whose
/// log is then pulled like any other.
async fn find_publishers(
    shared: &Arc<Shared>,
    conn: &Connection,
    node: NodeId,
    followed: &Arc<Followed>,
) -> Result<(), SyncError> {
    // Nodes of the first version don't know the request.
    if shared.book().get(node).is_none_or(|peer| peer.run.is_none()) {
        return Ok(());
    }
    let task = Arc::clone(followed);
    let mut ids = blocking(move || Ok(task.unknown_publishers()?)).await?;
    ids.sort_unstable();
    ids.truncate(MAX_FOUND);
    if ids.is_empty() {
        return Ok(());
    }
    let request = SyncRequest::Records { network: followed.network, ids: ids.clone() };
    let SyncResponse::Records { envelopes } = ask(shared, conn, &request).await? else {
        return Err(junk("another answer than was asked for"));
    };
    for record in verified(envelopes).await? {
        if record.header().network != followed.network || !ids.contains(&record.id()) {
            return Err(junk("records that weren't asked for"));
        }
        followed.found(record.id(), record.header().author);
    }
    Ok(())
}

/// Gets the proof of equivocations that this peer's own session showed: when both nodes take one branch, heads don't tell
/// any more that one of them has a record of the other branch.
async fn pull_rivals(
    shared: &Arc<Shared>,
    conn: &Connection,
    node: NodeId,
    followed: &Followed,
) -> Result<u64, SyncError> {
    let wants = followed.pulls.take_rivals(node);
    if wants.is_empty() {
        return Ok(0);
    }
    let request = SyncRequest::Logs { network: followed.network, wants: wants.clone() };
    let SyncResponse::Logs { envelopes, .. } = ask(shared, conn, &request).await? else {
        return Err(junk("another answer than was asked for"));
    };
    let records = verified(envelopes).await?;
    let asked = |record: &VerifiedRecord| {
        let header = record.header();
        let wanted = |want: &Want| header.author == want.author && (header.epoch, header.seq) >= (want.epoch, want.seq);
        header.network == followed.network && wants.iter().any(wanted)
    };
    if !records.iter().all(asked) {
        return Err(junk("records that weren't asked for"));
    }
    let stored = append(shared, records).await?;
    Ok(count_new(&stored))
}

fn count_new(stored: &[Stored]) -> u64 {
    stored.iter().filter(|stored| **stored == Stored::New).count() as u64
}

fn salt() -> Result<u64, SyncError> {
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).map_err(|error| SyncError::Gone(format!("no random numbers: {error}")))?;
    Ok(u64::from_le_bytes(salt))
}

/// Moves the client on, on a thread that may block: it hashes heads and reads the store.
async fn advance(
    mut client: Client,
    local: &Arc<Local>,
    act: impl FnOnce(&mut Client, &Local) -> Result<Step, Trouble<RecordsError>> + Send + 'static,
) -> Result<(Client, Step), SyncError> {
    let local = Arc::clone(local);
    blocking(move || {
        let step = act(&mut client, &local)?;
        Ok((client, step))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SyncError> + Send + 'static,
) -> Result<T, SyncError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| SyncError::Gone(error.to_string()))?
}

/// Checks a page. Records that can't be taken now, for which nobody is to blame, are left out.
async fn verified(envelopes: Vec<Vec<u8>>) -> Result<Vec<VerifiedRecord>, SyncError> {
    let now = ids::now();
    let verify = move || -> Result<_, SyncError> {
        let mut records = Vec::with_capacity(envelopes.len());
        for envelope in &envelopes {
            match Record::verify(envelope, now) {
                Ok(record) => records.push(record),
                Err(RecordError::Time | RecordError::Version(_)) => {}
                Err(error) => return Err(SyncError::Misbehaved(Fault::BadRecord(error.to_string()))),
            }
        }
        Ok(records)
    };
    blocking(verify).await
}

async fn append(shared: &Shared, records: Vec<VerifiedRecord>) -> Result<Vec<Stored>, SyncError> {
    let outcomes = shared.records.append(records).await?;
    for outcome in &outcomes {
        let outcome = gossip::label(outcome);
        shared.metrics.sync_records.get_or_create(&Outcomes { outcome }).inc();
    }
    Ok(outcomes.iter().map(stored).collect())
}

/// What an outcome means for a session.
pub(super) fn stored(outcome: &Outcome) -> Stored {
    match outcome {
        Outcome::Appended | Outcome::Forked => Stored::New,
        Outcome::Duplicate => Stored::Known,
        Outcome::Pending | Outcome::Refused(Refusal::PendingFull) => Stored::Waiting,
        Outcome::Refused(_) => Stored::Refused,
    }
}

async fn ask(shared: &Shared, conn: &Connection, request: &SyncRequest) -> Result<SyncResponse, SyncError> {
    let request = request.encode().map_err(|error| SyncError::Gone(error.to_string()))?;
    let exchange = tokio::time::timeout(RESPONSE_TIMEOUT, exchange(conn, &request)).await;
    let bytes = exchange.map_err(|_| SyncError::Gone("time-out".into()))??;
    shared.metrics.sync_bytes_received.inc_by(bytes.len() as u64);
    SyncResponse::decode(&bytes).map_err(|error: WireError| junk(&error.to_string()))
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
