//! For the tests of everything that builds on records: authors that write chains, stores in memory, and the
//! checks that every projection must pass.

use std::{error::Error, sync::Arc};

use mhc_protocol::{
    NetworkId, RecordId, SecretKey, Timestamp,
    network::{ERASE, Erase, GRANT, Grant, Membership, POLICY, Policy, REVOKE, Revoke, Role},
    record::{Body, Draft, RecordError, RecordKind, VerifiedRecord},
};
use tempfile::TempDir;

use super::{EngineOpener, Outcome, Projection, Records, RecordsOptions};
use crate::kv::{Engine, memory::Memory};

/// What a check found wrong, or what stopped it.
pub type CheckError = Box<dyn Error + Send + Sync>;

/// When the test records were written: 2026-11-23, more or less.
pub const WRITTEN_AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// An author and the place where its next record goes.
#[derive(Debug, Clone)]
pub struct Author {
    key: SecretKey,
    network: NetworkId,
    epoch: u64,
    seq: u64,
    prev: Option<RecordId>,
}

impl Author {
    /// The author whose key's seed repeats `seed`, before its first record.
    pub fn new(seed: u8, network: NetworkId) -> Self {
        Self { key: SecretKey::from_seed(&[seed; 32]), network, epoch: 0, seq: 0, prev: None }
    }

    /// Its key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Writes the next record of its chain. A clone of the author made before this writes a rival.
    pub fn write(&mut self, kind: RecordKind, body: impl Into<Vec<u8>>) -> Result<VerifiedRecord, RecordError> {
        let (network, epoch, seq, prev) = (self.network, self.epoch, self.seq, self.prev);
        let at = WRITTEN_AT.saturating_add_ms(seq);
        let body = Body { salt: [0; 16], bytes: body.into() };
        let record = Draft { network, epoch, seq, prev, at, kind, body }.sign(&self.key)?;
        self.prev = Some(record.id());
        self.seq += 1;
        Ok(record)
    }

    /// Writes the next record as the first of the next epoch.
    pub fn raise_epoch(&mut self, kind: RecordKind, body: impl Into<Vec<u8>>) -> Result<VerifiedRecord, RecordError> {
        (self.epoch, self.seq) = (self.epoch + 1, 0);
        self.write(kind, body)
    }
}

/// An engine that lives as long as this opener, however often it is opened.
pub fn memory() -> EngineOpener {
    let engine = Arc::new(Memory::new());
    Arc::new(move |_| Ok(Box::new(Arc::clone(&engine)) as Box<dyn Engine>))
}

/// A store in memory. The folder holds nothing but has to be there.
pub fn open(projections: Vec<Arc<dyn Projection>>) -> Result<(Records, TempDir), CheckError> {
    let dir = tempfile::tempdir()?;
    let options = RecordsOptions { engine: memory(), min_free_bytes: 0, reserve_bytes: 0 };
    Ok((Records::open(dir.path(), options, projections)?, dir))
}

/// Checks that dropping the index and replaying the log makes the same index.
pub async fn replay_rebuilds_the_index(
    projections: Vec<Arc<dyn Projection>>,
    records: &[VerifiedRecord],
) -> Result<(), CheckError> {
    let (store, _dir) = open(projections)?;
    deliver(&store, records).await?;
    let before = store.index_digest()?;
    let replayed = store.rebuild().await?;
    match store.index_digest()? == before {
        true => Ok(()),
        false => Err(format!("a replay of {replayed} records made another index").into()),
    }
}

/// Checks that the index doesn't depend on the order in which records come, nor on how often they do. At most
/// 256 records of each author.
pub async fn order_and_duplicates_are_irrelevant(
    projections: Vec<Arc<dyn Projection>>,
    records: &[VerifiedRecord],
) -> Result<(), CheckError> {
    let (store, _dir) = open(projections.clone())?;
    deliver(&store, records).await?;
    let expected = store.index_digest()?;
    for seed in 1..=8 {
        let (store, _dir) = open(projections.clone())?;
        for record in shuffled_twice(records, seed) {
            deliver(&store, &[record]).await?;
        }
        if store.index_digest()? != expected {
            return Err(format!("order {seed} made another index").into());
        }
    }
    Ok(())
}

/// Checks that a network in which authors fork, move, erase, and get and lose the right to write comes to the same
/// index in each of `orders` random orders, with duplicates. `bodies` are what they write: some of each kind that
/// the projections fold.
pub async fn a_governed_network_converges(
    projections: Vec<Arc<dyn Projection>>,
    bodies: &[(RecordKind, Vec<u8>)],
    orders: u64,
) -> Result<(), CheckError> {
    let records = governed_network(bodies)?;
    let (store, _dir) = open(projections.clone())?;
    deliver_until_stable(&store, &records, 0).await?;
    let expected = store.index_digest()?;
    if !store.check_index()? {
        return Err("a replay makes another index".into());
    }
    for seed in 1..=orders {
        let (store, _dir) = open(projections.clone())?;
        deliver_until_stable(&store, &records, seed).await?;
        if store.index_digest()? != expected {
            return Err(format!("order {seed} made another index").into());
        }
        if seed % 100 == 0 && !store.check_index()? {
            return Err(format!("after order {seed} a replay makes another index").into());
        }
    }
    Ok(())
}

/// What each author writes; the root is author 9.
fn governed_network(bodies: &[(RecordKind, Vec<u8>)]) -> Result<Vec<VerifiedRecord>, CheckError> {
    let network = SecretKey::from_seed(&[9; 32]).network();
    let mut root = Author::new(9, network);
    let mut authors: Vec<Author> = (1..=5).map(|seed| Author::new(seed, network)).collect();
    let mut records = Vec::new();
    let mut grants = Vec::new();
    for author in &authors[..4] {
        let to = author.key().author();
        let until = Some(WRITTEN_AT.saturating_add_ms(if grants.len() == 2 { 6 } else { 1_000 }));
        let (role, from) = (Role::Artist, WRITTEN_AT);
        let grant = Grant { to, role, channel: None, from, until, depth: 0, under: None, note: None };
        grants.push(root.write(GRANT, grant.encode()?)?);
    }
    records.extend(grants.iter().cloned());
    let policy = Policy { revision: 1, membership: Membership::Curated, ..Policy::default() };
    records.push(root.write(POLICY, policy.encode()?)?);
    // Everybody writes twice; the fifth author is a stranger.
    let mut written: Vec<Vec<RecordId>> = vec![Vec::new(); authors.len()];
    for (kind, body) in bodies.iter().chain(bodies) {
        for (author, written) in authors.iter_mut().zip(&mut written) {
            let record = author.write(kind.clone(), body.clone())?;
            written.push(record.id());
            records.push(record);
        }
    }
    let Some((kind, body)) = bodies.first() else { return Ok(records) };
    let erase = |written: &[RecordId]| Erase { records: written.iter().step_by(2).copied().collect() }.encode();
    // The first forks, goes on on both sides, and erases on one of them.
    let mut other = authors[0].clone();
    records.push(authors[0].write(ERASE, erase(&written[0])?)?);
    records.push(authors[0].write(kind.clone(), body.clone())?);
    records.push(other.write(kind.clone(), [body.as_slice(), b" "].concat())?);
    records.push(other.write(kind.clone(), body.clone())?);
    // The second moves to another node while the old one writes on, and erases there.
    let mut moved = authors[1].clone();
    records.push(authors[1].write(kind.clone(), body.clone())?);
    records.push(moved.raise_epoch(kind.clone(), body.clone())?);
    records.push(moved.write(ERASE, erase(&written[1])?)?);
    // The fourth loses its role, but not what it wrote first; and everybody may write only so much.
    let revoke = Revoke { grant: grants[3].id(), keep: Some((0, bodies.len() as u64)), reason: None };
    records.push(root.write(REVOKE, revoke.encode()?)?);
    records.push(authors[3].write(ERASE, erase(&written[3])?)?);
    Ok(records)
}

/// Delivers everything again and again, as peers do, until that changes nothing. Each time in another order, some
/// of it twice; `seed` 0 keeps the order.
async fn deliver_until_stable(store: &Records, records: &[VerifiedRecord], seed: u64) -> Result<(), CheckError> {
    let mut before = None;
    for round in 0..16 {
        let order = match seed {
            0 => records.to_vec(),
            seed => shuffled_twice(records, seed.wrapping_mul(16) + round),
        };
        for batch in order.chunks(1 + usize::try_from(seed % 7).unwrap_or_default()) {
            store.append(batch.to_vec()).await?;
        }
        let now = Some((store.index_digest()?, store.count()?));
        if now == before {
            return Ok(());
        }
        before = now;
    }
    Err("delivery goes on changing the index".into())
}

async fn deliver(store: &Records, records: &[VerifiedRecord]) -> Result<(), CheckError> {
    let outcomes = store.append(records.to_vec()).await?;
    match outcomes.iter().find(|outcome| matches!(outcome, Outcome::Refused(_))) {
        Some(refused) => Err(format!("a record of the test was {refused:?}").into()),
        None => Ok(()),
    }
}

/// Every record twice, in an order that follows from `seed`.
fn shuffled_twice(records: &[VerifiedRecord], seed: u64) -> Vec<VerifiedRecord> {
    let mut all: Vec<_> = records.iter().chain(records).cloned().collect();
    let mut state = seed;
    for last in (1..all.len()).rev() {
        // Knuth's MMIX constants; the high bits are the random ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap_or_default() % (last + 1);
        all.swap(last, other);
    }
    all
}
