use std::sync::Arc;

use mhc_protocol::{
    SecretKey, Timestamp,
    alert::{ALERT, AlertRecord, Details, Draft, Kind, Order, Severity, Status, Urgency},
    record::VerifiedRecord,
};
use mhc_storage::record::{
    Projection,
    testing::{self, Author, order_and_duplicates_are_irrelevant, replay_rebuilds_the_index},
};

use super::*;

const START: u64 = 1_790_000_000_000;

/// Alerts of the network's root, a minute apart.
fn alerts(count: u64) -> Vec<VerifiedRecord> {
    let key = SecretKey::from_seed(&[1; 32]);
    let mut author = Author::new(1, key.network());
    let body = |n: u64| {
        let draft = Draft {
            status: Status::Actual,
            kind: Kind::Alert,
            severity: Severity::High,
            urgency: Urgency::Expected,
            order: Order::None,
            at: Timestamp::from_millis(START + n * 60_000),
            life_min: 60,
            refers: None,
            language: None,
            text: format!("alert {n}"),
        };
        let alert = draft.sign(&key, key.network()).unwrap();
        AlertRecord { alert, details: Details::default() }.encode().unwrap()
    };
    (0..count).map(|n| author.write(ALERT, body(n)).unwrap()).collect()
}

fn projections() -> Vec<Arc<dyn Projection>> {
    vec![Arc::new(Continuity)]
}

#[tokio::test]
async fn alerts_are_found_by_time_and_junk_is_left_out() {
    let (records, _dir) = testing::open(projections()).unwrap();
    let sent = alerts(4);
    let network = sent[0].header().network;
    let junk = Author::new(2, network).write(ALERT, "junk").unwrap();
    records.append([sent.clone(), vec![junk]].concat()).await.unwrap();
    let view = records.view(NAME).unwrap();
    let since = Timestamp::from_millis(START + 2 * 60_000);
    assert_eq!(alerts_since(&view, network, since, 10).unwrap(), [sent[3].id(), sent[2].id()]);
    assert_eq!(alerts_since(&view, network, Timestamp::default(), 1).unwrap(), [sent[3].id()]);
    let elsewhere = SecretKey::from_seed(&[9; 32]).network();
    assert_eq!(alerts_since(&view, elsewhere, Timestamp::default(), 10).unwrap(), []);
}

#[tokio::test]
async fn the_index_is_a_function_of_the_records() {
    replay_rebuilds_the_index(projections(), &alerts(8)).await.unwrap();
    order_and_duplicates_are_irrelevant(projections(), &alerts(8)).await.unwrap();
}
