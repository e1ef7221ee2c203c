//! Entries as they lie in a segment: a head that says what follows and how long it is, and then that.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `MHC1` |
//! | 1 | 1 a record, 2 a piece of a blob |
//! | 3 | zero |
//! | 32 | the record's id, or the blob's hash |
//! | 8 | bytes that follow, little-endian |
//!
//! A record is followed by its envelope. A piece of a blob is followed by the blob's size, where the piece begins and
//! where it ends (8 bytes each, little-endian), and then by the bao encoding, in groups of 16 KiB and without a size
//! prefix, of the piece and of the blob's last group: that one proves the size.

use super::{BundleError, GROUP_BYTES, MAX_SPAN_BYTES, rule};
use crate::{BlobHash, RecordId, manifest::MAX_BLOB_BYTES, record::MAX_ENVELOPE_BYTES};

const MAGIC: [u8; 4] = *b"MHC1";
const RECORD: u8 = 1;
const BLOB: u8 = 2;
const PAIR_BYTES: u64 = 64;
const SPAN_FIELDS_BYTES: u64 = 24;
/// Hash pairs of a piece of 512 groups, of the way down to it on both sides, and of the way to the last group.
const MAX_PAIRS: u64 = 512 + 3 * 40;

/// Bytes of a record's head.
pub const RECORD_HEAD_BYTES: usize = 48;
/// Bytes of the head of a piece of a blob.
pub const BLOB_HEAD_BYTES: usize = 72;
/// Longest record entry.
pub const MAX_RECORD_FRAME_BYTES: u64 = (RECORD_HEAD_BYTES + MAX_ENVELOPE_BYTES) as u64;
/// Longest entry of a blob.
pub const MAX_BLOB_FRAME_BYTES: u64 = BLOB_HEAD_BYTES as u64 + MAX_SPAN_BYTES + GROUP_BYTES + MAX_PAIRS * PAIR_BYTES;

/// A piece of a blob: whole groups, cut at the blob's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The blob's length in bytes.
    pub size_bytes: u64,
    /// Where it begins: the start of a group.
    pub start: u64,
    /// Where it ends: the end of a group.
    pub end: u64,
}

impl Span {
    /// A piece of a blob. Fails when it isn't one of 1 to 512 whole groups within the blob; the empty blob has one
    /// empty piece.
    pub fn new(size_bytes: u64, start: u64, end: u64) -> Result<Self, BundleError> {
        rule(size_bytes <= MAX_BLOB_BYTES, "a blob over 16 TiB")?;
        let inside = start < end && end <= size_bytes || (size_bytes == 0 && start == 0 && end == 0);
        rule(inside, "a piece that isn't within its blob")?;
        let whole = start.is_multiple_of(GROUP_BYTES) && (end.is_multiple_of(GROUP_BYTES) || end == size_bytes);
        rule(whole, "a piece that isn't whole groups")?;
        rule(end - start <= MAX_SPAN_BYTES, "a piece over 8 MiB")?;
        Ok(Self { size_bytes, start, end })
    }

    /// Where the blob's last group begins.
    pub const fn last_group(&self) -> u64 {
        self.size_bytes.saturating_sub(1) / GROUP_BYTES * GROUP_BYTES
    }

    /// Bytes of the encoding: the groups, and the pairs of hashes on the way to them.
    pub fn encoded_bytes(&self) -> u64 {
        let groups = self.size_bytes.div_ceil(GROUP_BYTES);
        let (first, end) = (self.start / GROUP_BYTES, self.end.div_ceil(GROUP_BYTES));
        let last = if end < groups { self.size_bytes - self.last_group() } else { 0 };
        self.end - self.start + last + PAIR_BYTES * pairs(groups, first, end, true)
    }
}

/// Pairs of a tree over `groups` that lie above one of `first..end` or, with `last`, above the last group. The left
/// part of a tree has as many groups as the largest power of two below.
fn pairs(groups: u64, first: u64, end: u64, last: bool) -> u64 {
    if groups <= 1 || (first >= end && !last) {
        return 0;
    }
    if first == 0 && end == groups {
        return groups - 1;
    }
    let left = 1 << (groups - 1).ilog2();
    let in_left = pairs(left, first.min(left), end.min(left), false);
    let in_right = pairs(groups - left, first.saturating_sub(left), end.saturating_sub(left), last);
    1 + in_left + in_right
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// A record.
    Record {
        /// Its id.
        id: RecordId,
        /// Length of its envelope.
        envelope_bytes: u64,
    },
    /// A piece of a blob.
    Blob {
        /// The blob.
        hash: BlobHash,
        /// Which piece.
        span: Span,
    },
}

impl Frame {
    /// Bytes before the envelope or encoding.
    pub const fn head_bytes(&self) -> u64 {
        match self {
            Self::Record { .. } => RECORD_HEAD_BYTES as u64,
            Self::Blob { .. } => BLOB_HEAD_BYTES as u64,
        }
    }

    /// Bytes of the envelope or encoding.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Self::Record { envelope_bytes, .. } => *envelope_bytes,
            Self::Blob { span, .. } => span.encoded_bytes(),
        }
    }

    /// Bytes of the whole entry.
    pub fn bytes(&self) -> u64 {
        self.head_bytes() + self.payload_bytes()
    }

    /// The 32 bytes that name the record or blob.
    pub const fn name(&self) -> &[u8; 32] {
        match self {
            Self::Record { id, .. } => id.as_bytes(),
            Self::Blob { hash, .. } => hash.as_bytes(),
        }
    }

    /// The head.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(BLOB_HEAD_BYTES);
        head.extend(MAGIC);
        head.extend([if matches!(self, Self::Record { .. }) { RECORD } else { BLOB }, 0, 0, 0]);
        head.extend(self.name());
        head.extend((self.bytes() - RECORD_HEAD_BYTES as u64).to_le_bytes());
        if let Self::Blob { span, .. } = self {
            head.extend([span.size_bytes, span.start, span.end].map(u64::to_le_bytes).concat());
        }
        head
    }

    /// Reads the head at the beginning of `bytes`; what lies behind it isn't looked at. What it says of lengths holds:
    /// whoever reads on may allocate by it.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        const CUT: BundleError = BundleError::Invalid("an entry that is cut off");
        let (fixed, rest) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>().ok_or(CUT)?;
        let [a, b, c, d, kind, 0, 0, 0, more @ ..] = fixed else { return Err(BundleError::Invalid("not an entry")) };
        rule([*a, *b, *c, *d] == MAGIC, "not an entry")?;
        let (name, following) = more.split_first_chunk::<32>().ok_or(CUT)?;
        let following = u64::from_le_bytes(*following.first_chunk().ok_or(CUT)?);
        match *kind {
            RECORD => {
                let fits = (1..=MAX_ENVELOPE_BYTES as u64).contains(&following);
                rule(fits, "a record of impossible length")?;
                Ok(Self::Record { id: RecordId::from_bytes(*name), envelope_bytes: following })
            }
            BLOB => {
                let fields = rest.first_chunk::<24>().ok_or(CUT)?;
                let mut fields = fields.as_chunks::<8>().0.iter().map(|field| u64::from_le_bytes(*field));
                let mut next = || fields.next().unwrap_or_default();
                let span = Span::new(next(), next(), next())?;
                let right = following == SPAN_FIELDS_BYTES + span.encoded_bytes();
                rule(right, "a piece of a blob of impossible length")?;
                Ok(Self::Blob { hash: BlobHash::from_bytes(*name), span })
            }
            _ => Err(BundleError::Invalid("an entry of unknown type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn blob(size_bytes: u64, start: u64, end: u64) -> Frame {
        Frame::Blob { hash: BlobHash::of(b"film"), span: Span::new(size_bytes, start, end).unwrap() }
    }

    #[test]
    fn heads_round_trip() {
        let record = Frame::Record { id: RecordId::from_bytes([7; 32]), envelope_bytes: 500 };
        let largest = blob(MAX_BLOB_BYTES, 3 * MAX_SPAN_BYTES, 4 * MAX_SPAN_BYTES);
        assert!(largest.bytes() <= MAX_BLOB_FRAME_BYTES, "{}", largest.bytes());
        for frame in [record, largest, blob(0, 0, 0), blob(1, 0, 1), blob(50_000, 32_768, 50_000)] {
            let head = frame.encode();
            assert_eq!(head.len() as u64, frame.head_bytes());
            assert_eq!(Frame::decode(&head), Ok(frame));
            assert_eq!(Frame::decode(&[&head[..], &[9; 40]].concat()), Ok(frame), "what follows isn't looked at");
            for len in 0..head.len() {
                assert!(Frame::decode(&head[..len]).is_err(), "cut at {len}");
            }
        }
    }

    #[test]
    fn lengths_are_those_of_the_encoding() {
        // Size, piece, groups in the encoding, pairs in it.
        let cases: &[(u64, u64, u64, u64, u64)] = &[
            (0, 0, 0, 0, 0),
            (10, 0, 10, 10, 0),
            (GROUP_BYTES + 1, 0, GROUP_BYTES, GROUP_BYTES + 1, 1),
            (GROUP_BYTES + 1, GROUP_BYTES, GROUP_BYTES + 1, 1, 1),
            // Four groups: the first needs the root and the left pair, the last the right one.
            (4 * GROUP_BYTES, 0, GROUP_BYTES, 2 * GROUP_BYTES, 3),
            (4 * GROUP_BYTES, 0, 4 * GROUP_BYTES, 4 * GROUP_BYTES, 3),
            // Five: the last one hangs on the root.
            (5 * GROUP_BYTES, 0, GROUP_BYTES, 2 * GROUP_BYTES, 3),
            (5 * GROUP_BYTES, 4 * GROUP_BYTES, 5 * GROUP_BYTES, GROUP_BYTES, 1),
            (64 * MIB, 0, 8 * MIB, 8 * MIB + GROUP_BYTES, 511 + 3 + 11),
        ];
        for &(size, start, end, content, pairs) in cases {
            let span = Span::new(size, start, end).unwrap();
            assert_eq!(span.encoded_bytes(), content + 64 * pairs, "{size} {start}..{end}");
        }
    }

    #[test]
    fn what_no_writer_writes_is_refused_before_anything_is_allocated() {
        let put = |at: usize, value: u64| {
            let mut head = blob(50_000, 0, 50_000).encode();
            head[at..at + 8].copy_from_slice(&value.to_le_bytes());
            head
        };
        let with = |at: usize, byte: u8| {
            let mut head = blob(50_000, 0, 50_000).encode();
            head[at] = byte;
            head
        };
        let record = |bytes: u64| Frame::Record { id: RecordId::from_bytes([7; 32]), envelope_bytes: bytes }.encode();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", vec![]),
            ("zeros", vec![0; 72]),
            ("magic", with(0, b'X')),
            ("type 0", with(4, 0)),
            ("type 3", with(4, 3)),
            ("padding", with(5, 1)),
            ("length of all there is", put(40, u64::MAX)),
            ("length 0", put(40, 0)),
            ("size 2^63", put(48, 1 << 63)),
            ("size of all there is", put(48, u64::MAX)),
            ("a smaller size", put(48, 100)),
            ("start in a group", put(56, 100)),
            ("start behind the end", put(56, GROUP_BYTES * 4)),
            ("end of all there is", put(64, u64::MAX)),
            ("end in a group", put(64, GROUP_BYTES + 1)),
            ("a record of no bytes", record(0)),
            ("a record too long", record(MAX_ENVELOPE_BYTES as u64 + 1)),
            ("a record of all there is", record(u64::MAX - 48)),
        ];
        for (name, head) in cases {
            assert!(Frame::decode(&head).is_err(), "{name}");
        }
        assert!(Span::new(64 * MIB, 0, 8 * MIB + GROUP_BYTES).is_err(), "over 8 MiB");
        assert!(Span::new(10, 0, 0).is_err(), "an empty piece");
    }
}
