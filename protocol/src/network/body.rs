//! The bodies of the records that govern a network.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{KindLimits, Limits, Role};
use crate::{
    AuthorId, RecordId, Timestamp,
    cbor::{self, CborError},
    record::{MAX_RECORD_BYTES, MAX_SEQ, RecordKind},
};

/// Records whose body is a [`Grant`].
pub const GRANT: RecordKind = RecordKind::new("grant.v1");
/// Records whose body is a [`Revoke`].
pub const REVOKE: RecordKind = RecordKind::new("revoke.v1");
/// Records whose body is a [`Policy`].
pub const POLICY: RecordKind = RecordKind::new("policy.v1");
/// Records whose body is an [`Erase`].
pub const ERASE: RecordKind = RecordKind::new("erase.v1");
/// Deepest chain of grants below the root's.
pub const MAX_DEPTH: u8 = 8;
/// Longest note, reason or name, in characters.
pub const MAX_NOTE_CHARS: usize = 200;
/// Most records that one [`Erase`] names.
pub const MAX_ERASED: usize = 500;
const MAX_LISTED: usize = 256;
const MAX_NAMED: usize = 64;
const MAX_KEY_CHARS: usize = 40;

/// Whether records of this kind decide what others count for.
pub fn is_governance(kind: &RecordKind) -> bool {
    [&GRANT, &REVOKE, &POLICY].contains(&kind)
}

/// Why a body isn't what its kind prescribes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the deterministic encoding of such a body.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A field is out of bounds.
    #[error("{0} is out of bounds")]
    Invalid(&'static str),
}

/// Gives somebody a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// To whom.
    pub to: AuthorId,
    /// What.
    pub role: Role,
    /// Only on this channel; moderators alone can have one.
    pub channel: Option<AuthorId>,
    /// Not before.
    pub from: Timestamp,
    /// Until just before; `None` has no end.
    pub until: Option<Timestamp>,
    /// How often it may be handed on; 0 not at all.
    pub depth: u8,
    /// The grant to its author that it stands on; `None` when the root signs.
    pub under: Option<RecordId>,
    /// What for, one line.
    pub note: Option<String>,
}

/// Ends a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Which.
    pub grant: RecordId,
    /// The last place in the holder's log that still counts; `None` when nothing does.
    pub keep: Option<(u64, u64)>,
    /// Why, one line.
    pub reason: Option<String>,
}

/// Who may write in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Anybody writes and publishes.
    #[default]
    Open,
    /// Whoever holds a grant writes and publishes.
    Members,
    /// Whoever holds a grant writes; artists, moderators and admins publish.
    Curated,
}

/// The rules of a network. Absent numbers have defaults that `docs/protocol.md` names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Higher than the revision it replaces, at most 1,024 higher.
    pub revision: u64,
    /// What the network calls itself, one line.
    pub name: Option<String>,
    /// Who may write.
    pub membership: Membership,
    /// Shares and prices by name: parts per 10,000, or minor units of a currency.
    pub fees: BTreeMap<String, u64>,
    /// Tiers that have a feature, by the feature's name.
    pub gates: BTreeMap<String, BTreeSet<String>>,
    /// How much holders of a role may write, by the role's name; `anyone` is without a role.
    pub quotas: BTreeMap<String, Limits>,
    /// Content that every node should keep.
    pub essential: BTreeSet<RecordId>,
    /// Who may send emergency broadcasts beside the root and the admins.
    pub issuers: BTreeSet<AuthorId>,
}

/// Withdraws the bodies of the author's own records, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Which; ascending, at least one.
    pub records: BTreeSet<RecordId>,
}

/// Encodes and decodes within bounds, for every body alike.
macro_rules! body {
    ($name:ident, $check:expr) => {
        impl $name {
            /// The bytes of the body.
            pub fn encode(&self) -> Result<Vec<u8>, BodyError> {
                let check: fn(&Self) -> Result<(), BodyError> = $check;
                check(self)?;
                encode(self)
            }

            /// Reads a body.
            pub fn decode(bytes: &[u8]) -> Result<Self, BodyError> {
                let check: fn(&Self) -> Result<(), BodyError> = $check;
                let body: Self = decode(bytes)?;
                check(&body)?;
                Ok(body)
            }
        }
    };
}

body!(Grant, |grant| {
    require("depth", grant.depth <= MAX_DEPTH)?;
    require("channel", grant.channel.is_none() || grant.role == Role::Moderator)?;
    require("until", grant.until.is_none_or(|until| until > grant.from))?;
    line("note", grant.note.as_deref(), MAX_NOTE_CHARS)
});

body!(Revoke, |revoke| {
    require("keep", revoke.keep.is_none_or(|(epoch, seq)| epoch <= MAX_SEQ && seq <= MAX_SEQ))?;
    line("reason", revoke.reason.as_deref(), MAX_NOTE_CHARS)
});

body!(Policy, |policy| {
    require("revision", (1..=MAX_SEQ).contains(&policy.revision))?;
    line("name", policy.name.as_deref(), MAX_NOTE_CHARS)?;
    require("fees", policy.fees.len() <= MAX_NAMED)?;
    require("gates", policy.gates.len() <= MAX_NAMED && policy.gates.values().all(|tiers| tiers.len() <= MAX_NAMED))?;
    require("essential", policy.essential.len() <= MAX_LISTED)?;
    require("issuers", policy.issuers.len() <= MAX_LISTED)?;
    require("quotas", policy.quotas.keys().all(|name| name == Limits::ANYONE || name.parse::<Role>().is_ok()))?;
    require("quotas", policy.quotas.values().all(|limits| limits.kinds.len() <= KindLimits::MAX))?;
    let kinds = policy.quotas.values().flat_map(|limits| limits.kinds.keys());
    let mut names = policy.fees.keys().chain(policy.gates.keys()).chain(policy.gates.values().flatten()).chain(kinds);
    names.try_for_each(|name| line("name", Some(name), MAX_KEY_CHARS))
});

body!(Erase, |erase| require("records", (1..=MAX_ERASED).contains(&erase.records.len())));

fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, BodyError> {
    let bytes = cbor::encode(body)?;
    // The header takes some 300 bytes of a record.
    require("length", bytes.len() + 512 <= MAX_RECORD_BYTES)?;
    Ok(bytes)
}

fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    Ok(cbor::decode(bytes, MAX_RECORD_BYTES)?)
}

fn require(what: &'static str, holds: bool) -> Result<(), BodyError> {
    if holds { Ok(()) } else { Err(BodyError::Invalid(what)) }
}

/// One line for people.
fn line(what: &'static str, text: Option<&str>, limit_chars: usize) -> Result<(), BodyError> {
    let fits = |text: &str| text.chars().count() <= limit_chars && !text.chars().any(char::is_control);
    require(what, text.is_none_or(fits))
}
