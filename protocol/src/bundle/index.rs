//! The index of a bundle: what is in it and where, signed by the node that made it.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::{
    BLOB_HEAD_BYTES, BundleError, DAY_MS, MAX_BLOB_FRAME_BYTES, MAX_ENTRIES, MAX_INDEX_BYTES, MAX_RECORD_FRAME_BYTES,
    MAX_SEGMENT_BYTES, MAX_SEGMENTS, RECORD_HEAD_BYTES, at_most, rule,
};
use crate::{AuthorId, NetworkId, NodeId, SecretKey, Signature, Timestamp, cbor};

/// The version of the index.
pub const INDEX_VERSION: u8 = 1;
/// What is signed is a hash made for this purpose alone, so that no other signature of the key can stand in for it.
const SIGN_CONTEXT: &str = "mhc 2026 bundle index v1";

/// What is in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The network of its records.
    pub network: NetworkId,
    /// The node that made and signed it. Nobody else who carried it is named.
    pub node: NodeId,
    /// The day it was made, as the start of that day.
    pub made: Timestamp,
    /// The day from which on contents were taken; none when all were.
    pub since: Option<Timestamp>,
    /// Its segments in order.
    pub segments: Vec<Segment>,
    /// Its entries in order: records first, then pieces of blobs, back to back through all segments.
    pub entries: Vec<Entry>,
}

/// A file of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of it.
    pub hash: [u8; 32],
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A record.
    Record,
    /// A piece of a blob.
    Blob,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The record's id or the blob's hash.
    pub name: [u8; 32],
    /// Its length, head included.
    pub bytes: u64,
    /// The number of its segment.
    pub segment: u32,
    /// Where in the segment it begins.
    pub offset: u64,
}

/// The file: the map's bytes and the signature.
#[derive(Serialize, Deserialize)]
struct Envelope(ByteBuf, ByteArray<64>);

/// Type, name, length, segment, offset.
type WireEntry = (u8, ByteArray<32>, u64, u32, u64);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    network: NetworkId,
    node: NodeId,
    made: Timestamp,
    since: Option<Timestamp>,
    segments: Vec<(u64, ByteArray<32>)>,
    entries: Vec<WireEntry>,
}

impl Index {
    /// The bytes of the index file, signed by the node that `key` is.
    ///
    /// Fails when the index is out of bounds, or `node` isn't that node.
    pub fn seal(&self, key: &SecretKey) -> Result<Vec<u8>, BundleError> {
        self.check()?;
        rule(self.node == key.node(), "signed by another node than it says")?;
        let wire = Wire {
            v: INDEX_VERSION,
            network: self.network,
            node: self.node,
            made: self.made,
            since: self.since,
            segments: self.segments.iter().map(|segment| (segment.bytes, ByteArray::new(segment.hash))).collect(),
            entries: self.entries.iter().copied().map(Entry::to_wire).collect(),
        };
        let map = cbor::encode(&wire)?;
        let signature = key.sign(&to_sign(&map));
        let file = cbor::encode(&Envelope(ByteBuf::from(map), ByteArray::new(signature.0)))?;
        at_most("bytes of index", file.len(), MAX_INDEX_BYTES)?;
        Ok(file)
    }

    /// Reads an index file and checks its signature and that its entries lie back to back in its segments.
    pub fn open(file: &[u8]) -> Result<Self, BundleError> {
        let Envelope(map, signature) = cbor::decode(file, MAX_INDEX_BYTES)?;
        let wire: Wire = cbor::decode(&map, MAX_INDEX_BYTES)?;
        if wire.v != INDEX_VERSION {
            return Err(BundleError::Version(wire.v));
        }
        let signer = AuthorId::from(wire.node);
        if !Signature(signature.into_array()).verifies(&signer, &to_sign(&map)) {
            return Err(BundleError::Signature);
        }
        at_most("segments", wire.segments.len(), MAX_SEGMENTS)?;
        at_most("entries", wire.entries.len(), MAX_ENTRIES)?;
        let segment = |(bytes, hash): (u64, ByteArray<32>)| Segment { bytes, hash: hash.into_array() };
        let index = Self {
            network: wire.network,
            node: wire.node,
            made: wire.made,
            since: wire.since,
            segments: wire.segments.into_iter().map(segment).collect(),
            entries: wire.entries.into_iter().map(Entry::from_wire).collect::<Result<_, _>>()?,
        };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), BundleError> {
        at_most("segments", self.segments.len(), MAX_SEGMENTS)?;
        at_most("entries", self.entries.len(), MAX_ENTRIES)?;
        let is_day = |at: Timestamp| at.as_millis().is_multiple_of(DAY_MS);
        rule(is_day(self.made) && self.since.is_none_or(is_day), "a time that isn't the start of a day")?;
        let fits = |segment: &Segment| (1..=MAX_SEGMENT_BYTES).contains(&segment.bytes);
        rule(self.segments.iter().all(fits), "a segment of impossible length")?;
        let records_first = self.entries.is_sorted_by_key(|entry| entry.kind == EntryKind::Blob);
        rule(records_first, "a record behind a blob")?;
        self.check_places()
    }

    /// Every byte of every segment belongs to exactly one entry.
    fn check_places(&self) -> Result<(), BundleError> {
        let mut segments = (0_u32..).zip(&self.segments);
        let (mut current, mut left) = (None, 0);
        for entry in &self.entries {
            if left == 0 {
                let next = segments.next();
                (current, left) = (next.map(|(number, _)| number), next.map_or(0, |(_, segment)| segment.bytes));
            }
            let offset = current.and_then(|number| self.segments.get(number as usize)).map_or(0, |s| s.bytes) - left;
            let in_place = current == Some(entry.segment) && entry.offset == offset && entry.bytes <= left;
            rule(in_place && entry.has_possible_length(), "entries that don't lie back to back in their segments")?;
            left -= entry.bytes;
        }
        rule(left == 0 && segments.next().is_none(), "a segment with more in it than entries")
    }
}

impl Entry {
    fn has_possible_length(&self) -> bool {
        match self.kind {
            EntryKind::Record => self.bytes > RECORD_HEAD_BYTES as u64 && self.bytes <= MAX_RECORD_FRAME_BYTES,
            EntryKind::Blob => (BLOB_HEAD_BYTES as u64..=MAX_BLOB_FRAME_BYTES).contains(&self.bytes),
        }
    }

    fn to_wire(self) -> WireEntry {
        let kind = if self.kind == EntryKind::Record { 1 } else { 2 };
        (kind, ByteArray::new(self.name), self.bytes, self.segment, self.offset)
    }

    fn from_wire((kind, name, bytes, segment, offset): WireEntry) -> Result<Self, BundleError> {
        let kind = match kind {
            1 => EntryKind::Record,
            2 => EntryKind::Blob,
            _ => return Err(BundleError::Invalid("an entry of unknown type")),
        };
        Ok(Self { kind, name: name.into_array(), bytes, segment, offset })
    }
}

fn to_sign(map: &[u8]) -> [u8; 32] {
    blake3::derive_key(SIGN_CONTEXT, map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn entry(kind: EntryKind, bytes: u64, segment: u32, offset: u64) -> Entry {
        Entry { kind, name: [offset as u8; 32], bytes, segment, offset }
    }

    fn index() -> Index {
        Index {
            network: SecretKey::from_seed(&[2; 32]).network(),
            node: key().node(),
            made: Timestamp(20_000 * DAY_MS),
            since: Some(Timestamp(19_000 * DAY_MS)),
            segments: vec![Segment { bytes: 1500, hash: [5; 32] }, Segment { bytes: 3000, hash: [6; 32] }],
            entries: vec![
                entry(EntryKind::Record, 500, 0, 0),
                entry(EntryKind::Record, 1000, 0, 500),
                entry(EntryKind::Blob, 1000, 1, 0),
                entry(EntryKind::Blob, 2000, 1, 1000),
            ],
        }
    }

    #[test]
    fn round_trips_and_is_empty_when_there_is_nothing() {
        assert_eq!(Index::open(&index().seal(&key()).unwrap()), Ok(index()));
        let empty = Index { segments: vec![], entries: vec![], since: None, ..index() };
        assert_eq!(Index::open(&empty.seal(&key()).unwrap()), Ok(empty));
    }

    /// Signs whatever `change` makes of a good index, as a hostile node would.
    fn forge(change: impl FnOnce(&mut Wire)) -> Vec<u8> {
        let Index { network, node, made, since, segments, entries } = index();
        let segments = segments.iter().map(|segment| (segment.bytes, ByteArray::new(segment.hash))).collect();
        let entries = entries.into_iter().map(Entry::to_wire).collect();
        let mut wire = Wire { v: 1, network, node, made, since, segments, entries };
        change(&mut wire);
        let map = cbor::encode(&wire).unwrap();
        let signature = key().sign(&to_sign(&map));
        cbor::encode(&Envelope(ByteBuf::from(map), ByteArray::new(signature.0))).unwrap()
    }

    #[test]
    fn indexes_that_lie_about_places_and_lengths_are_refused() {
        type Change = fn(&mut Wire);
        let cases: &[(&str, Change)] = &[
            ("a gap", |w| w.entries[1].4 = 600),
            ("an overlap", |w| w.entries[1].4 = 400),
            ("the same bytes twice", |w| w.entries[3] = w.entries[2]),
            ("a segment that isn't there", |w| w.entries[3].3 = 2),
            ("a segment left out", |w| w.entries.truncate(2)),
            ("a segment too many", |w| w.segments.push((10, ByteArray::new([0; 32])))),
            ("an entry too many", |w| w.entries.push(w.entries[3])),
            ("more bytes than entries", |w| w.segments[1].0 = 3001),
            ("fewer bytes than entries", |w| w.segments[1].0 = 2999),
            ("an entry of all there is", |w| w.entries[0].2 = u64::MAX),
            ("an offset of all there is", |w| w.entries[1].4 = u64::MAX),
            ("a segment of all there is", |w| w.segments[0].0 = u64::MAX),
            ("an empty segment", |w| w.segments[0].0 = 0),
            ("a segment over 1 GiB", |w| {
                w.segments = vec![(MAX_SEGMENT_BYTES + 1, ByteArray::new([0; 32]))];
                w.entries = vec![];
            }),
            ("a record as long as a blob", |w| {
                w.segments = vec![(100_000, ByteArray::new([0; 32]))];
                w.entries = vec![(1, ByteArray::new([0; 32]), 100_000, 0, 0)];
            }),
            ("a blob without a head", |w| {
                w.segments = vec![(71, ByteArray::new([0; 32]))];
                w.entries = vec![(2, ByteArray::new([0; 32]), 71, 0, 0)];
            }),
            ("a record behind a blob", |w| w.entries[3].0 = 1),
            ("an unknown type", |w| w.entries[3].0 = 3),
            ("the minute it was made", |w| w.made = Timestamp(20_000 * DAY_MS + 60_000)),
            ("the minute it is from", |w| w.since = Some(Timestamp(1))),
            ("too many segments", |w| w.segments = vec![(1, ByteArray::new([0; 32])); MAX_SEGMENTS + 1]),
        ];
        for (name, change) in cases {
            let forged = Index::open(&forge(change));
            assert!(matches!(forged, Err(BundleError::Invalid(_) | BundleError::TooMany { .. })), "{name}: {forged:?}");
        }
        assert_eq!(Index::open(&forge(|w| w.v = 2)), Err(BundleError::Version(2)));
        let other = SecretKey::from_seed(&[9; 32]).node();
        assert_eq!(Index::open(&forge(|w| w.node = other)), Err(BundleError::Signature));
    }

    #[test]
    fn what_cant_be_read_cant_be_written() {
        let mut bad = index();
        bad.entries[1].offset = 0;
        assert!(bad.seal(&key()).is_err());
        assert!(index().seal(&SecretKey::from_seed(&[3; 32])).is_err(), "another node's key");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = index().seal(&key()).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Index::open(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Index::open(&good[..len]).is_err(), "cut at {len}");
        }
        assert!(Index::open(&[&good[..], &[0]].concat()).is_err(), "something behind it");
        let giant = [0x82, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(Index::open(&giant).is_err());
        assert!(Index::open(&vec![0x81; 1 << 20]).is_err(), "deep nesting");
    }
}
