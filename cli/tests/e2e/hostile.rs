//! Peers that lie about blobs: real ones, which greet the node as members of its network and then misbehave.
//!
//! `node/src/fetch/tests.rs` tries each misbehaviour against the fetch alone; here a whole node meets all of them.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identity,
    multiaddr::Protocol,
    noise,
    request_response::{self as rr, ProtocolSupport},
    swarm::SwarmEvent,
    tcp, yamux,
};
use mhc_node::fetch::hostile::{HostileOptions, HostileProvider, Hostility};
use mhc_protocol::{
    NetworkId, SecretKey,
    ticket::Ticket,
    wire::{Follows, Hello},
};
use mhc_testnet::{Http, Node, Rng, eventually, node::text};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{SOON, join, knows, lists, random_file, start};

const FILE_BYTES: usize = 3 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// Every misbehaviour, and whether it proves that the peer lies: then it must be cut off.
const MODES: [(Hostility, bool); 11] = [
    (Hostility::FlipLeaf, true),
    (Hostility::FlipParent, true),
    (Hostility::OtherData, true),
    (Hostility::ClaimSize(1 << 63), true),
    (Hostility::JunkForUnknown, true),
    (Hostility::Truncate, false),
    (Hostility::StallAtStart, false),
    (Hostility::StallInTheMiddle, false),
    (Hostility::CloseConnection, false),
    (Hostility::Surplus, false),
    (Hostility::Reset, false),
];

/// Speaks the greeting, so that the node takes the peer for a member.
#[derive(Clone, Default)]
pub(super) struct HelloCodec;

impl rr::Codec for HelloCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![];
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Vec<u8>> {
        self.read_request(protocol, io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()> {
        self.write_request(protocol, io, bytes).await
    }
}

type Greeter = Swarm<rr::Behaviour<HelloCodec>>;

/// A peer that greets well and misbehaves about one blob.
struct HostilePeer {
    node: String,
    ticket: String,
    provider: HostileProvider,
    greeting: JoinHandle<()>,
}

impl HostilePeer {
    async fn start(seed: u8, network: NetworkId, blob: Option<Vec<u8>>, hostility: Hostility) -> Result<Self> {
        let key = SecretKey::from_seed(&[seed; 32]);
        let endpoint = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
            .secret_key(iroh::SecretKey::from_bytes(&key.seed()))
            .alpns(vec![b"/iroh-bytes/4".to_vec()])
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0".parse::<SocketAddr>()?)?
            .bind()
            .await?;
        let iroh = endpoint.bound_sockets();
        let options = HostileOptions { hostility, honest_size_proof: !matches!(hostility, Hostility::ClaimSize(_)) };
        let provider = HostileProvider::run(endpoint, blob.into_iter().map(Into::into).collect(), options);
        let (mut swarm, p2p) = greeter(&key).await?;
        let ticket = Ticket { node: key.node(), network, p2p: vec![p2p], iroh: iroh.clone(), relays: vec![] };
        // As nodes of the first version do.
        let networks = vec![Follows { network, whole: true }];
        let (p2p, relays, name) = (vec![p2p], vec![], format!("{hostility:?}"));
        let hello = Hello { networks, run: None, iroh, p2p, relays, name, version: "0".into() };
        let hello = hello.encode()?;
        let greeting = tokio::spawn(async move {
            while let Some(event) = swarm.next().await {
                greet(&mut swarm, event, &hello);
            }
        });
        Ok(Self { node: key.node().to_string(), ticket: ticket.to_string(), provider, greeting })
    }
}

impl Drop for HostilePeer {
    fn drop(&mut self) {
        self.greeting.abort();
    }
}

async fn greeter(key: &SecretKey) -> Result<(Greeter, SocketAddr)> {
    let hello = || {
        let protocols = [(StreamProtocol::new("/mhc/hello/1"), ProtocolSupport::Full)];
        rr::Behaviour::with_codec(HelloCodec, protocols, rr::Config::default())
    };
    let mut swarm = SwarmBuilder::with_existing_identity(identity::Keypair::ed25519_from_bytes(key.seed())?)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| hello())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(HOUR))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        if let Some(SwarmEvent::NewListenAddr { address, .. }) = swarm.next().await {
            return Ok((swarm, socket(&address)?));
        }
    }
}

fn socket(address: &Multiaddr) -> Result<SocketAddr> {
    let port = address.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None });
    Ok(SocketAddr::from(([127, 0, 0, 1], port.context("no port")?)))
}

fn greet(swarm: &mut Greeter, event: SwarmEvent<rr::Event<Vec<u8>, Vec<u8>>>, hello: &[u8]) {
    if let SwarmEvent::Behaviour(rr::Event::Message { message: rr::Message::Request { channel, .. }, .. }) = event {
        let _ = swarm.behaviour_mut().send_response(channel, hello.to_vec());
    }
}

/// The row of `mhc peers`.
fn peer(node: &Node, id: &str) -> Result<serde_json::Value> {
    let peers = node.json(&["peers"])?;
    let rows = peers.as_array().context("peers: not an array")?;
    Ok(rows.iter().find(|row| text(row, "node").is_ok_and(|found| found == id)).context("not listed")?.clone())
}

/// What came must be the blob's beginning, whatever happened then.
fn never_wrong(http: &Http, blob: &str, bytes: &[u8]) -> Result<()> {
    let reply = http.get(&format!("/blobs/{blob}"))?;
    match reply.status {
        504 => Ok(()),
        200 if reply.cut => {
            ensure!(bytes.starts_with(&reply.body), "a wrong byte came out");
            Ok(())
        }
        200 => bail!("an answer that looks complete, from nobody who has it"),
        status => bail!("{status} {}", reply.text()),
    }
}

#[test]
fn liars_never_get_a_wrong_byte_through_and_an_honest_node_beside_them_is_enough() -> Result<()> {
    let mut a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let network: NetworkId = a.ready()?.network.parse()?;

    let mut rng = Rng::new(15);
    let mut files = vec![];
    for (n, _) in MODES.iter().enumerate() {
        let (file, bytes) = random_file(&a, &format!("{n}.bin"), &mut rng, FILE_BYTES)?;
        let published = a.publish(&file, &[])?;
        lists(&b, &text(&published, "content")?, SOON)?;
        files.push((text(&published, "blob")?, bytes));
    }

    let runtime = Runtime::new()?;
    let mut liars = vec![];
    for (n, (hostility, _)) in MODES.iter().enumerate() {
        let has = (*hostility != Hostility::JunkForUnknown).then(|| files[n].1.clone());
        let liar = runtime.block_on(HostilePeer::start(100 + n as u8, network, has, *hostility))?;
        b.json(&["peer", "add", &liar.ticket])?;
        liars.push(liar);
    }
    for liar in &liars {
        eventually("the liar is a member", SOON, || {
            let row = peer(&b, &liar.node)?;
            ensure!(row["membership"] == "member", "{row}");
            Ok(())
        })?;
    }

    // Alone with liars.
    a.kill();
    let http = b.http()?.anonymous();
    thread::scope(|scope| {
        let reads: Vec<_> = files.iter().map(|(blob, bytes)| scope.spawn(|| never_wrong(&http, blob, bytes))).collect();
        reads
            .into_iter()
            .zip(MODES)
            .try_for_each(|(read, mode)| read.join().unwrap().with_context(|| format!("{mode:?}")))
    })?;
    ensure!(liars.iter().any(|liar| liar.provider.requests() > 0), "nobody asked the liars: this tests nothing");

    // With one honest node beside them.
    a.restart()?;
    knows(&b, &a)?;
    for ((blob, bytes), mode) in files.iter().zip(MODES) {
        eventually("the fetch completes", SOON, || {
            let reply = http.get(&format!("/blobs/{blob}"))?;
            ensure!(reply.status == 200 && !reply.cut, "{mode:?}: {} {}", reply.status, reply.body.len());
            ensure!(reply.body == *bytes, "{mode:?}: other bytes");
            Ok(())
        })?;
    }

    for (liar, (hostility, lies)) in liars.iter().zip(MODES) {
        let row = peer(&b, &liar.node)?;
        let asked = liar.provider.requests() > 0;
        ensure!(!lies || !asked || row["cut_off"].is_string(), "{hostility:?} isn't cut off: {row}");
        ensure!(hostility != Hostility::Reset || row["cut_off"].is_null(), "saying no isn't a lie: {row}");
    }
    let metrics = http.get("/metrics")?.text();
    let cut_off = metrics.lines().find_map(|line| line.strip_prefix("mhc_fetch_providers_cut_off_total "));
    let cut_off: f64 = cut_off.with_context(|| metrics.clone())?.trim().parse()?;
    ensure!(cut_off >= 4.0, "{cut_off} liars were noticed");
    Ok(())
}
