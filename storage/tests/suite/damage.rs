//! Bits that flip on disk: found when they are read, set aside, fetched again.

use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use mhc_protocol::{NetworkId, SecretKey, record::VerifiedRecord};
use mhc_storage::{
    kv::{Durability, Engine, KeyRange},
    record::{
        Outcome, Records, RecordsError, RecordsOptions,
        testing::{Author, WRITTEN_AT},
    },
};

use crate::{NOTE, engines::Subject, index::Notes};

fn network() -> NetworkId {
    SecretKey::from_seed(&[9; 32]).network()
}

fn redb() -> Subject {
    Subject::named("redb")
}

fn open(dir: &Path) -> Result<Records, RecordsError> {
    let options = RecordsOptions { engine: redb().opener(), min_free_bytes: 0, reserve_bytes: 0 };
    Records::open(dir, options, vec![Arc::new(Notes)])
}

fn chain(author: &mut Author, count: u8) -> Vec<VerifiedRecord> {
    (0..count).map(|number| author.write(NOTE, vec![number; 50]).unwrap()).collect()
}

/// Flips a bit of the record's stored value.
fn flip_value(engine: &dyn Engine, record: &VerifiedRecord) {
    let mut tx = engine.write().unwrap();
    let rows = tx.scan("log", KeyRange::all(), usize::MAX).unwrap();
    let (key, mut value) = rows.into_iter().find(|(key, _)| key.ends_with(record.id().as_bytes())).unwrap();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    tx.put("log", &key, &value).unwrap();
    tx.commit(Durability::Durable).unwrap();
}

fn head_seq(store: &Records) -> Option<u64> {
    store.heads(network(), None, 9).unwrap().first().map(|head| head.seq)
}

#[tokio::test]
async fn a_damaged_record_is_found_set_aside_and_comes_back() {
    for damaged in [0usize, 3, 7] {
        let dir = tempfile::tempdir().unwrap();
        let mut author = Author::new(1, network());
        let records = chain(&mut author, 8);
        let store = open(dir.path()).unwrap();
        store.append(records.clone()).await.unwrap();
        let digest = store.index_digest().unwrap();
        drop(store);
        flip_value(&*(redb().open)(dir.path()).unwrap(), &records[damaged]);

        let store = open(dir.path()).unwrap();
        let id = records[damaged].id();
        assert!(matches!(store.get(id), Err(RecordsError::Damaged(found)) if found == id), "{damaged}");
        // The writer works in order: this waits until it has set the record aside.
        store.rebuild().await.unwrap();
        assert_eq!(store.get(id).unwrap(), None, "{damaged}");
        assert_eq!(head_seq(&store), (damaged as u64).checked_sub(1), "{damaged}: sync asks for it again");
        let log = store.log(network(), author.key().author(), (0, 0), 99, usize::MAX).unwrap();
        assert_eq!(log, records[..damaged], "{damaged}");
        assert!(store.check_index().unwrap(), "{damaged}");
        let published = store.publish(author.key(), network(), NOTE, vec![1], [0; 16], WRITTEN_AT).await;
        assert!(matches!(published, Err(RecordsError::LogIncomplete(_))), "{damaged}: {published:?}");

        let refetched = store.append(records[damaged..].to_vec()).await.unwrap();
        assert_eq!(refetched[0], Outcome::Appended, "{damaged}");
        assert!(refetched[1..].iter().all(|outcome| *outcome == Outcome::Duplicate), "{damaged}");
        assert_eq!((head_seq(&store), store.count().unwrap()), (Some(7), 8), "{damaged}");
        assert_eq!(store.index_digest().unwrap(), digest, "{damaged}");
        store.publish(author.key(), network(), NOTE, vec![1], [0; 16], WRITTEN_AT).await.unwrap();
    }
}

#[tokio::test]
async fn damaged_evidence_leaves_the_chain_alone() {
    let dir = tempfile::tempdir().unwrap();
    let author = Author::new(1, network());
    let mut rivals: Vec<_> = (0..2u8).map(|body| author.clone().write(NOTE, [body]).unwrap()).collect();
    rivals.sort_by_key(|record| record.id());
    let store = open(dir.path()).unwrap();
    assert_eq!(store.append(rivals.clone()).await.unwrap(), [Outcome::Appended, Outcome::Forked]);
    drop(store);
    flip_value(&*(redb().open)(dir.path()).unwrap(), &rivals[1]);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.scrub().await.unwrap().damaged, [rivals[1].id()]);
    assert_eq!((head_seq(&store), store.count().unwrap()), (Some(0), 1));
    assert_eq!(store.append(vec![rivals[1].clone()]).await.unwrap(), [Outcome::Forked]);
    assert_eq!(store.scrub().await.unwrap().damaged, []);
}

#[tokio::test]
async fn damage_that_a_replay_meets_ends_that_log_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (Author::new(1, network()), Author::new(2, network()));
    let (ones, twos) = (chain(&mut one, 200), chain(&mut two, 200));
    let store = open(dir.path()).unwrap();
    store.append([ones.clone(), twos.clone()].concat()).await.unwrap();
    let digest = store.index_digest().unwrap();
    drop(store);
    let engine = (redb().open)(dir.path()).unwrap();
    flip_value(&*engine, &ones[150]);
    let mut tx = engine.write().unwrap();
    tx.clear("index/marker").unwrap();
    tx.commit(Durability::Durable).unwrap();
    drop(engine);

    let store = open(dir.path()).unwrap();
    let heads = store.heads(network(), None, 9).unwrap();
    let seq = |author: &Author| heads.iter().find(|head| head.author == author.key().author()).unwrap().seq;
    assert_eq!((seq(&one), seq(&two)), (149, 199));
    store.append(vec![ones[150].clone()]).await.unwrap();
    assert_eq!(store.index_digest().unwrap(), digest);
}

/// Every place in `file` where `bytes` are.
fn places(file: &[u8], bytes: &[u8]) -> Vec<usize> {
    file.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect()
}

#[tokio::test]
async fn a_bit_that_flips_in_the_file_is_found_by_a_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let records = chain(&mut Author::new(1, network()), 20);
    let store = open(dir.path()).unwrap();
    store.append(records.clone()).await.unwrap();
    drop(store);
    let path = dir.path().join("records.redb");
    let mut file = fs::read(&path).unwrap();
    let stored = records[10].to_bytes();
    let found = places(&file, &stored);
    assert!(!found.is_empty());
    for at in found {
        file[at + stored.len() - 5] ^= 4;
    }
    fs::write(&path, file).unwrap();

    let store = open(dir.path()).unwrap();
    let report = store.scrub().await.unwrap();
    assert_eq!((report.records, report.damaged), (20, vec![records[10].id()]));
    assert_eq!(head_seq(&store), Some(9));
    assert_eq!(store.append(vec![records[10].clone()]).await.unwrap(), [Outcome::Appended]);
    assert_eq!(head_seq(&store), Some(19));
    assert!(store.check_index().unwrap());
}

#[test]
fn wherever_a_bit_flips_no_wrong_record_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let records = chain(&mut Author::new(1, network()), 60);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(dir.path()).unwrap();
    runtime.block_on(store.append(records.clone())).unwrap();
    drop(store);
    let path = dir.path().join("records.redb");
    let good = fs::read(&path).unwrap();
    let known: HashSet<_> = records.iter().map(|record| record.to_bytes()).collect();
    for round in 0..40u64 {
        let hash = blake3::hash(&round.to_le_bytes());
        let place = u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap());
        // The used part of the file is at its beginning.
        let bit = usize::try_from(place).unwrap() % (good.len().min(256 * 1024) * 8);
        let mut file = good.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, file).unwrap();
        // A debug build of redb may panic over a page that can't be; that is found damage too.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let store = open(dir.path())?;
            runtime.block_on(store.scrub())?;
            store.log(network(), Author::new(1, network()).key().author(), (0, 0), usize::MAX, usize::MAX)
        }));
        if let Ok(Ok(log)) = read {
            assert!(log.iter().all(|record| known.contains(&record.to_bytes())), "bit {bit}");
            assert!(log.is_sorted_by_key(|record| record.header().seq), "bit {bit}");
        }
    }
}
