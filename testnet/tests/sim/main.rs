//! Simulation: networks of real stores, indexes and reconciliation on one thread, under virtual time, from a seed.
//!
//! `MHC_SEEDS=1000` runs so many networks (`make soak` does), `MHC_SEED=n` begins with that one. A failure names its
//! seed, and the seed replays it exactly.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod disk;
mod node;
mod scale;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use world::{HOUR_MS, World};

const NODES: usize = 20;
const HEAL_MS: u64 = 30_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// An hour of trouble, and 30 seconds of peace.
fn live(seed: u64) -> World {
    mhc_protocol::key::testing::remember_valid_signatures();
    let mut world = World::new(seed, NODES);
    world.run_until(HOUR_MS);
    world.heal();
    world.run_until(HOUR_MS + HEAL_MS);
    world
}

fn check(seed: u64) -> Result<(), String> {
    let world = live(seed);
    let digests = world.digests();
    let expected = digests[0].ok_or("the first node has no index")?;
    for (n, digest) in digests.iter().enumerate() {
        if *digest != Some(expected) {
            return Err(format!("node {n} has another index than node 0: {}", world.difference(0, n)));
        }
    }
    for (by, id) in &world.acknowledged {
        let kept = world.nodes[*by].records.as_ref().and_then(|records| records.get(*id).ok()?);
        if kept.is_none() {
            return Err(format!("node {by} lost record {id}, which it acknowledged"));
        }
    }
    for (n, node) in world.nodes.iter().enumerate() {
        let Some(records) = &node.records else { return Err(format!("node {n} doesn't run")) };
        let view = records.view(mhc_platform::catalog::NAME).map_err(|error| error.to_string())?;
        if world.is_ruled_by_forgery(records) {
            return Err(format!("node {n} honours a grant that nobody had a right to give"));
        }
        for id in &world.forged {
            if mhc_platform::catalog::entry(&view, *id).map_err(|error| error.to_string())?.is_some() {
                return Err(format!("node {n} shows record {id}, which nobody had a right to write"));
            }
        }
        if n % 7 == 0 && !records.check_index().map_err(|error| error.to_string())? {
            return Err(format!("node {n}: a replay makes another index"));
        }
    }
    match world.acknowledged.len() {
        0..20 => Err(format!("only {} records were written: this tells nothing", world.acknowledged.len())),
        _ => Ok(()),
    }
}

#[test]
fn after_an_hour_of_trouble_all_nodes_have_one_index_within_thirty_seconds() {
    let first = number("MHC_SEED").unwrap_or(1);
    let seeds = first..first + number("MHC_SEEDS").unwrap_or(50);
    let next = AtomicU64::new(first);
    let work = || {
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return failures;
            }
            let done = seed - first;
            if done > 0 && done.is_multiple_of(100) {
                eprintln!("{done} of {} networks tried, {} failures here", seeds.end - first, failures.len());
            }
            failures.extend(check(seed).err().map(|why| format!("MHC_SEED={seed}: {why}")));
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a simulation panicked")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_seed_replays_exactly() {
    let (one, other) = (live(7), live(7));
    assert_eq!((one.trace(), one.digests()), (other.trace(), other.digests()));
    assert_ne!(one.trace(), live(8).trace());
}
