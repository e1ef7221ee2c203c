//! The index: what projections make of records, and that it can always be made again.

use std::sync::Arc;

use mhc_protocol::{
    SecretKey,
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    kv::{Durability, Engine, KeyRange},
    record::{
        Malformed, Projection, Records, RecordsOptions, Rows,
        testing::{self, Author},
    },
};

use crate::{NOTE, engines::for_each};

/// Keeps each note's body by its id, and by its first byte; an empty body is malformed.
pub(crate) struct Notes;

impl Projection for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn version(&self) -> u32 {
        1
    }

    fn kinds(&self) -> &'static [RecordKind] {
        const { &[NOTE] }
    }

    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed> {
        let Some(body) = record.body() else { return Ok(()) };
        let first = *body.first().ok_or_else(|| Malformed("an empty note".into()))?;
        rows.put("body", *record.id().as_bytes(), body);
        rows.put("first", [&[first], record.id().as_bytes().as_slice()].concat(), []);
        Ok(())
    }
}

/// The same tables in a later version, upside down.
struct NotesV2;

impl Projection for NotesV2 {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn version(&self) -> u32 {
        2
    }

    fn kinds(&self) -> &'static [RecordKind] {
        const { &[NOTE] }
    }

    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed> {
        let body: Vec<u8> = record.body().unwrap_or_default().iter().rev().copied().collect();
        rows.put("reversed", *record.id().as_bytes(), body);
        Ok(())
    }
}

/// Rows of several records in one place, as no projection may have them: it depends on the order.
struct LastWins;

impl Projection for LastWins {
    fn name(&self) -> &'static str {
        "last"
    }

    fn version(&self) -> u32 {
        1
    }

    fn kinds(&self) -> &'static [RecordKind] {
        const { &[NOTE] }
    }

    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed> {
        rows.put("last", *b"id", *record.id().as_bytes());
        Ok(())
    }
}

fn some_records() -> Vec<VerifiedRecord> {
    let network = SecretKey::from_seed(&[9; 32]).network();
    let mut authors: Vec<_> = (1..4).map(|seed| Author::new(seed, network)).collect();
    let mut records = Vec::new();
    for round in 0..5u8 {
        for author in &mut authors {
            records.push(author.write(NOTE, vec![round; usize::from(round)]).unwrap());
        }
    }
    records.push(authors[0].write(RecordKind::new("unknown.v1"), b"forwarded, not understood".to_vec()).unwrap());
    records
}

#[tokio::test]
async fn the_generic_checks_pass_good_projections_and_catch_bad_ones() {
    let records = some_records();
    testing::replay_rebuilds_the_index(vec![Arc::new(Notes)], &records).await.unwrap();
    testing::order_and_duplicates_are_irrelevant(vec![Arc::new(Notes)], &records).await.unwrap();
    testing::order_and_duplicates_are_irrelevant(vec![Arc::new(LastWins)], &records).await.unwrap_err();
}

#[tokio::test]
async fn every_order_of_a_governed_network_makes_one_index() {
    let bodies: Vec<_> = (1..6u8).map(|number| (NOTE, vec![number; 3])).collect();
    testing::a_governed_network_converges(vec![Arc::new(Notes)], &bodies, 200).await.unwrap();
    testing::a_governed_network_converges(vec![Arc::new(LastWins)], &bodies, 10).await.unwrap_err();
}

#[tokio::test]
async fn a_view_shows_one_projections_tables() {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    let records = some_records();
    store.append(records.clone()).await.unwrap();
    let view = store.view("notes").unwrap();
    let twos = view.scan("first", KeyRange::prefix(&[2]), 9).unwrap();
    assert_eq!(twos.len(), 3);
    let last_note = &records[14];
    assert_eq!(view.get("body", last_note.id().as_bytes()).unwrap().as_deref(), last_note.body());
    assert_eq!(store.view("other").unwrap().scan("body", KeyRange::all(), 9).unwrap(), []);
}

type Spoil = fn(&dyn Engine);

/// Runs a change on the index's tables.
fn spoil(engine: &dyn Engine, change: impl Fn(&mut dyn mhc_storage::kv::WriteTx, &str)) {
    let mut tx = engine.write().unwrap();
    for table in tx.tables().unwrap().iter().filter(|table| table.starts_with("index/")) {
        change(&mut *tx, table);
    }
    tx.commit(Durability::Durable).unwrap();
}

#[test]
fn a_missing_or_garbled_index_is_rebuilt_on_open() {
    let cases: &[(&str, Spoil)] = &[
        ("deleted", |engine| spoil(engine, |tx, table| tx.clear(table).unwrap())),
        ("marker deleted", |engine| {
            spoil(engine, |tx, table| tx.delete(table, b"made-by").unwrap());
        }),
        ("garbage everywhere", |engine| {
            spoil(engine, |tx, table| {
                for (key, _) in tx.scan(table, KeyRange::all(), usize::MAX).unwrap() {
                    tx.put(table, &key, b"garbage").unwrap();
                }
            });
        }),
        ("tables of a projection that is gone, another version's marker", |engine| {
            spoil(engine, |tx, table| {
                tx.put("index/gone/table", b"key", b"value").unwrap();
                tx.delete(table, b"made-by").unwrap();
            });
        }),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for_each(|subject, dir| {
        if !subject.persists {
            return;
        }
        let open = || {
            let options = RecordsOptions { engine: subject.opener(), min_free_bytes: 0, reserve_bytes: 0 };
            Records::open(dir, options, vec![Arc::new(Notes)]).unwrap()
        };
        let store = open();
        runtime.block_on(store.append(some_records())).unwrap();
        let expected = store.index_digest().unwrap();
        drop(store);
        for (name, spoil) in cases {
            spoil(&*(subject.open)(dir).unwrap());
            let store = open();
            assert_eq!(store.index_digest().unwrap(), expected, "{name}");
            assert!(store.check_index().unwrap(), "{name}");
        }
    });
}

#[tokio::test]
async fn another_version_of_a_projection_rebuilds_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let options = RecordsOptions { engine: testing::memory(), min_free_bytes: 0, reserve_bytes: 0 };
    let store = Records::open(dir.path(), options.clone(), vec![Arc::new(Notes)]).unwrap();
    let records = some_records();
    store.append(records.clone()).await.unwrap();
    drop(store);
    let store = Records::open(dir.path(), options, vec![Arc::new(NotesV2)]).unwrap();
    let view = store.view("notes").unwrap();
    assert_eq!(view.scan("reversed", KeyRange::all(), usize::MAX).unwrap().len(), 15);
    assert_eq!(view.scan("body", KeyRange::all(), 1).unwrap(), []);
    assert_eq!(store.rebuild().await.unwrap(), records.len() as u64);
}

#[tokio::test]
async fn an_index_out_of_line_is_found_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let opener = testing::memory();
    let options = RecordsOptions { engine: Arc::clone(&opener), min_free_bytes: 0, reserve_bytes: 0 };
    let store = Records::open(dir.path(), options, vec![Arc::new(Notes)]).unwrap();
    store.append(some_records()).await.unwrap();
    assert!(store.check_index().unwrap());
    spoil(&*opener(dir.path()).unwrap(), |tx, table| {
        if table.ends_with("/notes/first") {
            tx.clear(table).unwrap();
        }
    });
    assert!(!store.check_index().unwrap());
    store.rebuild().await.unwrap();
    assert!(store.check_index().unwrap());
}

#[test]
fn projections_with_one_name_are_refused() {
    assert!(testing::open(vec![Arc::new(Notes), Arc::new(NotesV2)]).is_err());
}
