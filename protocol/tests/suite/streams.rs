//! Streams over many networks, against the omniscient scheduler on the same ones.

use std::ops::Range;

use mhc_protocol::sched::{Cost, GROUP_BYTES, Groups};

use crate::{
    net::{Counts, MBIT, Manner, Net, Peer, Rng, seeds},
    omniscient::Omniscient,
    player::{Played, Player},
};

const STEP_US: u64 = 4_000;
const PLAY_S: f64 = 12.0;
/// So that what is needed to start fits well into the window.
const MAX_BITRATE: f64 = 20.0 * MBIT;

/// One case.
struct Network {
    peers: Vec<Peer>,
    /// Bytes per second.
    downlink: f64,
    bitrate: f64,
    size: u64,
}

impl Network {
    /// From the seed: 2 to 30 providers, some networks with 200.
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let count = if rng.chance(0.03) { 200 } else { rng.log_uniform(2.0, 30.0) as usize };
        let mut peers: Vec<Peer> = (0..count).map(|_| some_peer(&mut rng)).collect();
        // Somebody has everything and stays, and isn't the slowest.
        peers[0] = Peer::honest(rng.log_uniform(2.0, 50.0), peers[0].rtt_ms);
        let downlink = rng.log_uniform(8.0, 300.0) * MBIT;
        let steady = |peer: &&Peer| peer.manner == Manner::Honest && peer.leaves_ms.is_none() && peer.has.is_none();
        let capacity = peers.iter().filter(steady).map(|peer| peer.uplink).sum::<f64>().min(downlink);
        let bitrate = (capacity / rng.log_uniform(1.1, 4.0)).min(MAX_BITRATE);
        let size = (bitrate * PLAY_S) as u64;
        for peer in &mut peers[1..] {
            peer.has = rng.chance(0.25).then(|| some_groups(&mut rng, size));
        }
        Self { peers, downlink, bitrate, size }
    }

    fn play(&self, seed: u64) -> (Played, Net) {
        let mut net = Net::new(self.size, self.peers.clone(), self.downlink, STEP_US, seed);
        let mut player = Player::new(0, 0, self.size, self.bitrate);
        while !player.is_fed() {
            player.tick(&mut net, STEP_US as f64 / 1e6);
            net.step();
            assert!(net.now_us < 300_000_000, "arrives: seed {seed}, {:?}", net.counts);
        }
        (player.played, net)
    }
}

fn some_peer(rng: &mut Rng) -> Peer {
    let honest = Peer::honest(rng.log_uniform(0.2, 50.0), rng.log_uniform(5.0, 600.0) as u64);
    let manner = match rng.below(100) {
        0..4 => Manner::Lies,
        4..8 => Manner::StallsAfter(0),
        8..14 => Manner::StallsAfter(rng.log_uniform(1e5, 1e7) as u64),
        14..18 => Manner::Refuses,
        _ => Manner::Honest,
    };
    let second = |rng: &mut Rng| (rng.unit() * PLAY_S * 1e3) as u64;
    let joins_ms = if rng.chance(0.1) { second(rng) } else { 0 };
    let leaves_ms = rng.chance(0.1).then(|| joins_ms + 1 + second(rng));
    let (is_fifo, is_known) = (rng.chance(0.5), !rng.chance(0.1));
    let cost = if rng.chance(0.9) { Cost::Free } else { Cost::Metered };
    Peer { manner, joins_ms, leaves_ms, is_fifo, is_known, cost, ..honest }
}

/// About half of the blob, in a few runs.
fn some_groups(rng: &mut Rng, size: u64) -> Groups {
    let count = size.div_ceil(GROUP_BYTES);
    (0..3).fold(Groups::empty(), |all, _| {
        let start = rng.below(count);
        all.union(&Groups::from(start..(start + count / 4 + 1).min(count)))
    })
}

/// What is compared of one network.
struct Compared {
    ours: Played,
    best: Played,
    /// Bytes; see [`Counts`].
    fresh: u64,
    waste: u64,
    waste_before_end_game: u64,
}

fn compare(seed: u64) -> Compared {
    let network = Network::new(seed);
    let (ours, net) = network.play(seed);
    let best = Omniscient::play(&network.peers, network.downlink, network.size, network.bitrate);
    let most = network.size / GROUP_BYTES * 2 + network.peers.len() as u64 * 20;
    assert!(net.counts.requests < most, "{} requests", net.counts.requests);
    if std::env::var("MHC_VERBOSE").is_ok() {
        println!(
            "seed {seed}: {} providers, {:.1} Mbit/s of {:.0}, start {:.2} ({:.2}), stalled {:.2} ({:.2}), waste {:.1} %",
            network.peers.len(),
            network.bitrate / MBIT,
            network.downlink / MBIT,
            ours.startup_s,
            best.startup_s,
            ours.stalled_s,
            best.stalled_s,
            percent(net.counts.waste, net.counts.fresh)
        );
    }
    let Counts { fresh, waste, waste_before_end_game, .. } = net.counts;
    assert!(waste_before_end_game < fresh * 3 / 100 + (2 << 20), "seed {seed}: {waste_before_end_game} of {fresh}");
    Compared { ours, best, fresh, waste, waste_before_end_game }
}

/// On two threads; the order of the seeds stays.
fn compare_all(seeds: Range<u64>) -> Vec<Compared> {
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let compare_in = |part: Range<u64>| part.map(compare).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| compare_in(seeds.start..middle));
        let second = compare_in(middle..seeds.end);
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        first.into_iter().chain(second).collect()
    })
}

/// Least, median, 95th percentile, most.
fn quantiles(values: impl Iterator<Item = f64>) -> [f64; 4] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [0.0, 0.5, 0.95, 1.0].map(|at| values[((values.len() - 1) as f64 * at).round() as usize])
}

fn print_row(name: &str, values: impl Iterator<Item = f64>) {
    let [least, median, high, most] = quantiles(values);
    println!("| {name} | {least:.2} | {median:.2} | {high:.2} | {most:.2} |");
}

fn print_table(all: &[Compared]) {
    println!("| {} networks | min | median | p95 | max |\n|---|---|---|---|---|", all.len());
    print_row("start-up, ours / omniscient", all.iter().map(|c| c.ours.startup_s / c.best.startup_s));
    print_row("start-up, ours, s", all.iter().map(|c| c.ours.startup_s));
    print_row("start-up, omniscient, s", all.iter().map(|c| c.best.startup_s));
    print_row("stalled, ours, s", all.iter().map(|c| c.ours.stalled_s));
    print_row("stalled, omniscient, s", all.iter().map(|c| c.best.stalled_s));
    print_row("sent for nothing, %", all.iter().map(|c| percent(c.waste, c.fresh)));
    print_row("the same before the end game, %", all.iter().map(|c| percent(c.waste_before_end_game, c.fresh)));
    let total = |of: fn(&Compared) -> Played| {
        all.iter().map(of).fold((0.0, 0), |sum, played| (sum.0 + played.stalled_s, sum.1 + played.stalls))
    };
    let (ours, best) = (total(|c| c.ours), total(|c| c.best));
    println!("sent for nothing before the end game, of all bytes: {:.2} %", early_waste(all));
    println!("stalls: ours {} ({:.1} s), omniscient {} ({:.1} s)", ours.1, ours.0, best.1, best.0);
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}

/// Of all networks together.
fn early_waste(all: &[Compared]) -> f64 {
    percent(all.iter().map(|c| c.waste_before_end_game).sum(), all.iter().map(|c| c.fresh).sum())
}

/// Median of the start-up ratios; stalled seconds of ours and of the omniscient's.
fn summary(all: &[Compared]) -> (f64, f64, f64) {
    let [_, median, ..] = quantiles(all.iter().map(|c| c.ours.startup_s / c.best.startup_s));
    (median, all.iter().map(|c| c.ours.stalled_s).sum(), all.iter().map(|c| c.best.stalled_s).sum())
}

fn count_or(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// `MHC_NETWORKS` sets how many, `MHC_FIRST` the first one's seed.
#[test]
fn streams_start_and_play_nearly_as_well_as_with_full_knowledge() {
    // Without optimisation a network takes a third of a second.
    let count = count_or("MHC_NETWORKS", if cfg!(debug_assertions) { 100 } else { 200 });
    let first = count_or("MHC_FIRST", 1);
    let all = compare_all(first..first + count);
    print_table(&all);
    let (median, ours_s, best_s) = summary(&all);
    assert!(median <= 1.3, "{median}");
    // The omniscient one hardly ever stalls: a fiftieth of a second per network is the small constant.
    assert!(ours_s <= 1.5 * best_s + 0.02 * count as f64, "stalled {ours_s} s, omniscient {best_s} s");
    assert!(early_waste(&all) < 3.0, "{} % for nothing", early_waste(&all));
}

/// `MHC_SEED` repeats one; it is printed.
#[test]
fn random_streams_keep_the_invariants() {
    let all: Vec<Compared> =
        seeds(0).into_iter().flat_map(|seed| (0..4).map(move |at| compare(seed.wrapping_add(at)))).collect();
    let (median, ours_s, best_s) = summary(&all);
    assert!(median <= 2.0, "{median}");
    assert!(ours_s <= 3.0 * best_s + 10.0, "stalled {ours_s} s, omniscient {best_s} s");
}

#[test]
fn the_same_seed_has_the_same_effects() {
    let network = Network::new(5);
    let trace = |seed| network.play(seed).1.counts.trace;
    assert_eq!(trace(1), trace(1));
}
