//! What the engine's tables hold.
//!
//! | table | key | value |
//! |---|---|---|
//! | `log` | network, author, epoch, seq, id | the record as it travels |
//! | `ids` | id | network, author, epoch, seq; then a byte: 1 if the body is there, plus 2 if it is in the index |
//! | `heads` | network, author | epoch, seq, id of the active chain's last record |
//! | `meters` | network, author | what the active chain has used of its limits, in CBOR |
//! | `governance` | network, id | what an active record says about who may what, in CBOR |
//! | `erased` | author, id of a record that its author withdrew | - |
//! | `stray-erased` | the same, where the withdrawal itself isn't kept in a log | - |
//! | `outbox` | number | id |
//! | `quarantine` | as `log` | what was found instead of the record |
//! | `meta` | name | see below |
//! | `private/<table>` | the node's own | the node's own |
//! | `index/<generation>/<projection>/<table>` | the projection's | the projection's |
//!
//! Numbers are 64-bit big-endian, so that the order of keys is theirs. At one position the active record is the
//! one with the smallest id, so it is the first.

use mhc_protocol::{AuthorId, NetworkId, RecordId, record::Header};

use super::Head;

pub(super) const LOG: &str = "log";
pub(super) const IDS: &str = "ids";
pub(super) const HEADS: &str = "heads";
pub(super) const METERS: &str = "meters";
pub(super) const GOVERNANCE: &str = "governance";
pub(super) const ERASED: &str = "erased";
pub(super) const STRAY_ERASED: &str = "stray-erased";
pub(super) const OUTBOX: &str = "outbox";
pub(super) const QUARANTINE: &str = "quarantine";
pub(super) const META: &str = "meta";
/// In `meta`: the version of this layout.
pub(super) const FORMAT: &[u8] = b"format";
/// In `meta`: how many records the log holds.
pub(super) const COUNT: &[u8] = b"count";
/// In `meta`: the number of the next entry of the outbox.
pub(super) const OUTBOX_NEXT: &[u8] = b"outbox-next";
/// The layout that this module describes.
pub(super) const FORMAT_VERSION: u64 = 2;
/// Layouts that are brought up to this one by replaying the logs: 1 didn't note what is in the index.
pub(super) const UPGRADED_FORMATS: std::ops::Range<u64> = 1..FORMAT_VERSION;

/// What `ids` says of a record beside its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) has_body: bool,
    /// Whether it is in the index, as far as projections want it.
    pub(super) shown: bool,
}

impl State {
    fn encode(self) -> u8 {
        u8::from(self.has_body) | u8::from(self.shown) << 1
    }

    fn decode(byte: u8) -> Self {
        Self { has_body: byte & 1 != 0, shown: byte & 2 != 0 }
    }
}

/// Whose log, in which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LogId {
    pub(super) network: NetworkId,
    pub(super) author: AuthorId,
}

impl LogId {
    pub(super) fn of(header: &Header) -> Self {
        Self { network: header.network, author: header.author }
    }

    /// The key in `heads`, and what the keys of its records begin with.
    pub(super) fn key(&self) -> [u8; 64] {
        pair(self.network.as_bytes(), self.author.as_bytes())
    }

    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let (network, author) = key.split_first_chunk::<32>()?;
        Some(Self { network: NetworkId::from_bytes(*network), author: AuthorId::from_bytes(author.try_into().ok()?) })
    }
}

/// A place in a log; a higher epoch comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

impl Position {
    /// Where every log begins.
    pub(super) const START: Self = Self { epoch: 0, seq: 0 };

    pub(super) fn of(header: &Header) -> Self {
        Self { epoch: header.epoch, seq: header.seq }
    }

    /// Whether a record here may follow one at `before`: the next, or the first of the next epoch.
    pub(super) fn follows(self, before: Self) -> bool {
        let next = Self { epoch: before.epoch, seq: before.seq.saturating_add(1) };
        self == next || self == Self { epoch: before.epoch.saturating_add(1), seq: 0 }
    }

    /// The position's part of a key. Bounded by the protocol, so adding one to it never overflows.
    pub(super) fn key(self, log: LogId) -> [u8; 80] {
        let mut key = [0; 80];
        key[..64].copy_from_slice(&log.key());
        key[64..72].copy_from_slice(&self.epoch.to_be_bytes());
        key[72..].copy_from_slice(&self.seq.to_be_bytes());
        key
    }

    /// The first key after every record here.
    pub(super) fn key_after(self, log: LogId) -> [u8; 80] {
        Self { epoch: self.epoch, seq: self.seq.saturating_add(1) }.key(log)
    }
}

/// The key of a record in `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogKey {
    pub(super) log: LogId,
    pub(super) position: Position,
    pub(super) id: RecordId,
}

impl LogKey {
    pub(super) fn of(header: &Header, id: RecordId) -> Self {
        Self { log: LogId::of(header), position: Position::of(header), id }
    }

    pub(super) fn encode(&self) -> [u8; 112] {
        let mut key = [0; 112];
        key[..80].copy_from_slice(&self.position.key(self.log));
        key[80..].copy_from_slice(self.id.as_bytes());
        key
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (place, id) = key.split_first_chunk::<80>()?;
        Self::at(place, RecordId::from_bytes(id.try_into().ok()?))
    }

    /// From the place part of a key, or of a value in `ids`, and the id.
    fn at(place: &[u8], id: RecordId) -> Option<Self> {
        let log = LogId::from_key(place.get(..64)?)?;
        let position = Position { epoch: number(place.get(64..72)?)?, seq: number(place.get(72..80)?)? };
        Some(Self { log, position, id })
    }

    /// The value in `ids`.
    pub(super) fn id_value(&self, state: State) -> [u8; 81] {
        let mut value = [0; 81];
        value[..80].copy_from_slice(&self.position.key(self.log));
        value[80] = state.encode();
        value
    }

    /// From a value in `ids`.
    pub(super) fn from_id_value(value: &[u8], id: RecordId) -> Option<(Self, State)> {
        Some((Self::at(value, id)?, State::decode(*value.get(80)?)))
    }

    /// The key in `governance`.
    pub(super) fn governance_key(&self) -> [u8; 64] {
        pair(self.log.network.as_bytes(), self.id.as_bytes())
    }
}

/// The key in `erased` and `stray-erased`.
pub(super) fn erased_key(author: AuthorId, record: RecordId) -> [u8; 64] {
    pair(author.as_bytes(), record.as_bytes())
}

fn pair(first: &[u8; 32], second: &[u8; 32]) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(first);
    key[32..].copy_from_slice(second);
    key
}

pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Head {
    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    pub(super) fn at(key: &LogKey) -> Self {
        Self { author: key.log.author, epoch: key.position.epoch, seq: key.position.seq, id: key.id }
    }

    pub(super) fn encode(&self) -> [u8; 48] {
        let mut value = [0; 48];
        value[..8].copy_from_slice(&self.epoch.to_be_bytes());
        value[8..16].copy_from_slice(&self.seq.to_be_bytes());
        value[16..].copy_from_slice(self.id.as_bytes());
        value
    }

    pub(super) fn decode(author: AuthorId, value: &[u8]) -> Option<Self> {
        let id = RecordId::from_bytes(value.get(16..)?.try_into().ok()?);
        Some(Self { author, epoch: number(value.get(..8)?)?, seq: number(value.get(8..16)?)?, id })
    }
}
