//! Exchanges over a metered uplink, by a node that no peer reaches, through somebody who cuts and stalls.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Node, Rng, eventually, node::text};
use serde_json::Value;

use super::{SOON, carousel::remote, options, random_file};

const BUDGET: &str = "MHC_LINKS__SATELLITE__BUDGET_BYTES";

/// Passes bytes on, counts them, and of each connection's answer passes only so many.
struct Middleman {
    addr: SocketAddr,
    upstream: Arc<Mutex<Option<SocketAddr>>>,
    passed: Arc<AtomicU64>,
    /// Bytes of an answer that are passed on before it is cut; with `STALL` added it is held instead.
    limit: Arc<AtomicU64>,
}

const STALL: u64 = 1 << 60;
const NO_LIMIT: u64 = 1 << 50;

impl Middleman {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let middleman = Self {
            addr: listener.local_addr()?,
            upstream: Arc::default(),
            passed: Arc::default(),
            limit: Arc::new(AtomicU64::new(NO_LIMIT)),
        };
        let (upstream, passed, limit) = (middleman.upstream.clone(), middleman.passed.clone(), middleman.limit.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(server) = upstream.lock().unwrap().and_then(|addr| TcpStream::connect(addr).ok()) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down, limit) = (passed.clone(), passed.clone(), limit.load(Ordering::SeqCst));
                thread::spawn(move || pass(from, to, &up, NO_LIMIT));
                thread::spawn(move || pass(server, client, &down, limit));
            }
        });
        Ok(middleman)
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64, limit: u64) {
    let (stall, mut left) = (limit >= STALL, limit % STALL);
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= len as u64;
        passed.fetch_add(len as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..len]).is_err() || left == 0 {
            break;
        }
    }
    if left == 0 && stall {
        // Held until whoever waits goes away.
        thread::park();
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn local_bytes(node: &Node, blob: &str) -> Result<u64> {
    let reply = node.http()?.get(&format!("/api/v1/node/blobs/{blob}"))?;
    let info: Value = serde_json::from_slice(&reply.body)?;
    info["local_bytes"].as_u64().with_context(|| format!("{info}"))
}

fn spent(node: &Node) -> Result<u64> {
    let status = node.json(&["satellite", "status"])?;
    status["spent_bytes"].as_u64().with_context(|| format!("{status}"))
}

#[test]
fn a_node_without_peers_gets_records_and_a_wanted_blob_within_its_budget_through_cuts_and_a_kill() -> Result<()> {
    const LARGE: usize = 6 << 20;
    let middleman = Middleman::start()?;
    let a = options("a").env("MHC_GATEWAY__PUBLIC_HOST", &middleman.addr.to_string()).start()?;
    *middleman.upstream.lock().unwrap() = Some(a.ready()?.http.trim_start_matches("http://").parse()?);
    let (file, bytes) = random_file(&a, "large", &mut Rng::new(3), LARGE)?;
    let published = a.publish(&file, &["--title", "large"])?;
    let (content, blob) = (text(&published, "content")?, text(&published, "blob")?);
    let url = middleman.url();

    let mut b = remote("b", &a)?.start()?;
    let refused = b.run(&["satellite", "exchange", &url])?;
    ensure!(refused.code == 5, "without a budget nothing is sent: {refused:?}");
    ensure!(middleman.passed.load(Ordering::SeqCst) == 0);
    b.options_mut().env.push((BUDGET.into(), "40000000".into()));
    b.restart()?;

    let brought = b.json(&["satellite", "exchange", &url])?;
    ensure!(brought["new_records"] == 1 && brought["new_bytes"] == 0, "{brought}");
    ensure!(b.list()?.len() == 1);
    let exchange = ["satellite", "exchange", &url, "--content", &content];
    let brought = b.json(&[&exchange[..], &["--max-bytes", "2000000"]].concat())?;
    ensure!(brought["carried_bytes"].as_u64() <= Some(2_000_000) && brought["incomplete"] == 1, "{brought}");
    let first = local_bytes(&b, &blob)?;
    ensure!(first > 1_000_000 && first < 2_000_000, "{first}");

    middleman.limit.store(2_300_000, Ordering::SeqCst);
    let cut = b.run(&exchange)?;
    ensure!(cut.code == 6, "{cut:?}");
    let second = local_bytes(&b, &blob)?;
    ensure!(second > first + 1_000_000, "what came before the cut stays: {second}");

    // A kill in the middle: the debit was durable before the first byte was sent.
    let before = spent(&b)?;
    ensure!(before >= middleman.passed.load(Ordering::SeqCst), "{before}");
    middleman.limit.store(300_000 + STALL, Ordering::SeqCst);
    let passed = middleman.passed.load(Ordering::SeqCst);
    let mut command = b.command();
    let mut waiting = command.args(exchange).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the exchange is under way", SOON, || {
        ensure!(middleman.passed.load(Ordering::SeqCst) >= passed + 300_000);
        Ok(())
    })?;
    b.kill();
    waiting.wait()?;
    b.restart()?;
    let after = spent(&b)?;
    ensure!(after >= before + 300_000 && after <= 32_000_000, "{before} {after}: a fifth of 40 MB is kept");

    // It took all there was for what it asked: next month, or with another budget, it goes on.
    let refused = b.run(&exchange)?;
    ensure!(refused.code == 5, "{refused:?}");
    b.options_mut().env.push((BUDGET.into(), "80000000".into()));
    b.restart()?;
    middleman.limit.store(NO_LIMIT, Ordering::SeqCst);
    let brought = b.json(&exchange)?;
    ensure!(brought["incomplete"] == 0 && brought["damaged"] == 0, "{brought}");
    ensure!(brought["new_bytes"].as_u64() <= Some(LARGE as u64 - second), "what was here isn't sent again: {brought}");
    let reply = b.http()?.get(&format!("/blobs/{blob}"))?;
    ensure!(reply.status == 200 && reply.body == bytes, "other bytes");
    let links = b.json(&["links"])?;
    let link = links["classes"].as_array().context("links")?.iter().find(|link| link["class"] == "satellite");
    ensure!(link.is_some_and(|link| link["budget_left_bytes"].as_u64() > Some(0)), "{links}");
    Ok(())
}

#[test]
fn a_gateway_answers_members_of_its_network_and_nothing_that_is_not_a_request() -> Result<()> {
    let a = options("a").start()?;
    let url = a.ready()?.http.clone();
    let stranger = options("stranger").env(BUDGET, "1000000").start()?;
    let refused = stranger.run(&["satellite", "exchange", &url])?;
    ensure!(refused.code == 5, "of another network: {refused:?}");
    a.json(&["network", "policy", "--membership", "members"])?;
    let b = remote("b", &a)?.env(BUDGET, "1000000").start()?;
    let refused = b.run(&["satellite", "exchange", &url])?;
    ensure!(refused.code == 5, "no member: {refused:?}");
    a.json(&["network", "grant", &b.ready()?.node, "member"])?;
    let brought = b.json(&["satellite", "exchange", &url])?;
    ensure!(brought["new_records"].as_u64() >= Some(2), "policy and grant: {brought}");
    Ok(())
}
