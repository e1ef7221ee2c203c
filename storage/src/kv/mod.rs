//! The small ordered key-value store that everything durable stands on, and the engines behind it.
//!
//! An [`Engine`] holds named tables of byte keys and values in key order. One writer at a time; readers see the
//! state of the last commit for as long as they hold their transaction. A committed transaction is there whole
//! or not at all after a crash, and with [`Durability::Durable`] it is there.
//!
//! | engine | fit for truth | where |
//! |---|---|---|
//! | [`redb`](redb::Redb) | yes: the default | one file |
//! | [`memory`](memory::Memory) | no: lives in memory | tests |
//! | `fjall` | yes, opt-in by the feature `engine-fjall` | a folder |
//! | `sled` | **no**: see its module; opt-in by the feature `engine-sled` | a folder |
//!
//! The suite in `storage/tests/suite` runs the same conformance and kill-9 tests against each of them.
//! `docs/decisions/0001-record-engine.md` tells why redb.
//!
//! After [`KvError::Full`] or [`KvError::Io`] from a commit the outcome is unknown: drop the engine and open it
//! again instead of trying once more, since a second fsync may report success for pages that were lost.

#[cfg(feature = "engine-fjall")]
pub mod fjall;
#[cfg(any(feature = "engine-fjall", feature = "engine-sled"))]
mod flat;
pub mod memory;
mod overlay;
pub mod redb;
#[cfg(feature = "engine-sled")]
pub mod sled;

use std::{borrow::Cow, io, sync::Arc};

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On disk when `commit` returns: survives power loss.
    Durable,
    /// Survives the process, perhaps not the machine. Nothing is torn either way.
    Buffered,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// No space on the device, or the quota is used up. After a commit: the outcome is unknown, reopen.
    #[error("no space left on the device")]
    Full,
    /// The device failed. After a commit: the outcome is unknown, reopen.
    #[error("input or output failed: {0}")]
    Io(#[source] io::Error),
    /// Another process, or a handle that is still alive, has it open.
    #[error("the store is open elsewhere")]
    Locked,
    /// What is on disk isn't what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Anything else; the text is for the log.
    #[error("{0}")]
    Other(String),
}

impl KvError {
    /// Tells a full disk from other failures of the device.
    pub fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::Io(error),
        }
    }
}

/// An owned key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The keys in `[start, end)`, ascending unless reversed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange<'a> {
    start: Cow<'a, [u8]>,
    end: Option<Cow<'a, [u8]>>,
    reverse: bool,
}

impl<'a> KeyRange<'a> {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys from `start` on and before `end`; none when `end` isn't after `start`.
    pub fn new(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { start: start.into(), end: Some(end.into()), reverse: false }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &'a [u8]) -> Self {
        // The smallest key after all of them: the last byte that can be raised is raised, the rest cut off.
        let end = prefix.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Cow::Owned(end)
        });
        Self { start: prefix.into(), end, reverse: false }
    }

    /// The same without keys before `start`.
    #[must_use]
    pub fn starting_at(mut self, start: &'a [u8]) -> Self {
        if *start > *self.start {
            self.start = start.into();
        }
        self
    }

    /// The same without the keys from `end` on.
    #[must_use]
    pub fn ending_before(mut self, end: &'a [u8]) -> Self {
        if self.end.as_deref().is_none_or(|old| end < old) {
            self.end = Some(end.into());
        }
        self
    }

    /// What comes after `key` in the range's order.
    #[must_use]
    pub(crate) fn after(self, key: &[u8]) -> KeyRange<'a> {
        let Self { start, end, reverse } = self;
        match reverse {
            true => Self { start, end: Some(Cow::Owned(key.to_vec())), reverse },
            false => Self { start: Cow::Owned([key, &[0]].concat()), end, reverse },
        }
    }

    /// The same from the far end.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }

    /// The first key that is in.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key that is out, if any.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether the largest key comes first.
    pub fn is_reversed(&self) -> bool {
        self.reverse
    }

    /// Whether no key can be in.
    pub fn is_empty(&self) -> bool {
        self.end().is_some_and(|end| end <= self.start())
    }
}

/// Reads within a transaction. Missing tables read as empty.
pub trait ReadTx {
    /// The value at `key`.
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// At most `limit` entries of the range, in its order.
    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError>;

    /// The names of all tables, sorted; some may be empty.
    fn tables(&self) -> Result<Vec<String>, KvError>;
}

/// A reading and writing transaction; sees its own writes. Dropped without `commit`, it had no effect.
pub trait WriteTx: ReadTx {
    /// Sets the value at `key`, creating the table.
    fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), KvError>;

    /// Removes `key` if it is there.
    fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), KvError>;

    /// Removes every entry of `table`.
    fn clear(&mut self, table: &str) -> Result<(), KvError>;

    /// Makes the transaction's writes the state, all at once.
    fn commit(self: Box<Self>, durability: Durability) -> Result<(), KvError>;
}

/// The state of the last commit, for as long as it is held.
pub type Snapshot = Box<dyn ReadTx + Send + Sync>;

/// An open store.
pub trait Engine: Send + Sync + 'static {
    /// A snapshot for reading. It outlives the borrow; the store closes when the engine and all of its
    /// snapshots are dropped.
    fn read(&self) -> Result<Snapshot, KvError>;

    /// The one writing transaction; waits for another one to end.
    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError>;
}

impl<E: Engine + ?Sized> Engine for Arc<E> {
    fn read(&self) -> Result<Snapshot, KvError> {
        E::read(self)
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        E::write(self)
    }
}
