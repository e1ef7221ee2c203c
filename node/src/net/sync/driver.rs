//! Decides with whom to sync when: on greeting, when a gap is seen, and every half minute, or when a grant or a policy
//! comes, with everybody.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use mhc_protocol::{NetworkId, NodeId, network::is_governance, reconcile::Start};
use mhc_storage::record::Committed;
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    task::JoinSet,
};

use super::client::{Pulled, SyncError, pull};
use crate::net::{networks::Followed, shared::Shared};

const PERIOD: Duration = Duration::from_secs(30);
const MAX_SESSIONS: usize = 4;
/// A session longer than this makes room for others and goes on in the next.
const MAX_SESSION: Duration = Duration::from_secs(120);
const MAX_WAITING: usize = 256;
/// One look in so many is also at peers that keep little.
const RARELY: u32 = 10;

/// A peer and the network that is synced with it.
pub(in crate::net) type Partner = (NodeId, NetworkId);

/// Runs until it is dropped; sessions under way end with it.
pub(in crate::net) async fn drive(shared: Arc<Shared>, mut pokes: mpsc::Receiver<Partner>) {
    let mut queue = Queue::default();
    let mut sessions = JoinSet::new();
    let mut commits = shared.records.subscribe();
    let mut period = tokio::time::interval(PERIOD);
    let mut looks = 0;
    loop {
        tokio::select! {
            Some(partner) = pokes.recv() => queue.want(partner, Start::Wide),
            Some(done) = sessions.join_next() => if let Ok((partner, then)) = done { queue.done(partner, then) },
            // What was refused may be taken now, and others may be wanted.
            network = governed(&mut commits) => {
                let concerned = |followed: &Arc<Followed>| network.is_none_or(|network| followed.network == network);
                for followed in shared.networks.all().into_iter().filter(concerned) {
                    followed.pulls.try_all_again();
                    let members = shared.book().members_of(followed.network);
                    members.into_iter().for_each(|node| queue.want((node, followed.network), Start::Wide));
                }
            }
            _ = period.tick() => look_around(&shared, &mut queue, &mut looks),
        }
        while let Some((partner, start)) = queue.next() {
            let shared = Arc::clone(&shared);
            sessions.spawn(async move { (partner, session(&shared, partner, start).await) });
        }
    }
}

/// As a rule nothing was missed: a probe will do. A peer that keeps little says so, and what is news in it comes by
/// gossip; it is asked now and then.
fn look_around(shared: &Shared, queue: &mut Queue, looks: &mut u32) {
    *looks = looks.wrapping_add(1);
    for followed in shared.networks.all() {
        let book = shared.book();
        let members = book.members_of(followed.network).into_iter();
        let due = |node: &NodeId| looks.is_multiple_of(RARELY) || book.keeps_all(*node, followed.network);
        members.filter(due).for_each(|node| queue.want((node, followed.network), Start::Probe));
    }
}

/// Waits until a record comes that changes who may write, and tells in which network if that is known.
async fn governed(commits: &mut Receiver<Committed>) -> Option<NetworkId> {
    loop {
        match commits.recv().await {
            Ok(commit) if is_governance(&commit.record.header().kind) => return Some(commit.record.header().network),
            Ok(_) => {}
            // One may have been among those that were missed.
            Err(RecvError::Lagged(_)) => return None,
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

async fn session(shared: &Arc<Shared>, (node, network): Partner, start: Start) -> Then {
    let Some(followed) = shared.networks.get(network) else { return Then::Nothing };
    let result = tokio::time::timeout(MAX_SESSION, pull(shared, node, &followed, start)).await;
    match result {
        Ok(Ok(Pulled { new, skipped })) => {
            shared.metrics.sync_sessions.inc();
            tracing::debug!(peer = %node, network = %network.short(), new, skipped, "synced");
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

/// With whom to sync: one session at a time with each peer about each network, in the order they were wanted.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Partner, Start)>,
    running: HashSet<Partner>,
    /// To be wanted again when a session ends.
    later: Vec<Partner>,
}

impl Queue {
    fn want(&mut self, partner: Partner, start: Start) {
        let waiting = self.waiting.len();
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == partner) {
            Some((_, how)) if start == Start::Wide => *how = start,
            None if waiting < MAX_WAITING => self.waiting.push_back((partner, start)),
            Some(_) | None => {}
        }
    }

    fn next(&mut self) -> Option<(Partner, Start)> {
        if self.running.len() >= MAX_SESSIONS {
            return None;
        }
        let free = self.waiting.iter().position(|(partner, _)| !self.running.contains(partner))?;
        let (partner, start) = self.waiting.remove(free)?;
        self.running.insert(partner);
        Some((partner, start))
    }

    fn done(&mut self, partner: Partner, then: Then) {
        self.running.remove(&partner);
        for partner in std::mem::take(&mut self.later) {
            self.want(partner, Start::Wide);
        }
        match then {
            Then::Nothing => {}
            // The session it left logs to may have ended before this one.
            Then::AgainAfterOthers if !self.running.is_empty() => self.later.push(partner),
            Then::Again | Then::AgainAfterOthers => self.want(partner, Start::Wide),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> Partner {
        (NodeId::from_bytes([n; 32]), NetworkId::from_bytes([9; 32]))
    }

    fn next(queue: &mut Queue) -> Option<Partner> {
        queue.next().map(|(partner, _)| partner)
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
