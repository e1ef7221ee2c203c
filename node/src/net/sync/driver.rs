//! Decides with whom to sync when: on greeting, when a gap is seen, and every half minute with everybody.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use mhc_protocol::NodeId;
use tokio::{sync::mpsc, task::JoinSet};

use super::client::{SyncError, pull};
use crate::net::shared::Shared;

const PERIOD: Duration = Duration::from_secs(30);
const MAX_SESSIONS: usize = 4;
/// A session longer than this goes on in the next.
const MAX_SESSION: Duration = Duration::from_secs(120);
const MAX_WAITING: usize = 256;

/// Runs until it is dropped; sessions under way end with it.
pub(in crate::net) async fn drive(shared: Arc<Shared>, mut pokes: mpsc::Receiver<NodeId>) {
    let mut queue = Queue::default();
    let mut sessions = JoinSet::new();
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            Some(node) = pokes.recv() => queue.want(node),
            Some(done) = sessions.join_next() => if let Ok(node) = done { queue.done(node) },
            _ = period.tick() => shared.book().members().into_iter().for_each(|node| queue.want(node)),
        }
        while let Some(node) = queue.next() {
            let shared = Arc::clone(&shared);
            sessions.spawn(async move {
                session(&shared, node).await;
                node
            });
        }
    }
}

async fn session(shared: &Arc<Shared>, node: NodeId) {
    let result = tokio::time::timeout(MAX_SESSION, pull(shared, node)).await;
    match result {
        Ok(Ok(new)) => {
            shared.metrics.sync_sessions.inc();
            tracing::debug!(peer = %node, new, "synced");
        }
        Ok(Err(error)) => {
            shared.metrics.sync_failures.inc();
            tracing::debug!(peer = %node, %error, "sync broke off");
            if let SyncError::Misbehaved(fault) = error {
                shared.report(node, &fault);
            }
        }
        Err(_) => {
            shared.metrics.sync_failures.inc();
            tracing::info!(peer = %node, "sync takes long; it goes on in a new session");
        }
    }
}

/// Peers to sync with: one session at a time each, in the order they were wanted.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<NodeId>,
    running: HashSet<NodeId>,
}

impl Queue {
    fn want(&mut self, node: NodeId) {
        if self.waiting.len() < MAX_WAITING && !self.waiting.contains(&node) {
            self.waiting.push_back(node);
        }
    }

    fn next(&mut self) -> Option<NodeId> {
        if self.running.len() >= MAX_SESSIONS {
            return None;
        }
        let free = self.waiting.iter().position(|node| !self.running.contains(node))?;
        let node = self.waiting.remove(free)?;
        self.running.insert(node);
        Some(node)
    }

    fn done(&mut self, node: NodeId) {
        self.running.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_one_session_at_a_time_and_isnt_forgotten_meanwhile() {
        let node = |n| NodeId::from_bytes([n; 32]);
        let mut queue = Queue::default();
        [1, 1, 2].into_iter().for_each(|n| queue.want(node(n)));
        assert_eq!([queue.next(), queue.next(), queue.next()], [Some(node(1)), Some(node(2)), None]);
        queue.want(node(1));
        assert_eq!(queue.next(), None, "it runs");
        queue.done(node(1));
        assert_eq!([queue.next(), queue.next()], [Some(node(1)), None]);
        (3..20).for_each(|n| queue.want(node(n)));
        let started = std::iter::from_fn(|| queue.next()).count();
        assert_eq!(started + 2, MAX_SESSIONS);
    }
}
