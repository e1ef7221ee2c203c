//! (b) Four providers behind capped links: what they give together, and what the good ones still give when one is a
//! hundred times slower and one falls silent.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench::{Bench, MIB, command_in, same_bytes, settle},
    netns::{Host, INTERFACE, Lan},
    node::{Node, Start},
    peers::{
        nginx::{Nginx, Site},
        rqbit,
    },
    proc::{Finished, Frozen, Proc, run},
    runner::{Contender, compare},
    table::{Better, Sample, Table},
};

const SIZE_MIB: u64 = 256;
const PROVIDERS: u8 = 4;
const CAP_KBIT_S: u64 = 50_000;
const SLOW_KBIT_S: u64 = CAP_KBIT_S / 100;
/// Who is slow and who falls silent in the bad case; the others are good.
const SLOW: usize = 2;
const SILENT: usize = 3;
/// The silent one has sent this part of its quarter by then.
const SILENT_AFTER: f64 = 0.1;
const HTTP_PORT: u16 = 8080;
const TORRENT_PORT: u16 = 4240;
const PREPARE: Duration = Duration::from_secs(180);
/// A download that takes so many times longer than it must is given up.
const PATIENCE: f64 = 6.0;
/// What TCP leaves of a cap for payload: 1448 of the 1514 bytes of a packet.
const TCP_SHARE: f64 = 1448.0 / 1514.0;
const TOLERANCE: f64 = 0.05;
const ALL_NOTE: &str = "Payload as share of the four caps of 50 Mbit/s, which count Ethernet frames of 1514 bytes. \
    curl reads a quarter from each nginx at once: the limit of TCP, and the check that the caps hold (a run where \
    it misses them by more than 5 % is void). What was sent is frames of all providers together.";
const BAD_NOTE: &str = "Two providers are good, one has 0.5 Mbit/s, one is stopped (SIGSTOP) when it has sent a tenth of \
    its quarter. The share is of the least time in which these could send the payload.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let lan = Lan::new(PROVIDERS + 1)?;
    let (client, providers) = lan.split()?;
    let swarm = &Swarm::start(bench, client, providers)?;
    for host in providers {
        host.cap(CAP_KBIT_S)?;
    }
    let all = vec![
        Contender::ours("mhc get", || swarm.ours(bench, None)),
        Contender::peer("rqbit", || swarm.rqbit(bench)),
        Contender::peer("aria2", || swarm.aria2(bench)),
        Contender::peer("curl, a quarter of each", || swarm.quarters(bench)),
    ];
    let table = Table::new(format!("{} MiB from four providers", swarm.size_mib), "% of the caps", Better::Higher);
    let good_case = compare(table.note(ALL_NOTE), bench.rounds(), all)?;

    providers.get(SLOW).context("no slow one")?.cap(SLOW_KBIT_S)?;
    let bad = vec![Contender::ours("mhc get", || swarm.ours(bench, Some(SILENT)))];
    let table = Table::new("One slow, one silent", "% of what they can give", Better::Higher);
    Ok(vec![good_case, compare(table.note(BAD_NOTE), bench.rounds(), bad)?])
}

/// Everybody who provides the file, and who fetches it.
struct Swarm<'a> {
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
}

impl<'a> Swarm<'a> {
    /// Starts them while the links are still fast.
    fn start(bench: &Bench, client: &'a Host, providers: &[Host]) -> Result<Self> {
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

    /// `mhc get` on a new node that is connected with all of them, of which one may fall silent.
    fn ours(&self, bench: &Bench, silent: Option<usize>) -> Result<Sample> {
        let netns = Some(self.client.netns.name());
        let node = Node::start(bench, "client", &Start { peers: &self.tickets, netns, ..Start::default() })?;
        node.wait_for_peers(self.tickets.len())?;
        let dir = bench.fresh_dir("received")?;
        let to = dir.path().join("file");
        let procs: Vec<&Proc> = self.nodes.iter().map(Node::proc).collect();
        let mut silencer =
            silent.and_then(|at| procs.get(at)).map(|proc| Silencer::new(proc, self.bytes())).transpose()?;
        let least_s = if silent.is_some() { self.least_bad_s() } else { self.least_s() };
        let sample = self.timed(&procs, least_s, |timeout| {
            node.get_timed(&self.blob, &to, timeout, || silencer.as_mut().map_or(Ok(()), Silencer::look))
        })?;
        if let Some(silencer) = silencer {
            ensure!(silencer.frozen.is_some(), "it was done before anybody fell silent");
        }
        same_bytes(&self.file, &to)?;
        Ok(sample)
    }

    fn rqbit(&self, bench: &Bench) -> Result<Sample> {
        let addrs: Vec<SocketAddr> = self.seeders.iter().map(|seeder| seeder.addr).collect();
        let procs: Vec<&Proc> = self.seeders.iter().map(|seeder| &seeder.proc).collect();
        self.fetch_into(bench, &procs, |dir| {
            rqbit::download(&self.torrent, &addrs, dir, Some(self.client.netns.name()))
        })
    }

    fn aria2(&self, bench: &Bench) -> Result<Sample> {
        self.fetch_into(bench, &self.web()?, |dir| {
            let mut command = command_in(Some(self.client.netns.name()), "aria2c");
            let split = ["--no-conf", "--quiet", "-x4", "-s16", "-k1M", "--file-allocation=none", "--no-netrc"];
            command.args(split).arg("-d").arg(dir).args(&self.urls);
            Ok(command)
        })
    }

    /// What somebody does who knows that all four are equally fast.
    fn quarters(&self, bench: &Bench) -> Result<Sample> {
        let dir = bench.fresh_dir("received")?;
        let mut command = command_in(Some(self.client.netns.name()), "curl");
        command.args(["-sS", "--fail", "--parallel", "--parallel-immediate"]).current_dir(dir.path());
        let quarter = self.bytes() / u64::from(PROVIDERS);
        for (at, url) in (0..).zip(&self.urls) {
            let range = format!("{}-{}", quarter * at, quarter * (at + 1) - 1);
            // Options up to --next belong to one URL.
            let next: &[&str] = if at > 0 { &["--next", "-sS", "--fail"] } else { &[] };
            command.args(next).args(["-r", &range, "-o", &at.to_string(), url]);
        }
        let sample = self.timed(&self.web()?, self.least_s(), |timeout| run(&command, timeout))?;
        let share = sample.value / 100.0;
        let met = (share / TCP_SHARE - 1.0).abs() <= TOLERANCE;
        ensure!(met, "void: the caps don't hold, curl got {:.1} % of them", share * 100.0);
        Ok(sample)
    }

    fn web(&self) -> Result<Vec<&Proc>> {
        self.mirrors.iter().map(Nginx::first).collect()
    }

    fn fetch_into(&self, bench: &Bench, procs: &[&Proc], command: impl Fn(&Path) -> Result<Command>) -> Result<Sample> {
        let dir = bench.fresh_dir("received")?;
        let command = command(dir.path())?;
        let sample = self.timed(procs, self.least_s(), |timeout| run(&command, timeout))?;
        same_bytes(&self.file, &dir.path().join(self.file.file_name().context("no name")?))?;
        Ok(sample)
    }

    /// Runs a download that can't take less than `least_s`.
    fn timed(
        &self,
        procs: &[&Proc],
        least_s: f64,
        download: impl FnOnce(Duration) -> Result<Finished>,
    ) -> Result<Sample> {
        settle();
        let sent = || procs.iter().map(|proc| Ok(proc.traffic(INTERFACE)?[1])).sum::<Result<u64>>();
        let before = sent()?;
        let finished = download(Duration::from_secs_f64(least_s * PATIENCE))?;
        let sent_bytes = sent()? - before;
        Ok(Sample::new(least_s / finished.seconds * 100.0)
            .with("s", finished.seconds)
            .with("sent, % of payload", sent_bytes as f64 / self.bytes() as f64 * 100.0))
    }

    fn bytes(&self) -> u64 {
        self.size_mib * MIB
    }

    /// Least time with all four.
    fn least_s(&self) -> f64 {
        self.bytes() as f64 / bytes_s(CAP_KBIT_S * u64::from(PROVIDERS))
    }

    /// Least time with two, the slow one, and what the silent one gave at first.
    fn least_bad_s(&self) -> f64 {
        let given = before_silence(self.bytes());
        (self.bytes() as f64 - given) / bytes_s(CAP_KBIT_S * u64::from(PROVIDERS - 2) + SLOW_KBIT_S)
    }
}

fn bytes_s(kbit_s: u64) -> f64 {
    kbit_s as f64 * 1000.0 / 8.0
}

/// What the silent one sends of `bytes` before it stops.
fn before_silence(bytes: u64) -> f64 {
    bytes as f64 / f64::from(PROVIDERS) * SILENT_AFTER
}

/// Stops a provider when it has sent its part.
struct Silencer<'a> {
    proc: &'a Proc,
    at_bytes: u64,
    frozen: Option<Frozen>,
}

impl<'a> Silencer<'a> {
    fn new(proc: &'a Proc, bytes: u64) -> Result<Self> {
        let [_, sent] = proc.traffic(INTERFACE)?;
        Ok(Self { proc, at_bytes: sent + before_silence(bytes) as u64, frozen: None })
    }

    fn look(&mut self) -> Result<()> {
        if self.frozen.is_none() && self.proc.traffic(INTERFACE)?[1] >= self.at_bytes {
            self.frozen = Some(self.proc.freeze()?);
        }
        Ok(())
    }
}
