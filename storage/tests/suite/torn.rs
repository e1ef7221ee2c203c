//! A disk in memory that loses its power in the middle: of what wasn't synced, each sector is there or not by chance.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use mhc_storage::kv::{
    Durability, Engine, KeyRange,
    redb::{Redb, RedbOptions},
};

const SECTOR_BYTES: usize = 512;
const BATCHES: u64 = 30;
const ROWS_PER_BATCH: u64 = 20;
/// Seeds tried; each loses power at another write.
const SEEDS: u64 = 60;

/// Random numbers that follow from a seed.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }
}

struct State {
    /// What the engine sees.
    now: Vec<u8>,
    /// What is on the medium for certain.
    synced: Vec<u8>,
    /// Sectors written since.
    unsynced: Vec<usize>,
    writes: u64,
    fails_at: u64,
    random: Random,
    /// What was left when the power went, and how many batches had been acknowledged by then.
    left: Option<(Vec<u8>, u64)>,
}

#[derive(Clone)]
struct Disk {
    state: Arc<Mutex<State>>,
    acknowledged: Arc<AtomicU64>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    fn new(content: Vec<u8>, fails_at: u64, seed: u64) -> Self {
        let state = State {
            synced: content.clone(),
            now: content,
            unsynced: vec![],
            writes: 0,
            fails_at,
            random: Random::new(seed),
            left: None,
        };
        Self { state: Arc::new(Mutex::new(state)), acknowledged: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    /// Counts a write; at the one where the power goes, keeps what would be on the medium.
    fn count(&mut self, acknowledged: u64) {
        self.writes += 1;
        if self.writes != self.fails_at {
            return;
        }
        let mut left = self.synced.clone();
        // The file's length may or may not have got there.
        if self.random.below(2) == 0 {
            left.resize(self.now.len(), 0);
        }
        for sector in &self.unsynced {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.now.len()).min(left.len());
            if start < end && self.random.below(2) == 0 {
                left[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        self.left = Some((left, acknowledged));
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let state = self.state();
        let bytes = state.now.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.now.resize(usize::try_from(len).unwrap(), 0);
        state.count(self.acknowledged.load(Ordering::SeqCst));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.count(self.acknowledged.load(Ordering::SeqCst));
        state.synced = state.now.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut state = self.state();
        state.now[start..start + data.len()].copy_from_slice(data);
        let sectors = start / SECTOR_BYTES..(start + data.len()).div_ceil(SECTOR_BYTES);
        state.unsynced.extend(sectors);
        state.count(self.acknowledged.load(Ordering::SeqCst));
        Ok(())
    }
}

fn value(batch: u64, row: u64) -> Vec<u8> {
    blake3::hash(&[batch.to_be_bytes(), row.to_be_bytes()].concat()).as_bytes().repeat(8)
}

fn write_batches(engine: &Redb, acknowledged: &AtomicU64) {
    for batch in 0..BATCHES {
        let mut tx = engine.write().unwrap();
        for row in 0..ROWS_PER_BATCH {
            tx.put("rows", &[batch.to_be_bytes(), row.to_be_bytes()].concat(), &value(batch, row)).unwrap();
        }
        tx.commit(Durability::Durable).unwrap();
        acknowledged.store(batch + 1, Ordering::SeqCst);
    }
}

/// An empty store, whole on its medium: how one is created is tested elsewhere.
fn created() -> Vec<u8> {
    let disk = Disk::new(vec![], u64::MAX, 0);
    let engine = Redb::on(disk.clone(), &RedbOptions::default()).unwrap();
    engine.write().unwrap().commit(Durability::Durable).unwrap();
    drop(engine);
    disk.state().now.clone()
}

#[test]
fn torn_sectors_lose_nothing_acknowledged_and_tear_no_batch() {
    let empty = created();
    let dry = Disk::new(empty.clone(), u64::MAX, 0);
    write_batches(&Redb::on(dry.clone(), &RedbOptions::default()).unwrap(), &dry.acknowledged);
    let writes = dry.state().writes;
    for seed in 0..SEEDS {
        let fails_at = 1 + Random::new(seed).below(writes - 1);
        let disk = Disk::new(empty.clone(), fails_at, seed);
        write_batches(&Redb::on(disk.clone(), &RedbOptions::default()).unwrap(), &disk.acknowledged);
        let (left, acknowledged) = disk.state().left.take().unwrap();
        let engine = Redb::on(Disk::new(left, u64::MAX, seed), &RedbOptions::default());
        let engine = engine.unwrap_or_else(|error| panic!("seed {seed}, write {fails_at}: {error}"));
        let rows = engine.read().unwrap().scan("rows", KeyRange::all(), usize::MAX).unwrap();
        let batches = rows.len() as u64 / ROWS_PER_BATCH;
        assert!(batches >= acknowledged, "seed {seed}: {batches} of {acknowledged} batches");
        assert_eq!(rows.len() as u64, batches * ROWS_PER_BATCH, "seed {seed}: a torn batch");
        for (at, (_, bytes)) in (0..).zip(&rows) {
            assert_eq!(*bytes, value(at / ROWS_PER_BATCH, at % ROWS_PER_BATCH), "seed {seed}: row {at}");
        }
    }
}
