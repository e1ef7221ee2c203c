//! The heads of our logs, sorted and in memory: made once, then brought up to date with what was committed since.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mhc_protocol::{AuthorId, NetworkId, reconcile::Heads, wire::Head};
use mhc_storage::record::{Committed, Records, RecordsError};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use super::local;

/// Made anew after this long: damage takes heads back and announces nothing.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// Read from the store at a time.
const PAGE: usize = 4096;
/// Changes that are looked up one by one; with more, all are read.
const MAX_CHANGES: usize = 512;

/// The cache. 80 bytes for each author of the network, once, and again for a session that began before the last change.
pub(in crate::net) struct HeadCache {
    records: Records,
    network: NetworkId,
    state: Mutex<State>,
}

struct State {
    committed: Receiver<Committed>,
    made: Option<Made>,
}

struct Made {
    heads: Heads,
    at: Instant,
    /// How many records the store had.
    count: u64,
}

impl HeadCache {
    pub(in crate::net) fn new(records: Records, network: NetworkId) -> Self {
        let state = Mutex::new(State { committed: records.subscribe(), made: None });
        Self { records, network, state }
    }

    /// The heads now. Blocks while they are read.
    pub(super) fn get(&self) -> Result<Heads, RecordsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Before anything is read: what is committed meanwhile is seen next time.
        let changes = changes(&mut state.committed, self.network);
        let count = self.records.count()?;
        let heads = match (&state.made, changes) {
            (Some(made), Some(changes)) if made.at.elapsed() < MAX_AGE => match changes.is_empty() {
                true if made.count == count => return Ok(made.heads.clone()),
                // Something changed that wasn't announced.
                true => None,
                false => Some(made.heads.with(self.look_up(&changes)?)),
            },
            _ => None,
        };
        let at = match (&heads, &state.made) {
            (Some(_), Some(made)) => made.at,
            _ => Instant::now(),
        };
        let heads = match heads {
            Some(heads) => heads,
            None => self.read_all()?,
        };
        state.made = Some(Made { heads: heads.clone(), at, count });
        Ok(heads)
    }

    fn look_up(&self, authors: &HashSet<AuthorId>) -> Result<Vec<(AuthorId, Option<Head>)>, RecordsError> {
        let look = |author: &AuthorId| Ok((*author, local::head(&self.records, self.network, *author)?));
        authors.iter().map(look).collect()
    }

    fn read_all(&self) -> Result<Heads, RecordsError> {
        let mut heads: Vec<Head> = vec![];
        loop {
            let page = self.records.heads(self.network, heads.last().map(|head| head.author), PAGE)?;
            let full = page.len() == PAGE;
            heads.extend(page.into_iter().map(local::from_store));
            if !full {
                return Ok(Heads::new(heads));
            }
        }
    }
}

/// Whose logs changed since this was last asked; none when that isn't known or too many did.
fn changes(committed: &mut Receiver<Committed>, network: NetworkId) -> Option<HashSet<AuthorId>> {
    let mut authors = HashSet::new();
    let mut known = true;
    loop {
        match committed.try_recv() {
            Ok(commit) if commit.record.header().network == network => {
                authors.insert(commit.record.header().author);
            }
            Ok(_) => {}
            Err(TryRecvError::Lagged(_)) => known = false,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    (known && authors.len() <= MAX_CHANGES).then_some(authors)
}

#[cfg(test)]
mod tests {
    use mhc_protocol::{
        SecretKey,
        record::{Body, Draft, RecordKind},
    };
    use mhc_storage::record::{
        RecordsOptions,
        testing::{self, Author, WRITTEN_AT},
    };

    use super::*;

    #[tokio::test]
    async fn the_cache_follows_the_store() {
        let network = SecretKey::from_seed(&[200; 32]).network();
        let kind = RecordKind::new("test.v1");
        let (records, _dir) = testing::open(vec![]).unwrap();
        let cache = HeadCache::new(records.clone(), network);
        let same = || {
            let stored = records.heads(network, None, 9).unwrap().into_iter().map(local::from_store);
            cache.get().unwrap().as_slice() == stored.collect::<Vec<_>>()
        };
        assert!(same() && cache.get().unwrap().as_slice().is_empty());
        let (mut one, mut two) = (Author::new(1, network), Author::new(2, network));
        for _ in 0..3 {
            records.append(vec![one.write(kind.clone(), "x").unwrap()]).await.unwrap();
            assert!(same());
        }
        let mut rival = two.clone();
        records
            .append(vec![two.write(kind.clone(), "x").unwrap(), two.write(kind.clone(), "y").unwrap()])
            .await
            .unwrap();
        assert!(same());
        records.append(vec![rival.write(kind.clone(), "z").unwrap()]).await.unwrap();
        assert!(same(), "a fork may take a head back");
        let mut foreign = Author::new(3, SecretKey::from_seed(&[9; 32]).network());
        records.append(vec![foreign.write(kind, "x").unwrap()]).await.unwrap();
        assert!(same() && cache.get().unwrap().as_slice().len() == 2);
    }

    /// Prints how long the cache takes: `cargo test -p mhc-node heads::tests -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "a measurement: it takes a minute"]
    async fn heads_of_100_000_logs() {
        let network = SecretKey::from_seed(&[200; 32]).network();
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path(), RecordsOptions::default(), vec![]).unwrap();
        let first = |n: u64| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_le_bytes());
            let (kind, body) = (RecordKind::new("test.v1"), Body { salt: [0; 16], bytes: vec![7; 100] });
            let draft = Draft { network, epoch: 0, seq: 0, prev: None, at: WRITTEN_AT, kind, body };
            draft.sign(&SecretKey::from_seed(&seed)).unwrap()
        };
        for batch in 0..20 {
            records.append((0..5000).map(|n| first(batch * 5000 + n)).collect()).await.unwrap();
        }
        let cache = HeadCache::new(records.clone(), network);
        let timed = |what: &str| {
            let started = Instant::now();
            let heads = cache.get().unwrap();
            println!("{what}: {} heads in {:?}", heads.as_slice().len(), started.elapsed());
        };
        timed("read from the store");
        timed("again");
        records.append(vec![first(100_000)]).await.unwrap();
        timed("with one new log");
    }
}
