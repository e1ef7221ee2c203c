//! Decides with whom to sync when: on greeting, when a gap is seen, and every half minute, or when a grant or a policy
//! comes, with everybody.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use mhc_protocol::{NodeId, network::is_governance, reconcile::Start};
use mhc_storage::record::Committed;
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    task::JoinSet,
};

use super::client::{Pulled, SyncError, pull};
use crate::net::shared::Shared;

const PERIOD: Duration = Duration::from_secs(30);
const MAX_SESSIONS: usize = 4;
/// A session longer than this makes room for others and goes on in the next.
const MAX_SESSION: Duration = Duration::from_secs(120);
const MAX_WAITING: usize = 256;

/// Runs until it is dropped; sessions under way end with it.
pub(in crate::net) async fn drive(shared: Arc<Shared>, mut pokes: mpsc::Receiver<NodeId>) {
    let mut queue = Queue::default();
    let mut sessions = JoinSet::new();
    let mut commits = shared.records.subscribe();
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            Some(node) = pokes.recv() => queue.want(node, Start::Wide),
            Some(done) = sessions.join_next() => if let Ok((node, then)) = done { queue.done(node, then) },
            // What was refused may be taken now.
            () = governed(&mut commits) => {
                shared.pulls.try_all_again();
                shared.book().members().into_iter().for_each(|node| queue.want(node, Start::Wide));
            }
            // As a rule nothing was missed.
            _ = period.tick() => shared.book().members().into_iter().for_each(|node| queue.want(node, Start::Probe)),
        }
        while let Some((node, start)) = queue.next() {
            let shared = Arc::clone(&shared);
            sessions.spawn(async move { (node, session(&shared, node, start).await) });
        }
    }
}

/// Waits until a record comes that changes who may write.
async fn governed(commits: &mut Receiver<Committed>) {
    loop {
        match commits.recv().await {
            Ok(commit) if is_governance(&commit.record.header().kind) => return,
            Ok(_) => {}
            // One may have been among those that were missed.
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What is to follow a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// Another session with the same peer.
    Again,
    /// Another one as soon as a session with somebody else ends: it has logs that this one left alone.
    AgainAfterOthers,
}

async fn session(shared: &Arc<Shared>, node: NodeId, start: Start) -> Then {
    let result = tokio::time::timeout(MAX_SESSION, pull(shared, node, start)).await;
    match result {
        Ok(Ok(Pulled { new, skipped })) => {
            shared.metrics.sync_sessions.inc();
            tracing::debug!(peer = %node, new, skipped, "synced");
            if skipped { Then::AgainAfterOthers } else { Then::Nothing }
        }
        Ok(Err(error)) => {
            shared.metrics.sync_failures.inc();
            tracing::debug!(peer = %node, %error, "sync broke off");
            if let SyncError::Misbehaved(fault) = error {
                shared.report(node, &fault);
            }
            Then::Nothing
        }
        Err(_) => {
            shared.metrics.sync_failures.inc();
            tracing::info!(peer = %node, "sync takes long; it goes on in a new session");
            Then::Again
        }
    }
}

/// Peers to sync with: one session at a time each, in the order they were wanted.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(NodeId, Start)>,
    running: HashSet<NodeId>,
    /// To be wanted again when a session ends.
    later: Vec<NodeId>,
}

impl Queue {
    fn want(&mut self, node: NodeId, start: Start) {
        let waiting = self.waiting.len();
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == node) {
            Some((_, how)) if start == Start::Wide => *how = start,
            None if waiting < MAX_WAITING => self.waiting.push_back((node, start)),
            Some(_) | None => {}
        }
    }

    fn next(&mut self) -> Option<(NodeId, Start)> {
        if self.running.len() >= MAX_SESSIONS {
            return None;
        }
        let free = self.waiting.iter().position(|(node, _)| !self.running.contains(node))?;
        let (node, start) = self.waiting.remove(free)?;
        self.running.insert(node);
        Some((node, start))
    }

    fn done(&mut self, node: NodeId, then: Then) {
        self.running.remove(&node);
        for node in std::mem::take(&mut self.later) {
            self.want(node, Start::Wide);
        }
        match then {
            Then::Nothing => {}
            // The session it left logs to may have ended before this one.
            Then::AgainAfterOthers if !self.running.is_empty() => self.later.push(node),
            Then::Again | Then::AgainAfterOthers => self.want(node, Start::Wide),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn next(queue: &mut Queue) -> Option<NodeId> {
        queue.next().map(|(node, _)| node)
    }

    #[test]
    fn a_peer_has_one_session_at_a_time_and_isnt_forgotten_meanwhile() {
        let mut queue = Queue::default();
        [1, 1, 2].into_iter().for_each(|n| queue.want(node(n), Start::Probe));
        assert_eq!([(); 3].map(|()| next(&mut queue)), [Some(node(1)), Some(node(2)), None]);
        queue.want(node(1), Start::Probe);
        assert_eq!(next(&mut queue), None, "it runs");
        queue.done(node(1), Then::Nothing);
        assert_eq!([(); 2].map(|()| next(&mut queue)), [Some(node(1)), None]);
        (3..20).for_each(|n| queue.want(node(n), Start::Probe));
        let started = std::iter::from_fn(|| next(&mut queue)).count();
        assert_eq!(started + 2, MAX_SESSIONS);
    }

    #[test]
    fn news_are_looked_for_at_once_although_a_look_was_due_anyway() {
        let mut queue = Queue::default();
        queue.want(node(1), Start::Probe);
        queue.want(node(1), Start::Wide);
        queue.want(node(1), Start::Probe);
        assert_eq!(queue.next(), Some((node(1), Start::Wide)));
    }

    #[test]
    fn whoever_was_left_alone_is_asked_again_when_another_session_ends() {
        let mut queue = Queue::default();
        (1..=3).for_each(|n| queue.want(node(n), Start::Wide));
        assert_eq!([(); 3].map(|()| next(&mut queue)), [1, 2, 3].map(|n| Some(node(n))));
        queue.done(node(2), Then::AgainAfterOthers);
        assert_eq!(next(&mut queue), None, "not before another has ended");
        queue.done(node(1), Then::Nothing);
        assert_eq!(next(&mut queue), Some(node(2)));
        queue.done(node(3), Then::Nothing);
        queue.done(node(2), Then::AgainAfterOthers);
        assert_eq!(next(&mut queue), Some(node(2)), "nobody else is left");
        queue.done(node(2), Then::Again);
        assert_eq!(next(&mut queue), Some(node(2)));
    }
}
