//! rqbit: BitTorrent, with nothing on that would speak to anybody but the peers it is given.

use std::{
    fs,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use sha1_smol::Sha1;
use tempfile::TempDir;

use crate::{
    bench::{Bench, MIB, command_in},
    peers::program,
    proc::Proc,
};

const PIECE_BYTES: u64 = MIB;
const QUIET: [&str; 5] = [
    "--disable-dht",
    "--disable-upnp-port-forward",
    "--disable-lsd",
    "--disable-trackers",
    "--disable-dht-persistence",
];

/// Writes `file`.torrent into `dir` (BEP 3, one file).
pub(crate) fn make_torrent(file: &Path, dir: &Path) -> Result<PathBuf> {
    let name = file.file_name().and_then(|name| name.to_str()).context("no name")?;
    let mut source = fs::File::open(file)?;
    let bytes = source.metadata()?.len();
    let mut hashes = Vec::new();
    loop {
        let mut piece = Vec::new();
        if source.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)? == 0 {
            break;
        }
        hashes.extend(Sha1::from(&piece).digest().bytes());
    }
    let head = format!(
        "d4:infod6:lengthi{bytes}e4:name{}:{name}12:piece lengthi{PIECE_BYTES}e6:pieces{}:",
        name.len(),
        hashes.len()
    );
    let torrent = dir.join(format!("{name}.torrent"));
    fs::write(&torrent, [head.as_bytes(), &hashes, b"ee"].concat())?;
    Ok(torrent)
}

/// A process that has the whole file and uploads.
pub(crate) struct Seeder {
    pub(crate) proc: Proc,
    pub(crate) addr: SocketAddr,
    _dir: TempDir,
}

impl Seeder {
    /// `file` is what `torrent` was made of.
    pub(crate) fn start(
        bench: &Bench,
        file: &Path,
        torrent: &Path,
        addr: SocketAddr,
        netns: Option<&str>,
        ready: Duration,
    ) -> Result<Self> {
        let dir = bench.fresh_dir("rqbit")?;
        let folder = file.parent().context("no folder")?;
        let mut command = rqbit("info", netns)?;
        listen(&mut command, addr.ip(), addr.port());
        command.args(["download", "--disable-http-api", "--overwrite", "-o"]).arg(folder).arg(torrent);
        let mut proc = Proc::spawn(dir.path(), "seed", &command)?;
        proc.wait_for("100.00%", ready)?;
        Ok(Self { proc, addr, _dir: dir })
    }
}

fn rqbit(level: &str, netns: Option<&str>) -> Result<Command> {
    let mut command = command_in(netns, program("rqbit")?);
    command.args(["-v", level]).args(QUIET);
    Ok(command)
}

fn listen(command: &mut Command, ip: IpAddr, port: u16) {
    command.args(["--listen-ip", &ip.to_string(), "--listen-port", &port.to_string()]);
}

/// Downloads from these seeders into `dir` and ends.
pub(crate) fn download(torrent: &Path, seeders: &[SocketAddr], dir: &Path, netns: Option<&str>) -> Result<Command> {
    let seeders: Vec<String> = seeders.iter().map(SocketAddr::to_string).collect();
    let mut command = rqbit("warn", netns)?;
    command.args([
        "--disable-tcp-listen",
        "download",
        "--disable-http-api",
        "-e",
        "--initial-peers",
        &seeders.join(","),
    ]);
    command.arg("-o").arg(dir).arg(torrent);
    Ok(command)
}
