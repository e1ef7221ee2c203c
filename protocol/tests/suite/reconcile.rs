//! What reconciliation costs, on the messages as they travel. The goals are stated over a million records on each side;
//! only heads and missing records are ever sent, so only those exist here. `mhc-bench h` prints the same as a table.

// A test that can't go on panics.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mhc_protocol::{
    AuthorId, RecordId,
    reconcile::{
        Client, Start, Step, Trouble, compare,
        testing::{Cost, Node, WRITTEN_AT, Writer, busy, network, pull, pull_within, scattered, whole},
    },
    record::Record,
    wire::{Bound, Content, Head, MAX_HEADS, MAX_LOG_BYTES, MAX_SYNC_RESPONSE_BYTES, Part, SyncRequest, SyncResponse},
};

const SALT: u64 = 0x5eed;
const PUSH_BYTES: u32 = MAX_LOG_BYTES as u32;
const UNLIMITED: u64 = u64::MAX;

/// Both pull from each other, one after the other: what each session cost.
fn both(a: &mut Node, b: &mut Node) -> [Cost; 2] {
    let there = pull(b, a, SALT, Start::Wide, UNLIMITED).unwrap();
    let back = pull(a, b, SALT + 1, Start::Wide, UNLIMITED).unwrap();
    assert_eq!(a.heads().as_slice(), b.heads().as_slice(), "they end with the same");
    println!("{there:?}\n{back:?}");
    [there, back]
}

fn goal_1(authors: u64, len: u64) {
    for split in [false, true] {
        let (mut a, mut b) = scattered(authors, len, 1000, split).unwrap();
        let costs = both(&mut a, &mut b);
        assert_eq!(costs.iter().map(|cost| cost.records).sum::<u64>(), 1000);
        assert!(costs.iter().all(|cost| cost.round_trips <= 4), "{costs:?}");
        let bytes: u64 = costs.iter().map(Cost::bytes).sum();
        assert!(bytes <= 2_000_000, "records included, both directions together: {costs:?}");
    }
}

#[test]
fn a_thousand_scattered_records_of_100_000_authors_with_10_each() {
    goal_1(100_000, 10);
}

#[test]
fn a_thousand_scattered_records_of_1000_authors_with_1000_each() {
    goal_1(1000, 1000);
}

#[test]
fn a_week_behind_on_one_busy_author_takes_two_round_trips() {
    // 1,500 records are 600 kB, a record every seven minutes.
    for (authors, round_trips) in [(20, 1), (1000, 2), (20_000, 2)] {
        let (a, mut b) = busy(authors, 1000, 1500).unwrap();
        let cost = pull(&mut b, &a, SALT, Start::Wide, UNLIMITED).unwrap();
        assert_eq!((cost.round_trips, cost.records), (round_trips, 1500), "{authors}: {cost:?}");
        assert!(cost.bytes() < 700_000, "{cost:?}");
    }
}

#[test]
fn equal_nodes_find_out_in_one_round_trip_and_few_bytes() {
    for authors in [0, 10, 1000, 100_000] {
        let (a, mut b) = scattered(authors, 10, 0, false).unwrap();
        let wide = pull(&mut b, &a, SALT, Start::Wide, UNLIMITED).unwrap();
        let probe = pull(&mut b, &a, SALT, Start::Probe, UNLIMITED).unwrap();
        assert_eq!((wide.round_trips, probe.round_trips), (1, 1));
        assert!(wide.bytes() < 10_000 && probe.bytes() < 250, "{authors}: {wide:?}, {probe:?}");
    }
}

#[test]
fn a_new_node_gets_everything_in_pages() {
    let a = whole(3000, 4).unwrap();
    let mut b = Node::default();
    let cost = pull(&mut b, &a, SALT, Start::Wide, UNLIMITED).unwrap();
    assert_eq!((b.heads().as_slice(), cost.records), (a.heads().as_slice(), 12_000));
    println!("{cost:?}");
    // Page by page, not log by log.
    assert!(cost.round_trips < 20 && cost.up_bytes < cost.down_bytes / 10, "{cost:?}");
    assert!(cost.longest_bytes <= MAX_SYNC_RESPONSE_BYTES as u64);
}

#[test]
fn a_session_about_few_authors_brings_those_and_costs_what_they_are() {
    let a = whole(3000, 4).unwrap();
    let wanted: BTreeSet<_> = a.heads().as_slice().iter().step_by(300).map(|head| head.author).collect();
    let mut b = Node::default();
    let cost = pull_within(&mut b, &a, SALT, &wanted).unwrap();
    assert_eq!((cost.round_trips, cost.records), (1, 40), "{cost:?}");
    assert!(b.heads().as_slice().iter().map(|head| head.author).eq(wanted.iter().copied()));
    assert!(cost.bytes() < 40 * 450 + 10 * 250, "{cost:?}");
    // Nothing new, among authors one of whom nobody knows.
    let wanted: BTreeSet<_> = wanted.into_iter().chain([AuthorId::from_bytes([0xff; 32])]).collect();
    let cost = pull_within(&mut b, &a, SALT, &wanted).unwrap();
    assert_eq!((cost.round_trips, cost.records), (1, 0));
    assert!(cost.bytes() < 11 * 130, "{cost:?}");
    // More authors than one request asks for.
    let all: BTreeSet<_> = a.heads().as_slice().iter().map(|head| head.author).collect();
    let cost = pull_within(&mut b, &a, SALT, &all).unwrap();
    assert_eq!((b.heads().as_slice(), cost.records), (a.heads().as_slice(), 12_000 - 40));
}

/// What wasn't asked about isn't taken.
#[test]
fn heads_of_others_are_junk_in_a_session_about_one_author() {
    let (a, stranger) = (whole(3, 1).unwrap(), Writer::new(7, 5).head().unwrap());
    let wanted = BTreeSet::from([a.heads().as_slice()[0].author]);
    let (mut client, _) = Client::within(network(), a.heads().clone(), SALT, PUSH_BYTES, &wanted);
    let answer = client.answered(compared(vec![], vec![stranger], false, vec![]), &a);
    assert!(matches!(answer, Err(Trouble::Junk(_))), "{answer:?}");
}

#[test]
fn a_session_that_breaks_off_is_resumed_without_loss() {
    let a = whole(600, 10).unwrap();
    let mut b = Node::default();
    let mut records = 0;
    for session in 0.. {
        let cost = pull(&mut b, &a, SALT + session, Start::Wide, 1 + session % 3).unwrap();
        records += cost.records;
        if b.heads().as_slice() == a.heads().as_slice() {
            break;
        }
        assert!(cost.records > 0, "each session brings something");
    }
    assert_eq!(records, 6000, "and nothing twice");
}

#[test]
fn a_busy_network_is_compared_within_bounds_even_when_everything_differs() {
    let (_, mut b) = scattered(40_000, 5, 0, false).unwrap();
    let others =
        b.heads().as_slice().iter().map(|head| Head { seq: head.seq + 1, id: RecordId::from_bytes([7; 32]), ..*head });
    let a = Node::new(others.collect());
    let cost = pull(&mut b, &a, SALT, Start::Wide, UNLIMITED).unwrap();
    println!("{cost:?}");
    assert!(cost.longest_bytes <= MAX_SYNC_RESPONSE_BYTES as u64 && cost.records == 0);
    assert!(cost.up_bytes < cost.down_bytes, "no head is listed many times");
}

/// A session that has just asked for the parts of 1,000 heads, or listed 20.
fn asked(authors: u64) -> (Node, Client, SyncRequest) {
    let (_, node) = scattered(authors, 10, 0, false).unwrap();
    let (client, request) = Client::start(network(), node.heads().clone(), SALT, PUSH_BYTES, Start::Wide);
    (node, client, request)
}

fn compared(parts: Vec<Part>, heads: Vec<Head>, more: bool, envelopes: Vec<Vec<u8>>) -> SyncResponse {
    SyncResponse::Compare { parts, heads, more, envelopes }
}

#[test]
fn answers_that_dont_fit_the_question_are_junk() {
    let foreign = Writer::new(1, 5).head().unwrap();
    let whole = Part { upper: Bound::end(), content: Content::Fingerprint(1) };
    let envelope = Writer::new(1, 5).write().unwrap().to_bytes();
    let logs = SyncResponse::Logs { envelopes: vec![], more: false };
    let cases = [
        (1000, compared(vec![whole.clone()], vec![], false, vec![]), "a part larger than those asked about"),
        (1000, compared(vec![], vec![foreign], false, vec![]), "heads for fingerprints"),
        (1000, compared(vec![], vec![], false, vec![envelope]), "records for fingerprints"),
        (1000, logs, "logs"),
        (20, compared(vec![whole], vec![], false, vec![]), "parts for a list"),
        (20, compared(vec![], vec![], false, vec![vec![0; 32 << 10]; 25]), "more records than may be pushed"),
    ];
    for (authors, response, name) in cases {
        let (node, mut client, _) = asked(authors);
        let answer = client.answered(response, &node);
        assert!(matches!(answer, Err(Trouble::Junk(_))), "{name}: {answer:?}");
    }
    let (node, mut client, _) = asked(20);
    assert!(matches!(client.answered(compared(vec![], vec![foreign], false, vec![]), &node), Ok(Step::Ask(_))));
}

#[test]
fn records_that_werent_asked_for_are_junk() {
    let mut writer = Writer::new(1, 5);
    let theirs = writer.write().unwrap();
    let stranger = Writer::new(2, 5).write().unwrap();
    let (node, mut client, _) = asked(20);
    let heads = vec![writer.head().unwrap()];
    let pushed = compared(vec![], heads, false, vec![theirs.to_bytes()]);
    assert!(matches!(client.answered(pushed, &node), Ok(Step::Store(_))));
    assert!(client.check::<()>(std::slice::from_ref(&stranger)).is_err());
    assert!(client.check::<()>(&[theirs.clone(), stranger]).is_err());
    assert_eq!(client.check::<()>(&[theirs]), Ok(()));
}

/// A server that invents: smaller parts without end, or heads without records.
#[test]
fn a_server_that_invents_heads_and_parts_is_given_up() {
    let (node, mut client, mut request) = asked(1000);
    let mut asked = 0;
    loop {
        asked += 1;
        let response = match &request {
            SyncRequest::Compare { parts, .. } => {
                let lists = parts.iter().any(|part| matches!(part.content, Content::Listed(_)));
                let lie = |part: &Part| match part.content {
                    Content::Fingerprint(fingerprint) => Content::Fingerprint(!fingerprint),
                    _ => Content::Skipped,
                };
                let lies = parts.iter().map(|part| Part { upper: part.upper.clone(), content: lie(part) });
                match lists {
                    false => compared(lies.collect(), vec![], false, vec![]),
                    true => compared(vec![], invented(&node, parts), false, vec![]),
                }
            }
            SyncRequest::Logs { .. } => SyncResponse::Logs { envelopes: vec![], more: false },
            SyncRequest::Records { .. } | SyncRequest::Have { .. } => unreachable!(),
        };
        request = match client.answered(response, &node).unwrap() {
            Step::Ask(request) => request,
            Step::Done => break,
            Step::Store(_) => unreachable!("it never sends any"),
        };
        assert!(asked < 200, "it ends");
    }
}

/// A new record for each author that is listed.
fn invented(node: &Node, parts: &[Part]) -> Vec<Head> {
    let listed = |head: &&Head| {
        let part = parts.iter().find(|part| part.upper.is_after(head.author));
        part.is_some_and(|part| matches!(part.content, Content::Listed(_)))
    };
    let heads = node.heads().as_slice().iter().filter(listed).take(MAX_HEADS);
    heads.map(|head| Head { seq: head.seq + 1, id: RecordId::from_bytes([9; 32]), ..*head }).collect()
}

#[test]
fn records_travel_as_they_are() {
    let a = whole(1, 2).unwrap();
    let (mut client, request) =
        Client::start(network(), Node::default().heads().clone(), SALT, PUSH_BYTES, Start::Probe);
    let response = SyncResponse::decode(&a.answer(&request.encode().unwrap()).unwrap()).unwrap();
    let Ok(Step::Store(envelopes)) = client.answered(response, &Node::default()) else { panic!("they come at once") };
    let records: Vec<_> = envelopes.iter().map(|envelope| Record::verify(envelope, WRITTEN_AT).unwrap()).collect();
    assert_eq!(records.iter().map(|record| record.header().seq).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(envelopes[1].len(), 400);
}

#[test]
fn a_server_notices_another_record_in_the_place_of_its_head() {
    let head = |seq, id: u8| Head { seq, id: RecordId::from_bytes([id; 32]), ..Writer::new(1, 5).head().unwrap() };
    let cases = [
        (head(5, 1), Some(head(5, 2)), 1, "a fork"),
        (head(5, 1), Some(head(5, 1)), 0, "the same"),
        (head(5, 1), Some(head(4, 2)), 0, "behind"),
        (head(5, 1), Some(head(6, 2)), 0, "ahead"),
        (head(0, 1), None, 0, "nothing"),
        (head(0, 1), Some(head(0, 2)), 1, "a fork at the start"),
    ];
    for (ours, theirs, expected, name) in cases {
        let (server, client) = (Node::new(vec![ours]), Node::new(theirs.into_iter().collect()));
        let (_, request) = Client::start(network(), client.heads().clone(), SALT, 0, Start::Wide);
        let SyncRequest::Compare { parts, .. } = request else { panic!("it compares") };
        let compared = compare(server.heads(), &server, SALT, &parts, 0).unwrap();
        assert_eq!(compared.rivals.len(), expected, "{name}");
    }
}
