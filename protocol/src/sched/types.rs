//! What goes into the scheduler and what comes out.

use std::ops::Range;

use crate::{NodeId, Timestamp};

/// Names a demand; the driver chooses it.
pub type DemandId = u64;

/// Names one request to one provider; the scheduler chooses it, and never twice.
pub type UnitId = u64;

/// How urgent demanded bytes are; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DemandClass {
    /// Somebody waits for them now.
    Playhead,
    /// Somebody will want them soon.
    Lookahead,
    /// Wanted some time: pins and whole-blob downloads.
    Background,
}

/// What bytes over a provider's path cost the user; the first is the cheapest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Cost {
    /// Nothing: for everything.
    #[default]
    Free,
    /// Some: for the background only where no free provider has the bytes.
    Metered,
    /// Much: for the playhead only, and only where it is far faster.
    Precious,
}

/// What is known of the way to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path {
    /// Round trip in milliseconds, where the transport knows it.
    pub rtt_ms: Option<u64>,
    /// What its bytes cost.
    pub cost: Cost,
}

/// Bytes somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Urgency.
    pub class: DemandClass,
    /// When the first of them is needed, if that is known; earlier goes first within a class. A playhead without one
    /// is needed now.
    pub deadline: Option<Timestamp>,
    /// Which bytes; rounded out to chunk groups and cut at the blob's end.
    pub range: Range<u64>,
    /// [`Effect::GiveUp`] after this long without a new byte in `range`; never when `None`.
    pub give_up_ms: Option<u64>,
}

/// Why a unit ended without all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The provider answered that it lacks (the rest of) the range, or ended the answer early.
    Missing,
    /// The stream failed for a reason that says nothing about what the provider has.
    Broken,
    /// The provider sent what an honest one can't: it is banned for this blob.
    Lied,
}

/// Why a unit is to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// No verified byte for [`Options::stall_ms`].
    Stalled,
    /// The rest of its bytes has come from somebody else, or comes from the provider that helps with it.
    Duplicate,
    /// Nobody demands its bytes any more.
    Withdrawn,
    /// Its provider left or lied.
    ProviderGone,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask `provider` for the bytes `range`.
    Request {
        /// The new unit's name.
        unit: UnitId,
        /// Whom to ask.
        provider: NodeId,
        /// Whole chunk groups, cut at the blob's end.
        range: Range<u64>,
        /// The urgency of the demand that it serves, so that the provider can put live viewers first.
        class: DemandClass,
    },
    /// Stop `unit` and forget it.
    Cancel {
        /// Which.
        unit: UnitId,
        /// The provider that had it.
        provider: NodeId,
        /// Why.
        why: CancelReason,
    },
    /// No byte of `demand` has come for its `give_up_ms`; the demand is forgotten.
    GiveUp {
        /// Which.
        demand: DemandId,
    },
}

/// Bounds and delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A unit without a verified byte for so long is taken from its provider.
    pub stall_ms: u64,
    /// Bytes that a provider may have outstanding (two units in any case) before it has brought anything; more on a
    /// long path. Grows by five bytes with each byte that comes, until what is measured is the lower bound.
    pub start_bytes: u64,
    /// A provider has outstanding what it brings in its round trip and this time, in milliseconds.
    pub queue_ms: u64,
    /// The same for playhead and lookahead: shorter, so that what is needed first needn't wait behind what isn't.
    pub urgent_queue_ms: u64,
    /// What a provider has outstanding beyond a round trip's worth is this many bytes at most: at hundreds of megabytes
    /// a second a quarter of a second's worth no longer fits the caches, and costs more than it hides.
    pub max_queue_bytes: u64,
    /// Bytes that one provider has outstanding at most.
    pub max_outstanding_bytes: u64,
    /// Units that one provider has in flight at most.
    pub max_units: usize,
    /// Shortest units for the background, in bytes, where the run of missing bytes is that long. Units for playhead
    /// and lookahead may be as short as [`GROUP_BYTES`](super::GROUP_BYTES) at slow providers.
    pub min_unit_bytes: u64,
    /// Longest units, in bytes: for providers that bring four of them within `queue_ms`.
    pub max_unit_bytes: u64,
    /// How long a provider isn't asked again for ranges that it said it lacks; doubles while it brings nothing.
    pub missing_ms: u64,
    /// The longest such time: enough to search a provider with few scattered bytes through, one round trip a try.
    pub max_missing_ms: u64,
    /// After so many refusals in a row the provider isn't asked for anything until then; doubles likewise.
    pub missing_streak: u32,
    /// The first wait after a stall or a broken stream; doubles with each in a row.
    pub backoff_ms: u64,
    /// The longest such wait.
    pub max_backoff_ms: u64,
    /// A unit is asked of a second provider only if it seems to come this much later than the second would bring it.
    pub duplicate_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stall_ms: 3_000,
            start_bytes: 128 << 10,
            queue_ms: 250,
            urgent_queue_ms: 60,
            max_queue_bytes: 6 << 20,
            max_outstanding_bytes: 16 << 20,
            max_units: 32,
            min_unit_bytes: 256 << 10,
            max_unit_bytes: 1 << 20,
            missing_ms: 2_000,
            max_missing_ms: 300_000,
            missing_streak: 16,
            backoff_ms: 500,
            max_backoff_ms: 30_000,
            duplicate_ms: 100,
        }
    }
}
