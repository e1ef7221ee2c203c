//! How one record spreads through thousands of nodes: a model of gossip and of the sync behind it, for the figures of
//! `docs/scale.md`. Only what matters for time and bytes is in it: who hears from whom, when, and how often.

use std::{cmp::Reverse, collections::BinaryHeap};

use mhc_testnet::Rng;

/// Neighbours in the mesh (gossipsub's default).
const MESH: u64 = 6;
/// A hop over the internet, in milliseconds: 10 to 300.
const HOP_MS: (u64, u64) = (10, 290);
/// Of a hundred messages this many get lost.
const LOST_PERCENT: u64 = 2;
/// Nodes that can't hear gossip at all while it spreads, of a hundred; sync brings it to them.
const AWAY_PERCENT: u64 = 10;
/// Every node pulls from its peers so often.
const SYNC_MS: u64 = 30_000;

/// How one record spread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// Until half of the nodes had it, 99 of a hundred, and all that listened; then all.
    pub(crate) half_ms: u64,
    pub(crate) most_ms: u64,
    pub(crate) all_ms: u64,
    /// How often a node received it, on average.
    pub(crate) copies: f64,
}

/// Spreads a record from a random node of `nodes`.
pub(crate) fn spread(nodes: usize, rng: &mut Rng) -> Spread {
    let any = |rng: &mut Rng| rng.below(nodes as u64) as usize;
    let mut mesh: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for node in 0..nodes {
        // Both sides count a link, so half of them are made by each.
        for _ in 0..MESH / 2 {
            let other = any(rng);
            mesh[node].push(other);
            mesh[other].push(node);
        }
    }
    let away: Vec<bool> = (0..nodes).map(|_| rng.below(100) < AWAY_PERCENT).collect();
    let mut heard: Vec<Option<u64>> = vec![None; nodes];
    let mut copies = 0u64;
    let mut queue = BinaryHeap::new();
    let origin = any(rng);
    queue.push(Reverse((0, origin, origin)));
    while let Some(Reverse((at_ms, to, from))) = queue.pop() {
        copies += 1;
        if heard[to].is_some() || (away[to] && to != origin) {
            continue;
        }
        heard[to] = Some(at_ms);
        for &next in mesh[to].iter().filter(|next| **next != from) {
            if rng.below(100) >= LOST_PERCENT {
                queue.push(Reverse((at_ms + HOP_MS.0 + rng.below(HOP_MS.1), next, to)));
            }
        }
    }
    // Whoever missed it pulls it from the first peer that has it, at its next turn.
    let missing: Vec<usize> = (0..nodes).filter(|node| heard[*node].is_none()).collect();
    let gossiped: Vec<u64> = heard.iter().flatten().copied().collect();
    for node in missing {
        let mut at_ms = rng.below(SYNC_MS);
        let peers: Vec<usize> = (0..MESH * 2).map(|_| any(rng)).collect();
        while !peers.iter().any(|peer| heard[*peer].is_some_and(|then| then <= at_ms)) && at_ms < 10 * SYNC_MS {
            at_ms += SYNC_MS;
        }
        // Two round trips.
        heard[node] = Some(at_ms + 4 * HOP_MS.1);
        copies += 1;
    }
    let mut times: Vec<u64> = gossiped;
    times.sort_unstable();
    let share = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let all_ms = heard.iter().flatten().copied().max().unwrap_or_default();
    Spread { half_ms: share(50), most_ms: share(99), all_ms, copies: copies as f64 / nodes as f64 }
}

#[test]
fn a_record_reaches_ten_thousand_nodes_within_a_sync_period() {
    let mut rng = Rng::new(1);
    for nodes in [1_000, 10_000] {
        let spreads: Vec<Spread> = (0..20).map(|_| spread(nodes, &mut rng)).collect();
        let worst = |what: fn(&Spread) -> u64| spreads.iter().map(what).max().unwrap_or_default();
        let copies = spreads.iter().map(|spread| spread.copies).sum::<f64>() / spreads.len() as f64;
        let (half, most, all) = (worst(|s| s.half_ms), worst(|s| s.most_ms), worst(|s| s.all_ms));
        eprintln!("{nodes} nodes: half {half} ms, 99 % {most} ms, all with sync {all} ms, copies {copies:.2}");
        assert!(most < 5_000, "gossip took {most} ms");
        assert!(all < 2 * SYNC_MS, "sync took {all} ms");
        assert!(copies < MESH as f64, "{copies} copies");
    }
}
