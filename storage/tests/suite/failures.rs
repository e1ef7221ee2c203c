//! A disk that fails or is full: nothing is acknowledged that isn't kept, and work goes on when it can.

use std::{
    collections::HashSet,
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use mhc_protocol::{NetworkId, RecordId, SecretKey, record::VerifiedRecord};
use mhc_storage::{
    kv::{
        Durability, Engine, Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx,
        redb::{Redb, RedbOptions},
    },
    record::{
        EngineOpener, Health, Outcome, Records, RecordsError, RecordsOptions,
        testing::{Author, WRITTEN_AT},
    },
};

use crate::{NOTE, index::Notes};

/// What the next commit does instead of succeeding.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The disk is full; nothing was committed.
    Full,
    /// The flush failed; nothing was committed.
    Lost,
    /// The flush failed, and yet the transaction is there after a reopen.
    Kept,
    /// A bug, or an assertion over a damaged page.
    Panic,
}

#[derive(Default)]
struct Plan {
    /// What the commits from now on do, last first.
    faults: Mutex<Vec<Option<Fault>>>,
    refuse_open: AtomicBool,
    opens: AtomicU32,
}

impl Plan {
    fn next_fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap().pop().flatten()
    }

    fn fail_next(&self, fault: Fault) {
        self.faults.lock().unwrap().push(Some(fault));
    }

    fn opener(self: &Arc<Self>) -> EngineOpener {
        let plan = Arc::clone(self);
        Arc::new(move |dir| {
            plan.opens.fetch_add(1, Ordering::SeqCst);
            if plan.refuse_open.load(Ordering::SeqCst) {
                return Err(KvError::Io(io::Error::other("the device is gone")));
            }
            let engine = Redb::open(&dir.join("records.redb"), &RedbOptions::default())?;
            Ok(Box::new(Flaky { engine, plan: Arc::clone(&plan), failed: AtomicBool::new(false) }))
        })
    }
}

/// An engine that fails as planned, and after that at everything until it is opened again.
struct Flaky {
    engine: Redb,
    plan: Arc<Plan>,
    failed: AtomicBool,
}

impl Flaky {
    fn check(&self) -> Result<(), KvError> {
        match self.failed.load(Ordering::SeqCst) {
            true => Err(KvError::Io(io::Error::other("an earlier commit failed"))),
            false => Ok(()),
        }
    }
}

impl Engine for Flaky {
    fn read(&self) -> Result<Snapshot, KvError> {
        self.check()?;
        self.engine.read()
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        self.check()?;
        Ok(Box::new(FlakyTx { tx: self.engine.write()?, engine: self }))
    }
}

struct FlakyTx<'a> {
    tx: Box<dyn WriteTx + 'a>,
    engine: &'a Flaky,
}

impl ReadTx for FlakyTx<'_> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.tx.get(table, key)
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        self.tx.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        self.tx.tables()
    }
}

impl WriteTx for FlakyTx<'_> {
    fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.tx.put(table, key, value)
    }

    fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), KvError> {
        self.tx.delete(table, key)
    }

    fn clear(&mut self, table: &str) -> Result<(), KvError> {
        self.tx.clear(table)
    }

    fn commit(self: Box<Self>, durability: Durability) -> Result<(), KvError> {
        let Some(fault) = self.engine.plan.next_fault() else { return self.tx.commit(durability) };
        self.engine.failed.store(true, Ordering::SeqCst);
        match fault {
            Fault::Full => Err(KvError::Full),
            Fault::Lost => Err(KvError::Io(io::Error::other("fsync failed"))),
            Fault::Kept => {
                self.tx.commit(durability)?;
                Err(KvError::Io(io::Error::other("fsync failed")))
            }
            Fault::Panic => panic!("planned"),
        }
    }
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn network() -> NetworkId {
    key().network()
}

fn open(dir: &Path, engine: EngineOpener) -> Records {
    let options = RecordsOptions { engine, min_free_bytes: 0, reserve_bytes: 0 };
    Records::open(dir, options, vec![Arc::new(Notes)]).unwrap()
}

async fn publish(store: &Records, body: Vec<u8>) -> Result<VerifiedRecord, RecordsError> {
    store.publish(&key(), network(), NOTE, body, [7; 16], WRITTEN_AT).await
}

#[tokio::test]
async fn after_a_failed_commit_the_store_is_opened_again_and_a_repetition_is_safe() {
    for (fault, repeated) in [
        (Fault::Full, Outcome::Appended),
        (Fault::Lost, Outcome::Appended),
        (Fault::Kept, Outcome::Duplicate),
        (Fault::Panic, Outcome::Appended),
    ] {
        let (dir, plan) = (tempfile::tempdir().unwrap(), Arc::new(Plan::default()));
        let store = open(dir.path(), plan.opener());
        let mut author = Author::new(2, network());
        let (first, second) = (author.write(NOTE, "1").unwrap(), author.write(NOTE, "2").unwrap());
        store.append(vec![first.clone()]).await.unwrap();
        let mut events = store.subscribe();

        plan.fail_next(fault);
        let error = store.append(vec![second.clone()]).await.unwrap_err();
        match fault {
            Fault::Full => assert!(matches!(error, RecordsError::StorageFull), "{fault:?}: {error:?}"),
            _ => assert!(matches!(error, RecordsError::Engine(_)), "{fault:?}: {error:?}"),
        }
        assert!(matches!(store.health(), Health::ReadOnly { .. }), "{fault:?}");
        assert!(events.try_recv().is_err(), "{fault:?}: nothing was acknowledged");
        assert_eq!(store.get(first.id()).unwrap(), Some(first), "{fault:?}: reads work");

        assert_eq!(store.append(vec![second]).await.unwrap(), [repeated], "{fault:?}");
        assert_eq!(store.health(), Health::ReadWrite, "{fault:?}");
        assert_eq!((store.count().unwrap(), plan.opens.load(Ordering::SeqCst)), (2, 2), "{fault:?}");
        assert!(store.check_index().unwrap(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_store_that_cant_be_opened_again_recovers_when_it_can() {
    let (dir, plan) = (tempfile::tempdir().unwrap(), Arc::new(Plan::default()));
    let store = open(dir.path(), plan.opener());
    let first = publish(&store, vec![1]).await.unwrap();
    plan.refuse_open.store(true, Ordering::SeqCst);
    plan.fail_next(Fault::Lost);
    publish(&store, vec![2]).await.unwrap_err();
    assert!(matches!(store.get(first.id()), Err(RecordsError::Engine(_))));
    assert!(matches!(publish(&store, vec![2]).await, Err(RecordsError::Engine(_))));
    assert!(matches!(store.health(), Health::ReadOnly { .. }));
    plan.refuse_open.store(false, Ordering::SeqCst);
    assert_eq!(publish(&store, vec![2]).await.unwrap().header().seq, 1);
    assert_eq!((store.get(first.id()).unwrap(), store.health()), (Some(first), Health::ReadWrite));
}

#[tokio::test]
async fn of_many_publishers_those_get_an_error_whose_record_may_be_lost() {
    let (dir, plan) = (tempfile::tempdir().unwrap(), Arc::new(Plan::default()));
    let store = open(dir.path(), plan.opener());
    let mut acknowledged = HashSet::new();
    for round in 0..6u8 {
        let faults = [Fault::Lost, Fault::Full, Fault::Kept];
        plan.faults.lock().unwrap().extend([Some(faults[usize::from(round) % 3]), None]);
        let bodies = (0..20u8).map(|number| publish(&store, vec![round, number]));
        let results = futures::future::join_all(bodies).await;
        acknowledged.extend(results.into_iter().flatten().map(|record| record.id()));
    }
    let kept = kept(&store);
    assert!(acknowledged.is_subset(&kept));
    assert_eq!(store.outbox(usize::MAX).unwrap().len(), kept.len());
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn a_rebuild_that_fails_leaves_the_old_index_and_can_be_repeated() {
    for fault in [Fault::Full, Fault::Lost, Fault::Kept, Fault::Panic] {
        let (dir, plan) = (tempfile::tempdir().unwrap(), Arc::new(Plan::default()));
        let store = open(dir.path(), plan.opener());
        for seed in 2..5 {
            let mut author = Author::new(seed, network());
            let notes = (0..4_500u32).map(|n| author.write(NOTE, n.to_be_bytes()).unwrap()).collect();
            store.append(notes).await.unwrap();
        }
        let digest = store.index_digest().unwrap();
        // In the third of its four transactions.
        plan.faults.lock().unwrap().extend([Some(fault), None, None]);
        store.rebuild().await.unwrap_err();
        assert_eq!(store.index_digest().unwrap(), digest, "{fault:?}");
        assert_eq!(store.rebuild().await.unwrap(), 13_500, "{fault:?}");
        assert_eq!(store.index_digest().unwrap(), digest, "{fault:?}");
        assert!(store.check_index().unwrap(), "{fault:?}");
    }
}

fn kept(store: &Records) -> HashSet<RecordId> {
    let log = store.log(network(), key().author(), (0, 0), usize::MAX, usize::MAX).unwrap();
    log.iter().map(|record| record.id()).collect()
}

/// A small file system in memory. Dropped, it is unmounted.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(dir.path()));
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(why) => {
                println!("SKIPPED: no tmpfs can be mounted: {why}");
                eprintln!("SKIPPED: no tmpfs can be mounted: {why}");
                None
            }
        }
    }

    fn resize(&self, bytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(self.0.path())).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that a test that failed with open files leaves nothing behind.
        let _ = run(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Takes the last byte.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let mut block = vec![0; 64 * 1024];
    while !block.is_empty() {
        if io::Write::write_all(&mut file, &block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}

const KIB: u64 = 1024;

#[tokio::test]
async fn a_full_disk_makes_the_store_read_only_until_there_is_space() {
    // With a limit the store stops before the disk is full; without one the commit meets the end of it.
    for min_free_bytes in [256 * KIB, 0] {
        let Some(disk) = Tmpfs::mount(8192 * KIB) else { return };
        let dir = disk.0.path().join("store");
        let open = || {
            let options = RecordsOptions { min_free_bytes, reserve_bytes: 512 * KIB, ..RecordsOptions::default() };
            Records::open(&dir, options, vec![Arc::new(Notes)])
        };
        let store = open().unwrap();
        let mut acknowledged = HashSet::new();
        let error = loop {
            match publish(&store, vec![7; 20_000]).await {
                Ok(record) => acknowledged.insert(record.id()),
                Err(error) => break error,
            };
        };
        let context = format!("at least {min_free_bytes} free, {} records", acknowledged.len());
        assert!(matches!(error, RecordsError::StorageFull), "{context}: {error:?}");
        assert!(matches!(store.health(), Health::ReadOnly { .. }), "{context}");
        assert!(acknowledged.len() > 20, "{context}");
        assert!(acknowledged.is_subset(&kept(&store)), "{context}");

        fill(&disk.0.path().join("filler"));
        assert!(matches!(publish(&store, vec![7]).await, Err(RecordsError::StorageFull)), "{context}");
        drop(store);
        let store = open().unwrap();
        assert!(acknowledged.is_subset(&kept(&store)), "{context}: after a start on a full disk");
        if min_free_bytes > 0 {
            assert!(matches!(store.health(), Health::ReadOnly { .. }), "{context}: starts read-only");
        }
        assert!(matches!(publish(&store, vec![7; 20_000]).await, Err(RecordsError::StorageFull)), "{context}");
        assert!(matches!(store.health(), Health::ReadOnly { .. }), "{context}");

        disk.resize(32_768 * KIB);
        acknowledged.insert(publish(&store, vec![7; 20_000]).await.unwrap().id());
        assert_eq!(store.health(), Health::ReadWrite, "{context}");
        assert!(acknowledged.is_subset(&kept(&store)), "{context}");
        assert!(store.check_index().unwrap(), "{context}");
    }
}

#[tokio::test]
async fn a_store_that_was_killed_opens_on_a_full_disk() {
    let Some(disk) = Tmpfs::mount(8192 * KIB) else { return };
    let dir = disk.0.path().join("store");
    let acks = {
        // The child's store has a reserve.
        fs::create_dir(&dir).unwrap();
        let child = crate::child::spawn("records redb", &dir);
        child.kill_after(30)
    };
    fill(&disk.0.path().join("filler"));
    let options = RecordsOptions { min_free_bytes: 256 * KIB, reserve_bytes: 64 * KIB, ..RecordsOptions::default() };
    let store = Records::open(&dir, options, vec![Arc::new(Notes)]).unwrap();
    assert!(matches!(store.health(), Health::ReadOnly { .. }));
    assert!(acks.len() >= 30);
    for id in acks {
        assert!(store.get(id.parse().unwrap()).unwrap().is_some());
    }
}

#[test]
fn a_first_start_on_a_full_disk_says_so_and_leaves_nothing_behind() {
    let Some(disk) = Tmpfs::mount(512 * KIB) else { return };
    let dir = disk.0.path().join("store");
    fs::create_dir(&dir).unwrap();
    fill(&disk.0.path().join("filler"));
    let open = || Records::open(&dir, RecordsOptions { min_free_bytes: 0, ..RecordsOptions::default() }, vec![]);
    let error = open().map(drop).unwrap_err();
    assert!(matches!(error, RecordsError::StorageFull), "{error:?}");
    disk.resize(32_768 * KIB);
    assert_eq!(open().unwrap().count().unwrap(), 0);
}

#[tokio::test]
async fn the_reserve_is_given_up_when_opening_takes_space_and_made_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = dir.path().join("reserve");
    // As on a disk that is full but for the reserve.
    let engine: EngineOpener = Arc::new(|dir| match dir.join("reserve").exists() {
        true => Err(KvError::Full),
        false => Ok(Box::new(Redb::open(&dir.join("records.redb"), &RedbOptions::default())?)),
    });
    let options = RecordsOptions { engine, min_free_bytes: 0, reserve_bytes: 100_000 };
    let open = || Records::open(dir.path(), options.clone(), vec![]).unwrap();
    publish(&open(), vec![1]).await.unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 100_000);
    let store = open();
    assert!(!reserve.exists());
    assert_eq!(store.count().unwrap(), 1);
    publish(&store, vec![2]).await.unwrap();
    assert!(reserve.exists());
}
