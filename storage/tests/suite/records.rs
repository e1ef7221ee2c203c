//! The record store's everyday: publish, read, outbox, private tables, events.

use std::sync::Arc;

use mhc_protocol::{
    NetworkId, SecretKey,
    record::{MAX_RECORD_BYTES, RecordError},
};
use mhc_storage::{
    kv::KeyRange,
    record::{
        Health, Outcome, Records, RecordsError, RecordsOptions,
        testing::{self, Author, WRITTEN_AT},
    },
};

use crate::{NOTE, index::Notes};

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn network() -> NetworkId {
    key().network()
}

async fn publish(store: &Records, body: &[u8]) -> mhc_protocol::record::VerifiedRecord {
    store.publish(&key(), network(), NOTE, body.to_vec(), [7; 16], WRITTEN_AT).await.unwrap()
}

#[tokio::test]
async fn what_is_published_is_chained_indexed_announced_and_in_the_outbox() {
    let (store, _dir) = testing::open(vec![Arc::new(Notes)]).unwrap();
    let mut events = store.subscribe();
    let (first, second) = (publish(&store, b"one").await, publish(&store, b"two").await);
    assert_eq!((first.header().seq, first.header().prev), (0, None));
    assert_eq!((second.header().seq, second.header().prev), (1, Some(first.id())));
    assert_eq!(store.get(second.id()).unwrap(), Some(second.clone()));
    assert_eq!(store.count().unwrap(), 2);
    assert!(store.view("notes").unwrap().get("body", second.id().as_bytes()).unwrap().is_some());
    for record in [&first, &second] {
        let event = events.try_recv().unwrap();
        assert_eq!((event.record.id(), event.local), (record.id(), true));
    }
    let waiting = store.outbox(9).unwrap();
    assert_eq!(waiting.iter().map(|(_, record)| record.id()).collect::<Vec<_>>(), [first.id(), second.id()]);
    store.outbox_sent(vec![waiting[0].0]).await.unwrap();
    assert_eq!(store.outbox(9).unwrap().len(), 1);
}

#[tokio::test]
async fn records_from_elsewhere_are_announced_once_and_not_sent() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let mut events = store.subscribe();
    let record = Author::new(2, network()).write(NOTE, "x").unwrap();
    assert_eq!(
        store.append(vec![record.clone(), record.clone()]).await.unwrap(),
        [Outcome::Appended, Outcome::Duplicate]
    );
    assert_eq!(store.append(vec![record.clone(); 1000]).await.unwrap(), [Outcome::Duplicate; 1000]);
    let event = events.try_recv().unwrap();
    assert_eq!((event.record, event.local), (record, false));
    assert!(events.try_recv().is_err());
    assert!(store.outbox(9).unwrap().is_empty());
    assert_eq!(store.append(vec![]).await.unwrap(), []);
}

#[tokio::test]
async fn concurrent_publishers_get_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = Records::open(dir.path(), RecordsOptions::default(), vec![Arc::new(Notes)]).unwrap();
    let bodies: Vec<_> = (0..100u8).map(|number| [number]).collect();
    let published = futures::future::join_all(bodies.iter().map(|body| publish(&store, body))).await;
    let log = store.log(network(), key().author(), (0, 0), usize::MAX, usize::MAX).unwrap();
    assert_eq!(log.len(), published.len());
    assert_eq!(log.last().unwrap().header().seq, 99);
    assert!(store.check_index().unwrap());
}

/// From, most records, most bytes, and which come.
type Case = ((u64, u64), usize, usize, std::ops::Range<usize>);

#[tokio::test]
async fn a_log_is_read_in_pieces() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let mut author = Author::new(2, network());
    let mut records: Vec<_> = (0..150u8).map(|number| author.write(NOTE, vec![number; 100]).unwrap()).collect();
    records.push(author.raise_epoch(NOTE, "moved").unwrap());
    store.append(records.clone()).await.unwrap();
    let size_bytes = records[20].to_bytes().len();
    let id = author.key().author();
    let cases: &[Case] = &[
        ((0, 0), usize::MAX, usize::MAX, 0..151),
        ((0, 0), 0, usize::MAX, 0..0),
        ((0, 10), 5, usize::MAX, 10..15),
        ((0, 10), 100, usize::MAX, 10..110),
        ((0, 10), 5, 0, 10..11),
        ((0, 20), 5, 2 * size_bytes + 50, 20..22),
        ((0, 140), 50, usize::MAX, 140..151),
        ((1, 0), 50, usize::MAX, 150..151),
        ((1, 1), 50, usize::MAX, 0..0),
        ((u64::MAX, u64::MAX), 50, usize::MAX, 0..0),
    ];
    for (from, max_records, max_bytes, expected) in cases {
        let got = store.log(network(), id, *from, *max_records, *max_bytes).unwrap();
        assert_eq!(got, records[expected.clone()], "{from:?} {max_records} {max_bytes}");
    }
    let head = store.heads(network(), None, 9).unwrap();
    assert_eq!((head.len(), head[0].epoch, head[0].seq, head[0].id), (1, 1, 0, records[150].id()));
}

#[tokio::test]
async fn heads_come_page_by_page_and_by_network() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let other = SecretKey::from_seed(&[200; 32]).network();
    for seed in 1..6 {
        let records = [network(), other].map(|network| Author::new(seed, network).write(NOTE, "x").unwrap());
        store.append(records.to_vec()).await.unwrap();
    }
    let all = store.heads(network(), None, 99).unwrap();
    assert_eq!(all.len(), 5);
    let (mut paged, mut after) = (Vec::new(), None);
    while let Some(head) = store.heads(network(), after, 1).unwrap().pop() {
        after = Some(head.author);
        paged.push(head);
    }
    assert_eq!(paged, all);
}

#[tokio::test]
async fn private_tables_are_durable_and_no_part_of_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Records::open(dir.path(), RecordsOptions::default(), vec![]).unwrap();
    let store = open();
    let digest = store.index_digest().unwrap();
    let table = store.private("peers");
    table.put(*b"a", *b"1").await.unwrap();
    table.update(vec![(b"b".to_vec(), Some(b"2".to_vec())), (b"a".to_vec(), None)]).await.unwrap();
    store.private("others").put(*b"a", *b"x").await.unwrap();
    store.rebuild().await.unwrap();
    assert_eq!(store.index_digest().unwrap(), digest);
    store.close().await;
    assert!(matches!(table.get(b"b"), Err(RecordsError::Closed)));
    assert!(matches!(table.put(*b"a", *b"1").await, Err(RecordsError::Closed)));
    drop((store, table));
    let table = open().private("peers");
    assert_eq!(table.scan(KeyRange::all(), 9).unwrap(), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(table.get(b"a").unwrap(), None);
    table.delete(*b"b").await.unwrap();
    assert_eq!(table.scan(KeyRange::all(), 9).unwrap(), []);
}

#[tokio::test]
async fn what_breaks_the_protocols_bounds_is_not_published() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let result = store.publish(&key(), network(), NOTE, vec![0; MAX_RECORD_BYTES], [0; 16], WRITTEN_AT).await;
    assert!(matches!(result, Err(RecordsError::Invalid(RecordError::TooLarge(_)))), "{result:?}");
    assert_eq!((store.count().unwrap(), store.health()), (0, Health::ReadWrite));
    publish(&store, b"fine").await;
}

#[tokio::test]
async fn nothing_is_published_while_the_own_log_is_known_to_go_on_elsewhere() {
    let (store, _dir) = testing::open(vec![]).unwrap();
    let mut before_backup = Author::new(1, network());
    let records: Vec<_> = (0..3u8).map(|number| before_backup.write(NOTE, vec![number]).unwrap()).collect();
    // The store was restored from a backup with the first record; a peer gossips the third.
    store.append(vec![records[0].clone(), records[2].clone()]).await.unwrap();
    let result = store.publish(&key(), network(), NOTE, vec![1], [0; 16], WRITTEN_AT).await;
    assert!(matches!(result, Err(RecordsError::LogIncomplete(author)) if author == key().author()), "{result:?}");
    store.append(vec![records[1].clone()]).await.unwrap();
    assert_eq!(publish(&store, b"next").await.header().seq, 3);
}
