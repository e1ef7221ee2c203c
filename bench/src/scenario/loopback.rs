//! (a) One provider, both ends on this machine: from the start of the download until the verified file is complete.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    bench::{Bench, LONGEST, READY, myself, same_bytes, settle},
    node::{Node, Start},
    peers::{
        free_port,
        nginx::{self, Nginx, Site},
        rqbit,
        sendme::Sender,
    },
    proc::{Finished, Proc, run},
    runner::{Contender, compare},
    table::{Better, Sample, Table},
};

const SIZE_MIB: u64 = 1024;
/// Longest preparation of a server, which may hash the file.
const PREPARE: Duration = Duration::from_secs(180);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOTE: &str = "Wall time of the whole command; of `pin`, from the request until the store has the whole blob. \
    `get`, sendme, rqbit and curl end with a complete file, the bare stream drops what it receives.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let size_mib = bench.size_mib(SIZE_MIB);
    let file = &bench.source(size_mib)?;
    let name = file.file_name().context("no name")?;

    let ours = Provider::start(bench, file)?;
    let sender = Sender::start(bench, file, PREPARE)?;
    let torrent = &rqbit::make_torrent(file, bench.dir())?;
    let seeder_addr = SocketAddr::new(LOOPBACK, free_port()?);
    let seeder = rqbit::Seeder::start(bench, file, torrent, seeder_addr, None, PREPARE)?;
    let root = file.parent().context("no folder")?;
    let web =
        Nginx::start(bench, &Site { root, ip: LOOPBACK, port: free_port()?, tls: true, workers: 1, netns: None })?;
    let url = &web.url(name);
    let bare = Bare::start(bench, size_mib)?;

    let contenders = vec![
        Contender::ours("mhc get", || ours.get(bench, file)),
        Contender::ours("mhc pin", || ours.pin(bench)),
        Contender::peer("sendme", || into_file(bench, file, &sender.proc, |dir| sender.receive(dir, LONGEST))),
        Contender::peer("rqbit", || {
            let fetch = |dir: &Path| run(&rqbit::download(torrent, &[seeder.addr], dir, None)?, LONGEST);
            into_file(bench, file, &seeder.proc, fetch)
        }),
        Contender::peer("nginx, TLS 1.3, HTTP/2, to curl", || {
            let fetch = |dir: &Path| run(nginx::curl(None, url, &dir.join(name)).arg("--http2"), LONGEST);
            into_file(bench, file, web.first()?, fetch)
        }),
        Contender::peer("a bare iroh stream", || bare.fetch()),
    ];
    let table = Table::new(format!("{size_mib} MiB from one provider"), "s", Better::Lower).note(NOTE);
    Ok(vec![compare(table, bench.rounds(), contenders)?])
}

/// Times `fetch`, which must end with the file in the folder it is given.
fn into_file(bench: &Bench, file: &Path, server: &Proc, fetch: impl Fn(&Path) -> Result<Finished>) -> Result<Sample> {
    let dir = bench.fresh_dir("received")?;
    settle();
    let sample = timed(&[server], || fetch(dir.path()))?;
    same_bytes(file, &dir.path().join(file.file_name().context("no name")?))?;
    Ok(sample)
}

/// Time of `client`, with the processor time that it and these `others` took.
fn timed(others: &[&Proc], client: impl FnOnce() -> Result<Finished>) -> Result<Sample> {
    let cpu_s = || others.iter().map(|proc| proc.cpu_s()).sum::<Result<f64>>();
    let before = cpu_s()?;
    let finished = client()?;
    Ok(sample(finished.seconds, finished.cpu_s + cpu_s()? - before))
}

fn sample(seconds: f64, cpu_s: f64) -> Sample {
    Sample::new(seconds).with("CPU of both ends, s", cpu_s)
}

/// Our node that has the blob.
struct Provider {
    node: Node,
    ticket: [String; 1],
    blob: String,
}

impl Provider {
    fn start(bench: &Bench, file: &Path) -> Result<Self> {
        let node = Node::start(bench, "a", &Start::default())?;
        let blob = node.publish(file, &[])?;
        let ticket = [node.ticket()?];
        Ok(Self { node, ticket, blob })
    }

    /// A node that has nothing yet and is connected: each round has a new one.
    fn client(&self, bench: &Bench) -> Result<Node> {
        let client = Node::start(bench, "b", &Start { peers: &self.ticket, ..Start::default() })?;
        client.wait_for_peers(1)?;
        settle();
        Ok(client)
    }

    fn get(&self, bench: &Bench, file: &Path) -> Result<Sample> {
        let client = self.client(bench)?;
        let to = bench.fresh_dir("received")?;
        let to = to.path().join("file");
        let get = || client.get_timed(&self.blob, &to, LONGEST, || Ok(()));
        let sample = timed(&[self.node.proc(), client.proc()], get)?;
        same_bytes(file, &to)?;
        Ok(sample)
    }

    fn pin(&self, bench: &Bench) -> Result<Sample> {
        let client = self.client(bench)?;
        let cpu_s = || Ok::<_, anyhow::Error>(self.node.proc().cpu_s()? + client.proc().cpu_s()?);
        let before = cpu_s()?;
        let seconds = client.pin_timed(&self.blob)?;
        Ok(sample(seconds, cpu_s()? - before))
    }
}

/// The other end of a bare stream.
struct Bare {
    proc: Proc,
    /// Its id and address.
    at: [String; 2],
    size_mib: String,
}

impl Bare {
    fn start(bench: &Bench, size_mib: u64) -> Result<Self> {
        let mut proc = Proc::spawn(bench.dir(), "bare", &myself(None, &["bare", "serve"])?)?;
        let line = proc.wait_for("serving", READY)?;
        let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
        let at = words.try_into().ok().with_context(|| format!("not an id and an address: {line}"))?;
        Ok(Self { proc, at, size_mib: size_mib.to_string() })
    }

    fn fetch(&self) -> Result<Sample> {
        let [id, addr] = &self.at;
        let command = myself(None, &["bare", "fetch", id, addr, "--size-mib", &self.size_mib])?;
        settle();
        timed(&[&self.proc], || run(&command, LONGEST))
    }
}
