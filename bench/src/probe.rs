//! What a path is like, and what is read over it: small tools that run inside a namespace and print JSON.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde_json::json;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const DATAGRAM_BYTES: usize = 1200;
const TICK: Duration = Duration::from_millis(1);
const BLOCK_BYTES: usize = 256 << 10;
const MOST_HEAD_BYTES: usize = 16 << 10;

/// The tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Probe {
    /// Send datagrams back to whoever sent them
    Echo {
        /// Where to listen
        listen: SocketAddr,
    },
    /// Print round trip times to an echo, in ms
    Rtt {
        /// The echo
        to: SocketAddr,
        /// How often
        #[arg(long, default_value_t = 10)]
        count: u32,
    },
    /// Send datagrams at a rate, to nobody
    Blast {
        /// Where to
        to: SocketAddr,
        /// Payload a second
        #[arg(long)]
        mbit_s: f64,
        /// How long
        #[arg(long)]
        seconds: f64,
    },
    /// Read ranges over HTTP one after the other, and print when each began and ended
    Ranges {
        /// Server as address:port
        host: String,
        /// What to read
        path: String,
        /// Offsets of the ranges
        from: Vec<u64>,
        /// Length of each
        #[arg(long)]
        len: u64,
        /// Connect anew for each; the time counts
        #[arg(long)]
        reconnect: bool,
    },
}

pub(crate) fn run(command: Probe) -> Result<()> {
    match command {
        Probe::Echo { listen } => echo(listen),
        Probe::Rtt { to, count } => rtt(to, count),
        Probe::Blast { to, mbit_s, seconds } => blast(to, mbit_s, Duration::from_secs_f64(seconds)),
        Probe::Ranges { host, path, from, len, reconnect } => ranges(&host, &path, &from, len, reconnect),
    }
}

fn echo(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    println!("listening");
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(buffer.get(..len).unwrap_or_default(), from)?;
    }
}

fn socket_to(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

fn rtt(to: SocketAddr, count: u32) -> Result<()> {
    let socket = socket_to(to)?;
    let once = |_| {
        let sent = Instant::now();
        socket.send(b"?")?;
        socket.recv(&mut [0; 1])?;
        Ok(ms(sent.elapsed()))
    };
    let times = (0..count).map(once).collect::<Result<Vec<f64>>>()?;
    println!("{}", json!(times));
    Ok(())
}

fn blast(to: SocketAddr, mbit_s: f64, time: Duration) -> Result<()> {
    let socket = socket_to(to)?;
    let started = Instant::now();
    let mut sent = 0.0;
    while started.elapsed() < time {
        let due = started.elapsed().as_secs_f64() * mbit_s * 1e6 / 8.0;
        while sent < due {
            // Nobody listens, and the answer that says so isn't an error of ours.
            let _ = socket.send(&[0; DATAGRAM_BYTES]);
            sent += DATAGRAM_BYTES as f64;
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn ranges(host: &str, path: &str, from: &[u64], len: u64, reconnect: bool) -> Result<()> {
    let mut kept = None;
    let mut results = vec![];
    // The first connection isn't part of the times when it is to be kept.
    if !reconnect {
        kept = Some(connect(host)?);
    }
    for from in from {
        let started = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(host)?,
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={from}-{}\r\n\r\n", from + len - 1);
        stream.write_all(request.as_bytes())?;
        results.push(read_range(&mut stream, len, started)?);
        kept = Some(stream).filter(|_| !reconnect);
    }
    println!("{}", json!(results));
    Ok(())
}

fn connect(host: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(stream)
}

/// Milliseconds until the first byte of the body, until a quarter of it, and until its end.
fn read_range(stream: &mut TcpStream, len: u64, started: Instant) -> Result<[f64; 3]> {
    let mut got = body_after_head(stream)?;
    let mut buffer = vec![0; BLOCK_BYTES];
    let [mut first, mut quarter] = [None; 2];
    loop {
        let now = ms(started.elapsed());
        if got > 0 {
            first = first.or(Some(now));
        }
        if got >= len / 4 {
            quarter = quarter.or(Some(now));
        }
        if got >= len {
            ensure!(got == len, "more than was asked for");
            return Ok([first.context("nothing")?, quarter.context("nothing")?, now]);
        }
        let more = read(stream, &mut buffer)?;
        ensure!(more > 0, "the connection ended after {got} of {len} bytes");
        got += more as u64;
    }
}

/// Reads the head of a 206 answer, and says how much of the body came with it.
fn body_after_head(stream: &mut TcpStream) -> Result<u64> {
    let mut came = vec![];
    loop {
        let mut buffer = [0; 4096];
        let more = read(stream, &mut buffer)?;
        came.extend_from_slice(buffer.get(..more).unwrap_or_default());
        if let Some(head) = came.windows(4).position(|window| window == b"\r\n\r\n") {
            ensure!(came.starts_with(b"HTTP/1.1 206"), "not a range: {}", String::from_utf8_lossy(&came));
            return Ok((came.len() - head - 4) as u64);
        }
        ensure!(more > 0 && came.len() < MOST_HEAD_BYTES, "no head: {}", String::from_utf8_lossy(&came));
    }
}

/// A read with a timeout is interrupted when the whole machine is held for a moment.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return Ok(read?),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
