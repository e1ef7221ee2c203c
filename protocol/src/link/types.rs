//! What goes into the ladder.

use serde::{Deserialize, Serialize};

/// How often the shell samples paths and calls [`Ladder::tick`](super::Ladder::tick), in milliseconds.
pub const TICK_MS: u64 = 500;

/// What is known of whether a path works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// It doesn't answer, or isn't open.
    Down,
    /// It was opened just now and has moved nothing yet.
    Probing,
    /// It works.
    Up,
    /// It was asked and hasn't answered for longer than usual.
    Suspect,
}

/// What bytes over a path cost the user; the first is the cheapest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCost {
    /// Nothing.
    #[default]
    Free,
    /// Some: within a budget, and nothing that nobody waits for.
    Metered,
    /// Much: within a budget, alerts and records, and what the user asked for.
    Precious,
}

/// In which direction a path carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Questions and answers.
    #[default]
    TwoWay,
    /// It only brings, whatever was sent: nothing can be asked over it.
    InOnly,
    /// It takes what it is given and brings it some time, as a stick does.
    StoreForward,
}

/// What kind of bytes somebody wants moved; the first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// P0: alerts.
    Alert,
    /// P1: records and manifests.
    Record,
    /// P2: bytes that somebody waits for.
    Waited,
    /// P3: bytes that somebody will probably want.
    Prefetch,
    /// P4: copies that nobody has asked to see.
    Copy,
}

impl Traffic {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Alert, Self::Record, Self::Waited, Self::Prefetch, Self::Copy];
}

/// Bytes to be moved to or from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// What they are.
    pub traffic: Traffic,
    /// How many, at most.
    pub bytes: u64,
    /// Whether an answer must come back the same way.
    pub needs_answer: bool,
    /// Whether the user asked for these very bytes, knowing what they cost.
    pub user_asked: bool,
}

/// Which way to lean, beside what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPolicy {
    /// lan, direct, Yggdrasil, relay.
    #[default]
    Normal,
    /// lan, Yggdrasil, direct, relay: what neighbours carry goes before what needs somebody's internet.
    PreferMesh,
}

/// A link that the shell knows to be there, and what may go over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// What its bytes cost.
    pub cost: LinkCost,
    /// In which direction it carries.
    pub capability: Capability,
    /// How many bytes it may still carry; not asked for free ones.
    pub budget_bytes: u64,
}

/// What a path did since the last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Bytes that came.
    pub in_bytes: u64,
    /// Bytes that went.
    pub out_bytes: u64,
    /// Round trip now, where it is known.
    pub rtt_ms: Option<u64>,
    /// Packets that went.
    pub sent_packets: u64,
    /// Those of them that were lost, as far as is known yet.
    pub lost_packets: u64,
}

/// Why a path isn't open any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// It was put aside while another carries.
    Reserve,
    /// Nobody needs the peer now, or it left.
    Ended,
    /// It broke.
    Broken,
}

/// Bounds and delays of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A busy path that brings nothing for so long is asked whether it is there.
    pub ask_busy_ms: u64,
    /// The same for one that is open and idle; the transport's own keep-alive comes more often.
    pub ask_idle_ms: u64,
    /// A path is busy for so long after it moved more than [`BUSY_BYTES`](Options::busy_bytes) in a sample.
    pub busy_ms: u64,
    /// See [`Options::busy_ms`].
    pub busy_bytes: u64,
    /// A path that hasn't answered for so long, or for four round trips, is suspect.
    pub suspect_ms: u64,
    /// A path that hasn't answered for so long, or for eight round trips, is down.
    pub dead_ms: u64,
    /// The same when no other way is known: there is nothing to gain by giving up early.
    pub dead_alone_ms: u64,
    /// A better path must be better by this much: milliseconds, and a tenth of the score of the one in use. One of a kind
    /// that is less liked by five times as much and a third.
    pub margin_ms: u64,
    /// A working path isn't left for a better one within this time of the last such change.
    pub dwell_ms: u64,
    /// A path that failed must have kept up for so long before it is preferred again; doubles with each failure in
    /// [`Options::memory_ms`].
    pub settle_ms: u64,
    /// The longest such time.
    pub max_settle_ms: u64,
    /// How long a failure is remembered.
    pub memory_ms: u64,
    /// How often a way that worked before is looked at again while the peer is busy.
    pub probe_ms: u64,
    /// How often other ways that would be better are, at most; and any, while the peer is idle.
    pub max_probe_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ask_busy_ms: 700,
            ask_idle_ms: 6_000,
            busy_ms: 10_000,
            busy_bytes: 8 << 10,
            suspect_ms: 1_200,
            dead_ms: 2_500,
            dead_alone_ms: 8_000,
            margin_ms: 20,
            dwell_ms: 8_000,
            settle_ms: 4_000,
            max_settle_ms: 60_000,
            memory_ms: 600_000,
            probe_ms: 4_000,
            max_probe_ms: 60_000,
        }
    }
}

impl Options {
    /// By how much a path must be better than one with this score. `down`: it is of a kind that is less liked, so that it
    /// takes more than a moment's queue or a burst of losses.
    pub(super) fn margin(&self, score: u64, down: bool) -> u64 {
        if down { 5 * self.margin_ms + score / 3 } else { self.margin_ms + score / 10 }
    }
}
