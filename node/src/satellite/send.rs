//! The sending shell of the carousel: paces packets onto a socket, or lays them into a file.

use std::{
    fs::File,
    io::{BufWriter, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use mhc_satellite::carousel::{LoadRequest, Material, Pacer, Sender, SenderOptions, SymbolBytes, frame};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::program::{Program, ProgramRequest};
use crate::bundle::{JobError, Reporter, Stores};

/// Bytes of objects on air at one time: what receivers have memory for.
const WINDOW_BYTES: u64 = 48 << 20;
/// How often it is looked for new records and contents.
const PLAN_EVERY: Duration = Duration::from_secs(60);
/// Longest sleep, so that a job that is told to end does.
const NAP: Duration = Duration::from_millis(200);

/// Where to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    File(PathBuf),
    Group { to: SocketAddr, interface: Option<IpAddr>, hops: u32 },
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct SendRequest {
    pub(super) target: Target,
    pub(super) rate_bits_per_s: u64,
    pub(super) margin_percent: u32,
    /// Turns that every object gets; without it, until the job is told to end.
    pub(super) rounds: Option<u64>,
    pub(super) program: ProgramRequest,
}

/// What was sent.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sent {
    pub(super) objects: u64,
    pub(super) object_bytes: u64,
    /// Objects that had no room within the capacity.
    pub(super) left_out: u64,
    /// Blobs that aren't all on this node.
    pub(super) absent: u64,
    pub(super) packets: u64,
    /// Bytes of packets, without headers of UDP and IP.
    pub(super) bytes: u64,
    pub(super) rounds: u64,
    pub(super) path: Option<String>,
}

pub(super) fn run(stores: &Stores, request: &SendRequest, reporter: &mut Reporter) -> Result<Sent, JobError> {
    let mut out = Out::open(&request.target)?;
    reporter.started()?;
    reporter.phase("reading", 0)?;
    let program = Program::plan(stores, &request.program)?;
    if program.playlist.items.is_empty() {
        return Err(JobError::NotFound("there is nothing to send".into()));
    }
    let mut seed = [0; 4];
    getrandom::fill(&mut seed).map_err(JobError::internal)?;
    let options = SenderOptions {
        network: stores.network,
        symbol: SymbolBytes::DEFAULT,
        window_bytes: WINDOW_BYTES,
        margin_percent: request.margin_percent,
        seed: u32::from_le_bytes(seed),
    };
    let sender = Sender::new(stores.key.clone(), options, &program.playlist);
    let mut sent = Sent {
        objects: program.playlist.items.len() as u64,
        object_bytes: program.playlist.bytes(),
        left_out: program.playlist.left_out as u64,
        absent: program.absent,
        ..Sent::default()
    };
    reporter.phase("sending", round_bytes(request, &program))?;
    let mut sending = Sending { stores, request, program, sender, out: &mut out, reporter, sent: &mut sent };
    let ended = sending.run();
    sent.path = out.finish()?;
    ended.map(|()| sent)
}

/// About how much a round is, for those who watch.
fn round_bytes(request: &SendRequest, program: &Program) -> u64 {
    let bytes = program.playlist.bytes();
    (bytes + bytes * u64::from(request.margin_percent) / 100) * request.rounds.unwrap_or(1)
}

struct Sending<'a> {
    stores: &'a Stores,
    request: &'a SendRequest,
    program: Program,
    sender: Sender,
    out: &'a mut Out,
    reporter: &'a mut Reporter,
    sent: &'a mut Sent,
}

type Loaded = (usize, Option<Material>);

impl Sending<'_> {
    fn run(&mut self) -> Result<(), JobError> {
        let started = Instant::now();
        let mut pacer = Pacer::new(self.request.rate_bits_per_s, 0);
        let (done, loaded) = mpsc::channel::<Loaded>();
        let (mut loading, mut air_us, mut planned) = (0_usize, 0_u64, Instant::now());
        let mut records = self.stores.records.count()?;
        thread::scope(|scope| {
            loop {
                while let Some(request) = self.sender.wanted() {
                    let bytes = self.load(&request)?;
                    let done = done.clone();
                    loading += 1;
                    // Making repair symbols takes a second, in which the others go on.
                    scope.spawn(move || done.send((request.at, Material::new(&request, bytes).ok())));
                }
                while let Ok((at, material)) = loaded.try_recv() {
                    loading -= 1;
                    self.sender.loaded(at, material);
                }
                let now_us = if self.out.is_file() { air_us } else { micros(started.elapsed()) };
                let Some(packet) = self.sender.next(now_us / 1000) else {
                    if loading == 0 {
                        return Err(JobError::NotFound("nothing of what was to be sent is left on this node".into()));
                    }
                    self.reporter.advance(0)?;
                    if let Ok((at, material)) = loaded.recv_timeout(NAP) {
                        loading -= 1;
                        self.sender.loaded(at, material);
                    }
                    continue;
                };
                let wait_us = pacer.take(now_us, packet.len());
                air_us += wait_us;
                if !self.out.is_file() {
                    self.sleep(Duration::from_micros(wait_us))?;
                }
                self.out.send(&packet)?;
                self.sent.packets += 1;
                self.sent.bytes += packet.len() as u64;
                self.reporter.advance(packet.len() as u64)?;
                self.sent.rounds = self.sender.rounds();
                if self.request.rounds.is_some_and(|rounds| self.sent.rounds >= rounds) {
                    return Ok(());
                }
                if loading == 0 && !self.out.is_file() && planned.elapsed() >= PLAN_EVERY {
                    planned = Instant::now();
                    let count = self.stores.records.count()?;
                    if std::mem::replace(&mut records, count) != count {
                        self.plan_again()?;
                    }
                }
            }
        })
    }

    fn load(&self, request: &LoadRequest) -> Result<Vec<u8>, JobError> {
        match self.program.load(self.stores, &request.object) {
            // It was evicted or withdrawn: bytes that aren't the object's take it off air.
            Err(JobError::Blobs(error)) => {
                tracing::info!(%error, "an object of the carousel is gone");
                Ok(Vec::new())
            }
            loaded => loaded,
        }
    }

    fn plan_again(&mut self) -> Result<(), JobError> {
        self.program = Program::plan(self.stores, &self.request.program)?;
        self.sender.replace(&self.program.playlist);
        self.sent.objects = self.program.playlist.items.len() as u64;
        self.sent.object_bytes = self.program.playlist.bytes();
        self.reporter.phase("sending", round_bytes(self.request, &self.program))
    }

    fn sleep(&mut self, mut wait: Duration) -> Result<(), JobError> {
        while !wait.is_zero() {
            let nap = wait.min(NAP);
            thread::sleep(nap);
            wait -= nap;
            self.reporter.advance(0)?;
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where packets go.
enum Out {
    File { path: PathBuf, file: BufWriter<File> },
    Socket { socket: UdpSocket, to: SocketAddr },
}

impl Out {
    fn open(target: &Target) -> Result<Self, JobError> {
        match target {
            Target::File(path) if !path.is_absolute() => Err(JobError::BadRequest("path must be absolute".into())),
            Target::File(path) => {
                let file = File::create(path).map_err(JobError::io("create", path))?;
                Ok(Self::File { path: path.clone(), file: BufWriter::new(file) })
            }
            Target::Group { to, interface, hops } => {
                let failed = |error| JobError::BadRequest(format!("can't send to {to}: {error}"));
                Ok(Self::Socket { socket: socket(*to, *interface, *hops).map_err(failed)?, to: *to })
            }
        }
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    fn send(&mut self, packet: &[u8]) -> Result<(), JobError> {
        match self {
            Self::File { path, file } => file.write_all(&frame(packet)).map_err(JobError::io("write", path)),
            Self::Socket { socket, to } => match socket.send_to(packet, *to) {
                Ok(_) => Ok(()),
                // Nobody is there, or the network is away for a while: the next round reaches who is.
                Err(error) => {
                    tracing::debug!(%error, "a packet wasn't sent");
                    Ok(())
                }
            },
        }
    }

    fn finish(self) -> Result<Option<String>, JobError> {
        let Self::File { path, file } = self else { return Ok(None) };
        let file = file.into_inner().map_err(|error| JobError::io("write", &path)(error.into_error()))?;
        file.sync_all().map_err(JobError::io("write", &path))?;
        Ok(Some(path.display().to_string()))
    }
}

fn socket(to: SocketAddr, interface: Option<IpAddr>, hops: u32) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    match to.ip() {
        IpAddr::V4(group) => {
            if let (true, Some(IpAddr::V4(interface))) = (group.is_multicast(), interface) {
                socket.set_multicast_if_v4(&interface)?;
            }
            socket.set_multicast_ttl_v4(hops)?;
        }
        IpAddr::V6(_) => socket.set_multicast_hops_v6(hops)?,
    }
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket.into())
}
