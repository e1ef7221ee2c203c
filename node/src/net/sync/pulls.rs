//! Which session pulls which log, so that several peers don't send the same, and which logs brought nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mhc_protocol::{
    AuthorId, NodeId, RecordId,
    wire::{Head, Want},
};

const MAX_STUCK: usize = 4096;
/// A session that stored no page for so long loses its logs to others that ask for them. Longer than a request may
/// take.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Longest wait for another session's first answer.
const MAX_TURN: Duration = Duration::from_secs(5);

/// Most peers whose rivals are remembered.
const MAX_RIVAL_PEERS: usize = 64;
const MAX_RIVALS: usize = 64;

/// Shared by all sessions.
#[derive(Debug, Default)]
pub(in crate::net) struct Pulls {
    table: Mutex<Table>,
    /// Held while records may be on their way that nobody has claimed yet.
    pushing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// When each last stored a page, or began.
    sessions: HashMap<u64, Instant>,
    claims: HashMap<AuthorId, u64>,
    /// Heads that differ from ours although pulling their logs brings nothing, as the losing side of a fork does for
    /// ever. They are left alone until either side changes.
    stuck: HashSet<(AuthorId, RecordId, Option<RecordId>)>,
    /// Places for which a peer has another record than we, until we have asked it for them.
    rivals: HashMap<NodeId, Vec<Want>>,
    followed: HashSet<(NodeId, Want)>,
}

impl Pulls {
    /// A new session.
    pub(super) fn open(self: &Arc<Self>) -> Session {
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.sessions.insert(id, Instant::now());
        Session { pulls: Arc::clone(self), id, skipped: AtomicBool::new(false) }
    }

    /// What may be written has changed: logs that brought nothing may bring something now.
    pub(super) fn try_all_again(&self) {
        let mut table = self.lock();
        table.stuck.clear();
        table.followed.clear();
    }

    /// A peer has other records than we in these places. Returns whether there is one among them to be followed up: each
    /// is once, or two nodes that can't agree would have each other ask for ever.
    pub(super) fn found_rivals(&self, node: NodeId, rivals: Vec<Want>) -> bool {
        let mut table = self.lock();
        if table.followed.len() >= MAX_STUCK {
            table.followed.clear();
        }
        let mut news: Vec<_> = rivals.into_iter().filter(|rival| table.followed.insert((node, *rival))).collect();
        if news.is_empty() || (table.rivals.len() >= MAX_RIVAL_PEERS && !table.rivals.contains_key(&node)) {
            return false;
        }
        let waiting = table.rivals.entry(node).or_default();
        news.retain(|rival| waiting.iter().all(|want| want.author != rival.author));
        waiting.extend(news);
        waiting.truncate(MAX_RIVALS);
        true
    }

    /// What is to be asked of this peer before anything else.
    pub(super) fn take_rivals(&self, node: NodeId) -> Vec<Want> {
        self.lock().rivals.remove(&node).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's part. What it claimed is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Session {
    pulls: Arc<Pulls>,
    id: u64,
    skipped: AtomicBool,
}

impl Session {
    /// Whether no other session runs: nobody else can be asking for the same.
    fn is_alone(&self) -> bool {
        self.pulls.lock().sessions.len() == 1
    }

    /// To be held until the answer to a comparison has been taken, and its logs with it. A lone session may have records
    /// sent along (then with true), and others wait until it knows of which logs; they don't wait for long.
    pub(super) async fn turn(&self) -> (Option<tokio::sync::MutexGuard<'_, ()>>, bool) {
        let turn = tokio::time::timeout(MAX_TURN, self.pulls.pushing.lock()).await.ok();
        match self.is_alone() {
            true => {
                let may_push = turn.is_some();
                (turn, may_push)
            }
            false => (None, false),
        }
    }

    /// Whether a log was left to another session.
    pub(super) fn has_skipped(&self) -> bool {
        self.skipped.load(Ordering::Relaxed)
    }

    /// A page was stored.
    pub(super) fn stored(&self) {
        self.pulls.lock().sessions.insert(self.id, Instant::now());
    }

    /// Takes a log for this session. False when another has it, or when it brought nothing the last time.
    pub(super) fn claim(&self, theirs: &Head, ours: Option<&Head>) -> bool {
        let mut table = self.pulls.lock();
        if table.stuck.contains(&stuck(theirs, ours)) {
            return false;
        }
        let holder = table.claims.get(&theirs.author).filter(|holder| **holder != self.id);
        let busy = holder.and_then(|holder| table.sessions.get(holder)).is_some_and(|at| at.elapsed() < MAX_IDLE);
        if busy {
            self.skipped.store(true, Ordering::Relaxed);
            return false;
        }
        table.claims.insert(theirs.author, self.id);
        true
    }

    /// Gives a log back. One that brought nothing is left alone from now on.
    pub(super) fn pulled(&self, theirs: &Head, ours: Option<&Head>, brought: bool) {
        let mut table = self.pulls.lock();
        if table.claims.get(&theirs.author) == Some(&self.id) {
            table.claims.remove(&theirs.author);
        }
        if !brought {
            if table.stuck.len() >= MAX_STUCK {
                table.stuck.clear();
            }
            table.stuck.insert(stuck(theirs, ours));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.pulls.lock();
        table.sessions.remove(&self.id);
        table.claims.retain(|_, holder| *holder != self.id);
    }
}

fn stuck(theirs: &Head, ours: Option<&Head>) -> (AuthorId, RecordId, Option<RecordId>) {
    (theirs.author, theirs.id, ours.map(|head| head.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(author: u8, id: u8) -> Head {
        Head { author: AuthorId::from_bytes([author; 32]), epoch: 0, seq: 5, id: RecordId::from_bytes([id; 32]) }
    }

    #[test]
    fn a_log_is_pulled_by_one_session_at_a_time() {
        let pulls = Arc::new(Pulls::default());
        let one = pulls.open();
        assert!(one.is_alone());
        let two = pulls.open();
        assert!(!one.is_alone() && !two.is_alone());
        assert!(one.claim(&head(1, 1), None) && one.claim(&head(1, 1), None));
        assert!(!two.claim(&head(1, 2), None) && two.claim(&head(2, 1), None));
        assert!(two.has_skipped() && !one.has_skipped());
        one.pulled(&head(1, 1), None, true);
        assert!(two.claim(&head(1, 2), None), "given back");
        drop(two);
        assert!(
            one.is_alone() && one.claim(&head(1, 2), None) && one.claim(&head(2, 1), None),
            "free with the session"
        );
    }

    #[tokio::test]
    async fn records_come_along_for_a_lone_session_and_others_wait_for_its_claims() {
        let pulls = Arc::new(Pulls::default());
        let one = pulls.open();
        let (turn, may_push) = one.turn().await;
        assert!(may_push);
        let two = pulls.open();
        let waiting = two.turn();
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(turn);
        assert!(matches!(waiting.await, (None, false)));
        assert!(matches!(one.turn().await, (None, false)), "no longer alone");
    }

    #[test]
    fn rivals_are_followed_up_once() {
        let pulls = Pulls::default();
        let (node, want) = (NodeId::from_bytes([1; 32]), Want { author: head(1, 1).author, epoch: 0, seq: 5 });
        assert!(!pulls.found_rivals(node, vec![]) && pulls.found_rivals(node, vec![want]));
        assert_eq!((pulls.take_rivals(node), pulls.take_rivals(node)), (vec![want], vec![]));
        assert!(!pulls.found_rivals(node, vec![want]));
    }

    #[test]
    fn a_session_that_stalls_loses_its_logs() {
        let pulls = Arc::new(Pulls::default());
        let (one, two) = (pulls.open(), pulls.open());
        assert!(one.claim(&head(1, 1), None));
        let Some(past) = Instant::now().checked_sub(2 * MAX_IDLE) else { return };
        pulls.lock().sessions.insert(one.id, past);
        assert!(two.claim(&head(1, 1), None));
        one.stored();
        assert!(!one.claim(&head(1, 1), None), "it belongs to the other now");
        one.pulled(&head(1, 1), None, true);
        assert_eq!(pulls.lock().claims.len(), 1);
    }

    #[test]
    fn what_brings_nothing_is_left_alone_until_it_changes() {
        let pulls = Arc::new(Pulls::default());
        let session = pulls.open();
        session.pulled(&head(1, 1), Some(&head(1, 2)), false);
        assert!(!session.claim(&head(1, 1), Some(&head(1, 2))));
        assert!(!session.has_skipped(), "nobody else brings more");
        assert!(session.claim(&head(1, 3), Some(&head(1, 2))), "theirs changed");
        assert!(session.claim(&head(1, 1), Some(&head(1, 4))), "ours changed");
    }
}
