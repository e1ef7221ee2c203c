//! (e) Random ranges of a blob that the node has and the page cache holds, over plain HTTP, beside nginx.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::Rng;

use crate::{
    bench::{Bench, MIB},
    node::{Node, Start},
    peers::{
        free_port,
        nginx::{Nginx, Site},
        wrk::{self, RANGE_BYTES},
    },
    proc::{Proc, cpu_s_of},
    runner::{Contender, compare},
    table::{Better, Sample, Table},
};

/// A working set that stays in the processor's reach, and one that doesn't.
const HOT_MIB: u64 = 32;
const SIZE_MIB: u64 = 1024;
/// A node that has memory for all of it.
const ROOMY: (&str, &str) = ("MHC_STORAGE__CACHE_BYTES", "2147483648");
const ROOMY_NAME: &str = "mhc, storage.cache_bytes = 2 GiB";
const CONNECTIONS: usize = 50;
const WORKERS: usize = 2;
const TIME: Duration = Duration::from_secs(8);
/// Ranges whose bytes are looked at before the measuring.
const CHECKED: usize = 16;
const NOTE: &str = "wrk with 2 threads and 50 connections that stay open, on the same CPUs; ranges of 256 KiB anywhere \
    in the file, every other one aligned. nginx has 2 workers and `sendfile`. mhc validates what it sends, and keeps 64 \
    MiB of that unless `storage.cache_bytes` says otherwise.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let usual = &Node::start(bench, "gateway", &Start::default())?;
    let roomy = &Node::start(bench, "gateway", &Start { env: &[ROOMY], ..Start::default() })?;
    let hot = of_size(bench, &[("mhc", usual)], HOT_MIB)?;
    let large = of_size(bench, &[("mhc", usual), (ROOMY_NAME, roomy)], bench.size_mib(SIZE_MIB))?;
    Ok(vec![hot, large.note(NOTE)])
}

fn of_size(bench: &Bench, nodes: &[(&str, &Node)], size_mib: u64) -> Result<Table> {
    let file = &bench.source(size_mib)?;
    let blobs = nodes.iter().map(|(_, node)| node.publish(file, &[])).collect::<Result<Vec<_>>>()?;
    let blob = blobs.first().context("no node")?;
    nodes.iter().try_for_each(|(_, node)| check(node, blob, file))?;
    let root = file.parent().context("no folder")?;
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let web = Nginx::start(bench, &Site { root, ip, port: free_port()?, tls: false, workers: WORKERS, netns: None })?;
    let theirs = web.url(file.file_name().context("no name")?);
    let workers: Vec<&Proc> = web.workers().iter().collect();

    let ours = nodes.iter().map(|(name, node)| {
        let url = format!("http://{}/blobs/{blob}", node.gateway());
        Contender::ours(name, move || load(&url, size_mib, &[node.proc()]))
    });
    let mut contenders: Vec<Contender<'_>> = ours.collect();
    contenders.push(Contender::peer("nginx", || load(&theirs, size_mib, &workers)));
    let table = Table::new(format!("Ranges of {size_mib} MiB"), "requests/s", Better::Higher);
    compare(table, bench.rounds(), contenders)
}

fn load(url: &str, size_mib: u64, servers: &[&Proc]) -> Result<Sample> {
    let before = cpu_s_of(servers)?;
    let load = wrk::random_ranges(url, size_mib * MIB, CONNECTIONS, TIME)?;
    let thousands = load.requests / 1000.0;
    let sample = Sample::new(load.requests / load.seconds);
    let server_cpu_s = cpu_s_of(servers)? - before;
    Ok(sample
        .with("server's CPU, s per 1000", server_cpu_s / thousands)
        .with("wrk's CPU, s per 1000", load.cpu_s / thousands))
}

/// The gateway answers ranges with the bytes of the file.
fn check(node: &Node, blob: &str, file: &Path) -> Result<()> {
    let (http, file) = (node.http()?, File::open(file)?);
    let last = file.metadata()?.len().checked_sub(RANGE_BYTES).context("too short")?;
    let mut rng = Rng::new(1);
    for _ in 0..CHECKED {
        let from = rng.below(last + 1);
        let range = format!("bytes={from}-{}", from + RANGE_BYTES - 1);
        let reply = http.request("GET", &format!("/blobs/{blob}"), &[("range", &range)], &[])?;
        let mut expected = vec![0; usize::try_from(RANGE_BYTES)?];
        file.read_exact_at(&mut expected, from)?;
        ensure!(reply.status == 206 && reply.body == expected, "{range}: {} or other bytes", reply.status);
    }
    Ok(())
}
