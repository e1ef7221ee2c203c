//! The want-list: what the node that imported last still lacks, so that the next bundle brings only that.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::{BundleError, DAY_MS, GROUP_BYTES, at_most, rule};
use crate::{
    AuthorId, BlobHash, NetworkId, RecordId, SecretKey, Timestamp, cbor, manifest::MAX_BLOB_BYTES, record::MAX_SEQ,
    wire::Head,
};

/// The version of the want-list.
pub const WANTS_VERSION: u8 = 1;
/// Longest want-list, in bytes.
pub const MAX_WANTS_BYTES: usize = 16 << 20;
/// Most heads in a want-list.
pub const MAX_WANT_HEADS: usize = 1 << 16;
/// Most blobs in a want-list.
pub const MAX_LACKS: usize = 1 << 16;
/// Most missing ranges of one blob.
pub const MAX_LACK_RANGES: usize = 1024;

const MARK_CONTEXT: &str = "mhc 2026 bundle want-list mark v1";

/// What a node has of the logs, and what it lacks of blobs. It isn't signed and names no node: whoever changes it can
/// only make the next bundle larger or smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantList {
    /// Of which network.
    pub network: NetworkId,
    /// The day it was made, as the start of that day.
    pub made: Timestamp,
    /// By this its writer knows it again ([`WantList::mark_of`]), and nobody else learns anything from it.
    pub mark: [u8; 32],
    /// The ends of its logs, ascending by author. A log that isn't here is missing.
    pub heads: Vec<Head>,
    /// What is missing of blobs whose manifests are in those logs; all else of them is there.
    pub lacks: Vec<Lack>,
}

/// What is missing of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The blob.
    pub hash: BlobHash,
    /// The missing groups of 16 KiB, ascending and apart; empty when all of them are.
    pub groups: Vec<Range<u64>>,
}

/// The file: the map's bytes and their BLAKE3.
#[derive(Serialize, Deserialize)]
struct Envelope(ByteBuf, ByteArray<32>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    network: NetworkId,
    made: Timestamp,
    mark: ByteArray<32>,
    heads: Vec<(AuthorId, u64, u64, RecordId)>,
    lacks: Vec<(BlobHash, Vec<(u64, u64)>)>,
}

impl WantList {
    /// The mark of a want-list that the node with this key makes on the day `made`.
    pub fn mark_of(key: &SecretKey, network: NetworkId, made: Timestamp) -> [u8; 32] {
        let made = made.as_millis().to_le_bytes();
        blake3::derive_key(MARK_CONTEXT, &[&key.seed()[..], network.as_bytes(), &made].concat())
    }

    /// Whether the node with this key made it.
    pub fn is_of(&self, key: &SecretKey) -> bool {
        self.mark == Self::mark_of(key, self.network, self.made)
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        self.check()?;
        let wire = Wire {
            v: WANTS_VERSION,
            network: self.network,
            made: self.made,
            mark: ByteArray::new(self.mark),
            heads: self.heads.iter().map(|head| (head.author, head.epoch, head.seq, head.id)).collect(),
            lacks: self.lacks.iter().map(Lack::to_wire).collect(),
        };
        let map = cbor::encode(&wire)?;
        let hash = ByteArray::new(*blake3::hash(&map).as_bytes());
        let file = cbor::encode(&Envelope(ByteBuf::from(map), hash))?;
        at_most("bytes of want-list", file.len(), MAX_WANTS_BYTES)?;
        Ok(file)
    }

    /// Reads the file.
    pub fn decode(file: &[u8]) -> Result<Self, BundleError> {
        let Envelope(map, hash) = cbor::decode(file, MAX_WANTS_BYTES)?;
        rule_checksum(&map, &hash)?;
        let wire: Wire = cbor::decode(&map, MAX_WANTS_BYTES)?;
        if wire.v != WANTS_VERSION {
            return Err(BundleError::Version(wire.v));
        }
        let head = |(author, epoch, seq, id)| Head { author, epoch, seq, id };
        let lack = |(hash, groups): (BlobHash, Vec<(u64, u64)>)| Lack {
            hash,
            groups: groups.into_iter().map(|(start, end)| start..end).collect(),
        };
        let list = Self {
            network: wire.network,
            made: wire.made,
            mark: wire.mark.into_array(),
            heads: wire.heads.into_iter().map(head).collect(),
            lacks: wire.lacks.into_iter().map(lack).collect(),
        };
        list.check()?;
        Ok(list)
    }

    fn check(&self) -> Result<(), BundleError> {
        at_most("heads", self.heads.len(), MAX_WANT_HEADS)?;
        at_most("blobs", self.lacks.len(), MAX_LACKS)?;
        rule(self.made.as_millis().is_multiple_of(DAY_MS), "a time that isn't the start of a day")?;
        let ascend = self.heads.windows(2).all(|pair| matches!(pair, [a, b] if a.author < b.author));
        rule(ascend, "heads out of order")?;
        let bounded = self.heads.iter().all(|head| head.epoch <= MAX_SEQ && head.seq <= MAX_SEQ);
        rule(bounded, "a head out of bounds")?;
        self.lacks.iter().try_for_each(Lack::check)
    }
}

fn rule_checksum(map: &[u8], hash: &[u8; 32]) -> Result<(), BundleError> {
    match blake3::hash(map).as_bytes() == hash {
        true => Ok(()),
        false => Err(BundleError::Checksum),
    }
}

impl Lack {
    fn to_wire(&self) -> (BlobHash, Vec<(u64, u64)>) {
        (self.hash, self.groups.iter().map(|range| (range.start, range.end)).collect())
    }

    fn check(&self) -> Result<(), BundleError> {
        at_most("missing ranges", self.groups.len(), MAX_LACK_RANGES)?;
        let inside =
            self.groups.iter().all(|range| range.start < range.end && range.end <= MAX_BLOB_BYTES / GROUP_BYTES);
        let apart = self.groups.windows(2).all(|pair| matches!(pair, [a, b] if a.end < b.start));
        rule(inside && apart, "missing ranges out of order or bounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> WantList {
        let head =
            |n: u8| Head { author: AuthorId::from_bytes([n; 32]), epoch: 1, seq: 5, id: RecordId::from_bytes([n; 32]) };
        WantList {
            network: NetworkId::from_bytes([9; 32]),
            made: Timestamp(20_000 * DAY_MS),
            mark: [7; 32],
            heads: vec![head(1), head(2)],
            lacks: vec![
                Lack { hash: BlobHash::of(b"all of it"), groups: vec![] },
                Lack { hash: BlobHash::of(b"some of it"), groups: vec![0..16, 32..33] },
            ],
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(WantList::decode(&list().encode().unwrap()), Ok(list()));
    }

    #[test]
    fn only_its_writer_knows_it_again() {
        let [writer, other] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
        let mark = WantList::mark_of(&writer, list().network, list().made);
        let list = WantList { mark, ..list() };
        assert!(list.is_of(&writer) && !list.is_of(&other));
    }

    #[test]
    fn out_of_bounds_is_refused_by_writer_and_reader() {
        type Change = fn(&mut WantList);
        let cases: &[(&str, Change)] = &[
            ("heads out of order", |l| l.heads.reverse()),
            ("the same head twice", |l| l.heads[1] = l.heads[0]),
            ("a far seq", |l| l.heads[0].seq = u64::MAX),
            ("a far epoch", |l| l.heads[0].epoch = u64::MAX),
            ("an empty range", |l| l.lacks[1].groups[0] = 0..0),
            ("ranges that touch", |l| l.lacks[1].groups[1] = 16..20),
            ("ranges out of order", |l| l.lacks[1].groups.reverse()),
            ("a range behind all blobs", |l| l.lacks[1].groups[1] = 32..u64::MAX),
            ("too many ranges", |l| l.lacks[1].groups = (0..1025).map(|n| 2 * n..2 * n + 1).collect()),
            ("too many blobs", |l| l.lacks = vec![l.lacks[0].clone(); MAX_LACKS + 1]),
            ("a minute", |l| l.made = Timestamp(60_000)),
        ];
        for (name, change) in cases {
            let mut bad = list();
            change(&mut bad);
            assert!(bad.encode().is_err(), "{name}");
            let WantList { network, made, mark, heads, lacks } = bad;
            let heads = heads.iter().map(|head| (head.author, head.epoch, head.seq, head.id)).collect();
            let (mark, lacks) = (ByteArray::new(mark), lacks.iter().map(Lack::to_wire).collect());
            let wire = Wire { v: 1, network, made, mark, heads, lacks };
            let map = cbor::encode(&wire).unwrap();
            let hash = ByteArray::new(*blake3::hash(&map).as_bytes());
            let forged = cbor::encode(&Envelope(ByteBuf::from(map), hash)).unwrap();
            let read = WantList::decode(&forged);
            assert!(matches!(read, Err(BundleError::Invalid(_) | BundleError::TooMany { .. })), "{name}: {read:?}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = list().encode().unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(WantList::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(WantList::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
