//! (c) A provider that is far away: how soon a seek shows its first byte, and how much of a long path one flow fills.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{
    Rng,
    wire::{End, Shape, Wire},
};

use crate::{
    bench::{Bench, LONGEST, MIB, READY, myself},
    netns::Netns,
    node::{Node, Start},
    peers::nginx::{Nginx, Site},
    proc::{Proc, run},
    runner::{Contender, Rounds, compare},
    table::{Better, Sample, Table, median},
};

const SIZE_MIB: u64 = 4096;
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2));
/// The wire's device at each end.
const INTERFACE: &str = "wire0";
const UDP_PORT: u16 = 4000;
const HTTP_PORT: u16 = 8080;
const SEED: u64 = 5;
/// How far round trip time and rate may be from what the path is to have.
const TOLERANCE: f64 = 0.05;
/// Offered beyond the rate, to see where it ends; and for how long it is looked at.
const OVERLOAD: f64 = 1.3;
const LOOK: Duration = Duration::from_secs(2);
/// New nodes in each round whose first seek is timed.
const DIALLED: usize = 3;
/// Time for a new node to hear who has what.
const HEAR: Duration = Duration::from_millis(500);
const SEEK_NOTE: &str = "First byte of the body of a range of 1 MiB at a random offset that isn't local, asked of the \
    gateway beside the player. Dialled: the first seek of a new node, which knows its peer but never fetched from it. \
    The goals are 2 RTT + 20 ms when connected and 4 RTT + 30 ms when it must be dialled. HTTP over TCP needs 1 RTT on \
    a connection that is open, and 2 on a new one.";
const FLOW_NOTE: &str = "Payload of one range through the gateway, as share of the path's rate (which counts IP packets), \
    over its last three quarters; `whole` counts from the request. New node and new connection in each round.";

/// A path of the comparison.
#[derive(Clone, Copy)]
struct Preset {
    rtt: Duration,
    mbit_s: u32,
    /// Seeks of each contender in each round, or bytes of the flow.
    seeks: usize,
    flow_mib: u64,
    warm_up: usize,
}

const fn preset(rtt_ms: u64, mbit_s: u32, seeks: usize, flow_mib: u64, warm_up: usize) -> Preset {
    Preset { rtt: Duration::from_millis(rtt_ms), mbit_s, seeks, flow_mib, warm_up }
}

const SEEKS: [Preset; 2] = [preset(50, 200, 8, 0, 1), preset(600, 200, 3, 0, 0)];
const FLOWS: [Preset; 2] = [preset(100, 100, 0, 128, 0), preset(600, 20, 0, 40, 0)];

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let seeks = SEEKS.iter().map(|preset| seek_table(bench, &Path::lay(bench, *preset)?));
    let flows = FLOWS.iter().map(|preset| flow_table(bench, &Path::lay(bench, *preset)?));
    let mut tables = with_note(SEEK_NOTE, seeks.collect::<Result<_>>()?);
    tables.extend(with_note(FLOW_NOTE, flows.collect::<Result<_>>()?));
    Ok(tables)
}

/// What is to be known of all of these is told once.
fn with_note(note: &str, mut tables: Vec<Table>) -> Vec<Table> {
    if let Some(last) = tables.last_mut() {
        last.notes.push(note.into());
    }
    tables
}

fn seek_table(bench: &Bench, path: &Path) -> Result<Table> {
    let rtt_ms = path.preset.rtt.as_secs_f64() * 1000.0;
    let sample = |first_ms: Vec<f64>| {
        let first_ms = median(first_ms).context("nothing")?;
        Ok(Sample::new(first_ms).with("RTTs", first_ms / rtt_ms))
    };
    // The node whose first seek dialled is the one that is connected then.
    let dialled = RefCell::new(None);
    let rng = RefCell::new(Rng::new(SEED));
    let offsets = |count| (0..count).map(|_| rng.borrow_mut().below(path.bytes - MIB)).collect::<Vec<_>>();
    let seek = |node: &Node, count| path.read(node.gateway(), &path.ours(), &offsets(count), MIB, false);
    let theirs = |reconnect| path.read(&path.web_host(), &path.web_path, &offsets(path.preset.seeks), MIB, reconnect);
    let contenders = vec![
        Contender::ours("mhc, dialled", || {
            let mut times = vec![];
            for _ in 0..DIALLED {
                drop(dialled.take());
                let node = path.client(bench)?;
                times.extend(firsts(&seek(&node, 1)?));
                dialled.replace(Some(node));
            }
            sample(times)
        }),
        Contender::ours("mhc, connected", || {
            let node = dialled.borrow();
            sample(firsts(&seek(node.as_ref().context("it wasn't dialled")?, path.preset.seeks)?))
        }),
        Contender::peer("nginx, new connection", || sample(firsts(&theirs(true)?))),
        Contender::peer("nginx, connected", || sample(firsts(&theirs(false)?))),
    ];
    let title = format!("Seek over {rtt_ms:.0} ms, {} Mbit/s", path.preset.mbit_s);
    let table = Table::new(title, "ms", Better::Lower).note(path.measured.clone());
    compare(table, path.rounds(bench), contenders)
}

fn flow_table(bench: &Bench, path: &Path) -> Result<Table> {
    let len = path.preset.flow_mib * MIB;
    let sample = |times: Vec<[f64; 3]>| {
        let [_, quarter_ms, end_ms] = times.first().context("nothing")?;
        let share = |bytes: u64, ms: f64| bytes as f64 * 8.0 / (ms * 1000.0) / f64::from(path.preset.mbit_s) * 100.0;
        Ok(Sample::new(share(len - len / 4, end_ms - quarter_ms)).with("whole, %", share(len, *end_ms)))
    };
    let contenders = vec![
        Contender::ours("mhc", || {
            let node = path.client(bench)?;
            sample(path.read(node.gateway(), &path.ours(), &[0], len, false)?)
        }),
        Contender::peer("nginx", || sample(path.read(&path.web_host(), &path.web_path, &[0], len, true)?)),
    ];
    let title = format!("One flow, {} Mbit/s, {} ms", path.preset.mbit_s, path.preset.rtt.as_millis());
    let table = Table::new(title, "% of the rate", Better::Higher).note(path.measured.clone());
    compare(table, path.rounds(bench), contenders)
}

fn firsts(times: &[[f64; 3]]) -> Vec<f64> {
    times.iter().map(|[first_ms, ..]| *first_ms).collect()
}

/// Two namespaces with a wire between them, a provider and a web server at the far end.
struct Path {
    // Processes go before the wire, and that before the namespaces.
    provider: Node,
    ticket: [String; 1],
    blob: String,
    _web: Nginx,
    web_path: String,
    _wire: Wire,
    near: Netns,
    _far: Netns,
    preset: Preset,
    bytes: u64,
    /// What the path turned out to be.
    measured: String,
}

impl Path {
    fn lay(bench: &Bench, preset: Preset) -> Result<Self> {
        let size_mib = bench.size_mib(SIZE_MIB);
        ensure!(size_mib > preset.flow_mib.max(1), "the file is too small for this path");
        let file = bench.source(size_mib)?;
        let (near, far) = (Netns::new("near")?, Netns::new("far")?);
        let shape = Shape::delay(preset.rtt / 2).rate(u64::from(preset.mbit_s) * 1_000_000, preset.rtt);
        let [at_near, at_far] = [NEAR, FAR].map(|ip| format!("{ip}/30"));
        let ends = [(&near, &at_near), (&far, &at_far)];
        let [near_end, far_end] = ends.map(|(netns, address)| End { netns: netns.name(), device: INTERFACE, address });
        let wire = Wire::new(near_end, far_end, shape, shape, SEED)?;
        let measured = calibrate(bench, &near, &far, preset)?;

        let netns = Some(far.name());
        let provider = Node::start(bench, "provider", &Start { netns, ..Start::default() })?;
        let blob = provider.publish(&file, &["--reference"])?;
        let ticket = [provider.ticket()?];
        let root = file.parent().context("no folder")?;
        let web = Nginx::start(bench, &Site { root, ip: FAR, port: HTTP_PORT, tls: false, workers: 1, netns })?;
        let web_path = format!("/{}", file.file_name().context("no name")?.display());
        let bytes = size_mib * MIB;
        Ok(Self { provider, ticket, blob, _web: web, web_path, _wire: wire, near, _far: far, preset, bytes, measured })
    }

    fn rounds(&self, bench: &Bench) -> Rounds {
        Rounds { warm_up: self.preset.warm_up, ..bench.rounds() }
    }

    fn ours(&self) -> String {
        format!("/blobs/{}", self.blob)
    }

    fn web_host(&self) -> String {
        SocketAddr::new(FAR, HTTP_PORT).to_string()
    }

    /// A new node at the near end that knows the provider.
    fn client(&self, bench: &Bench) -> Result<Node> {
        let netns = Some(self.near.name());
        let node = Node::start(bench, "client", &Start { peers: &self.ticket, netns, ..Start::default() })?;
        node.wait_for_peers(1)?;
        thread::sleep(HEAR + self.preset.rtt * 3);
        Ok(node)
    }

    /// Reads ranges at the near end: ms until first byte, quarter, and end of each.
    fn read(&self, host: &str, path: &str, from: &[u64], len: u64, reconnect: bool) -> Result<Vec<[f64; 3]>> {
        let from: Vec<String> = from.iter().map(u64::to_string).collect();
        let len = len.to_string();
        let mut command = myself(Some(self.near.name()), &["probe", "ranges", "--len", &len])?;
        if reconnect {
            command.arg("--reconnect");
        }
        command.args([host, path]).args(&from);
        let finished = run(&command, LONGEST).with_context(|| self.provider.proc().printed())?;
        Ok(serde_json::from_str(&finished.stdout)?)
    }
}

/// Measures the path, and fails when it isn't what it is to be.
fn calibrate(bench: &Bench, near: &Netns, far: &Netns, preset: Preset) -> Result<String> {
    let rtt_ms = rtt_ms(bench, near, far)?;
    let mbit_s = mbit_s(bench, near, far, preset)?;
    let measured = format!("Measured before: {rtt_ms:.1} ms, {mbit_s:.1} Mbit/s.");
    eprintln!("bench: {measured}");
    let near_to = |wanted: f64, is: f64| (is / wanted - 1.0).abs() <= TOLERANCE;
    let holds = near_to(preset.rtt.as_secs_f64() * 1000.0, rtt_ms) && near_to(preset.mbit_s.into(), mbit_s);
    ensure!(holds, "void: the path isn't what it is to be. {measured}");
    Ok(measured)
}

fn rtt_ms(bench: &Bench, near: &Netns, far: &Netns) -> Result<f64> {
    let at = SocketAddr::new(FAR, UDP_PORT).to_string();
    let mut echo = Proc::spawn(bench.dir(), "echo", &myself(Some(far.name()), &["probe", "echo", &at])?)?;
    echo.wait_for("listening", READY)?;
    let times = run(&myself(Some(near.name()), &["probe", "rtt", &at])?, READY)?;
    median(serde_json::from_str(&times.stdout)?).context("no times")
}

/// What arrives when more is sent than the path carries.
fn mbit_s(bench: &Bench, near: &Netns, far: &Netns, preset: Preset) -> Result<f64> {
    let at = SocketAddr::new(NEAR, UDP_PORT).to_string();
    let mut sink = Proc::spawn(bench.dir(), "sink", &myself(Some(near.name()), &["probe", "echo", &at])?)?;
    sink.wait_for("listening", READY)?;
    let offered = (f64::from(preset.mbit_s) * OVERLOAD).to_string();
    let seconds = (preset.rtt * 2 + LOOK * 2).as_secs_f64().to_string();
    let blast = ["probe", "blast", &at, "--mbit-s", &offered, "--seconds", &seconds];
    let _blast = Proc::spawn(bench.dir(), "blast", &myself(Some(far.name()), &blast)?)?;
    thread::sleep(preset.rtt * 2);
    let (started, [before, _]) = (Instant::now(), sink.traffic(INTERFACE)?);
    thread::sleep(LOOK);
    let (seconds, [after, _]) = (started.elapsed().as_secs_f64(), sink.traffic(INTERFACE)?);
    Ok((after - before) as f64 * 8.0 / 1e6 / seconds)
}
