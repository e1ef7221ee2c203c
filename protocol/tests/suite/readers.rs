//! Several readers of one blob, and what a decision costs.

use mhc_protocol::sched::{Demand, DemandClass, GROUP_BYTES};

use crate::{
    downloads::background,
    net::{MBIT, MIB, Net, Peer, Rng, seeds},
    player::Player,
};

fn some_peers(count: usize) -> Vec<Peer> {
    (0..count).map(|at| Peer::honest(4.0 + (at * 7 % 30) as f64, 5 + (at * 37 % 200) as u64)).collect()
}

/// What of `range` is here.
fn local(net: &Net, range: std::ops::Range<u64>) -> u64 {
    (range.start / GROUP_BYTES..range.end / GROUP_BYTES).filter(|group| net.has_group(*group)).count() as u64
}

fn assert_fair(a: u64, b: u64, what: &str) {
    let ratio = a.max(b) as f64 / a.min(b).max(1) as f64;
    println!("{what}: {a} and {b} groups");
    assert!(ratio < 1.5, "{what}: {a} and {b}");
}

/// Asks for two ranges at once and stops while both want more.
fn two_demands_are_served_alike(mut net: Net, class: DemandClass, ranges: [std::ops::Range<u64>; 2], until_us: u64) {
    net.wanted = ranges.to_vec();
    for (id, range) in ranges.iter().enumerate() {
        let demand = Demand { class, deadline: None, range: range.clone(), give_up_ms: None };
        net.sched.demand(net.now(), id as u64, demand);
    }
    while net.now_us < until_us {
        net.step();
    }
    let [a, b] = ranges.map(|range| local(&net, range));
    assert_fair(a, b, &format!("{class:?}"));
}

const CLASSES: [DemandClass; 3] = [DemandClass::Playhead, DemandClass::Lookahead, DemandClass::Background];

#[test]
fn demands_of_one_class_get_equal_shares() {
    for class in CLASSES {
        let net = Net::new(256 * MIB, some_peers(5), f64::MAX, 5_000, 3);
        two_demands_are_served_alike(net, class, [0..64 * MIB, 128 * MIB..192 * MIB], 4_000_000);
    }
}

#[test]
fn random_networks_are_shared_fairly() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let peers: Vec<Peer> =
            (0..2 + rng.below(5)).map(|_| Peer::honest(rng.log_uniform(3.0, 40.0), 5 + rng.below(250))).collect();
        let class = CLASSES[rng.below(3) as usize];
        let net = Net::new(512 * MIB, peers, f64::MAX, 5_000, seed);
        two_demands_are_served_alike(net, class, [0..128 * MIB, 256 * MIB..384 * MIB], 6_000_000);
    }
}

/// They want 40 Mbit/s of 33.
#[test]
fn two_players_that_are_starved_are_starved_alike() {
    let mut net = Net::new(256 * MIB, some_peers(3), f64::MAX, 5_000, 3);
    let starts = [0, 128 * MIB];
    let mut players =
        [0, 1].map(|at| Player::new(at, starts[at as usize], starts[at as usize] + 64 * MIB, 20.0 * MBIT));
    while net.now_us < 12_000_000 {
        players.iter_mut().for_each(|player| player.tick(&mut net, 0.005));
        net.step();
    }
    let [a, b] = starts.map(|start| local(&net, start..start + 64 * MIB));
    assert!(players.iter().all(|player| player.has_started));
    assert_fair(a, b, "players");
}

/// Prints what a decision takes; of interest with `--release`.
#[test]
fn decisions_are_cheap() {
    for count in [8, 200] {
        let mut net = Net::new(1024 * MIB, some_peers(count), f64::MAX, 5_000, 3);
        net.sched.demand(net.now(), 100, background(0..1024 * MIB));
        let mut player = Player::new(0, 512 * MIB, 600 * MIB, 20.0 * MBIT);
        for _ in 0..100 {
            player.tick(&mut net, 0.005);
            net.wanted.push(0..1024 * MIB);
            net.step();
            net.wanted.truncate(1);
        }
        let (polls, progresses) = (net.counts.polls, net.counts.progresses);
        let (poll, progress) = (net.counts.poll_time / polls, net.counts.progress_time / progresses);
        println!("{count} providers: {poll:?} a poll ({polls}), {progress:?} a progress ({progresses})");
    }
}
