//! Tells the network what this node holds: by gossip soon after it changes and again every few minutes, and by
//! the DHT for complete blobs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mhc_protocol::{
    BlobHash, NetworkId, Timestamp,
    wire::{Haves, MAX_HAVES, Topic},
};
use mhc_storage::blob::BlobEvent;
use tokio::{
    sync::{broadcast::error::RecvError, oneshot},
    time::{Instant, interval_at, sleep_until},
};

use super::{
    actor::{Command, Published},
    haves::REANNOUNCE,
    ids,
    shared::Shared,
    swarm::MAX_PROVIDED,
};

/// Changes within this time go into one message.
const SETTLE: Duration = Duration::from_millis(500);
/// Subscribers within this time hear one full announcement together.
const WELCOME: Duration = Duration::from_secs(2);
/// Most messages of a full announcement; a node that holds more goes on with the rest the next time.
const MAX_MESSAGES: usize = 8;
/// Changes that wait for a message; more are told by the next full announcement.
const MAX_CHANGES: usize = 8 * MAX_HAVES;

/// Runs until the store closes.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut events = shared.blobs.events();
    let mut announcer = Announcer::new(Arc::clone(&shared));
    announcer.provide_all().await;
    let mut period = interval_at(Instant::now() + REANNOUNCE, REANNOUNCE);
    loop {
        let due = announcer.due;
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => announcer.changed(event).await,
                Err(RecvError::Lagged(_)) => announcer.full_at(Instant::now() + SETTLE),
                Err(RecvError::Closed) => return,
            },
            () = shared.haves_poke.notified() => announcer.full_at(Instant::now() + WELCOME),
            _ = period.tick() => {
                shared.haves().expire(std::time::Instant::now());
                announcer.full_at(Instant::now());
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => announcer.announce().await,
        }
    }
}

struct Announcer {
    shared: Arc<Shared>,
    changed: BTreeSet<BlobHash>,
    full: bool,
    due: Option<Instant>,
    /// Where the next full announcement starts.
    cursor: Option<BlobHash>,
    last_at: Timestamp,
}

impl Announcer {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, changed: BTreeSet::new(), full: false, due: None, cursor: None, last_at: Timestamp::default() }
    }

    fn full_at(&mut self, at: Instant) {
        self.full = true;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    async fn changed(&mut self, event: BlobEvent) {
        let command = match event {
            BlobEvent::Complete(hash) => Some(Command::Provide(hash)),
            BlobEvent::Damaged(hash) | BlobEvent::Removed(hash) => Some(Command::Unprovide(hash)),
            BlobEvent::Started(_) => None,
        };
        if let Some(command) = command {
            let _ = self.shared.commands.send(command).await;
        }
        if let BlobEvent::Complete(hash) | BlobEvent::Started(hash) = event
            && self.changed.len() < MAX_CHANGES
        {
            self.changed.insert(hash);
            self.due.get_or_insert(Instant::now() + SETTLE);
        }
    }

    async fn provide_all(&self) {
        let complete = self.shared.blobs.list().into_iter().filter(|(_, status)| status.complete);
        for (hash, _) in complete.take(MAX_PROVIDED) {
            let _ = self.shared.commands.send(Command::Provide(hash)).await;
        }
    }

    async fn announce(&mut self) {
        self.due = None;
        let blobs: Vec<(BlobHash, bool)> = match std::mem::take(&mut self.full) {
            true => self.next_slice(),
            false => {
                let status = |hash: &BlobHash| Some((*hash, self.shared.blobs.status(*hash)?.complete));
                self.changed.iter().filter_map(status).collect()
            }
        };
        self.changed.clear();
        for page in blobs.chunks(MAX_HAVES) {
            if self.publish(page).await != Published::Sent {
                // Nobody listens: the next subscriber pokes us.
                return;
            }
        }
    }

    /// The blobs of a full announcement, in turns when there are many.
    fn next_slice(&mut self) -> Vec<(BlobHash, bool)> {
        let list = self.shared.blobs.list().into_iter().filter(|(_, status)| status.local_bytes > 0 || status.complete);
        let mut blobs: Vec<_> = list.map(|(hash, status)| (hash, status.complete)).collect();
        blobs.sort_unstable();
        let start = self.cursor.map_or(0, |cursor| blobs.partition_point(|(hash, _)| *hash <= cursor));
        blobs.rotate_left(start);
        let limit = MAX_MESSAGES * MAX_HAVES;
        self.cursor = match blobs.len() > limit {
            true => blobs.get(limit - 1).map(|(hash, _)| *hash),
            false => None,
        };
        blobs.truncate(limit);
        blobs
    }

    /// Tells every network that is followed; sent when anybody of any got it.
    async fn publish(&mut self, page: &[(BlobHash, bool)]) -> Published {
        let hashes = |wanted| page.iter().filter(|(_, complete)| *complete == wanted).map(|(hash, _)| *hash).collect();
        let mut published = Published::Nobody;
        for follows in self.shared.networks.told() {
            // Each message is later than the one before, even within a millisecond or when the clock steps back, and
            // another one in each network.
            self.last_at = ids::now().max(self.last_at.saturating_add_ms(1));
            let (node, complete, partial) = (self.shared.node, hashes(true), hashes(false));
            let Ok(data) = (Haves { node, at: self.last_at, complete, partial }).encode() else {
                return Published::Never;
            };
            if self.publish_to(follows.network, data).await == Published::Sent {
                published = Published::Sent;
            }
        }
        published
    }

    async fn publish_to(&self, network: NetworkId, data: Vec<u8>) -> Published {
        let (reply, published) = oneshot::channel();
        match self.shared.commands.send(Command::Publish(Topic::Haves(network), data, reply)).await {
            Ok(()) => published.await.unwrap_or(Published::Nobody),
            Err(_) => Published::Nobody,
        }
    }
}
