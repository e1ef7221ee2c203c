//! Everybody who provides the file, and who fetches it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{CASES, Case, PROVIDERS, SILENT, SILENT_AFTER, bytes_s};
use crate::{
    bench::{Bench, MIB, READY, command_in, same_bytes, settle},
    netns::{Host, INTERFACE},
    node::{Node, Start},
    peers::{
        nginx::{Nginx, Site},
        rqbit,
    },
    proc::{Finished, Frozen, Proc, run},
    table::Sample,
};

const SIZE_MIB: u64 = 256;
const HTTP_PORT: u16 = 8080;
const TORRENT_PORT: u16 = 4240;
const PREPARE: Duration = Duration::from_secs(180);
/// A download that takes so many times longer than it must is given up.
const PATIENCE: f64 = 4.0;
/// What TCP leaves of a cap for payload: 1448 of the 1514 bytes of a packet.
const TCP_SHARE: f64 = 1448.0 / 1514.0;
const TOLERANCE: f64 = 0.05;
/// How long curl looks at a cap.
const LOOK_S: f64 = 3.0;
/// What curl prints of each mirror: its number and bytes a second.
const SPEED: &str = "%{urlnum} %{speed_download}\n";

/// Four hosts that have the file, in every way, and one that has nothing.
pub(super) struct Swarm<'a> {
    file: PathBuf,
    size_mib: u64,
    client: &'a Host,
    nodes: Vec<Node>,
    blob: String,
    tickets: Vec<String>,
    torrent: PathBuf,
    seeders: Vec<rqbit::Seeder>,
    mirrors: Vec<Nginx>,
    urls: Vec<String>,
    case: Case,
    /// What curl gets of the caps.
    curl_share: f64,
}

impl<'a> Swarm<'a> {
    /// Starts them while the links are still fast.
    pub(super) fn start(bench: &Bench, client: &'a Host, providers: &[Host]) -> Result<Self> {
        let size_mib = bench.size_mib(SIZE_MIB);
        let file = bench.source(size_mib)?;
        let torrent = rqbit::make_torrent(&file, bench.dir())?;
        let mut swarm = Self {
            size_mib,
            client,
            nodes: vec![],
            blob: String::new(),
            tickets: vec![],
            torrent,
            seeders: vec![],
            mirrors: vec![],
            urls: vec![],
            file,
            case: CASES[0],
            curl_share: TCP_SHARE,
        };
        for host in providers {
            swarm.add(bench, host)?;
        }
        Ok(swarm)
    }

    fn add(&mut self, bench: &Bench, host: &Host) -> Result<()> {
        let netns = Some(host.netns.name());
        let first = self.tickets.get(..self.tickets.len().min(1)).unwrap_or_default();
        let node = Node::start(bench, "provider", &Start { peers: first, netns, ..Start::default() })?;
        node.wait_for_peers(self.nodes.len())?;
        self.blob = node.publish(&self.file, &["--reference"])?;
        self.tickets.push(node.ticket()?);
        self.nodes.push(node);

        let addr = SocketAddr::new(host.ip.into(), TORRENT_PORT);
        self.seeders.push(rqbit::Seeder::start(bench, &self.file, &self.torrent, addr, netns, PREPARE)?);

        let root = self.file.parent().context("no folder")?;
        let site = Site { root, ip: IpAddr::from(host.ip), port: HTTP_PORT, tls: false, workers: 1, netns };
        let mirror = Nginx::start(bench, &site)?;
        self.urls.push(mirror.url(self.file.file_name().context("no name")?));
        self.mirrors.push(mirror);
        Ok(())
    }

    /// The providers are capped so now. Fails when curl doesn't get what the caps let through.
    pub(super) fn enter(&mut self, bench: &Bench, case: Case) -> Result<()> {
        self.case = case;
        let dir = bench.fresh_dir("calibrate")?;
        let caps = case.caps().map(bytes_s);
        let ranges = caps.map(|bytes_s| (0, ((bytes_s * LOOK_S) as u64).min(self.bytes()) - 1));
        let printed = run(&self.curl(dir.path(), &ranges), READY)?.stdout;
        let shares = printed.lines().map(|line| {
            let (at, speed) = line.split_once(' ').context("no speed")?;
            let cap = caps.get(at.parse::<usize>()?).context("whose speed?")?;
            Ok(speed.parse::<f64>()? / cap)
        });
        let shares: Vec<f64> = shares.collect::<Result<_>>()?;
        let holds = |share: &f64| (share / TCP_SHARE - 1.0).abs() <= TOLERANCE;
        ensure!(shares.len() == PROVIDERS && shares.iter().all(holds), "void: curl gets {shares:.3?} of the caps");
        let sum: f64 = shares.iter().zip(caps).map(|(share, cap)| share * cap).sum();
        self.curl_share = sum / caps.iter().sum::<f64>();
        eprintln!("bench: {}: curl gets {shares:.3?} of the caps", case.title);
        Ok(())
    }

    /// `mhc get` on a new node that is connected with all of them.
    pub(super) fn ours(&self, bench: &Bench) -> Result<Sample> {
        let netns = Some(self.client.netns.name());
        let node = Node::start(bench, "client", &Start { peers: &self.tickets, netns, ..Start::default() })?;
        node.wait_for_peers(self.tickets.len())?;
        let dir = bench.fresh_dir("received")?;
        let to = dir.path().join("file");
        let procs: Vec<&Proc> = self.nodes.iter().map(Node::proc).collect();
        let silent = procs.get(SILENT).filter(|_| self.case.silent);
        let mut silencer = silent.map(|silent| Silencer::new(silent, node.proc(), self.bytes())).transpose()?;
        let sample = self.timed(&procs, |timeout| {
            node.get_timed(&self.blob, &to, timeout, || silencer.as_mut().map_or(Ok(()), Silencer::look))
        })?;
        if let Some(silencer) = silencer {
            ensure!(silencer.frozen.is_some(), "it was done before anybody fell silent");
        }
        same_bytes(&self.file, &to)?;
        Ok(sample)
    }

    pub(super) fn rqbit(&self, bench: &Bench) -> Result<Sample> {
        let addrs: Vec<SocketAddr> = self.seeders.iter().map(|seeder| seeder.addr).collect();
        let procs: Vec<&Proc> = self.seeders.iter().map(|seeder| &seeder.proc).collect();
        self.fetch_into(bench, &procs, |dir| {
            rqbit::download(&self.torrent, &addrs, dir, Some(self.client.netns.name()))
        })
    }

    pub(super) fn aria2(&self, bench: &Bench) -> Result<Sample> {
        self.fetch_into(bench, &self.web()?, |dir| {
            let mut command = command_in(Some(self.client.netns.name()), "aria2c");
            let split = ["--no-conf", "--quiet", "-x1", "-s4", "-k1M", "--file-allocation=none", "--no-netrc"];
            command.args(split).arg("-d").arg(dir).args(&self.urls);
            Ok(command)
        })
    }

    /// What somebody does who knows that all four are equally fast.
    pub(super) fn quarters(&self, bench: &Bench) -> Result<Sample> {
        let dir = bench.fresh_dir("received")?;
        let quarter = self.bytes() / PROVIDERS as u64;
        let ranges = [0, 1, 2, 3].map(|at| (quarter * at, quarter * (at + 1) - 1));
        self.timed(&self.web()?, |timeout| run(&self.curl(dir.path(), &ranges), timeout))
    }

    /// curl that reads one range, first and last byte, of each mirror at once, and prints whose speed was what.
    fn curl(&self, dir: &Path, ranges: &[(u64, u64); PROVIDERS]) -> Command {
        let mut command = command_in(Some(self.client.netns.name()), "curl");
        command.args(["--parallel", "--parallel-immediate"]).current_dir(dir);
        for (at, (url, (first, last))) in self.urls.iter().zip(ranges).enumerate() {
            // Options up to --next belong to one URL.
            let next: &[&str] = if at > 0 { &["--next"] } else { &[] };
            let range = format!("{first}-{last}");
            command.args(next).args(["-sS", "--fail", "-w", SPEED, "-r", &range, "-o", &at.to_string(), url]);
        }
        command
    }

    fn web(&self) -> Result<Vec<&Proc>> {
        self.mirrors.iter().map(Nginx::first).collect()
    }

    fn fetch_into(&self, bench: &Bench, procs: &[&Proc], command: impl Fn(&Path) -> Result<Command>) -> Result<Sample> {
        let dir = bench.fresh_dir("received")?;
        let command = command(dir.path())?;
        let sample = self.timed(procs, |timeout| run(&command, timeout))?;
        same_bytes(&self.file, &dir.path().join(self.file.file_name().context("no name")?))?;
        Ok(sample)
    }

    /// Runs a download.
    fn timed(&self, procs: &[&Proc], download: impl FnOnce(Duration) -> Result<Finished>) -> Result<Sample> {
        settle();
        let sent = || procs.iter().map(|proc| Ok(proc.traffic(INTERFACE)?[1])).sum::<Result<u64>>();
        let least_s = self.case.least_s(self.bytes());
        let before = sent()?;
        let finished = download(Duration::from_secs_f64(least_s * PATIENCE))?;
        let sent_bytes = sent()? - before;
        let share = least_s / finished.seconds * 100.0;
        Ok(Sample::new(share)
            .with("of curl's, %", share / self.curl_share)
            .with("s", finished.seconds)
            .with("sent, % of payload", sent_bytes as f64 / self.bytes() as f64 * 100.0))
    }

    pub(super) fn size_mib(&self) -> u64 {
        self.size_mib
    }

    fn bytes(&self) -> u64 {
        self.size_mib * MIB
    }
}

/// Stops a provider when the client has its part of the payload.
struct Silencer<'a> {
    silent: &'a Proc,
    client: &'a Proc,
    at_bytes: u64,
    frozen: Option<Frozen>,
}

impl<'a> Silencer<'a> {
    fn new(silent: &'a Proc, client: &'a Proc, payload_bytes: u64) -> Result<Self> {
        let [received, _] = client.traffic(INTERFACE)?;
        let at_bytes = received + (payload_bytes as f64 * SILENT_AFTER) as u64;
        Ok(Self { silent, client, at_bytes, frozen: None })
    }

    fn look(&mut self) -> Result<()> {
        if self.frozen.is_none() && self.client.traffic(INTERFACE)?[0] >= self.at_bytes {
            self.frozen = Some(self.silent.freeze()?);
        }
        Ok(())
    }
}
