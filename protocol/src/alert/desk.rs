//! What becomes of an alert that comes in.
//!
//! A desk is one network's. It is driven so: [`AlertDesk::check`] an alert; make it durable when it passes; then
//! [`AlertDesk::take`] it, and spread it. [`AlertDesk::forget`] from time to time. It knows no clock and no storage.

use std::collections::BTreeMap;

use super::{Alert, AlertId, Kind, Order};
use crate::{AuthorId, Timestamp, record::MAX_CLOCK_AHEAD_MS};

/// The time in which an issuer may send [`WINDOW_ALERTS`], by the issuer's own times: so the limit is the same wherever
/// and whenever the alerts come in, also all at once from a stick.
pub const WINDOW_MS: u64 = 10 * 60 * 1000;
/// Most alerts of an issuer within any [`WINDOW_MS`]. Cancellations are counted apart, so that a mistake can be called
/// back whatever was sent before.
pub const WINDOW_ALERTS: usize = 6;
/// Most alerts of an issuer that haven't expired.
pub const MAX_KNOWN: usize = 256;

/// Why an alert goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Dropped {
    /// It is known and holds: it came by another way before. Normal.
    #[error("the alert is known already")]
    Duplicate,
    /// It was cancelled or replaced, and comes again.
    #[error("the alert was cancelled or replaced")]
    Replayed,
    /// Its time is over.
    #[error("the alert has expired")]
    Expired,
    /// It is from the future.
    #[error("the alert is from the future")]
    Early,
    /// Its signer may not alert this network.
    #[error("only the network's root, its admins and the emergency issuers of its policy may send alerts")]
    NotIssuer,
    /// Its issuer sends more than one may.
    #[error("an issuer sends at most {WINDOW_ALERTS} alerts in ten minutes")]
    TooMany,
}

impl Dropped {
    /// As counters and logs name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Replayed => "replayed",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::NotIssuer => "not_issuer",
            Self::TooMany => "too_many",
        }
    }
}

/// How an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds.
    InForce,
    /// A later one cancelled or replaced it.
    Ended,
    /// Its time is over.
    Expired,
}

/// A network's alerts that haven't expired.
#[derive(Debug, Clone, Default)]
pub struct AlertDesk {
    /// By issuer, in the order of their numbers.
    known: BTreeMap<AuthorId, BTreeMap<(u64, AlertId), Alert>>,
}

impl AlertDesk {
    /// Whether an alert is news. `may` says whether its issuer may alert this network.
    pub fn check(&self, alert: &Alert, may: bool, now: Timestamp) -> Result<(), Dropped> {
        if now >= alert.expires() {
            return Err(Dropped::Expired);
        }
        if alert.number() > now.saturating_add_ms(MAX_CLOCK_AHEAD_MS).as_millis() {
            return Err(Dropped::Early);
        }
        if !may {
            return Err(Dropped::NotIssuer);
        }
        let Some(issued) = self.known.get(&alert.issuer()) else { return Ok(()) };
        if self.is_ended(alert) {
            return Err(Dropped::Replayed);
        }
        if issued.contains_key(&key(alert)) {
            return Err(Dropped::Duplicate);
        }
        let is_cancel = |alert: &Alert| alert.said().kind == Kind::Cancel;
        let near = issued.values().filter(|other| {
            is_cancel(other) == is_cancel(alert) && other.number().abs_diff(alert.number()) < WINDOW_MS
        });
        match near.count() >= WINDOW_ALERTS || issued.len() >= MAX_KNOWN {
            true => Err(Dropped::TooMany),
            false => Ok(()),
        }
    }

    /// Takes in an alert that has passed the [check](Self::check).
    pub fn take(&mut self, alert: Alert) {
        self.known.entry(alert.issuer()).or_default().insert(key(&alert), alert);
    }

    /// How a known alert stands.
    pub fn standing(&self, alert: &Alert, now: Timestamp) -> Standing {
        match () {
            () if now >= alert.expires() => Standing::Expired,
            () if self.is_ended(alert) => Standing::Ended,
            () => Standing::InForce,
        }
    }

    /// Whether another alert of its issuer cancels it or takes its place.
    fn is_ended(&self, alert: &Alert) -> bool {
        let others = self.known.get(&alert.issuer()).into_iter().flat_map(BTreeMap::values);
        // What refers is later than what it refers to.
        others
            .rev()
            .take_while(|other| other.number() > alert.number())
            .any(|other| other.said().refers == Some(alert.number()))
    }

    /// All known alerts, of each issuer the oldest first.
    pub fn known(&self) -> impl Iterator<Item = &Alert> {
        self.known.values().flat_map(BTreeMap::values)
    }

    /// The known alert with this id.
    pub fn get(&self, id: AlertId) -> Option<&Alert> {
        self.known().find(|alert| alert.id() == id)
    }

    /// What people are to see now: in force, and no cancellations. Still to be asked is whether each issuer may.
    pub fn in_force(&self, now: Timestamp) -> impl Iterator<Item = &Alert> {
        let shown =
            move |alert: &&Alert| alert.said().kind != Kind::Cancel && self.standing(alert, now) == Standing::InForce;
        self.known().filter(shown)
    }

    /// The order that holds now: the latest one's, of those whose issuer may give one. Drills order nothing.
    pub fn order(&self, now: Timestamp, mut may: impl FnMut(AuthorId) -> bool) -> Option<&Alert> {
        let orders = self.in_force(now).filter(|alert| alert.said().order != Order::None && !alert.is_drill());
        orders.filter(|alert| may(alert.issuer())).max_by_key(|alert| key(alert))
    }

    /// The least number that the issuer's next alert may have.
    pub fn next_number(&self, issuer: AuthorId, now: Timestamp) -> Timestamp {
        let last = self.known.get(&issuer).and_then(|issued| issued.keys().next_back());
        now.max(Timestamp::from_millis(last.map_or(0, |(number, _)| number.saturating_add(1))))
    }

    /// Drops what has expired, and says what it was.
    pub fn forget(&mut self, now: Timestamp) -> Vec<Alert> {
        let mut expired = vec![];
        self.known.retain(|_, issued| {
            expired.extend(issued.extract_if(.., |_, alert| now >= alert.expires()).map(|(_, alert)| alert));
            !issued.is_empty()
        });
        expired
    }
}

fn key(alert: &Alert) -> (u64, AlertId) {
    (alert.number(), alert.id())
}
