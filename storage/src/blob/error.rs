//! What can go wrong in the blob store, and whose fault it is.

use std::{io, path::PathBuf};

use crate::source::SourceError;

/// Why the blob store couldn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The blob, or one of the asked-for ranges, isn't here.
    #[error("the blob or a part of it isn't in the store")]
    Missing,
    /// The range ends behind the blob.
    #[error("the range lies outside the blob's {size_bytes} bytes")]
    OutOfRange {
        /// The blob's size.
        size_bytes: u64,
    },
    /// The caller's own limit was exceeded while importing; nothing was kept.
    #[error("more than the allowed {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The disk is full, or would be left with less than `min_free_bytes`, and nothing can be evicted.
    #[error("the disk is full")]
    StorageFull,
    /// The quota is used up by blobs that can't be evicted, or is smaller than what was asked for.
    #[error("the quota of {quota_bytes} bytes is used up")]
    QuotaExceeded {
        /// The quota.
        quota_bytes: u64,
    },
    /// The claimed size isn't the one already proven for this hash.
    #[error("the blob has {known_bytes} bytes, not {claimed_bytes}")]
    SizeMismatch {
        /// The size in the store.
        known_bytes: u64,
        /// The size the caller gave.
        claimed_bytes: u64,
    },
    /// A referenced file changed or vanished. It is no longer offered; the file is left alone.
    #[error("{} changed or vanished after it was imported", path.display())]
    Changed {
        /// The user's file.
        path: PathBuf,
    },
    /// Bytes on disk no longer match the hash. The damaged groups are no longer offered and can be fetched again.
    #[error("bytes on disk no longer match the hash")]
    Damaged,
    /// What should be imported isn't a regular file.
    #[error("{} isn't a regular file", path.display())]
    NotAFile {
        /// What the caller named.
        path: PathBuf,
    },
    /// What should be imported can't be opened or read.
    #[error("can't read {}: {source}", path.display())]
    Unreadable {
        /// What the caller named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller's stream failed while importing; nothing was kept.
    #[error("the stream to import failed: {0}")]
    Stream(io::Error),
    /// An item lies outside the blob's tree: a mistake of the caller.
    #[error("an item to write lies outside the blob")]
    InvalidItem,
    /// The receiver of an encoding went away.
    #[error("the receiver went away")]
    ReceiverGone,
    /// Another process (or another store in this one) has this folder open.
    #[error("another process has the blob store open")]
    Locked,
    /// The store was shut down.
    #[error("the blob store is shut down")]
    Closed,
    /// The file system failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The metadata database failed. The outcome of what was asked is unknown; asking again is safe.
    #[error("blob metadata: {0}")]
    Meta(String),
}

impl BlobError {
    /// An I/O failure in `step`; a full disk gets its own variant.
    pub(super) fn io(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| if is_full(&source) { Self::StorageFull } else { Self::Io { step, source } }
    }
}

/// True for "no space left", "quota exceeded" and "file too large for this file system".
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl From<BlobError> for SourceError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing | BlobError::Changed { .. } => Self::NoSource,
            BlobError::OutOfRange { size_bytes } => Self::OutOfRange { size: size_bytes },
            BlobError::StorageFull | BlobError::QuotaExceeded { .. } => Self::StorageFull,
            other => Self::Internal(other.to_string()),
        }
    }
}
