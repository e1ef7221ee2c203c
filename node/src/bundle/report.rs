//! What jobs tell at their end.

use std::collections::HashSet;

use mhc_protocol::{
    Timestamp,
    bundle::{BundleId, Index},
};
use serde::Serialize;

/// Most problems that are told one by one; the rest is only counted.
const MAX_TOLD: usize = 200;

/// Something on the stick that isn't what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Damage {
    pub(super) bundle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) segment: Option<u32>,
    /// The entry's place in the index, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entry: Option<usize>,
    pub(super) what: String,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Damages {
    /// Problems found; a segment that is missing is one.
    pub(super) damaged: u64,
    /// Entries that can't be used because of them.
    pub(super) entries_lost: u64,
    /// The first of them.
    pub(super) damages: Vec<Damage>,
    #[serde(skip)]
    segments: HashSet<(BundleId, u32)>,
}

impl Damages {
    /// Something about a whole bundle.
    pub(super) fn bundle(&mut self, id: BundleId, what: impl Into<String>) {
        self.add(Damage { bundle: id.to_string(), segment: None, entry: None, what: what.into() });
    }

    /// Something about a segment; the first that is found is told.
    pub(super) fn segment(&mut self, id: BundleId, segment: u32, what: impl Into<String>) {
        if self.segments.insert((id, segment)) {
            self.add(Damage { bundle: id.to_string(), segment: Some(segment), entry: None, what: what.into() });
        }
    }

    /// An entry that can't be used.
    pub(super) fn entry(&mut self, id: BundleId, segment: u32, entry: usize, what: impl Into<String>) {
        self.entries_lost += 1;
        let what = what.into();
        self.add(Damage { bundle: id.to_string(), segment: Some(segment), entry: Some(entry), what });
    }

    fn add(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damages.len() < MAX_TOLD {
            tracing::warn!(bundle = damage.bundle, segment = ?damage.segment, entry = ?damage.entry, what = damage.what,
                "a bundle is damaged");
            self.damages.push(damage);
        }
    }
}

/// A bundle whose index could be read.
#[derive(Debug, Serialize)]
pub(super) struct BundleInfo {
    pub(super) bundle: String,
    pub(super) network: String,
    /// Who made it.
    pub(super) node: String,
    /// The day, as milliseconds since the Unix epoch.
    pub(super) made: Timestamp,
    pub(super) entries: usize,
    pub(super) bytes: u64,
    /// Whether it is of this node's network.
    pub(super) ours: bool,
}

impl BundleInfo {
    pub(super) fn new(id: BundleId, index: &Index, ours: bool) -> Self {
        Self {
            bundle: id.to_string(),
            network: index.network.to_string(),
            node: index.node.to_string(),
            made: index.made,
            entries: index.entries.len(),
            bytes: index.segments.iter().map(|segment| segment.bytes).sum(),
            ours,
        }
    }
}
