//! The ladder in words: for `mhc links`, the API and the log.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{
    LinkClass, Route,
    path::{DownWhy, Path},
    types::{Closed, LinkCost, PathState},
};
use crate::Timestamp;

/// Why a path carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the first one that answered.
    First,
    /// The one before stopped answering.
    Failed {
        /// Its class.
        from: LinkClass,
    },
    /// The one before was closed.
    Closed {
        /// Its class.
        from: LinkClass,
    },
    /// It is better than the one before, which still works.
    Better {
        /// The class of the one before.
        from: LinkClass,
        /// What that one scores, in milliseconds; less is better.
        from_score: u64,
        /// What this one scores.
        score: u64,
    },
}

impl Why {
    /// Whether the ladder could as well have stayed.
    pub fn is_voluntary(&self) -> bool {
        matches!(self, Self::Better { .. })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the first way that answered"),
            Self::Failed { from } => write!(f, "{from} stopped answering"),
            Self::Closed { from } => write!(f, "{from} was closed"),
            Self::Better { from, from_score, score } => {
                write!(f, "better than {from}: {score} against {from_score} (base by kind, round trip, loss; in ms)")
            }
        }
    }
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A change of the path that carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// When, by the clock that the ladder is driven with.
    pub at: Timestamp,
    /// What carried before.
    pub from: Option<Route>,
    /// What carries from then on.
    pub to: Route,
    /// Its class.
    pub class: LinkClass,
    /// Why.
    pub why: Why,
}

/// A path as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathView {
    /// Where it leads.
    pub route: Route,
    /// Its kind.
    pub class: LinkClass,
    /// Whether it works.
    pub state: PathState,
    /// How long it has been in that state, in milliseconds.
    pub for_ms: u64,
    /// The state in words.
    pub why: String,
    /// Whether it carries.
    pub carries: bool,
    /// Round trip, when it was measured.
    pub rtt_ms: Option<u64>,
    /// Packets lost of a thousand, lately.
    pub loss_per_mille: u64,
    /// Bytes a second now, the better direction.
    pub rate_bytes_per_s: u64,
    /// Bytes that came over it, with the transport's overhead.
    pub in_bytes: u64,
    /// Bytes that went.
    pub out_bytes: u64,
    /// What its bytes cost.
    pub cost: LinkCost,
    /// What it may still carry, when it is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left_bytes: Option<u64>,
}

/// The ways to a peer, and which of them carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// The kind of the path that carries, if any does.
    pub class: Option<LinkClass>,
    /// Why that one, in words.
    pub why: String,
    /// All of them, those in use first.
    pub paths: Vec<PathView>,
    /// The last changes, the newest last.
    pub switches: Vec<Switch>,
    /// Changes since this node started.
    pub switch_count: u64,
}

/// A path as it is shown.
pub(super) fn path(now: Timestamp, route: &Route, path: &Path, carries: bool, score: u64) -> PathView {
    PathView {
        route: route.clone(),
        class: path.class,
        state: path.state,
        for_ms: now.saturating_ms_since(path.since),
        why: words(now, path, score),
        carries,
        rtt_ms: path.rtt_ms,
        loss_per_mille: path.loss_per_mille,
        rate_bytes_per_s: path.rate_bytes_per_s,
        in_bytes: path.in_bytes,
        out_bytes: path.out_bytes,
        cost: path.cost,
        budget_left_bytes: path.budget.as_ref().map(|budget| budget.left_bytes()),
    }
}

fn words(now: Timestamp, path: &Path, score: u64) -> String {
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    match path.state {
        PathState::Up => match path.rtt_ms {
            Some(rtt_ms) => format!("answers in {rtt_ms} ms; scores {score}"),
            None => format!("works; scores {score}"),
        },
        PathState::Probing => "answered just now".into(),
        PathState::Suspect => format!("was asked and hasn't answered for {}", seconds(path.silent_ms(now))),
        PathState::Down => match path.down_why {
            DownWhy::Untried => "known, and hasn't answered yet".into(),
            DownWhy::Silent { ms } => format!("was silent for {} though it was asked", seconds(ms)),
            DownWhy::Closed(Closed::Reserve) => "in reserve while another carries".into(),
            DownWhy::Closed(Closed::Ended) => "closed: nobody needed it, or the peer left".into(),
            DownWhy::Closed(Closed::Broken) => "broke".into(),
            DownWhy::Interface => "the interface it used is gone".into(),
        },
    }
}
