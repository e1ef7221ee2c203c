//! The journal: what this node did and refused in matters that somebody may have to answer for later.
//!
//! Each entry names the hash of the one before it, so that one which is changed or taken out afterwards shows. It is a
//! private table: it never leaves the node. The oldest entries go when there are too many.

use std::collections::BTreeMap;

use mhc_protocol::{BlobHash, Timestamp, cbor};
use mhc_storage::{
    kv::KeyRange,
    record::{Private, Records, RecordsError},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

const TABLE: &str = "journal";
/// Entries that are kept, and how many over it there may be until the oldest go.
const KEPT: u64 = 10_000;
const MAX_ENTRY_BYTES: usize = 8 * 1024;
/// Longest value that is noted, in characters.
const MAX_VALUE_CHARS: usize = 200;

/// What is noted of one event.
pub(crate) type Facts = BTreeMap<&'static str, String>;

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    v: u8,
    at: Timestamp,
    event: String,
    facts: BTreeMap<String, String>,
    /// BLAKE3 of the entry before; none before the first.
    before: Option<BlobHash>,
}

/// An entry as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) event: String,
    pub(crate) facts: BTreeMap<String, String>,
    /// Whether it names the hash of the entry before it; none when that one isn't kept any more.
    pub(crate) fits: Option<bool>,
}

pub(crate) struct Journal {
    table: Private,
    /// Number and hash of the last entry.
    last: Mutex<(u64, Option<BlobHash>)>,
}

impl Journal {
    /// Goes on where it ended.
    pub(crate) fn open(records: &Records) -> Result<Self, RecordsError> {
        let table = records.private(TABLE);
        let row = table.scan(KeyRange::all().reversed(), 1)?.into_iter().next();
        let last = row.map_or((0, None), |(key, value)| (number(&key), Some(BlobHash::of(&value))));
        Ok(Self { table, last: Mutex::new(last) })
    }

    /// Notes an event; durable when it returns. A failure is logged: what is noted goes on.
    pub(crate) async fn note(&self, at: Timestamp, event: &str, facts: Facts) {
        if let Err(error) = self.try_note(at, event, &facts).await {
            tracing::error!(%error, event, ?facts, "not noted in the journal");
        }
    }

    async fn try_note(&self, at: Timestamp, event: &str, facts: &Facts) -> Result<(), RecordsError> {
        let mut last = self.last.lock().await;
        let (number, before) = (last.0 + 1, last.1);
        let cut = |text: &String| text.chars().take(MAX_VALUE_CHARS).collect();
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), cut(value))).collect();
        let kept = Kept { v: 1, at, event: event.to_owned(), facts, before };
        let bytes = cbor::encode(&kept).unwrap_or_default();
        let hash = BlobHash::of(&bytes);
        let mut changes = vec![(number.to_be_bytes().to_vec(), Some(bytes))];
        if let Some(oldest) = number.checked_sub(KEPT).filter(|oldest| *oldest > 0) {
            changes.push((oldest.to_be_bytes().to_vec(), None));
        }
        self.table.update(changes).await?;
        *last = (number, Some(hash));
        Ok(())
    }

    /// The newest entries, newest first, at most `limit`.
    pub(crate) async fn newest(&self, limit: u64) -> Result<Vec<Entry>, RecordsError> {
        let (last, _) = *self.last.lock().await;
        // One more than is shown, to see whether the oldest of them fits.
        let from = last.saturating_sub(limit);
        let rows = self.table.scan(KeyRange::all().starting_at(&from.to_be_bytes()), usize::MAX)?;
        let mut before = None;
        let mut entries = vec![];
        for (key, value) in rows {
            let number = number(&key);
            let entry = match cbor::decode::<Kept>(&value, MAX_ENTRY_BYTES) {
                Ok(kept) => {
                    let fits = (number == 1 || before.is_some()).then_some(kept.before == before);
                    Entry { number, at: kept.at, event: kept.event, facts: kept.facts, fits }
                }
                Err(_) => {
                    let (event, facts) = ("unreadable".into(), BTreeMap::new());
                    Entry { number, at: Timestamp::default(), event, facts, fits: Some(false) }
                }
            };
            before = Some(BlobHash::of(&value));
            entries.push(entry);
        }
        entries.reverse();
        entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(entries)
    }
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use mhc_storage::record::testing;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    async fn note(journal: &Journal, event: &str) {
        journal.note(NOW, event, Facts::from([("what", "x".repeat(1000))])).await;
    }

    #[tokio::test]
    async fn entries_are_chained_across_restarts_and_a_change_shows() {
        let (records, _dir) = testing::open(vec![]).unwrap();
        let journal = Journal::open(&records).unwrap();
        assert_eq!(journal.newest(5).await.unwrap(), []);
        note(&journal, "one").await;
        note(&journal, "two").await;
        let journal = Journal::open(&records).unwrap();
        note(&journal, "three").await;
        let shown = journal.newest(10).await.unwrap();
        let names: Vec<_> = shown.iter().map(|entry| (entry.number, entry.event.as_str(), entry.fits)).collect();
        assert_eq!(names, [(3, "three", Some(true)), (2, "two", Some(true)), (1, "one", Some(true))]);
        assert_eq!(shown[0].facts["what"].len(), MAX_VALUE_CHARS);
        assert_eq!(journal.newest(1).await.unwrap()[0].event, "three");
        // Somebody edits the file.
        let table = records.private(TABLE);
        let key = 2u64.to_be_bytes();
        let mut kept: Kept = cbor::decode(&table.get(&key).unwrap().unwrap(), MAX_ENTRY_BYTES).unwrap();
        kept.event = "nothing".into();
        table.put(key, cbor::encode(&kept).unwrap()).await.unwrap();
        let fits: Vec<_> = journal.newest(3).await.unwrap().iter().map(|entry| entry.fits).collect();
        assert_eq!(fits, [Some(false), Some(true), Some(true)]);
        table.put(key, b"junk").await.unwrap();
        assert_eq!(journal.newest(3).await.unwrap()[1].event, "unreadable");
    }
}
