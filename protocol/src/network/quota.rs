//! How much an author may write, so that nobody fills the disks of others.
//!
//! Limits are part of what a log is: a record over them isn't one of its author's log, on any node. So they count
//! along the chain, by the times that the author signed, and a day never goes back: dating records back or
//! forth gains nothing. They count records, not bytes: an erased body doesn't say how long it was, and the log must
//! come out the same without it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ERASE, Role};
use crate::{Timestamp, record::RecordKind};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Most records of a kind in a day, by the kind's name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KindLimits(BTreeMap<String, u64>);

impl KindLimits {
    /// Most kinds that are named.
    pub const MAX: usize = 32;

    /// Limits for these kinds.
    pub fn new(limits: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self(limits.into_iter().collect())
    }

    /// How many kinds are named.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The kinds' names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

/// How much one author may write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Records in a day.
    pub day_records: u64,
    /// Records of some kinds in a day.
    pub kinds: KindLimits,
    /// Records in all.
    pub records: u64,
}

impl Limits {
    /// The name in a policy of those who hold no role.
    pub const ANYONE: &'static str = "anyone";
    /// Nothing at all.
    pub const NONE: Self = Self { day_records: 0, kinds: KindLimits(BTreeMap::new()), records: 0 };

    /// What holds where the policy says nothing: for those without a role, and several times as much with one.
    pub fn default_of(role: Option<Role>) -> Self {
        let scale = match role {
            None => 1,
            Some(Role::Member) => 4,
            Some(Role::Artist) => 10,
            Some(_) => 40,
        };
        Self { day_records: 5_000 * scale, kinds: KindLimits::default(), records: 100_000 * scale }
    }
}

/// What an author has written so far: runs along the chain, starting empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// The latest day seen, counted from the Unix epoch.
    day: u64,
    /// On it.
    day_records: u64,
    /// On it, of the kinds that were limited.
    kinds: BTreeMap<String, u64>,
    records: u64,
    /// Withdrawals, which aren't among those.
    withdrawals: u64,
    /// The log ended: nothing more is admitted.
    closed: bool,
}

impl Meter {
    /// Counts a record, unless it goes over `limits`: then nothing changes. Withdrawals are nobody's favour: there may
    /// be one for each other record, whatever the limits.
    pub fn admit(&mut self, kind: &RecordKind, at: Timestamp, limits: &Limits) -> bool {
        if self.closed {
            return false;
        }
        if *kind == ERASE {
            let fits = self.withdrawals < self.records;
            self.withdrawals += u64::from(fits);
            return fits;
        }
        let mut next = self.clone();
        next.count(kind, at, limits);
        let in_kind = limits.kinds.0.get(kind.as_str()).is_none_or(|limit| next.kind(kind) <= *limit);
        let fits = in_kind && next.day_records <= limits.day_records && next.records <= limits.records;
        if fits {
            *self = next;
        }
        fits
    }

    /// Admits nothing from here on.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing more is admitted.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn count(&mut self, kind: &RecordKind, at: Timestamp, limits: &Limits) {
        let day = at.as_millis() / DAY_MS;
        if day > self.day {
            self.day = day;
            self.day_records = 0;
            self.kinds.clear();
        }
        self.day_records += 1;
        self.records += 1;
        // Only what is limited is counted, so that made-up kinds cost no memory.
        if limits.kinds.0.contains_key(kind.as_str()) {
            *self.kinds.entry(kind.as_str().to_owned()).or_default() += 1;
        }
    }

    fn kind(&self, kind: &RecordKind) -> u64 {
        self.kinds.get(kind.as_str()).copied().unwrap_or(0)
    }
}
