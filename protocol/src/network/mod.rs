//! Networks: who may do what in them, and how every node comes to the same answer offline.
//!
//! A network is what its root key signs: a [`Policy`] and [`Grant`]s. Both are records in logs like any other, so
//! they travel, converge and are proven the same way. [`Authority`] is a pure function of the set of these
//! records: whoever holds the same ones decides alike, in whatever order they came.
//!
//! - **A grant** gives its holder a [`Role`] from a moment until another. One of depth 1 or more lets the holder
//!   give the same role (an admin: any role) to others, at a smaller depth, within its own time and scope. Each
//!   grant names the one it stands on, up to the root's, so that the chain can be checked without asking.
//! - **A revocation** ends a grant at a place in the holder's log: what the holder signed up to there stays, and
//!   nothing after it counts. A place can't be dated back, as a time could.
//! - **The policy** says who may write, what that costs, and how much. The latest revision says who, also of what was
//!   written before it, since strangers could date that back; how much is said by the one of the time.
//!
//! Whether a record counts is decided by its author, its time and its place, never by the clock of the node that
//! asks. A record that doesn't count stays in its log, where others follow it, and is kept out of the index.

mod authority;
mod body;
mod interest;
mod quota;
#[cfg(test)]
mod tests;

pub use self::{
    authority::{Authority, Deed, Denied, Effective, When},
    body::{
        BodyError, ERASE, Erase, GRANT, Grant, MAX_DEPTH, MAX_ERASED, MAX_NOTE_CHARS, Membership, POLICY, Policy,
        REVOKE, Revoke, is_governance,
    },
    interest::{Interest, MAX_CHANNELS, Scope},
    quota::{KindLimits, Limits, Meter},
};

use serde::{Deserialize, Serialize};

use crate::{AuthorId, alert::ALERT, manifest::MANIFEST, record::RecordKind};

/// A place in a log: epoch, then sequence number within it.
pub type Position = (u64, u64);

/// What somebody is in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes: comments, likes, follows.
    Member,
    /// A member who publishes.
    Artist,
    /// Serves the edge.
    Relay,
    /// Confirms payments and payouts.
    Treasurer,
    /// Acts on reports and notices, everywhere or on one channel.
    Moderator,
    /// Changes the policy; gives any role.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 6] = [Self::Member, Self::Artist, Self::Relay, Self::Treasurer, Self::Moderator, Self::Admin];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Artist => "artist",
            Self::Relay => "relay",
            Self::Treasurer => "treasurer",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    /// Whether a holder of this role may hand out `other`, given the depth.
    const fn covers(self, other: Self) -> bool {
        matches!(self, Self::Admin) || self as u8 == other as u8
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// A text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of member, artist, relay, treasurer, moderator, admin")]
pub struct UnknownRole;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write a record that has no rule of its own.
    Write,
    /// Publish content.
    Publish,
    /// Act on what others published: on this channel, or (`None`) anywhere.
    Moderate(Option<AuthorId>),
    /// Confirm payments and payouts.
    ConfirmPayments,
    /// Relay and cache for the network's members.
    ServeEdge,
    /// Send an emergency broadcast.
    Broadcast,
    /// Replace the policy.
    SetPolicy,
}

impl Action {
    /// What writing a record of this kind is. `None` for those that have rules of their own: grants, revocations
    /// and policies, which [`Authority`] judges, and erasures, which are anybody's right over their own records.
    pub fn of(kind: &RecordKind) -> Option<Self> {
        match kind {
            kind if is_governance(kind) || *kind == ERASE => None,
            kind if *kind == MANIFEST => Some(Self::Publish),
            kind if *kind == ALERT => Some(Self::Broadcast),
            _ => Some(Self::Write),
        }
    }
}
