//! The catalogue's tables.
//!
//! | table | key | value |
//! |---|---|---|
//! | `content` | content id | [`Entry`] in CBOR |
//! | `newest` | network, inverted time, content id | - |
//! | `author` | network, author, inverted time, content id | - |
//! | `blob` | blob hash, content id | - |
//! | `replaced` | superseded content id, author, superseding content id | - |
//!
//! Every key names the record that brings the row.

use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, RecordId, Timestamp, cbor, manifest::Manifest, record::VerifiedRecord,
};
use mhc_storage::{
    kv::KeyRange,
    record::{IndexView, Malformed, RecordsError, Rows},
};
use serde::{Deserialize, Serialize};

const CONTENT: &str = "content";
const NEWEST: &str = "newest";
const AUTHOR: &str = "author";
const BLOB: &str = "blob";
const REPLACED: &str = "replaced";
const MAX_ENTRY_BYTES: usize = 64 * 1024;

/// A published piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The network it was published in.
    pub network: NetworkId,
    /// Who published it.
    pub author: AuthorId,
    /// When, by the author's clock.
    pub at: Timestamp,
    /// What it is.
    pub manifest: Manifest,
}

/// A place in a list that is ordered newest first: what comes next is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// When it was published.
    pub at: Timestamp,
    /// The content.
    pub content: RecordId,
}

const PLACE_BYTES: usize = 40;

impl Place {
    /// Sorts by time descending, then by content id.
    fn key(self) -> [u8; PLACE_BYTES] {
        let mut key = [0; PLACE_BYTES];
        let (at, content) = key.split_at_mut(8);
        at.copy_from_slice(&(!self.at.as_millis()).to_be_bytes());
        content.copy_from_slice(self.content.as_bytes());
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (at, content) = key.split_first_chunk::<8>()?;
        Some(Self {
            at: Timestamp::from_millis(!u64::from_be_bytes(*at)),
            content: RecordId::from_bytes(content.try_into().ok()?),
        })
    }

    /// As an opaque cursor.
    pub(super) fn to_cursor(self) -> String {
        data_encoding::BASE64URL_NOPAD.encode(&self.key())
    }

    pub(super) fn from_cursor(cursor: &str) -> Option<Self> {
        Self::from_key(&data_encoding::BASE64URL_NOPAD.decode(cursor.as_bytes()).ok()?)
    }
}

pub(super) fn insert(rows: &mut Rows, record: &VerifiedRecord, manifest: Manifest) -> Result<(), Malformed> {
    let (id, header) = (record.id(), record.header());
    let place = Place { at: header.at, content: id }.key();
    let network = header.network.as_bytes().as_slice();
    let author = header.author.as_bytes().as_slice();
    rows.put(BLOB, [manifest.original.hash.as_bytes().as_slice(), id.as_bytes()].concat(), []);
    rows.put(NEWEST, [network, &place].concat(), []);
    rows.put(AUTHOR, [network, author, &place].concat(), []);
    if let Some(old) = manifest.supersedes {
        rows.put(REPLACED, [old.as_bytes().as_slice(), author, id.as_bytes()].concat(), []);
    }
    let entry = Entry { network: header.network, author: header.author, at: header.at, manifest };
    let bytes = cbor::encode(&entry).map_err(|error| Malformed(error.to_string()))?;
    rows.put(CONTENT, *id.as_bytes(), bytes);
    Ok(())
}

/// The content with this id.
pub fn entry(view: &IndexView<'_>, content: RecordId) -> Result<Option<Entry>, RecordsError> {
    let bytes = view.get(CONTENT, content.as_bytes())?;
    Ok(bytes.and_then(|bytes| cbor::decode(&bytes, MAX_ENTRY_BYTES).ok()))
}

/// Contents whose original is this blob, at most `limit`.
pub fn entries_of_blob(
    view: &IndexView<'_>,
    hash: BlobHash,
    limit: usize,
) -> Result<Vec<(RecordId, Entry)>, RecordsError> {
    let rows = view.scan(BLOB, KeyRange::prefix(hash.as_bytes()), limit)?;
    let ids = rows.iter().filter_map(|(key, _)| Some(RecordId::from_bytes(key.get(32..)?.try_into().ok()?)));
    ids.filter_map(|id| entry(view, id).map(|entry| entry.map(|entry| (id, entry))).transpose()).collect()
}

/// Whether a later manifest by the same author replaces this content.
pub fn is_replaced(view: &IndexView<'_>, content: RecordId, author: AuthorId) -> Result<bool, RecordsError> {
    let prefix = [content.as_bytes().as_slice(), author.as_bytes()].concat();
    Ok(!view.scan(REPLACED, KeyRange::prefix(&prefix), 1)?.is_empty())
}

/// Contents of a network, or of one author in it, newest first, after `after`, at most `limit`.
pub fn newest(
    view: &IndexView<'_>,
    network: NetworkId,
    author: Option<AuthorId>,
    after: Option<Place>,
    limit: usize,
) -> Result<Vec<Place>, RecordsError> {
    let (table, prefix) = match author {
        Some(author) => (AUTHOR, [network.as_bytes().as_slice(), author.as_bytes()].concat()),
        None => (NEWEST, network.as_bytes().to_vec()),
    };
    // Strictly after the cursor's place: its key followed by a zero byte.
    let start = after.map(|place| [prefix.as_slice(), &place.key(), &[0]].concat());
    let range = match &start {
        Some(start) => KeyRange::prefix(&prefix).starting_at(start),
        None => KeyRange::prefix(&prefix),
    };
    let rows = view.scan(table, range, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| Place::from_key(key.get(prefix.len()..)?)).collect())
}
