//! (h) Reconciling logs: round trips, bytes and processor time until two nodes have the same records, on the messages as
//! they travel, without a network. Finding the heads that differ is also done with negentropy, over the same heads.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use mhc_protocol::reconcile::{
    Start,
    testing::{Cost, Node, busy, find, pull, scattered, whole},
};
use negentropy::{Id, Negentropy, NegentropyStorageVector};

use crate::{
    bench::Options,
    runner::{Contender, Rounds, compare},
    table::{Better, Sample, Table},
};

const SALT: u64 = 0x5eed;
const UNLIMITED: u64 = u64::MAX;
const DIFFERING: u64 = 1000;
const KB: f64 = 1000.0;
const NOTE: &str = "Two nodes with 1,000,000 records each (100,000 logs of 10, 1,000 of 1,000, 1,000,000 of 1), of which \
    1,000 at the ends of random logs are on one side only; records have about 400 bytes. `up` is what the pulling node \
    sends. Both directions means half of the records on each side, both nodes pull, everything added up, round trips \
    too, although they'd run at the same time. Times are one core's for both ends, signatures included, the heads in \
    memory, nothing written to disk. Only heads and missing records exist: nothing else would be sent.";
const FIND_NOTE: &str = "Only which heads differ, no records: with negentropy 0.5 over the ids of the heads (the time stamp \
    is the head's position, frames unlimited), and ours without pushing. Negentropy ends with ids; which logs they are of \
    and where those stand would take one more round trip and about 75 bytes for each.";

pub(crate) fn measure(options: &Options) -> Result<Vec<Table>> {
    let rounds = Rounds { counted: options.runs.max(1), warm_up: 1 };
    Ok(vec![sessions(rounds)?, finding(rounds)?])
}

fn sessions(rounds: Rounds) -> Result<Table> {
    let many = scattered(100_000, 10, DIFFERING, false)?;
    let few = scattered(1000, 1000, DIFFERING, false)?;
    let single = scattered(1_000_000, 1, DIFFERING, false)?;
    let halves = scattered(100_000, 10, DIFFERING, true)?;
    let week = busy(100_000, 10, 1500)?;
    let equal = scattered(100_000, 10, 0, false)?;
    let new = (whole(2000, 10)?, Node::default());
    let one = |pair: &(Node, Node), records| session(pair, Start::Wide, records);
    let contenders = vec![
        Contender::ours("100,000 authors x 10, 1,000 records differ", || one(&many, DIFFERING)),
        Contender::ours("the same, both directions", || both(&halves, DIFFERING)),
        Contender::ours("1,000 authors x 1,000, 1,000 records differ", || one(&few, DIFFERING)),
        Contender::ours("1,000,000 authors x 1, 1,000 records differ", || one(&single, DIFFERING)),
        Contender::ours("100,000 authors, 1,500 records behind on one", || one(&week, 1500)),
        Contender::ours("100,000 authors, equal", || one(&equal, 0)),
        Contender::ours("the same, the look every half minute", || session(&equal, Start::Probe, 0)),
        Contender::ours("a new node, 2,000 authors x 10", || one(&new, 20_000)),
    ];
    let table = Table::new("Until both have the same records", "ms", Better::Lower).note(NOTE);
    compare(table, rounds, contenders)
}

fn finding(rounds: Rounds) -> Result<Table> {
    let pair = scattered(100_000, 10, DIFFERING, false)?;
    let contenders = vec![
        Contender::ours("ours", || {
            let (a, b) = &pair;
            timed(|| find(b, a, SALT).map_err(|failure| anyhow!(failure)))
        }),
        Contender::peer("negentropy", || negentropy(&pair)),
    ];
    let table = Table::new("Finding what differs: 1,000 of 100,000 heads", "ms", Better::Lower).note(FIND_NOTE);
    compare(table, rounds, contenders)
}

fn timed(work: impl FnOnce() -> Result<Cost>) -> Result<Sample> {
    let started = Instant::now();
    let cost = work()?;
    Ok(sample(started.elapsed().as_secs_f64() * 1e3, cost))
}

fn sample(ms: f64, cost: Cost) -> Sample {
    Sample::new(ms)
        .with("round trips", cost.round_trips as f64)
        .with("up, kB", cost.up_bytes as f64 / KB)
        .with("down, kB", cost.down_bytes as f64 / KB)
}

/// The second node pulls from the first.
fn session((a, b): &(Node, Node), start: Start, records: u64) -> Result<Sample> {
    let mut b = b.clone();
    let sample = timed(|| {
        let cost = pull(&mut b, a, SALT, start, UNLIMITED).map_err(|failure| anyhow!(failure))?;
        ensure!(cost.records == records, "{cost:?}");
        Ok(cost)
    })?;
    ensure!(a.heads().as_slice() == b.heads().as_slice(), "they differ still");
    Ok(sample)
}

fn both((a, b): &(Node, Node), records: u64) -> Result<Sample> {
    let (mut a, mut b) = (a.clone(), b.clone());
    timed(|| {
        let there = pull(&mut b, &a, SALT, Start::Wide, UNLIMITED).map_err(|failure| anyhow!(failure))?;
        let back = pull(&mut a, &b, SALT, Start::Wide, UNLIMITED).map_err(|failure| anyhow!(failure))?;
        ensure!(there.records + back.records == records, "{there:?} {back:?}");
        Ok(Cost {
            round_trips: there.round_trips + back.round_trips,
            up_bytes: there.up_bytes + back.up_bytes,
            down_bytes: there.down_bytes + back.down_bytes,
            ..there
        })
    })
}

fn negentropy((a, b): &(Node, Node)) -> Result<Sample> {
    let storage = |node: &Node| -> Result<NegentropyStorageVector> {
        let mut storage = NegentropyStorageVector::with_capacity(node.heads().as_slice().len());
        for head in node.heads().as_slice() {
            storage.insert(head.seq, Id::from_byte_array(*head.id.as_bytes()))?;
        }
        storage.seal()?;
        Ok(storage)
    };
    let (theirs, ours) = (storage(a)?, storage(b)?);
    timed(|| {
        let (mut server, mut client) = (Negentropy::borrowed(&theirs, 0)?, Negentropy::borrowed(&ours, 0)?);
        let (mut have, mut need) = (vec![], vec![]);
        let mut cost = Cost::default();
        let mut request = Some(client.initiate()?);
        while let Some(bytes) = request {
            let response = server.reconcile(&bytes)?;
            cost.round_trips += 1;
            cost.up_bytes += bytes.len() as u64;
            cost.down_bytes += response.len() as u64;
            request = client.reconcile_with_ids(&response, &mut have, &mut need)?;
        }
        ensure!(need.len() == have.len() && !need.is_empty(), "{} and {}", need.len(), have.len());
        Ok(cost)
    })
    .context("negentropy")
}
