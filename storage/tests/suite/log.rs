//! The rules of a log: gaps, forks and epochs come out the same in whatever order records arrive.

use std::{collections::HashMap, sync::Arc};

use mhc_protocol::{
    NetworkId, RecordId, SecretKey,
    record::{Body, Draft, VerifiedRecord},
};
use mhc_storage::record::{
    Head, Outcome, Records, Refusal,
    testing::{self, Author, WRITTEN_AT},
};
use proptest::{collection::vec, prelude::*};

use crate::{NOTE, index::Notes};

fn network() -> NetworkId {
    SecretKey::from_seed(&[9; 32]).network()
}

async fn append(store: &Records, record: &VerifiedRecord) -> Outcome {
    store.append(vec![record.clone()]).await.unwrap()[0]
}

/// Rivals for one position in the order of their ids.
fn rivals(author: &Author, count: u8) -> Vec<(Author, VerifiedRecord)> {
    let write = |number: u8| {
        let mut author = author.clone();
        let record = author.write(NOTE, [b'r', number]).unwrap();
        (author, record)
    };
    let mut all: Vec<_> = (0..count).map(write).collect();
    all.sort_by_key(|(_, record)| record.id());
    all
}

fn head(store: &Records) -> Option<Head> {
    store.heads(network(), None, 9).unwrap().first().copied()
}

#[tokio::test]
async fn a_gap_is_filled_late() {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    let mut author = Author::new(1, network());
    let records: Vec<_> = (0..5u8).map(|number| author.write(NOTE, [number]).unwrap()).collect();
    for record in records[1..].iter().rev() {
        assert_eq!(append(&store, record).await, Outcome::Pending);
    }
    assert_eq!((store.count().unwrap(), head(&store)), (0, None));
    assert_eq!(append(&store, &records[0]).await, Outcome::Appended);
    assert_eq!((store.count().unwrap(), head(&store).unwrap().seq), (5, 4));
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn a_thousand_repetitions_change_nothing() {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    let mut author = Author::new(1, network());
    let [first, second] = ["first", "second"].map(|text| author.write(NOTE, text).unwrap());
    append(&store, &first).await;
    append(&store, &second).await;
    let digest = store.index_digest().unwrap();
    let mut news = store.subscribe();
    let repeated = store.append([vec![first; 500], vec![second; 500]].concat()).await.unwrap();
    assert_eq!(repeated, vec![Outcome::Duplicate; 1000]);
    assert_eq!((store.count().unwrap(), store.index_digest().unwrap()), (2, digest));
    assert!(news.try_recv().is_err(), "a repetition was announced");
}

#[tokio::test]
async fn what_waits_is_bounded_for_each_author() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let (mut flood, mut other) = (Author::new(1, network()), Author::new(2, network()));
    flood.write(NOTE, "withheld").unwrap();
    other.write(NOTE, "withheld").unwrap();
    let mut outcomes = Vec::new();
    for number in 0..300u32 {
        outcomes.push(append(&store, &flood.write(NOTE, number.to_be_bytes()).unwrap()).await);
    }
    let full = outcomes.iter().filter(|outcome| **outcome == Outcome::Refused(Refusal::PendingFull)).count();
    assert_eq!(full, 300 - 256);
    assert_eq!(append(&store, &other.write(NOTE, "x").unwrap()).await, Outcome::Pending);
}

#[tokio::test]
async fn of_rivals_the_two_smallest_stay_and_the_smallest_is_active() {
    let mut author = Author::new(1, network());
    let root = author.write(NOTE, "root").unwrap();
    let mut all = rivals(&author, 3);
    let after_loser = all[1].0.write(NOTE, "after the loser").unwrap();
    let ids: Vec<_> = all.iter().map(|(_, record)| record.id()).collect();

    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    append(&store, &root).await;
    let steps = [
        (&all[2].1, Outcome::Appended, 2),
        (&all[1].1, Outcome::Appended, 1),
        (&after_loser, Outcome::Appended, 3),
        (&all[0].1, Outcome::Appended, 0),
        (&after_loser, Outcome::Refused(Refusal::LosingBranch), 0),
        (&all[2].1, Outcome::Refused(Refusal::Proven), 0),
        (&all[1].1, Outcome::Duplicate, 0),
    ];
    for (number, (record, outcome, active)) in steps.into_iter().enumerate() {
        assert_eq!(append(&store, record).await, outcome, "step {number}");
        let expected = ids.get(active).copied().unwrap_or(after_loser.id());
        assert_eq!(head(&store).unwrap().id, expected, "step {number}");
        assert!(store.check_index().unwrap(), "step {number}");
    }
    let log = store.log(network(), author.key().author(), (0, 1), 9, usize::MAX).unwrap();
    assert_eq!(log.iter().map(|record| record.id()).collect::<Vec<_>>(), ids[..2], "both as evidence");
    let view = store.view("notes").unwrap();
    let indexed = [0, 1, 2].map(|rival| view.get("body", ids[rival].as_bytes()).unwrap().is_some());
    assert_eq!(indexed, [true, false, false]);
}

#[tokio::test]
async fn a_higher_epoch_ends_the_lower_one() {
    let mut author = Author::new(1, network());
    let root = author.write(NOTE, "root").unwrap();
    let mut moved = author.clone();
    let stale = [author.write(NOTE, "stale").unwrap(), author.write(NOTE, "staler").unwrap()];
    let raised = moved.raise_epoch(NOTE, "moved").unwrap();
    let next = moved.write(NOTE, "next").unwrap();

    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    store.append(vec![root, stale[0].clone(), stale[1].clone()]).await.unwrap();
    assert_eq!(append(&store, &raised).await, Outcome::Appended);
    assert_eq!(append(&store, &stale[0]).await, Outcome::Refused(Refusal::Superseded));
    assert_eq!(append(&store, &next).await, Outcome::Appended);
    assert_eq!((head(&store).unwrap().epoch, head(&store).unwrap().seq, store.count().unwrap()), (1, 1, 3));
    assert!(store.check_index().unwrap());
    // Publishing goes on in the new epoch.
    let published = store.publish(author.key(), network(), NOTE, vec![1], [0; 16], WRITTEN_AT).await.unwrap();
    assert_eq!((published.header().epoch, published.header().seq), (1, 2));
}

fn sign(seed: u8, epoch: u64, seq: u64, prev: Option<RecordId>, salt: u8) -> VerifiedRecord {
    let body = Body { salt: [salt; 16], bytes: vec![salt] };
    let draft = Draft { network: network(), epoch, seq, prev, at: WRITTEN_AT, kind: NOTE, body };
    draft.sign(&SecretKey::from_seed(&[seed; 32])).unwrap()
}

#[tokio::test]
async fn a_predecessor_of_another_log_or_position_is_refused() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let root = sign(1, 0, 0, None, 0);
    append(&store, &root).await;
    let prev = Some(root.id());
    for (name, record) in [
        ("another author's", sign(2, 0, 1, prev, 0)),
        ("a position is left out", sign(1, 0, 2, prev, 0)),
        ("an epoch is left out", sign(1, 2, 0, prev, 0)),
        ("a new epoch doesn't begin at 0", sign(1, 1, 1, prev, 0)),
    ] {
        assert_eq!(append(&store, &record).await, Outcome::Refused(Refusal::Chain), "{name}");
    }
    assert_eq!(store.count().unwrap(), 1);
}

#[tokio::test]
async fn a_record_without_its_body_gets_it_later() {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    let record = sign(1, 0, 0, None, 5);
    let mut events = store.subscribe();
    assert_eq!(append(&store, &record.clone().erased()).await, Outcome::Appended);
    assert_eq!(append(&store, &record).await, Outcome::Appended);
    assert_eq!(append(&store, &record.clone().erased()).await, Outcome::Duplicate);
    assert_eq!(store.get(record.id()).unwrap().unwrap().body(), record.body());
    assert_eq!((events.try_recv().is_ok(), events.try_recv().is_ok()), (true, true));
    assert_eq!(store.count().unwrap(), 1);
    assert!(store.check_index().unwrap());
}

/// A tree of records: each follows one of those before it, in its epoch or in the next.
#[derive(Debug, Clone)]
struct Tree(Vec<VerifiedRecord>);

fn tree() -> impl Strategy<Value = Tree> {
    // How far back the predecessor is, mostly not at all; whether the epoch is raised; a salt.
    let node =
        (prop_oneof![5 => Just(0usize), 2 => 1..4usize, 1 => 4..12usize], prop::bool::weighted(0.15), any::<u8>());
    vec(node, 1..24).prop_map(|nodes| {
        let mut records: Vec<VerifiedRecord> = Vec::new();
        for (back, raise, salt) in nodes {
            let parent = records.len().checked_sub(1 + back).map(|at| records[at].clone());
            let record = match parent {
                None => sign(1, 0, 0, None, salt),
                Some(parent) => {
                    let (epoch, seq) = (parent.header().epoch, parent.header().seq);
                    let (epoch, seq) = if raise { (epoch + 1, 0) } else { (epoch, seq + 1) };
                    sign(1, epoch, seq, Some(parent.id()), salt)
                }
            };
            records.push(record);
        }
        Tree(records)
    })
}

/// The rule, said once more and simply: from the root on, the follower in the highest epoch with the smallest id.
fn expected_chain(records: &[VerifiedRecord]) -> Vec<RecordId> {
    let mut followers: HashMap<Option<RecordId>, Vec<&VerifiedRecord>> = HashMap::new();
    for record in records {
        followers.entry(record.header().prev).or_default().push(record);
    }
    let mut chain = Vec::new();
    let mut at = None;
    while let Some(next) = followers
        .get(&at)
        .into_iter()
        .flatten()
        .min_by_key(|record| (std::cmp::Reverse(record.header().epoch), record.id()))
    {
        chain.push(next.id());
        at = Some(next.id());
    }
    chain
}

/// Everything that must be the same on every node.
#[derive(Debug, PartialEq)]
struct State {
    heads: Vec<Head>,
    digest: [u8; 32],
    log: Vec<RecordId>,
    count: u64,
}

async fn deliver(records: &[VerifiedRecord], batch: usize) -> State {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    for batch in records.chunks(batch) {
        store.append(batch.to_vec()).await.unwrap();
    }
    assert!(store.check_index().unwrap());
    let author = SecretKey::from_seed(&[1; 32]).author();
    let log = store.log(network(), author, (0, 0), usize::MAX, usize::MAX).unwrap();
    State {
        heads: store.heads(network(), None, 9).unwrap(),
        digest: store.index_digest().unwrap(),
        log: log.iter().map(|record| record.id()).collect(),
        count: store.count().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_outcome_is_a_function_of_the_set_of_records(
        tree in tree(),
        withheld in vec(any::<prop::sample::Index>(), 0..3),
        order in any::<u64>(),
        batch in 1..8usize,
    ) {
        let mut records = tree.0;
        for index in withheld {
            let gone = records[index.index(records.len())].id();
            if records.len() > 1 {
                records.retain(|record| record.id() != gone);
            }
        }
        // Twice, in another order.
        let mut shuffled: Vec<_> = records.iter().chain(&records).cloned().enumerate().collect();
        shuffled.sort_by_key(|(at, record)| blake3::hash(&[&order.to_le_bytes(), &at.to_le_bytes()[..], record.id().as_bytes()].concat()).to_hex());
        let shuffled: Vec<_> = shuffled.into_iter().map(|(_, record)| record).collect();

        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let in_order = runtime.block_on(deliver(&records, usize::MAX));
        let in_any_order = runtime.block_on(deliver(&shuffled, batch));
        prop_assert_eq!(&in_any_order, &in_order);
        let expected = expected_chain(&records);
        prop_assert_eq!(in_order.heads.first().map(|head| head.id), expected.last().copied());
        prop_assert!(expected.iter().all(|id| in_order.log.contains(id)));
    }
}
