//! Alerts: they come in by gossip, in records, and from the operator; they are kept, shown and passed on.
//!
//! [`AlertDesk`] decides about each, and this is the shell around it. Whatever way an alert comes, it is durable before
//! it is shown, passed on or acknowledged, and counted whatever becomes of it. What it adds to the network goes out as
//! gossip of its own, before its record; whoever begins to listen later is told what holds. What is sent, taken or
//! dropped is noted in the journal.

mod http;
mod issue;
mod kept;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use mhc_platform::continuity;
use mhc_protocol::{
    AuthorId, NetworkId, NodeId, RecordId, Timestamp,
    alert::{ALERT, Alert, AlertDesk, AlertError, AlertId, AlertRecord, Details, Dropped, MAX_LIFE_MIN, Order},
    network::{Action, Authority, When, is_governance},
};
use mhc_storage::record::{Committed, Private, Records, RecordsError};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::{broadcast::error::RecvError, watch};

pub(crate) use self::http::{Desk, routes};
use self::kept::Kept;
use crate::{
    author::now,
    journal::{Facts, Journal},
    net::{IncomingAlert, Net},
};

/// The index is looked through for alerts that were missed, and what has expired is dropped.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Whoever begins to listen within this time is told together.
const WELCOME: Duration = Duration::from_secs(1);
/// Gossip doesn't take the same message again for so long.
const GOSSIPED_ONCE: Duration = Duration::from_secs(60);
/// Alerts of a network that are looked for in the index, and that are told to new listeners.
const MAX_LISTED: usize = 512;
/// Drops of one kind are noted in the journal once in this time, with their number.
const NOTE_DROPS_EVERY: Duration = Duration::from_secs(60);

/// Where an alert came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was signed here.
    Here,
    /// The operator handed it in: it came by a way of its own, such as radio.
    Hand,
    /// This peer gossiped it.
    Gossip(Option<NodeId>),
    /// This record has it.
    Record(RecordId),
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Hand => "hand",
            Self::Gossip(_) => "gossip",
            Self::Record(_) => "record",
        }
    }
}

/// Why an alert wasn't taken in.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refused {
    /// It isn't one, or it isn't its issuer's.
    #[error(transparent)]
    Bad(#[from] AlertError),
    /// The desk's decision.
    #[error(transparent)]
    Dropped(#[from] Dropped),
    /// Our own failure.
    #[error(transparent)]
    Failed(#[from] RecordsError),
}

impl Refused {
    /// As counters and the journal name it.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Bad(AlertError::Forged) => "forged",
            Self::Bad(_) => "malformed",
            Self::Dropped(dropped) => dropped.as_str(),
            Self::Failed(_) => "failed",
        }
    }
}

/// The label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertOutcome {
    /// `accepted`, `duplicate`, `replayed`, `expired`, `early`, `forged`, `malformed`, `not_issuer`, `too_many` or
    /// `failed`.
    outcome: &'static str,
}

/// What is counted. All since the process started.
#[derive(Debug, Default)]
struct Metrics {
    /// Alerts that came in by any way, by what became of them. Repeats that gossip drops by itself aren't counted.
    alerts: Family<AlertOutcome, Counter>,
}

/// What is known of an alert besides itself.
#[derive(Debug, Clone, Copy)]
struct Known {
    taken_at: Timestamp,
    record: Option<RecordId>,
    /// When gossip last had it, in this run.
    gossiped: Option<Instant>,
}

#[derive(Debug, Default)]
struct Held {
    desk: AlertDesk,
    known: HashMap<AlertId, Known>,
}

/// An alert as it is held.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) alert: Alert,
    pub(crate) taken_at: Timestamp,
    pub(crate) record: Option<RecordId>,
    pub(crate) details: Details,
    /// In force, and its issuer may alert.
    pub(crate) holds: bool,
    /// A later one cancelled or replaced it, or its issuer may no more.
    pub(crate) ended: bool,
}

/// The alerts of all networks that this node follows.
#[derive(Clone)]
pub(crate) struct Emergency(Arc<Inner>);

struct Inner {
    records: Records,
    table: Private,
    net: Net,
    journal: Arc<Journal>,
    metrics: Metrics,
    /// One alert at a time from the decision until it is durable.
    taking: tokio::sync::Mutex<()>,
    held: RwLock<BTreeMap<NetworkId, Held>>,
    /// Dropped since the last note in the journal, by kind.
    drops: Mutex<HashMap<&'static str, (u64, Option<Instant>)>>,
    /// Counts changes of what holds.
    changes: watch::Sender<u64>,
}

impl Emergency {
    /// Reads what was kept.
    pub(crate) fn open(records: &Records, net: &Net, journal: Arc<Journal>) -> Result<Self, RecordsError> {
        let table = records.private(kept::TABLE);
        let mut held: BTreeMap<NetworkId, Held> = BTreeMap::new();
        for Kept { network, alert, taken_at, record } in kept::all(&table)? {
            let held = held.entry(network).or_default();
            held.known.insert(alert.id(), Known { taken_at, record, gossiped: None });
            held.desk.take(alert);
        }
        Ok(Self(Arc::new(Inner {
            records: records.clone(),
            table,
            net: net.clone(),
            journal,
            metrics: Metrics::default(),
            taking: tokio::sync::Mutex::default(),
            held: RwLock::new(held),
            drops: Mutex::default(),
            changes: watch::Sender::new(0),
        })))
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("mhc_alerts", "Alerts that came in, by outcome", self.0.metrics.alerts.clone());
    }

    /// Takes in what comes, until it is dropped.
    pub(crate) fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        let emergency = self.clone();
        async move {
            tokio::join!(emergency.hear(), emergency.follow_records(), emergency.welcome());
        }
    }

    async fn hear(&self) {
        let Some(mut incoming) = self.0.net.incoming_alerts() else { return };
        while let Some(alert) = incoming.recv().await {
            self.judge(alert).await;
        }
    }

    async fn judge(&self, incoming: IncomingAlert) {
        let source = Source::Gossip(incoming.from());
        match self.take(incoming.network, &incoming.bytes, source).await {
            Ok(_) => incoming.accept().await,
            // A newer version is nobody's fault.
            Err(Refused::Bad(AlertError::Version(_)) | Refused::Dropped(_) | Refused::Failed(_)) => {
                incoming.ignore().await;
            }
            Err(Refused::Bad(error)) => incoming.reject(&self.0.net, &error.to_string()).await,
        }
    }

    /// Finds alerts in records, whatever link brought them, and drops what has expired.
    async fn follow_records(&self) {
        let mut committed = self.0.records.subscribe();
        let mut ticks = tokio::time::interval(TIDY_EVERY);
        loop {
            let look = tokio::select! {
                _ = ticks.tick() => {
                    self.tidy(now()).await;
                    true
                }
                event = committed.recv() => match event {
                    Ok(Committed { record, .. }) => {
                        let kind = &record.header().kind;
                        // Who may alert may have changed.
                        *kind == ALERT || is_governance(kind)
                    }
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                },
            };
            if look && let Err(error) = self.look_into_records().await {
                tracing::warn!(%error, "alerts in records not looked for");
            }
        }
    }

    /// Idempotent: takes in every alert of the index that hasn't expired and isn't known.
    pub(crate) async fn look_into_records(&self) -> Result<(), RecordsError> {
        let since = Timestamp(now().as_millis().saturating_sub(u64::from(MAX_LIFE_MIN) * 60_000));
        for followed in self.0.net.networks() {
            let network = followed.network;
            let found = continuity::alerts_since(&self.0.records.view(continuity::NAME)?, network, since, MAX_LISTED)?;
            let known: Vec<RecordId> = {
                let held = self.read();
                held.get(&network).into_iter().flat_map(|held| held.known.values()).filter_map(|k| k.record).collect()
            };
            // The oldest first, as they were sent.
            for id in found.into_iter().rev().filter(|id| !known.contains(id)) {
                if let Some(alert) = self.alert_of(id)? {
                    self.take_of_record(network, &alert.alert, id).await?;
                }
            }
        }
        Ok(())
    }

    async fn take_of_record(&self, network: NetworkId, alert: &Alert, id: RecordId) -> Result<(), RecordsError> {
        // Records that have expired or ended are found again each time; only news is counted.
        let known = match self.judge_now(network, alert)? {
            Ok(()) => match self.take(network, alert.bytes(), Source::Record(id)).await {
                Ok(_) => {
                    self.gossip(network, alert).await;
                    return Ok(());
                }
                Err(Refused::Failed(error)) => return Err(error),
                // Its compact form came at the same time.
                Err(refused) => matches!(refused, Refused::Dropped(Dropped::Duplicate)),
            },
            Err(dropped) => matches!(dropped, Dropped::Duplicate | Dropped::Replayed),
        };
        if known { self.join_record(network, alert, id).await } else { Ok(()) }
    }

    /// The compact form was here first: its record has come.
    async fn join_record(&self, network: NetworkId, alert: &Alert, id: RecordId) -> Result<(), RecordsError> {
        let _taking = self.0.taking.lock().await;
        let known = self.read().get(&network).and_then(|held| held.known.get(&alert.id()).copied());
        let Some(Known { taken_at, record: None, gossiped }) = known else { return Ok(()) };
        let record = Some(id);
        kept::put(&self.0.table, &Kept { network, alert: alert.clone(), taken_at, record }).await?;
        if let Some(held) = self.write().get_mut(&network) {
            held.known.insert(alert.id(), Known { taken_at, record, gossiped });
        }
        self.changed();
        Ok(())
    }

    /// Who begins to listen is told what holds. Where it is known already it goes no further.
    async fn welcome(&self) {
        loop {
            self.0.net.alert_listener().await;
            tokio::time::sleep(WELCOME).await;
            let mut waits = false;
            for followed in self.0.net.networks() {
                for shown in self.holding(followed.network, now()).unwrap_or_default() {
                    let gossiped = self.gossiped(followed.network, &shown.alert);
                    match gossiped.is_some_and(|gossiped| gossiped.elapsed() < GOSSIPED_ONCE) {
                        true => waits = true,
                        false => drop(self.gossip(followed.network, &shown.alert).await),
                    }
                }
            }
            if waits {
                // Until then its record reaches whoever came just now.
                tokio::time::sleep(GOSSIPED_ONCE).await;
                self.0.net.expect_alert_listener();
            }
        }
    }

    fn gossiped(&self, network: NetworkId, alert: &Alert) -> Option<Instant> {
        self.read().get(&network)?.known.get(&alert.id())?.gossiped
    }

    /// Tells peers; whether one was there.
    async fn gossip(&self, network: NetworkId, alert: &Alert) -> bool {
        let heard = self.0.net.spread_alert(network, alert.bytes().to_vec()).await;
        if heard && let Some(known) = self.write().get_mut(&network).and_then(|held| held.known.get_mut(&alert.id())) {
            known.gossiped = Some(Instant::now());
        }
        heard
    }

    /// Decides about an alert of `network`; when this returns it is durable here and shown. Whatever becomes of it is
    /// counted and noted.
    pub(crate) async fn take(&self, network: NetworkId, bytes: &[u8], source: Source) -> Result<Alert, Refused> {
        let taken = self.try_take(network, bytes, source).await;
        let outcome = taken.as_ref().map_or_else(Refused::as_str, |_| "accepted");
        self.0.metrics.alerts.get_or_create(&AlertOutcome { outcome }).inc();
        match &taken {
            Ok(alert) => {
                tracing::info!(%network, alert = %alert.id(), source = source.as_str(), "an alert was taken in");
                self.0.journal.note(now(), "alert-taken", facts(network, alert, source)).await;
            }
            // Normal: it comes from several peers, and in its record.
            Err(Refused::Dropped(Dropped::Duplicate)) => {}
            Err(refused) => self.note_drop(network, refused, source).await,
        }
        taken
    }

    async fn try_take(&self, network: NetworkId, bytes: &[u8], source: Source) -> Result<Alert, Refused> {
        let alert = Alert::verify(bytes, network)?;
        let _taking = self.0.taking.lock().await;
        self.judge_now(network, &alert)??;
        let record = if let Source::Record(id) = source { Some(id) } else { None };
        let taken_at = now();
        kept::put(&self.0.table, &Kept { network, alert: alert.clone(), taken_at, record }).await?;
        {
            let mut held = self.write();
            let held = held.entry(network).or_default();
            let gossiped = matches!(source, Source::Gossip(_)).then(Instant::now);
            held.known.insert(alert.id(), Known { taken_at, record, gossiped });
            held.desk.take(alert.clone());
        }
        self.changed();
        Ok(alert)
    }

    /// What the desk says now.
    fn judge_now(&self, network: NetworkId, alert: &Alert) -> Result<Result<(), Dropped>, RecordsError> {
        let may = may_alert(&self.0.records.authority(network)?, alert.issuer(), alert.said().at);
        let held = self.read();
        Ok(match held.get(&network) {
            Some(held) => held.desk.check(alert, may, now()),
            None => AlertDesk::default().check(alert, may, now()),
        })
    }

    /// A flood of junk mustn't become a flood of notes.
    async fn note_drop(&self, network: NetworkId, refused: &Refused, source: Source) {
        let kind = refused.as_str();
        let count = {
            let mut drops = self.0.drops.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, noted) = drops.entry(kind).or_default();
            *count += 1;
            if noted.is_some_and(|noted| noted.elapsed() < NOTE_DROPS_EVERY) {
                return;
            }
            *noted = Some(Instant::now());
            std::mem::take(count)
        };
        tracing::warn!(%network, %refused, source = source.as_str(), "an alert was dropped");
        let mut facts = Facts::from([
            ("network", network.to_string()),
            ("why", kind.to_owned()),
            ("count", count.to_string()),
            ("source", source.as_str().to_owned()),
        ]);
        if let Source::Gossip(Some(node)) = source {
            facts.insert("peer", node.to_string());
        }
        self.0.journal.note(now(), "alert-dropped", facts).await;
    }

    async fn tidy(&self, now: Timestamp) {
        let _taking = self.0.taking.lock().await;
        let mut expired = vec![];
        for (network, held) in &mut *self.write() {
            for alert in held.desk.forget(now) {
                held.known.remove(&alert.id());
                expired.push((*network, alert));
            }
        }
        if expired.is_empty() {
            return;
        }
        self.changed();
        if let Err(error) = kept::remove(&self.0.table, &expired).await {
            // They are read again at the next start, and dropped again.
            tracing::warn!(%error, "expired alerts not removed");
        }
    }

    /// The alerts of a network that hold, the worst first.
    pub(crate) fn holding(&self, network: NetworkId, now: Timestamp) -> Result<Vec<Shown>, RecordsError> {
        Ok(self.all(network, now)?.into_iter().filter(|shown| shown.holds).collect())
    }

    /// All alerts of a network that haven't been forgotten: those that hold first, then the worst, then the newest.
    pub(crate) fn all(&self, network: NetworkId, now: Timestamp) -> Result<Vec<Shown>, RecordsError> {
        let authority = self.0.records.authority(network)?;
        let mut all: Vec<Shown> = {
            let held = self.read();
            let Some(Held { desk, known }) = held.get(&network) else { return Ok(vec![]) };
            let in_force: Vec<AlertId> = desk.in_force(now).map(Alert::id).collect();
            let show = |alert: &Alert| {
                let known = known.get(&alert.id())?;
                let may = may_alert(&authority, alert.issuer(), alert.said().at);
                let in_force = in_force.contains(&alert.id());
                Some(Shown {
                    alert: alert.clone(),
                    taken_at: known.taken_at,
                    record: known.record,
                    details: Details::default(),
                    holds: in_force && may,
                    ended: !may || desk.standing(alert, now) == mhc_protocol::alert::Standing::Ended,
                })
            };
            desk.known().filter_map(show).collect()
        };
        for shown in &mut all {
            let record = shown.record.map(|id| self.alert_of(id)).transpose()?.flatten();
            shown.details = record.map(|record| record.details).unwrap_or_default();
        }
        let number = |shown: &Shown| std::cmp::Reverse(shown.alert.number());
        all.sort_by_key(|shown| (!shown.holds, shown.alert.is_drill(), shown.alert.said().severity, number(shown)));
        Ok(all)
    }

    /// What an alert of the network that holds orders: its id, and whether it is shutdown mode or its end.
    pub(crate) fn order(&self, network: NetworkId, now: Timestamp) -> Result<Option<(AlertId, bool)>, RecordsError> {
        let authority = self.0.records.authority(network)?;
        let held = self.read();
        let order =
            held.get(&network).and_then(|held| held.desk.order(now, |issuer| may_alert(&authority, issuer, now)));
        Ok(order.map(|alert| (alert.id(), alert.said().order == Order::ShutdownOn)))
    }

    /// Counts changes of what holds.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn alert_of(&self, id: RecordId) -> Result<Option<AlertRecord>, RecordsError> {
        match self.0.records.get(id) {
            Ok(record) => Ok(record.and_then(|record| AlertRecord::of(&record).ok())),
            Err(RecordsError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<NetworkId, Held>> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<NetworkId, Held>> {
        self.0.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the network lets `issuer` alert it. A grant that has ended doesn't count, not even for what was sent before:
/// an alert asks people to act.
fn may_alert(authority: &Authority, issuer: AuthorId, at: Timestamp) -> bool {
    authority.may(issuer, Action::Broadcast, When::now(at)).is_ok()
}

fn facts(network: NetworkId, alert: &Alert, source: Source) -> Facts {
    let said = alert.said();
    let mut facts = Facts::from([
        ("network", network.to_string()),
        ("alert", alert.id().to_string()),
        ("issuer", alert.issuer().to_string()),
        ("status", said.status.as_str().to_owned()),
        ("kind", said.kind.as_str().to_owned()),
        ("severity", said.severity.as_str().to_owned()),
        ("source", source.as_str().to_owned()),
        ("text", said.text.clone()),
    ]);
    match source {
        Source::Gossip(Some(node)) => drop(facts.insert("peer", node.to_string())),
        Source::Record(id) => drop(facts.insert("record", id.to_string())),
        _ => {}
    }
    facts
}
