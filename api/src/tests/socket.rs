//! Over a real socket: bodies that break off, clients that go away or dawdle, limits, and stopping.

use std::{net::SocketAddr, time::Duration};

use futures::FutureExt;
use mhc_storage::source::SourceError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::Bench;
use crate::{BindError, Gateway, Limits, testing::Fault};

/// A gateway that listens; stops when dropped.
struct Running {
    bench: Bench,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(limits: Limits) -> Self {
        let bench = Bench::new();
        let mut options = bench.options();
        options.limits = limits;
        let bound = Gateway::new(options, vec![]).bind().await.unwrap();
        let (address, shutdown) = (bound.local_addr(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.serve(shutdown.clone()));
        Self { bench, address, shutdown, tasks }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn get(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

async fn read_to_close(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _reset_is_a_close_too = stream.read_to_end(&mut bytes).await;
    bytes
}

/// Reads until the head and `body_bytes` of the body are there.
async fn read_body(stream: &mut TcpStream, body_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if head_end.is_some_and(|end| bytes.len() >= end + body_bytes) {
            return bytes;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed early: {}", String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test]
async fn a_body_without_sources_cuts_the_connection() {
    let running = Running::start(Limits::default()).await;
    let data = vec![7; 50_000];
    for fault in [Fault::FailAt(20_000, SourceError::Lost), Fault::EndAt(20_000)] {
        let hash = running.bench.source.add_faulty(data.clone(), fault);
        let bytes = read_to_close(running.get(&format!("/blobs/{hash}")).await).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.to_lowercase().contains("content-length: 50000"));
        let body = bytes.len() - bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() - 4;
        assert!(body <= 20_000, "{body} bytes, never padded");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_withdraws_its_demand() {
    let running = Running::start(Limits::default()).await;
    let hash = running.bench.source.add_faulty(vec![7; 50_000], Fault::StallAt(20_000));
    let mut open = running.bench.source.open_reads();
    let mut stream = running.get(&format!("/blobs/{hash}")).await;
    read_body(&mut stream, 20_000).await;
    assert_eq!(*open.borrow_and_update(), 1);
    drop(stream);
    open.wait_for(|open| *open == 0).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_first_byte_withdraws_its_demand() {
    let running = Running::start(Limits::default()).await;
    let hash = running.bench.source.add_faulty(vec![7; 50_000], Fault::StallAt(0));
    let mut open = running.bench.source.open_reads();
    let stream = running.get(&format!("/blobs/{hash}")).await;
    open.wait_for(|open| *open == 1).await.unwrap();
    drop(stream);
    open.wait_for(|open| *open == 0).await.unwrap();
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
    let running = Running::start(limits).await;
    for begun in ["", "G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: local"] {
        let mut stream = running.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let answer = read_to_close(stream).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{begun:?}");
    }
}

#[tokio::test]
async fn heads_beyond_the_buffer_are_refused() {
    let running = Running::start(Limits::default()).await;
    let mut stream = running.connect().await;
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", running.address, "a".repeat(1 << 20));
    let _may_be_reset = stream.write_all(head.as_bytes()).await;
    let answer = read_to_close(stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let running = Running::start(limits).await;
    let mut first = running.get("/healthz").await;
    read_body(&mut first, 3).await;
    let mut second = running.get("/healthz").await;
    assert!(read_body(&mut second, 3).now_or_never().is_none());
    drop(first);
    assert!(read_body(&mut second, 3).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_lets_answers_end_and_closes_the_rest() {
    let limits = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
    let mut running = Running::start(limits).await;
    let stalled = running.bench.source.add_faulty(vec![7; 50_000], Fault::StallAt(20_000));
    let mut stuck = running.get(&format!("/blobs/{stalled}")).await;
    read_body(&mut stuck, 20_000).await;
    let mut idle = running.get("/healthz").await;
    read_body(&mut idle, 3).await;

    running.shutdown.cancel();
    running.tasks.join_next().await.unwrap().unwrap();
    assert!(read_to_close(idle).await.is_empty());
    assert!(read_to_close(stuck).await.is_empty());
    assert!(TcpStream::connect(running.address).await.is_err(), "no longer listening");
    assert_eq!(*running.bench.source.open_reads().borrow(), 0);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let running = Running::start(Limits::default()).await;
    let mut options = running.bench.options();
    options.listen = running.address;
    let Err(error) = Gateway::new(options, vec![]).bind().await else { panic!("two on one port") };
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains(&running.address.to_string()) && error.to_string().contains("--http"));
}
