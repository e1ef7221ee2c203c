//! What records count for: limits, grants that come and go, withdrawn bodies; and the index that follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mhc_protocol::{
    NetworkId, SecretKey,
    network::{
        Denied, ERASE, Erase, GRANT, Grant, KindLimits, Limits, Membership, POLICY, Policy, REVOKE, Revoke, Role,
    },
    record::VerifiedRecord,
};
use mhc_storage::record::{
    Outcome, Records, RecordsError, Refusal,
    testing::{self, Author, WRITTEN_AT},
};

use crate::{NOTE, index::Notes};

/// The root is author 9.
fn network() -> NetworkId {
    SecretKey::from_seed(&[9; 32]).network()
}

fn store() -> (Records, tempfile::TempDir) {
    testing::open(vec![Arc::new(Notes)]).unwrap()
}

async fn append(store: &Records, record: &VerifiedRecord) -> Outcome {
    store.append(vec![record.clone()]).await.unwrap()[0]
}

/// Which of these the index shows.
fn shown(store: &Records, records: &[VerifiedRecord]) -> Vec<bool> {
    let view = store.view("notes").unwrap();
    records.iter().map(|record| view.get("body", record.id().as_bytes()).unwrap().is_some()).collect()
}

fn members_only(root: &mut Author, revision: u64) -> VerifiedRecord {
    let policy = Policy { revision, membership: Membership::Members, ..Policy::default() };
    root.write(POLICY, policy.encode().unwrap()).unwrap()
}

fn make_member(root: &mut Author, to: &Author) -> VerifiedRecord {
    let (to, role, from) = (to.key().author(), Role::Member, WRITTEN_AT);
    let grant = Grant { to, role, channel: None, from, until: None, depth: 0, under: None, note: None };
    root.write(GRANT, grant.encode().unwrap()).unwrap()
}

fn erase(author: &mut Author, records: &[&VerifiedRecord]) -> VerifiedRecord {
    let records: BTreeSet<_> = records.iter().map(|record| record.id()).collect();
    author.write(ERASE, Erase { records }.encode().unwrap()).unwrap()
}

#[tokio::test]
async fn a_revocation_takes_out_what_came_after_it_and_nothing_else() {
    let (store, _dir) = store();
    let (mut root, mut author) = (Author::new(9, network()), Author::new(1, network()));
    let grant = make_member(&mut root, &author);
    store.append(vec![grant.clone(), members_only(&mut root, 1)]).await.unwrap();
    let notes: Vec<_> = (1..5u8).map(|number| author.write(NOTE, [number]).unwrap()).collect();
    store.append(notes.clone()).await.unwrap();
    assert_eq!(shown(&store, &notes), [true; 4]);
    let revoke = Revoke { grant: grant.id(), keep: Some((0, 1)), reason: None };
    append(&store, &root.write(REVOKE, revoke.encode().unwrap()).unwrap()).await;
    assert_eq!(shown(&store, &notes), [true, true, false, false]);
    assert_eq!(store.head(network(), author.key().author()).unwrap().unwrap().seq, 3, "the log is kept");
    assert_eq!(append(&store, &author.write(NOTE, [9]).unwrap()).await, Outcome::Refused(Refusal::Quota));
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn strangers_write_nothing_in_a_closed_network_until_they_are_members() {
    let (store, _dir) = store();
    let (mut root, mut author) = (Author::new(9, network()), Author::new(1, network()));
    append(&store, &members_only(&mut root, 1)).await;
    let note = author.write(NOTE, [1]).unwrap();
    assert_eq!(append(&store, &note).await, Outcome::Refused(Refusal::Quota));
    let own = store.publish(author.key(), network(), NOTE, vec![1], [0; 16], WRITTEN_AT.saturating_add_ms(1)).await;
    assert!(matches!(own, Err(RecordsError::Denied(Denied::NotMember))), "{own:?}");
    // Both in one transaction.
    let outcomes = store.append(vec![make_member(&mut root, &author), note.clone()]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Appended; 2]);
    assert_eq!(shown(&store, &[note]), [true]);
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn nobody_writes_more_than_the_policy_allows() {
    let (store, _dir) = store();
    let (mut root, mut author) = (Author::new(9, network()), Author::new(1, network()));
    let kinds = KindLimits::new([(NOTE.as_str().to_owned(), 2)]);
    let quotas = BTreeMap::from([("anyone".to_owned(), Limits { kinds, ..Limits::default_of(None) })]);
    let policy = Policy { revision: 1, quotas, ..Policy::default() };
    append(&store, &root.write(POLICY, policy.encode().unwrap()).unwrap()).await;
    let notes: Vec<_> = (1..4u8).map(|number| author.write(NOTE, [number]).unwrap()).collect();
    let outcomes = store.append(notes.clone()).await.unwrap();
    assert_eq!(outcomes[..2], [Outcome::Appended; 2]);
    assert_eq!(outcomes[2], Outcome::Refused(Refusal::Quota));
    let publish = |at| store.publish(author.key(), network(), NOTE, vec![1], [0; 16], at);
    assert!(matches!(publish(WRITTEN_AT).await, Err(RecordsError::OverQuota)));
    publish(WRITTEN_AT.saturating_add_ms(24 * 3600 * 1000)).await.unwrap();
    // What a wider policy allows comes in with the next delivery.
    let policy = Policy { revision: 2, ..Policy::default() };
    let wider = root.write(POLICY, policy.encode().unwrap()).unwrap();
    append(&store, &wider).await;
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn a_rival_over_the_limit_doesnt_displace_one_within_it() {
    let kinds = KindLimits::new([("big.v1".to_owned(), 0)]);
    let quotas = BTreeMap::from([("anyone".to_owned(), Limits { kinds, ..Limits::default_of(None) })]);
    let policy = Policy { revision: 1, quotas, ..Policy::default() };
    for first_comes_the_policy in [true, false] {
        let (store, _dir) = store();
        let mut root = Author::new(9, network());
        let policy = root.write(POLICY, policy.encode().unwrap()).unwrap();
        // A rival with the smaller id, of a kind that isn't allowed.
        let (good, bad) = (0..=u8::MAX)
            .map(|number| {
                let (mut one, mut other) = (Author::new(1, network()), Author::new(1, network()));
                let big = mhc_protocol::record::RecordKind::new("big.v1");
                (one.write(NOTE, [1]).unwrap(), other.write(big, [number]).unwrap())
            })
            .find(|(good, bad)| bad.id() < good.id())
            .unwrap();
        let order = if first_comes_the_policy { [&policy, &bad, &good] } else { [&bad, &policy, &good] };
        for record in order {
            append(&store, record).await;
        }
        append(&store, &good).await;
        assert_eq!(shown(&store, &[good]), [true], "policy first: {first_comes_the_policy}");
        assert!(store.check_index().unwrap());
    }
}

#[tokio::test]
async fn a_withdrawn_body_is_gone_and_isnt_taken_back() {
    let (store, _dir) = store();
    let mut author = Author::new(1, network());
    let notes: Vec<_> = (1..4u8).map(|number| author.write(NOTE, [number; 40]).unwrap()).collect();
    store.append(notes.clone()).await.unwrap();
    let erased = erase(&mut author, &[&notes[0], &notes[2]]);
    append(&store, &erased).await;
    assert_eq!(shown(&store, &notes), [false, true, false]);
    for (note, has_body) in notes.iter().zip([false, true, false]) {
        let kept = store.get(note.id()).unwrap().unwrap();
        assert_eq!((kept.body().is_some(), kept.id()), (has_body, note.id()));
    }
    assert_eq!(append(&store, &notes[0]).await, Outcome::Duplicate);
    assert_eq!(shown(&store, &notes), [false, true, false]);
    // It comes before what it erases on another node, and without the bodies.
    let (other, _dir) = self::store();
    let mut log = store.log(network(), author.key().author(), (0, 0), 9, usize::MAX).unwrap();
    log.reverse();
    for record in &log {
        append(&other, record).await;
    }
    append(&other, &notes[2]).await;
    assert_eq!(other.index_digest().unwrap(), store.index_digest().unwrap());
    assert!(store.check_index().unwrap() && other.check_index().unwrap());
}

#[tokio::test]
async fn nobody_withdraws_what_others_wrote_or_what_governs() {
    let (store, _dir) = store();
    let (mut root, mut author) = (Author::new(9, network()), Author::new(1, network()));
    let grant = make_member(&mut root, &author);
    let note = author.write(NOTE, [1]).unwrap();
    let first = erase(&mut author, &[&grant]);
    let second = erase(&mut author, &[&first]);
    let roots = erase(&mut root, &[&grant, &note]);
    store.append(vec![grant.clone(), note.clone(), first.clone(), second, roots]).await.unwrap();
    for record in [&grant, &note, &first] {
        assert!(store.get(record.id()).unwrap().unwrap().body().is_some());
    }
}

#[tokio::test]
async fn a_fork_that_loses_takes_its_rows_and_its_grants_along() {
    let (store, _dir) = store();
    let (mut root, mut author) = (Author::new(9, network()), Author::new(1, network()));
    let closed = members_only(&mut root, 1);
    let mut rival = root.clone();
    let (one, other) = (make_member(&mut root, &author), members_only(&mut rival, 2));
    let note = author.write(NOTE, [1]).unwrap();
    store.append(vec![closed, one.clone(), note.clone()]).await.unwrap();
    assert_eq!(shown(&store, std::slice::from_ref(&note)), [true]);
    append(&store, &other).await;
    let is_member = one.id() < other.id();
    assert_eq!(shown(&store, &[note]), [is_member]);
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn the_index_is_rebuilt_beside_the_old_one_while_writes_go_on() {
    let (store, _dir) = store();
    let mut authors: Vec<_> = (1..=8).map(|seed| Author::new(seed, network())).collect();
    let mut notes = Vec::new();
    for number in 0..800u32 {
        for author in &mut authors {
            notes.push(author.write(NOTE, [b'n', number as u8, 1]).unwrap());
        }
    }
    store.append(notes.clone()).await.unwrap();
    let rebuild = tokio::spawn({
        let store = store.clone();
        async move { store.rebuild().await }
    });
    // Writes of every sort, while it goes on: more, withdrawals, a fork.
    let mut rivals: Vec<_> = authors.clone();
    let mut later = Vec::new();
    for (author, rival) in authors.iter_mut().zip(&mut rivals) {
        later.push(author.write(NOTE, [2, 2]).unwrap());
        later.push(rival.write(NOTE, [3, 3]).unwrap());
    }
    for (at, author) in authors.iter_mut().enumerate() {
        later.push(erase(author, &[&notes[at]]));
    }
    for record in &later {
        append(&store, record).await;
        assert_eq!(shown(&store, &notes[4_000..4_001]), [true], "the old index serves");
    }
    assert!(rebuild.await.unwrap().unwrap() >= 6_400);
    assert_eq!(shown(&store, &notes[..9]), [false, false, false, false, false, false, false, false, true]);
    assert!(store.check_index().unwrap());
    store.rebuild().await.unwrap();
    assert!(store.check_index().unwrap());
}

#[tokio::test]
async fn logs_are_forgotten_as_if_they_had_never_been_here() {
    let (store, _dir) = store();
    let elsewhere = SecretKey::from_seed(&[8; 32]).network();
    let (mut root, mut kept, mut gone) =
        (Author::new(9, network()), Author::new(1, network()), Author::new(2, network()));
    let (mut member, mut foreign) = (Author::new(3, network()), Author::new(2, elsewhere));
    let members = [&member, &kept, &gone].map(|author| make_member(&mut root, author));
    let governing = [members.to_vec(), vec![members_only(&mut root, 1)]].concat();
    let note = |author: &mut Author, number: u16| author.write(NOTE, number.to_be_bytes()).unwrap();
    let stays: Vec<_> = (0..3).map(|number| note(&mut kept, number)).chain([note(&mut foreign, 0)]).collect();
    store.append([governing, stays.clone()].concat()).await.unwrap();
    let before = (store.index_digest().unwrap(), store.count().unwrap());

    // A fork, more records than one step takes, and another log in the same step.
    let rival = gone.clone().write(NOTE, "a rival").unwrap();
    let long: Vec<_> = (0..1500).map(|number| note(&mut gone, number)).collect();
    let members: Vec<_> = (0..2).map(|number| note(&mut member, number)).collect();
    store.append([vec![rival], long.clone(), members].concat()).await.unwrap();
    assert_eq!(store.networks().unwrap().len(), 2);
    let authors = [gone.key().author(), member.key().author()];
    let forgotten = store.forget(network(), &authors).await.unwrap();
    assert_eq!(store.count().unwrap() + forgotten, before.1 + 1503);
    assert_eq!((store.index_digest().unwrap(), store.count().unwrap()), before);
    assert!(
        store.check_index().unwrap() && authors.iter().all(|author| store.head(network(), *author).unwrap().is_none())
    );
    assert_eq!(shown(&store, &stays), [true; 4]);
    // It can come again.
    assert_eq!(append(&store, &long[0]).await, Outcome::Appended);
    assert_eq!(store.forget(network(), &authors).await.unwrap(), 1);

    // Without the root's log nothing is closed any more.
    store.forget(network(), &[root.key().author()]).await.unwrap();
    assert_eq!(append(&store, &note(&mut Author::new(5, network()), 1)).await, Outcome::Appended);
    assert!(store.check_index().unwrap());
}
