//! Which networks this node follows and how much of each: its home, and others that it was told to follow.
//!
//! Each has heads, pulls and topics of its own, so that nothing of one shows in another. The set is kept in a private
//! table, with the interest in each.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use mhc_protocol::{
    AuthorId, NetworkId, RecordId, cbor,
    network::{Interest, MAX_CHANNELS, Scope},
    wire::{Follows, MAX_NETWORKS},
};
use mhc_storage::{
    kv::KeyRange,
    record::{Private, Records, RecordsError},
};
use serde::{Deserialize, Serialize};

use super::{
    error::NetError,
    sync::{HeadCache, Pulls},
};

const TABLE: &str = "networks";
const MAX_ENTRY_BYTES: usize = 64 * 1024;
/// Authors of essential contents that are remembered until their logs are here.
const MAX_PUBLISHERS: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Entry {
    v: u8,
    interest: Interest,
}

/// A network that this node follows, and what sync keeps of it.
pub(super) struct Followed {
    pub(super) network: NetworkId,
    pub(super) interest: Interest,
    pub(super) heads: Arc<HeadCache>,
    /// Which logs are being pulled from whom.
    pub(super) pulls: Arc<Pulls>,
    records: Records,
    own: AuthorId,
    /// Who published which essential content, as peers have proven by its record.
    publishers: Mutex<HashMap<RecordId, AuthorId>>,
}

impl Followed {
    /// Whether all of it is followed.
    pub(super) fn is_whole(&self) -> bool {
        self.interest == Interest::Whole
    }

    /// Whose logs are wanted, by what is known now. Blocks while the store is read.
    pub(super) fn scope(&self) -> Result<Scope, RecordsError> {
        if self.is_whole() {
            return Ok(Scope::All);
        }
        let authority = self.records.authority(self.network)?;
        let mut failed = None;
        let scope = self.interest.scope(&authority, self.own, |content| match self.publisher(content) {
            Ok(publisher) => publisher,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(scope), Err)
    }

    /// Essential contents of which nobody knows here who published them. Blocks while the store is read.
    pub(super) fn unknown_publishers(&self) -> Result<Vec<RecordId>, RecordsError> {
        if self.interest != Interest::Essential {
            return Ok(vec![]);
        }
        let authority = self.records.authority(self.network)?;
        let essential = authority.latest().map(|policy| &policy.essential).into_iter().flatten();
        let unknown = essential.map(|content| Ok((*content, self.publisher(*content)?.is_none())));
        let unknown: Result<Vec<_>, RecordsError> = unknown.collect();
        Ok(unknown?.into_iter().filter_map(|(content, unknown)| unknown.then_some(content)).collect())
    }

    /// A peer has shown this record.
    pub(super) fn found(&self, content: RecordId, publisher: AuthorId) {
        let mut publishers = self.publishers();
        if publishers.len() >= MAX_PUBLISHERS {
            publishers.clear();
        }
        publishers.insert(content, publisher);
    }

    fn publisher(&self, content: RecordId) -> Result<Option<AuthorId>, RecordsError> {
        if let Some(known) = self.publishers().get(&content) {
            return Ok(Some(*known));
        }
        match self.records.get(content) {
            Ok(record) => {
                let header = record.map(|record| record.header().clone());
                Ok(header.filter(|header| header.network == self.network).map(|header| header.author))
            }
            Err(RecordsError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn publishers(&self) -> MutexGuard<'_, HashMap<RecordId, AuthorId>> {
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
pub(super) struct Networks {
    home: NetworkId,
    own: AuthorId,
    records: Records,
    followed: RwLock<BTreeMap<NetworkId, Arc<Followed>>>,
}

impl Networks {
    /// Those that were followed before; the home is always among them.
    pub(super) fn load(home: NetworkId, own: AuthorId, records: Records) -> Result<Self, RecordsError> {
        let networks = Self { home, own, records, followed: RwLock::default() };
        let rows = networks.table().scan(KeyRange::all(), MAX_NETWORKS)?;
        let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let network = NetworkId::from_bytes(key.as_slice().try_into().ok()?);
            let entry: Entry = cbor::decode(value, MAX_ENTRY_BYTES).ok()?;
            (entry.v == 1).then_some((network, entry.interest))
        };
        networks.put(home, Interest::Whole);
        rows.iter().filter_map(decode).for_each(|(network, interest)| networks.put(network, interest));
        Ok(networks)
    }

    /// Where this node writes unless it is told otherwise.
    pub(super) fn home(&self) -> NetworkId {
        self.home
    }

    pub(super) fn get(&self, network: NetworkId) -> Option<Arc<Followed>> {
        self.read().get(&network).cloned()
    }

    pub(super) fn follows(&self, network: NetworkId) -> bool {
        self.read().contains_key(&network)
    }

    /// In ascending order.
    pub(super) fn all(&self) -> Vec<Arc<Followed>> {
        self.read().values().cloned().collect()
    }

    /// As peers are told.
    pub(super) fn told(&self) -> Vec<Follows> {
        let told = |followed: &Arc<Followed>| Follows { network: followed.network, whole: followed.is_whole() };
        self.read().values().map(told).collect()
    }

    /// Follows a network from now on, or the same with another interest. Durable when it returns.
    pub(super) async fn follow(&self, network: NetworkId, interest: Interest) -> Result<(), NetError> {
        if let Interest::Channels(channels) = &interest
            && !(1..=MAX_CHANNELS).contains(&channels.len())
        {
            return Err(NetError::Channels { limit: MAX_CHANNELS });
        }
        if !self.follows(network) && self.read().len() >= MAX_NETWORKS {
            return Err(NetError::TooManyNetworks { limit: MAX_NETWORKS });
        }
        let entry = Entry { v: 1, interest: interest.clone() };
        let entry = cbor::encode(&entry).map_err(|error| NetError::Internal(error.to_string()))?;
        self.save(network, Some(entry)).await?;
        self.put(network, interest);
        Ok(())
    }

    /// Stops following a network; false when it wasn't followed.
    pub(super) async fn unfollow(&self, network: NetworkId) -> Result<bool, NetError> {
        if network == self.home {
            return Err(NetError::Home);
        }
        self.save(network, None).await?;
        Ok(self.write().remove(&network).is_some())
    }

    async fn save(&self, network: NetworkId, entry: Option<Vec<u8>>) -> Result<(), NetError> {
        let saved = self.table().update(vec![(network.as_bytes().to_vec(), entry)]).await;
        saved.map_err(|error| NetError::Internal(error.to_string()))
    }

    fn put(&self, network: NetworkId, interest: Interest) {
        let mut followed = self.write();
        let (heads, pulls) = match followed.get(&network) {
            Some(before) => (Arc::clone(&before.heads), Arc::clone(&before.pulls)),
            None => (Arc::new(HeadCache::new(self.records.clone(), network)), Arc::default()),
        };
        let (records, own, publishers) = (self.records.clone(), self.own, Mutex::default());
        followed.insert(network, Arc::new(Followed { network, interest, heads, pulls, records, own, publishers }));
    }

    fn table(&self) -> Private {
        self.records.private(TABLE)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<NetworkId, Arc<Followed>>> {
        self.followed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<NetworkId, Arc<Followed>>> {
        self.followed.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mhc_protocol::SecretKey;
    use mhc_storage::record::testing;

    use super::*;

    fn network(seed: u8) -> NetworkId {
        SecretKey::from_seed(&[seed; 32]).network()
    }

    #[tokio::test]
    async fn what_is_followed_is_remembered_and_bounded() {
        let (records, _dir) = testing::open(vec![]).unwrap();
        let own = SecretKey::from_seed(&[1; 32]).author();
        let load = || Networks::load(network(200), own, records.clone()).unwrap();
        let networks = load();
        assert_eq!(networks.told(), [Follows { network: network(200), whole: true }]);
        let channels = Interest::Channels([own].into());
        networks.follow(network(1), Interest::Whole).await.unwrap();
        networks.follow(network(2), channels.clone()).await.unwrap();
        networks.follow(network(200), Interest::Essential).await.unwrap();
        for networks in [&networks, &load()] {
            assert_eq!(networks.all().len(), 3);
            assert_eq!(networks.get(network(2)).unwrap().interest, channels);
            assert_eq!(networks.get(network(200)).unwrap().interest, Interest::Essential);
        }
        assert!(networks.unfollow(network(1)).await.unwrap() && !networks.unfollow(network(1)).await.unwrap());
        assert!(!load().follows(network(1)) && load().follows(network(2)));
        assert!(matches!(networks.unfollow(network(200)).await, Err(NetError::Home)));
        let nobody = networks.follow(network(3), Interest::Channels([].into())).await;
        assert!(matches!(nobody, Err(NetError::Channels { .. })));
        for seed in 10..24 {
            networks.follow(network(seed), Interest::Whole).await.unwrap();
        }
        assert!(matches!(networks.follow(network(30), Interest::Whole).await, Err(NetError::TooManyNetworks { .. })));
        networks.follow(network(10), Interest::Essential).await.unwrap();
    }
}
