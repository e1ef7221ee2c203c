//! What every engine has to do.

use std::collections::BTreeMap;

use mhc_storage::kv::{Durability, Engine, Entry, KeyRange, ReadTx, WriteTx};
use proptest::{collection::vec, prelude::*};

use crate::engines::{SUBJECTS, for_each};

fn put(engine: &dyn Engine, rows: &[(&str, &str, &str)]) {
    let mut tx = engine.write().unwrap();
    for (table, key, value) in rows {
        tx.put(table, key.as_bytes(), value.as_bytes()).unwrap();
    }
    tx.commit(Durability::Durable).unwrap();
}

fn keys(entries: Vec<Entry>) -> Vec<String> {
    entries.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

fn value(tx: &(impl ReadTx + ?Sized), table: &str, key: &str) -> Option<String> {
    tx.get(table, key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn scans_are_ordered_bounded_and_limited() {
    for_each(|subject, dir| {
        let engine = (subject.open)(dir).unwrap();
        put(&*engine, &[("t", "b", "2"), ("t", "a", "1"), ("t", "ba", "3"), ("t", "c", "4"), ("s", "a", "0")]);
        let cases: Vec<(KeyRange<'_>, usize, &[&str])> = vec![
            (KeyRange::all(), 9, &["a", "b", "ba", "c"]),
            (KeyRange::all(), 2, &["a", "b"]),
            (KeyRange::all(), 0, &[]),
            (KeyRange::all().reversed(), 2, &["c", "ba"]),
            (KeyRange::prefix(b"b"), 9, &["b", "ba"]),
            (KeyRange::prefix(b"b").reversed(), 1, &["ba"]),
            (KeyRange::prefix(b"b").starting_at(b"b\0"), 9, &["ba"]),
            (KeyRange::prefix(b"b").starting_at(b"a"), 9, &["b", "ba"]),
            (KeyRange::prefix(b"\xff"), 9, &[]),
            (KeyRange::new(b"b", b"c"), 9, &["b", "ba"]),
            (KeyRange::new(b"b", b"b"), 9, &[]),
            (KeyRange::new(b"c", b"a"), 9, &[]),
            (KeyRange::new(b"c", b"a").reversed(), 9, &[]),
            (KeyRange::all().ending_before(b"b"), 9, &["a"]),
        ];
        let snapshot = engine.read().unwrap();
        let tx = engine.write().unwrap();
        for (range, limit, expected) in cases {
            assert_eq!(keys(snapshot.scan("t", range.clone(), limit).unwrap()), expected, "{range:?}");
            assert_eq!(keys(tx.scan("t", range.clone(), limit).unwrap()), expected, "{range:?} in a transaction");
        }
    });
}

#[test]
fn missing_tables_read_as_empty() {
    for_each(|subject, dir| {
        let engine = (subject.open)(dir).unwrap();
        let snapshot = engine.read().unwrap();
        assert_eq!(value(&*snapshot, "none", "a"), None);
        assert_eq!(snapshot.scan("none", KeyRange::all(), 9).unwrap(), []);
        let mut tx = engine.write().unwrap();
        tx.clear("none").unwrap();
        tx.delete("none", b"a").unwrap();
        assert_eq!(value(&*tx, "none", "a"), None);
    });
}

#[test]
fn a_transaction_sees_its_writes_and_others_see_them_after_the_commit() {
    for_each(|subject, dir| {
        let engine = (subject.open)(dir).unwrap();
        put(&*engine, &[("t", "old", "1"), ("t", "kept", "1")]);
        let before = engine.read().unwrap();
        let mut tx = engine.write().unwrap();
        tx.put("t", b"new", b"2").unwrap();
        tx.delete("t", b"old").unwrap();
        assert_eq!(keys(tx.scan("t", KeyRange::all(), 9).unwrap()), ["kept", "new"]);
        assert_eq!(value(&*engine.read().unwrap(), "t", "new"), None, "not committed yet");
        tx.commit(Durability::Buffered).unwrap();
        assert_eq!(keys(engine.read().unwrap().scan("t", KeyRange::all(), 9).unwrap()), ["kept", "new"]);
        if subject.isolates {
            assert_eq!(keys(before.scan("t", KeyRange::all(), 9).unwrap()), ["kept", "old"]);
        }
    });
}

#[test]
fn a_dropped_transaction_had_no_effect() {
    for_each(|subject, dir| {
        let engine = (subject.open)(dir).unwrap();
        put(&*engine, &[("t", "a", "1")]);
        let mut tx = engine.write().unwrap();
        tx.clear("t").unwrap();
        tx.put("u", b"b", b"2").unwrap();
        drop(tx);
        let snapshot = engine.read().unwrap();
        assert_eq!(value(&*snapshot, "t", "a"), Some("1".into()));
        assert_eq!(value(&*snapshot, "u", "b"), None);
    });
}

#[test]
fn clearing_spares_other_tables_and_what_is_put_after_it() {
    for_each(|subject, dir| {
        let engine = (subject.open)(dir).unwrap();
        put(&*engine, &[("t", "a", "1"), ("t", "b", "1"), ("tt", "a", "1"), ("t/t", "a", "1")]);
        let mut tx = engine.write().unwrap();
        tx.clear("t").unwrap();
        tx.put("t", b"b", b"2").unwrap();
        assert_eq!(keys(tx.scan("t", KeyRange::all(), 9).unwrap()), ["b"]);
        tx.commit(Durability::Durable).unwrap();
        let snapshot = engine.read().unwrap();
        assert_eq!((value(&*snapshot, "t", "a"), value(&*snapshot, "t", "b")), (None, Some("2".into())));
        assert_eq!((value(&*snapshot, "tt", "a"), value(&*snapshot, "t/t", "a")), (Some("1".into()), Some("1".into())));
        let tables = snapshot.tables().unwrap();
        assert!(["t", "t/t", "tt"].iter().all(|name| tables.iter().any(|table| table == name)), "{tables:?}");
        assert!(tables.is_sorted());
    });
}

#[test]
fn what_is_committed_survives_closing() {
    for_each(|subject, dir| {
        if !subject.persists {
            return;
        }
        put(&*(subject.open)(dir).unwrap(), &[("t", "a", "1")]);
        let engine = (subject.open)(dir).unwrap();
        assert_eq!(value(&*engine.read().unwrap(), "t", "a"), Some("1".into()));
    });
}

#[test]
fn what_a_killed_creation_left_behind_is_no_obstacle() {
    for_each(|subject, dir| {
        if !subject.persists {
            return;
        }
        // As a file it is what redb leaves, as a folder what the others do.
        let name = format!("records.{}.new", subject.name);
        match subject.name {
            "redb" => std::fs::write(dir.join(name), "half a file").unwrap(),
            _ => std::fs::create_dir(dir.join(name)).unwrap(),
        }
        put(&*(subject.open)(dir).unwrap(), &[("t", "a", "1")]);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>, u8),
    Delete(u8, Vec<u8>),
    Clear(u8),
    Commit,
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)], 0..3);
    prop_oneof![
        6 => (0..3u8, key(), any::<u8>()).prop_map(|(table, key, value)| Step::Put(table, key, value)),
        3 => (0..3u8, key()).prop_map(|(table, key)| Step::Delete(table, key)),
        1 => (0..3u8).prop_map(Step::Clear),
        2 => Just(Step::Commit),
        1 => Just(Step::Abort),
    ]
}

type Model = BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>>;

fn assert_same(tx: &dyn ReadTx, model: &Model, range: &KeyRange<'_>, limit: usize) {
    for table in 0..3 {
        let rows = model.get(&table).into_iter().flatten();
        let inside = rows
            .filter(|(key, _)| key.as_slice() >= range.start() && range.end().is_none_or(|end| key.as_slice() < end));
        let mut expected: Vec<Entry> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
        if range.is_reversed() {
            expected.reverse();
        }
        expected.truncate(limit);
        assert_eq!(tx.scan(&table.to_string(), range.clone(), limit).unwrap(), expected, "{range:?}");
    }
}

fn change(tx: &mut dyn WriteTx, model: &mut Model, step: &Step) {
    match step {
        Step::Put(table, key, value) => {
            tx.put(&table.to_string(), key, &[*value]).unwrap();
            model.entry(*table).or_default().insert(key.clone(), vec![*value]);
        }
        Step::Delete(table, key) => {
            tx.delete(&table.to_string(), key).unwrap();
            model.entry(*table).or_default().remove(key);
        }
        Step::Clear(table) => {
            tx.clear(&table.to_string()).unwrap();
            model.remove(table);
        }
        Step::Commit | Step::Abort => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engines_do_what_a_map_does(
        steps in vec(step(), 0..40),
        prefix in vec(prop_oneof![Just(0u8), Just(0xff)], 0..2),
        limit in 0..6usize,
    ) {
        for subject in SUBJECTS {
            let dir = tempfile::tempdir().unwrap();
            let engine = (subject.open)(dir.path()).unwrap();
            let mut committed = Model::new();
            let mut steps = steps.iter().peekable();
            while steps.peek().is_some() {
                let mut model = committed.clone();
                let mut tx = engine.write().unwrap();
                let end = steps.by_ref().find(|step| {
                    change(&mut *tx, &mut model, step);
                    matches!(step, Step::Commit | Step::Abort)
                });
                assert_same(&*tx, &model, &KeyRange::prefix(&prefix), limit);
                assert_same(&*tx, &model, &KeyRange::prefix(&prefix).reversed(), limit);
                if matches!(end, Some(Step::Commit)) {
                    tx.commit(Durability::Buffered).unwrap();
                    committed = model;
                } else {
                    drop(tx);
                }
                assert_same(&*engine.read().unwrap(), &committed, &KeyRange::prefix(&prefix), limit);
            }
        }
    }
}
