//! Two stores with any logs end with the same heads, over messages as they travel and whatever is cut on the way.

use std::sync::Arc;

use mhc_protocol::{
    NetworkId, SecretKey,
    reconcile::{Client, Start, Step, Stored, compare, logs},
    record::{Record, RecordKind, VerifiedRecord},
    wire::{MAX_LOG_BYTES, SyncRequest, SyncResponse},
};
use mhc_storage::record::{
    Head, Records,
    testing::{self, Author},
};
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
use tempfile::TempDir;

use super::{
    client,
    heads::HeadCache,
    local::{Local, Reader},
    pulls::Pulls,
};
use crate::net::ids;

const KIND: RecordKind = RecordKind::new("test.v1");
const UNCUT: usize = usize::MAX;

fn network() -> NetworkId {
    SecretKey::from_seed(&[200; 32]).network()
}

/// One node: its store and what sync keeps beside it.
struct Side {
    records: Records,
    heads: HeadCache,
    pulls: Arc<Pulls>,
    _dir: TempDir,
}

impl Side {
    async fn with(records: &[VerifiedRecord]) -> Self {
        let (store, dir) = testing::open(vec![]).unwrap();
        for record in records {
            store.append(vec![record.clone()]).await.unwrap();
        }
        let heads = HeadCache::new(store.clone(), network());
        Self { records: store, heads, pulls: Arc::default(), _dir: dir }
    }

    fn heads(&self) -> Vec<Head> {
        self.records.heads(network(), None, 100).unwrap()
    }

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let reader = Reader { records: &self.records, network: network() };
        let response = match SyncRequest::decode(request).unwrap() {
            SyncRequest::Compare { salt, parts, push_bytes, .. } => {
                compare(&self.heads.get().unwrap(), &reader, salt, &parts, push_bytes).unwrap().response
            }
            SyncRequest::Logs { wants, .. } => logs(&reader, &wants).unwrap(),
            SyncRequest::Records { .. } | SyncRequest::Have { .. } => unreachable!("not asked"),
        };
        response.encode().unwrap()
    }

    /// Pulls from another node and counts what was new; broken off after `cut` steps.
    async fn pull(&self, from: &Side, salt: u64, start: Start, push_bytes: u32, cut: usize) -> usize {
        let local = Local { records: self.records.clone(), network: network(), session: self.pulls.open() };
        let (mut client, request) = Client::start(network(), self.heads.get().unwrap(), salt, push_bytes, start);
        let (mut step, mut new) = (Step::Ask(request), 0);
        for steps in 0.. {
            assert!(steps < 1000, "a session ends");
            if steps == cut {
                break;
            }
            step = match step {
                Step::Done => break,
                Step::Ask(request) => {
                    let response = from.answer(&request.encode().unwrap());
                    client.answered(SyncResponse::decode(&response).unwrap(), &local).unwrap()
                }
                Step::Store(envelopes) => {
                    let records: Vec<_> =
                        envelopes.iter().map(|envelope| Record::verify(envelope, ids::now()).unwrap()).collect();
                    client.check::<()>(&records).unwrap();
                    let outcomes = self.records.append(records).await.unwrap();
                    let stored: Vec<_> = outcomes.iter().map(client::stored).collect();
                    new += stored.iter().filter(|stored| **stored == Stored::New).count();
                    client.stored(&stored, &local).unwrap()
                }
            };
        }
        new
    }
}

/// What an author does next: on which branch it goes on, and how; and which of two nodes has heard of it.
#[derive(Debug, Clone)]
struct Deed {
    branch: usize,
    kind: Kind,
    heard: (bool, bool),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Write,
    Fork,
    RaiseEpoch,
}

fn deed() -> impl Strategy<Value = Deed> {
    let kind = prop_oneof![12 => Just(Kind::Write), 2 => Just(Kind::Fork), 1 => Just(Kind::RaiseEpoch)];
    let heard = prop_oneof![
        12 => Just((true, true)),
        3 => Just((true, false)),
        3 => Just((false, true)),
        1 => Just((false, false)),
    ];
    (0..4usize, kind, heard).prop_map(|(branch, kind, heard)| Deed { branch, kind, heard })
}

/// The records of one author, each with who has it.
fn log(seed: u8, deeds: &[Deed]) -> Vec<(VerifiedRecord, (bool, bool))> {
    let mut branches = vec![Author::new(seed, network())];
    let mut records = vec![];
    for (n, deed) in deeds.iter().enumerate() {
        let at = deed.branch % branches.len();
        if matches!(deed.kind, Kind::Fork) {
            branches.push(branches[at].clone());
        }
        let author = &mut branches[at];
        let body = n.to_le_bytes();
        let record = match deed.kind {
            Kind::RaiseEpoch if n > 0 => author.raise_epoch(KIND, body),
            _ => author.write(KIND, body),
        };
        // An epoch can't be raised before the first record.
        records.extend(record.ok().map(|record| (record, deed.heard)));
    }
    records
}

/// Pulls in both directions until neither brings anything; then the heads have to be the same.
async fn settle(a: &Side, b: &Side, push_bytes: u32) {
    for round in 0..20 {
        let start = if round % 2 == 0 { Start::Wide } else { Start::Probe };
        let new = a.pull(b, 77 + round, start, push_bytes, UNCUT).await
            + b.pull(a, 177 + round, start, push_bytes, UNCUT).await;
        if new == 0 {
            return;
        }
    }
    panic!("they never settle");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, rng_seed: RngSeed::Fixed(8), ..ProptestConfig::default()
    })]

    #[test]
    fn any_two_stores_end_with_the_same_heads(
        logs in vec(vec(deed(), 1..40), 1..5),
        cuts in vec((any::<bool>(), 0..6usize, any::<bool>()), 0..8),
        pushes in any::<bool>(),
    ) {
        let push_bytes = if pushes { MAX_LOG_BYTES as u32 } else { 0 };
        let records: Vec<_> = logs.iter().zip(1..).flat_map(|(deeds, seed)| log(seed, deeds)).collect();
        let heard = |by: fn(&(bool, bool)) -> bool| -> Vec<_> {
            records.iter().filter(|(_, heard)| by(heard)).map(|(record, _)| record.clone()).collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (a, b) = (Side::with(&heard(|heard| heard.0)).await, Side::with(&heard(|heard| heard.1)).await);
            for (n, (there, cut, wide)) in cuts.iter().enumerate() {
                let (to, from) = if *there { (&a, &b) } else { (&b, &a) };
                let start = if *wide { Start::Wide } else { Start::Probe };
                to.pull(from, n as u64, start, push_bytes, *cut).await;
            }
            settle(&a, &b, push_bytes).await;
            assert_eq!(a.heads(), b.heads());
        });
    }
}

/// Each has the branch that the other lacks, in every relation of their lengths: one of them has to give way although it
/// is ahead.
#[tokio::test]
async fn a_long_branch_that_loses_gives_way_to_a_short_one() {
    for (left, right) in [(1, 1), (1, 9), (9, 1), (5, 6), (300, 700), (700, 300)] {
        let mut author = Author::new(1, network());
        let common: Vec<_> = (0..5_u8).map(|n| author.write(KIND, [n]).unwrap()).collect();
        let branch = |name: u8, len: u16| -> Vec<_> {
            let mut author = author.clone();
            let written = (0..len).map(|n| author.write(KIND, [&[name][..], &n.to_le_bytes()].concat()).unwrap());
            common.iter().cloned().chain(written).collect()
        };
        let (a, b) = (Side::with(&branch(1, left)).await, Side::with(&branch(2, right)).await);
        settle(&a, &b, MAX_LOG_BYTES as u32).await;
        assert_eq!(a.heads(), b.heads(), "{left} and {right}");
        assert_eq!(a.pull(&b, 1, Start::Wide, 0, UNCUT).await, 0);
    }
}

/// What follows a record that lost isn't kept, so a node that shows it isn't asked for it again and again.
#[tokio::test]
async fn a_losing_branch_isnt_pulled_for_ever() {
    let mut author = Author::new(1, network());
    let common = author.write(KIND, "common").unwrap();
    let mut rival = author.clone();
    let (one, two) = (author.write(KIND, "one").unwrap(), rival.write(KIND, "two").unwrap());
    let (winner, loser, mut losing) = if one.id() < two.id() { (one, two, rival) } else { (two, one, author) };
    let after: Vec<_> = (0..50_u8).map(|n| losing.write(KIND, [n]).unwrap()).collect();
    let a = Side::with(&[common.clone(), winner]).await;
    let b = Side::with(&[vec![common, loser], after].concat()).await;
    assert_eq!(a.pull(&b, 1, Start::Wide, 0, UNCUT).await, 1, "the proof");
    assert_eq!(a.pull(&b, 2, Start::Wide, 0, UNCUT).await, 0, "nothing more");
    let asked_logs = |request: &SyncRequest| matches!(request, SyncRequest::Logs { .. });
    let local = Local { records: a.records.clone(), network: network(), session: a.pulls.open() };
    let (mut client, request) = Client::start(network(), a.heads.get().unwrap(), 3, 0, Start::Wide);
    let response = SyncResponse::decode(&b.answer(&request.encode().unwrap())).unwrap();
    let step = client.answered(response, &local).unwrap();
    assert!(!matches!(&step, Step::Ask(request) if asked_logs(request)) && step == Step::Done, "{step:?}");
}
