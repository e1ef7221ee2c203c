//! Bundles: records and blobs that travel as files, on a stick in somebody's pocket.
//!
//! A bundle is a folder: a signed [`Index`], segments of at most 1 GiB that hold entries back to back, and a mark
//! that is written last ([`commit_text`]). Each entry ([`Frame`]) can be checked by itself: a record by its
//! signature, a piece of a blob by the hashes on the way to the blob's name. A [`WantList`] travels back and says
//! what is still missing. Names of files are computed here from numbers; none is ever taken from a bundle.
//! `docs/protocol.md` describes the same for implementers.

mod frame;
mod index;
mod names;
mod wants;

pub use self::{
    frame::{BLOB_HEAD_BYTES, Frame, MAX_BLOB_FRAME_BYTES, MAX_RECORD_FRAME_BYTES, RECORD_HEAD_BYTES, Span},
    index::{Entry, EntryKind, INDEX_VERSION, Index, Segment},
    names::{BundleId, media_name, segment_name},
    wants::{Lack, MAX_LACK_RANGES, MAX_LACKS, MAX_WANT_HEADS, MAX_WANTS_BYTES, WANTS_VERSION, WantList},
};

use crate::cbor::CborError;

/// The folder of bundles.
pub const BUNDLES_DIR: &str = "MHC";
/// The folder of copies that any player can open.
pub const MEDIA_DIR: &str = "MEDIA";
/// The signed index of a bundle.
pub const INDEX_FILE: &str = "INDEX.CBR";
/// The mark that a bundle is finished.
pub const COMMIT_FILE: &str = "COMMIT";
/// What the last node that imported still lacks, beside the bundles.
pub const WANTS_FILE: &str = "WANTS.CBR";

/// Bytes of a chunk group: the unit in which blobs are cut and checked.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Longest segment: FAT holds files of up to 4 GiB, and old tools fewer.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Most segments of a bundle.
pub const MAX_SEGMENTS: usize = 16_384;
/// Most entries of a bundle.
pub const MAX_ENTRIES: usize = 1 << 18;
/// Longest index, signature included.
pub const MAX_INDEX_BYTES: usize = 16 << 20;
/// Most bytes of a blob in one entry: 512 groups. An entry is checked as a whole before any of it is stored.
pub const MAX_SPAN_BYTES: u64 = 8 << 20;
/// Length of the mark: 64 hexadecimal digits and a line feed.
pub const COMMIT_BYTES: usize = 65;
/// A day, in milliseconds: bundles tell no finer time.
pub const DAY_MS: u64 = 24 * 3600 * 1000;

/// Why bytes aren't part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not the deterministic encoding, or too large.
    #[error("{0}")]
    Cbor(#[from] CborError),
    /// Made by a newer program.
    #[error("format version {0} is unknown; a newer program made it")]
    Version(u8),
    /// Changed after it was signed.
    #[error("the signature doesn't match")]
    Signature,
    /// Changed after it was written.
    #[error("the checksum doesn't match")]
    Checksum,
    /// More than there may be.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A field has a value that no honest writer gives it.
    #[error("{0}")]
    Invalid(&'static str),
}

/// What the mark says: BLAKE3 of the index file in hexadecimal, and a line feed.
pub fn commit_text(index: &[u8]) -> String {
    format!("{}\n", blake3::hash(index).to_hex())
}

/// Whether `mark` is the mark of this index file.
pub fn is_committed(mark: &[u8], index: &[u8]) -> bool {
    mark == commit_text(index).as_bytes()
}

/// The start of the day (UTC) that `ms` since the Unix epoch lies in.
pub const fn day_of(ms: u64) -> u64 {
    ms / DAY_MS * DAY_MS
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), BundleError> {
    match count > limit {
        true => Err(BundleError::TooMany { what, limit }),
        false => Ok(()),
    }
}

fn rule(holds: bool, otherwise: &'static str) -> Result<(), BundleError> {
    match holds {
        true => Ok(()),
        false => Err(BundleError::Invalid(otherwise)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_belongs_to_one_index() {
        let mark = commit_text(b"index");
        assert_eq!(mark.len(), COMMIT_BYTES);
        assert!(is_committed(mark.as_bytes(), b"index"));
        for (mark, index) in [(mark.as_str(), "other"), (mark.trim(), "index"), ("", "index"), ("\n", "index")] {
            assert!(!is_committed(mark.as_bytes(), index.as_bytes()), "{mark:?} {index:?}");
        }
    }

    #[test]
    fn days_begin_at_midnight() {
        assert_eq!((day_of(0), day_of(DAY_MS - 1), day_of(DAY_MS)), (0, 0, DAY_MS));
        assert_eq!(day_of(u64::MAX) % DAY_MS, 0);
    }
}
