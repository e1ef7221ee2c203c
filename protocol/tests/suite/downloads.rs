//! Whole blobs in the background: how much of what the providers could bring is used, and what the bad ones cost.

use mhc_protocol::sched::{Cost, Demand, DemandClass, GROUP_BYTES, Groups};

use crate::net::{MBIT, MIB, Manner, Net, Peer, Rng, node, seeds};

pub(crate) fn background(range: std::ops::Range<u64>) -> Demand {
    Demand { class: DemandClass::Background, deadline: None, range, give_up_ms: None }
}

/// Downloads `size` from `peers`; the network afterwards, and the seconds it took.
fn download(size: u64, peers: Vec<Peer>, step_us: u64) -> (Net, f64) {
    let mut net = Net::new(size, peers, f64::MAX, step_us, 1);
    net.sched.demand(net.now(), 1, background(0..size));
    net.wanted.push(0..size);
    while !net.has_all() {
        net.step();
        assert!(net.now_us < 600_000_000, "arrives: {:?}", net.counts);
    }
    let took_s = net.now_us as f64 / 1e6;
    (net, took_s)
}

fn efficiency(size: u64, good: &[f64], took_s: f64) -> f64 {
    size as f64 / took_s / (good.iter().sum::<f64>() * MBIT)
}

#[test]
fn four_providers_give_nearly_all_they_can() {
    let size = 256 * MIB;
    for rtt_ms in [5, 40, 200] {
        let (net, took_s) = download(size, vec![Peer::honest(50.0, rtt_ms); 4], 5_000);
        let share = efficiency(size, &[50.0; 4], took_s);
        println!(
            "4 x 50 Mbit/s, rtt {rtt_ms} ms: {:.1} %, waste {} KiB, units up to {} KiB, at most {} in flight",
            share * 100.0,
            net.counts.waste >> 10,
            net.counts.longest >> 10,
            net.counts.most_units
        );
        assert!(share >= 0.95, "{share} at {rtt_ms} ms");
        assert!(net.counts.waste < size / 100, "{:?}", net.counts);
    }
}

#[test]
fn a_slow_one_and_a_staller_cost_little() {
    let size = 256 * MIB;
    for is_fifo in [false, true] {
        let mut peers = vec![Peer::honest(50.0, 30); 4];
        peers[2].uplink = 0.5 * MBIT;
        peers[3].manner = Manner::StallsAfter(size / 10);
        peers.iter_mut().for_each(|peer| peer.is_fifo = is_fifo);
        let (net, took_s) = download(size, peers, 5_000);
        // What the staller brought, the good ones didn't have to.
        let share = efficiency(size - net.counts.by_peer[3], &[50.0, 50.0, 0.5], took_s);
        println!(
            "one 100x slower, one stalling after 10 %: {:.1} %, waste {} KiB",
            share * 100.0,
            net.counts.waste >> 10
        );
        assert!(share >= 0.92, "{share}");
        assert!(net.counts.waste < size * 3 / 100);
    }
}

/// The end doesn't wait for the slow one.
#[test]
fn a_slow_one_does_not_hold_up_the_end() {
    let size = 64 * MIB;
    let (net, took_s) =
        download(size, vec![Peer::honest(50.0, 30), Peer::honest(50.0, 30), Peer::honest(0.5, 30)], 5_000);
    let ideal_s = size as f64 / (100.5 * MBIT);
    println!("end held up for {:.2} s, waste {} KiB", took_s - ideal_s, net.counts.waste >> 10);
    assert!(took_s < ideal_s + 1.0, "{took_s} of {ideal_s}");
    assert!(net.counts.waste < size * 3 / 100, "{:?}", net.counts);
}

#[test]
fn fast_and_long_paths_are_filled() {
    // Mbit/s, round trip, least share, longest unit, in flight
    let cases = [(3_200.0, 1, 0.95, MIB, 8..=32), (20.0, 600, 0.85, MIB, 2..=32), (50.0, 10, 0.95, MIB / 2, 2..=10)];
    for (mbits, rtt_ms, least, longest, in_flight) in cases {
        let size = (mbits * MBIT * 12.0) as u64 / MIB * MIB;
        let size = size.min(1024 * MIB);
        let (net, took_s) = download(size, vec![Peer::honest(mbits, rtt_ms)], 1_000);
        let share = efficiency(size, &[mbits], took_s);
        println!(
            "{mbits} Mbit/s, rtt {rtt_ms} ms: {:.1} %, units up to {} KiB, at most {} in flight",
            share * 100.0,
            net.counts.longest >> 10,
            net.counts.most_units
        );
        assert!(share >= least, "{share} at {mbits} Mbit/s, {rtt_ms} ms");
        assert!(net.counts.longest <= longest && in_flight.contains(&net.counts.most_units), "{:?}", net.counts);
    }
}

/// A loopback provider gets to its limit within some tens of milliseconds.
#[test]
fn a_fast_start() {
    let mut net = Net::new(1024 * MIB, vec![Peer::honest(3_200.0, 1)], f64::MAX, 1_000, 1);
    net.sched.demand(net.now(), 1, background(0..1024 * MIB));
    net.wanted.push(0..1024 * MIB);
    while net.sched.outstanding_bytes(node(0)) < 15 * MIB && net.now_us < 1_000_000 {
        net.step();
    }
    println!("400 MB/s: at its limit after {} ms", net.now_us / 1_000);
    assert!(net.now_us < 60_000, "{}", net.now_us);
}

/// The unique half of one provider isn't left for the end.
#[test]
fn rare_parts_come_first() {
    let size = 64 * MIB;
    let groups = size / GROUP_BYTES;
    let mut peers = vec![Peer::honest(10.0, 20); 5];
    peers[0].has = None;
    peers[1..].iter_mut().for_each(|peer| peer.has = Some(Groups::from(0..groups / 2)));
    peers[0].uplink = 40.0 * MBIT;
    let (net, took_s) = download(size, peers, 5_000);
    let share = efficiency(size, &[40.0; 2], took_s);
    println!("a unique half: {:.1} %, {} MiB of the unique provider", share * 100.0, net.counts.by_peer[0] / MIB);
    assert!(share > 0.85, "{share}");
}

#[test]
fn the_background_uses_metered_paths_only_for_what_nobody_else_has() {
    let size = 32 * MIB;
    let groups = size / GROUP_BYTES;
    let free = Peer { has: Some(Groups::from(0..groups / 2)), ..Peer::honest(10.0, 20) };
    let metered = Peer { cost: Cost::Metered, ..Peer::honest(50.0, 20) };
    let precious = Peer { cost: Cost::Precious, ..Peer::honest(50.0, 20) };
    let (net, _) = download(size, vec![free, metered, precious], 5_000);
    assert_eq!(net.counts.by_peer[1..], [size / 2, 0]);
}

/// Whoever lies, stalls or refuses costs what was asked of it before that showed, and the time until then.
#[test]
fn random_bad_ones_cost_at_most_their_units() {
    for seed in seeds(16) {
        let mut rng = Rng(seed);
        let size = 48 * MIB;
        let good: Vec<f64> = (0..1 + rng.below(4)).map(|_| rng.log_uniform(10.0, 60.0)).collect();
        let mut peers: Vec<Peer> = good.iter().map(|mbits| Peer::honest(*mbits, 5 + rng.below(100))).collect();
        let bad = 1 + rng.below(6);
        for _ in 0..bad {
            let manner = match rng.below(4) {
                0 | 1 => Manner::Lies,
                2 => Manner::StallsAfter(rng.below(2 * MIB)),
                _ => Manner::Refuses,
            };
            let honest = Peer::honest(rng.log_uniform(5.0, 60.0), 5 + rng.below(100));
            peers.push(Peer { is_known: rng.chance(0.5), ..honest.with(manner) });
        }
        let (net, took_s) = download(size, peers, 5_000);
        let (least_s, waste) = (size as f64 / (good.iter().sum::<f64>() * MBIT), net.counts.waste);
        println!("seed {seed}: {bad} bad ones: {took_s:.1} s instead of {least_s:.1}, waste {} KiB", waste >> 10);
        assert!(took_s < 1.15 * least_s + 2.0, "seed {seed}: {took_s} s, {least_s}");
        assert!(waste <= bad * MIB, "seed {seed}: {:?}", net.counts);
    }
}

#[test]
fn liars_stallers_and_refusers_cost_at_most_their_units() {
    let size = 32 * MIB;
    let mut peers = vec![Peer::honest(20.0, 40); 2];
    for manner in [Manner::Lies, Manner::Lies, Manner::StallsAfter(0), Manner::StallsAfter(MIB), Manner::Refuses] {
        peers.push(Peer { is_known: false, ..Peer::honest(50.0, 20).with(manner) });
    }
    let (net, took_s) = download(size, peers, 5_000);
    let share = efficiency(size, &[20.0; 2], took_s);
    println!("five bad ones: {:.1} %, waste {} KiB", share * 100.0, net.counts.waste >> 10);
    assert!(share > 0.9, "{share}");
    assert!(net.counts.waste < MIB, "{:?}", net.counts);
}
