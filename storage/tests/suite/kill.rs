//! Kill -9 at random moments: everything acknowledged is there afterwards, and nothing is torn.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mhc_protocol::{AuthorId, RecordId, SecretKey};
use mhc_storage::{
    kv::{Durability, KeyRange},
    record::{Records, RecordsOptions, testing::WRITTEN_AT},
};

use crate::{
    NOTE, child,
    engines::{SUBJECTS, Subject},
    index::Notes,
};

const ROWS_PER_BATCH: u64 = 8;
const PUBLISHERS: u8 = 3;

fn rounds() -> u32 {
    match std::env::var_os("MHC_SOAK") {
        Some(_) => 100,
        None => 5,
    }
}

/// Different in each run, on purpose: the runs together cover more moments. Printed by the tests that fail.
fn random(below: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&now.as_nanos().to_le_bytes()).update(&std::process::id().to_le_bytes());
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap()) % below
}

/// Starts the job and kills it: in every third round within its first moments, when it creates or opens the
/// store, else after some acknowledgements.
fn run_and_kill(job: &str, dir: &Path, round: u32) -> Vec<String> {
    let child = child::spawn(job, dir);
    if round.is_multiple_of(3) {
        // Not to wait for anything: to hit a random moment.
        std::thread::sleep(Duration::from_micros(random(60_000)));
        return child.kill_after(0);
    }
    child.kill_after(usize::try_from(random(40)).unwrap() + 1)
}

fn batch_value(number: u64, row: u64) -> Vec<u8> {
    blake3::hash(&[number.to_be_bytes(), row.to_be_bytes()].concat()).as_bytes().repeat(12)
}

/// The child's part: batches of rows with ascending numbers, for ever.
pub(crate) fn write_batches(engine: &str, dir: &Path) {
    let engine = (Subject::named(engine).open)(dir).unwrap();
    let first = last_batch(&*engine.read().unwrap()).map_or(0, |last| last + 1);
    for number in first.. {
        let mut tx = engine.write().unwrap();
        for row in 0..ROWS_PER_BATCH {
            tx.put("rows", &[number.to_be_bytes(), row.to_be_bytes()].concat(), &batch_value(number, row)).unwrap();
        }
        tx.put("meta", b"last", &number.to_be_bytes()).unwrap();
        tx.commit(Durability::Durable).unwrap();
        child::acknowledge(number);
    }
}

fn last_batch(tx: &dyn mhc_storage::kv::ReadTx) -> Option<u64> {
    tx.get("meta", b"last").unwrap().map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

#[test]
fn engines_keep_what_they_acknowledged() {
    for subject in SUBJECTS.iter().filter(|subject| subject.persists) {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..rounds() {
            let acks = run_and_kill(&format!("engine {}", subject.name), dir.path(), round);
            let engine = (subject.open)(dir.path()).unwrap();
            let snapshot = engine.read().unwrap();
            let last = last_batch(&*snapshot);
            let acknowledged: Option<u64> = acks.last().map(|number| number.parse().unwrap());
            assert!(acknowledged <= last, "{} round {round}: {acknowledged:?}, kept {last:?}", subject.name);
            let rows = snapshot.scan("rows", KeyRange::all(), usize::MAX).unwrap();
            let batches = last.map_or(0, |last| last + 1);
            assert_eq!(rows.len() as u64, batches * ROWS_PER_BATCH, "{} round {round}: torn", subject.name);
            for (at, (_, value)) in (0..).zip(&rows) {
                assert_eq!(*value, batch_value(at / ROWS_PER_BATCH, at % ROWS_PER_BATCH));
            }
        }
    }
}

fn publisher(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number + 1; 32])
}

pub(crate) fn open_records(engine: &str, dir: &Path) -> Records {
    let options =
        RecordsOptions { engine: Subject::named(engine).opener(), min_free_bytes: 0, reserve_bytes: 64 * 1024 };
    Records::open(dir, options, vec![Arc::new(Notes)]).unwrap()
}

/// The child's part: several authors publish at once, for ever, while the index is rebuilt again and again.
pub(crate) fn publish_records(engine: &str, dir: &Path) {
    let records = open_records(engine, dir);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let publish = async |author: u8| {
        let key = publisher(author);
        for _ in 0..u64::MAX {
            let body = vec![author; usize::from(author) * 300];
            let network = publisher(0).network();
            let record = records.publish(&key, network, NOTE, body, [author; 16], WRITTEN_AT).await.unwrap();
            child::acknowledge(record.id());
        }
    };
    let rebuild = async {
        for _ in 0..u64::MAX {
            records.rebuild().await.unwrap();
        }
    };
    runtime.block_on(async { tokio::join!(publish(0), publish(1), publish(2), rebuild) });
}

#[test]
fn records_keep_what_they_acknowledged() {
    for subject in SUBJECTS.iter().filter(|subject| subject.persists) {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = HashSet::new();
        for round in 0..rounds() {
            let acks = run_and_kill(&format!("records {}", subject.name), dir.path(), round);
            acknowledged.extend(acks.iter().map(|id| id.parse::<RecordId>().unwrap()));
            let records = open_records(subject.name, dir.path());
            assert!(round == 0 || !acknowledged.is_empty());
            assert_whole(&records, &acknowledged, &format!("{} round {round}", subject.name));
        }
    }
}

/// Each acknowledged record is there and in the outbox, the chains have no gaps, the index is in line.
pub(crate) fn assert_whole(records: &Records, acknowledged: &HashSet<RecordId>, context: &str) {
    let mut kept = HashSet::new();
    for author in (0..PUBLISHERS).map(|number| publisher(number).author()) {
        let log = records.log(publisher(0).network(), author, (0, 0), usize::MAX, usize::MAX).unwrap();
        let mut prev = None;
        for (seq, record) in (0..).zip(&log) {
            assert_eq!((record.header().seq, record.header().prev), (seq, prev), "{context}");
            prev = Some(record.id());
        }
        assert_eq!(head(records, author), prev, "{context}");
        kept.extend(log.iter().map(|record| record.id()));
    }
    assert!(acknowledged.is_subset(&kept), "{context}: an acknowledged record is missing");
    assert_eq!(records.count().unwrap(), kept.len() as u64, "{context}");
    let outbox: HashSet<_> = records.outbox(usize::MAX).unwrap().iter().map(|(_, record)| record.id()).collect();
    assert_eq!(outbox, kept, "{context}");
    assert!(records.check_index().unwrap(), "{context}: the index isn't in line");
}

fn head(records: &Records, author: AuthorId) -> Option<RecordId> {
    let heads = records.heads(publisher(0).network(), None, usize::MAX).unwrap();
    heads.into_iter().find(|head| head.author == author).map(|head| head.id)
}
