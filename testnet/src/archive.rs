//! Records of a network that has been there for long, for nodes that aren't running.

use std::path::Path;

use anyhow::{Result, ensure};
use mhc_protocol::{
    BlobHash, NetworkId, RecordId, SecretKey, Timestamp,
    manifest::{BlobRef, MANIFEST, Manifest, MediaKind},
    record::{Body, Draft, VerifiedRecord},
};
use mhc_storage::record::{Outcome, Projection, Records, RecordsOptions};

use crate::Rng;

const AUTHORS: usize = 20;
/// Appended at a time.
const BATCH: usize = 500;

/// What happened in a network: `count` announcements of films by twenty authors, evenly spread over the time from `from`
/// to `to`. The films themselves are nowhere.
pub fn records(
    network: NetworkId,
    count: usize,
    from: Timestamp,
    to: Timestamp,
    seed: u64,
) -> Result<Vec<VerifiedRecord>> {
    let mut rng = Rng::new(seed);
    let mut seed_of_key = || {
        let mut seed = [0; 32];
        seed.copy_from_slice(&rng.bytes(32));
        seed
    };
    let keys: Vec<_> = (0..AUTHORS).map(|_| SecretKey::from_seed(&seed_of_key())).collect();
    let mut heads: Vec<(u64, Option<RecordId>)> = vec![(0, None); AUTHORS];
    let span_ms = to.as_millis().saturating_sub(from.as_millis());
    let mut records = Vec::with_capacity(count);
    for number in 0..count {
        let at = Timestamp::from_millis(from.as_millis() + span_ms * number as u64 / count as u64);
        let (key, (seq, prev)) = (&keys[number % AUTHORS], heads[number % AUTHORS]);
        let hash = BlobHash::of(&(number as u64 ^ seed).to_le_bytes());
        let original = BlobRef { hash, bytes: 100_000_000, content_type: "video/mp4".into(), name: None };
        let bytes = Manifest::new(format!("Film {number} of the archive"), MediaKind::Video, original).encode()?;
        let mut salt = [0; 16];
        salt.copy_from_slice(&rng.bytes(16));
        let body = Body { salt, bytes };
        let record = Draft { network, epoch: 0, seq, prev, at, kind: MANIFEST, body }.sign(key)?;
        heads[number % AUTHORS] = (seq + 1, Some(record.id()));
        records.push(record);
    }
    Ok(records)
}

/// Puts records into the home of a node that doesn't run.
pub fn fill(home: &Path, records: &[VerifiedRecord]) -> Result<()> {
    let projections = mhc_platform::services().into_iter().map(|service| service as std::sync::Arc<dyn Projection>);
    let store = Records::open(&home.join("records"), RecordsOptions::default(), projections.collect())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for batch in records.chunks(BATCH) {
        let outcomes = runtime.block_on(store.append(batch.to_vec()))?;
        ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::Appended), "{outcomes:?}");
    }
    runtime.block_on(store.close());
    Ok(())
}
