//! A member that speaks gossipsub by hand and says what no honest implementation says.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use libp2p::{
    Multiaddr, StreamProtocol, SwarmBuilder, identity, noise,
    request_response::{self as rr, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use mhc_protocol::{NetworkId, SecretKey, ticket::Ticket, wire::records_topic};
use mhc_testnet::{Rng, node::text};
use serde_json::json;
use tokio::{runtime::Runtime, time::timeout};

use super::{SOON, hostile::HelloCodec, join, knows, lists, random_file, start};

/// Opens a gossipsub stream and writes bytes of ours to it.
#[derive(NetworkBehaviour)]
struct Flooder {
    gossip: rr::Behaviour<HelloCodec>,
}

/// Protocol buffers by hand: a field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [&[field << 3][..], &varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value > 127 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A gossipsub RPC with these fields, with its length before it.
fn rpc(fields: &[u8]) -> Vec<u8> {
    [&varint(fields.len() as u64)[..], fields].concat()
}

fn control(fields: &[u8]) -> Vec<u8> {
    rpc(&field(3, fields))
}

/// What the peer says, by the row of docs/faults.md. Each piece goes over a stream of its own.
fn floods(topic: &str) -> Vec<(&'static str, Vec<u8>)> {
    let subscribe = |topic: &str| field(1, &[number(1, 1), field(2, topic.as_bytes())].concat());
    let topics: Vec<String> = (0..10_000).map(|n| format!("topic-{n}")).collect();
    let subscriptions: Vec<u8> =
        topics.chunks(500).flat_map(|some| rpc(&some.iter().flat_map(|t| subscribe(t)).collect::<Vec<_>>())).collect();
    let grafts: Vec<u8> = topics
        .chunks(500)
        .flat_map(|some| control(&some.iter().flat_map(|t| field(3, &field(1, t.as_bytes()))).collect::<Vec<_>>()))
        .collect();
    let prune = |backoff| control(&field(4, &[field(1, topic.as_bytes()), number(3, backoff)].concat()));
    let ids: Vec<u8> = (0..1_000u32).flat_map(|n| field(2, &[&n.to_le_bytes()[..], &[0; 28]].concat())).collect();
    let ihave = control(&field(1, &[field(1, topic.as_bytes()), ids].concat()));
    let wanted: Vec<u8> = (0..1_000u32).flat_map(|n| field(1, &[&n.to_le_bytes()[..], &[0; 28]].concat())).collect();
    let iwant = control(&field(2, &wanted));
    let graft = control(&field(3, &field(1, topic.as_bytes())));
    vec![
        ("subscribe", rpc(&subscribe(topic))),
        (
            "18: PRUNE, backoff u64::MAX",
            [graft.clone(), prune(u64::MAX), prune(u64::MAX - 1), prune(1 << 63), prune(0)].concat(),
        ),
        ("19: 10,000 SUBSCRIBE", subscriptions),
        ("19: 10,000 GRAFT", grafts),
        ("20: IHAVE flood", ihave.repeat(500)),
        ("20: IWANT flood", iwant.repeat(500)),
        ("a message that claims 4 GiB", [varint(u64::from(u32::MAX)), vec![0; 1000]].concat()),
        ("a message that isn't one", rpc(&[0xff; 1000])),
        ("a varint without end", vec![0xff; 100_000]),
    ]
}

/// Dials the node, sends one flood and reads whatever comes until the node has had time to act on it.
async fn send(seed: u8, to: SocketAddr, bytes: Vec<u8>) -> Result<()> {
    let key = SecretKey::from_seed(&[seed; 32]);
    let mut swarm = SwarmBuilder::with_existing_identity(identity::Keypair::ed25519_from_bytes(key.seed())?)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new("/meshsub/1.1.0"), ProtocolSupport::Full)];
            let config = rr::Config::default().with_request_timeout(Duration::from_secs(2));
            Flooder { gossip: rr::Behaviour::with_codec(HelloCodec, protocols, config) }
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    let addr: Multiaddr = format!("/ip4/{}/tcp/{}", to.ip(), to.port()).parse()?;
    swarm.dial(DialOpts::unknown_peer_id().address(addr).build())?;
    let mut bytes = Some(bytes);
    while let Some(event) = swarm.next().await {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                if let Some(bytes) = bytes.take() {
                    swarm.behaviour_mut().gossip.send_request(&peer_id, bytes);
                }
            }
            // The node answers on a stream of its own, so ours ends without an answer, or is reset: either way it was read.
            SwarmEvent::Behaviour(FlooderEvent::Gossip(rr::Event::OutboundFailure { .. }))
            | SwarmEvent::Behaviour(FlooderEvent::Gossip(rr::Event::Message { .. }))
            | SwarmEvent::ConnectionClosed { .. } => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error).context("dial"),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn gossip_that_breaks_every_bound_does_no_harm() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let network: NetworkId = a.ready()?.network.parse()?;
    let ticket: Ticket = a.ticket()?.parse()?;
    let to = *ticket.p2p.iter().find(|addr| addr.is_ipv4()).context("no IPv4 address in the ticket")?;
    let before = a.resident_bytes()?;

    let runtime = Runtime::new()?;
    let mut a = a;
    for (n, (name, bytes)) in floods(&records_topic(network)).into_iter().enumerate() {
        // A node that doesn't end the stream has still been sent everything by then.
        let sent = runtime.block_on(async { timeout(Duration::from_secs(12), send(200 + n as u8, to, bytes)).await });
        if let Ok(sent) = sent {
            sent.context(name)?;
        }
        ensure!(a.is_alive(), "it died of '{name}'");
    }
    let grown = a.resident_bytes()?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{} MiB more memory", grown >> 20);

    let (file, _) = random_file(&a, "f.bin", &mut Rng::new(16), 1000)?;
    let content = text(&a.publish(&file, &[])?, "content")?;
    lists(&b, &content, SOON).context("honest gossip doesn't get through any more")
}

/// More, in bytes, than sockets and stream windows take up.
const RECORDS: usize = 1_000;

#[test]
fn a_member_that_stops_reading_holds_nobody_up() -> Result<()> {
    let mut a = start("a")?;
    let (b, c) = (join("b", &a.ticket()?)?, join("c", &a.ticket()?)?);
    knows(&b, &a)?;
    knows(&c, &a)?;
    let (file, _) = random_file(&a, "f.bin", &mut Rng::new(17), 1000)?;
    let published = a.publish(&file, &[])?;
    lists(&c, &text(&published, "content")?, SOON)?;

    c.freeze()?;
    let (before, http) = (a.resident_bytes()?, a.http()?);
    let mut last = String::new();
    for n in 0..RECORDS {
        let body = json!({ "blob": published["blob"], "title": n.to_string(), "description": "x".repeat(5_000) });
        let headers = [("content-type", "application/json")];
        let reply = http.request("POST", "/api/v1/videos", &headers, body.to_string().as_bytes())?;
        ensure!(reply.status == 201, "{}: {}", reply.status, reply.text());
        last = text(&reply.json()?, "content")?;
    }
    lists(&b, &last, SOON).context("gossip goes on beside a member that doesn't read")?;
    let grown = a.resident_bytes()?.saturating_sub(before);
    ensure!(a.is_alive() && grown < 64 << 20, "{} MiB more memory", grown >> 20);

    c.thaw()?;
    lists(&c, &last, SOON).context("it catches up once it reads again")
}
