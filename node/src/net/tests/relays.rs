//! Nodes that reach each other through a third one's relay.

use std::num::NonZeroU32;

use mhc_relay::{Reasons, RelayOptions};

use super::*;

fn relaying(seed: u8) -> NetOptions {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (key, bytes_per_s) = (SecretKey::from_seed(&[seed; 32]), NonZeroU32::new(1 << 30).unwrap());
    let options = RelayOptions { key, listen, certificate: None, bytes_per_s };
    NetOptions { relay: Some(RelaySettings { options, public_url: None }), ..super::options(seed) }
}

async fn relay() -> Node {
    let relay = Node::start_in(tempfile::tempdir().unwrap(), relaying(1)).await;
    until("it tells where it relays", || relay.net.ticket().relays.len() == 1).await;
    relay
}

async fn reached_through(node: &Node, relay: &Node) {
    until("it is reached through the relay", || node.net.ticket().relays == relay.net.ticket().relays).await;
}

/// An invitation that names no address.
fn only_relays(node: &Node) -> Ticket {
    Ticket { p2p: vec![], iroh: vec![], ..node.net.ticket() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_know_no_address_of_each_other_meet_at_the_relay() {
    let (relay, a, b) = (relay().await, Node::start(2).await, Node::start(3).await);
    a.join(&relay).await;
    b.join(&relay).await;
    reached_through(&a, &relay).await;
    reached_through(&b, &relay).await;
    let bytes = noise(300_000);
    let hash = a.import(bytes).await;
    assert!(b.shared().book().get(a.net.node()).is_none_or(|peer| peer.iroh.is_empty()));
    let conn = endpoint::connect(b.shared(), a.net.node(), endpoint::BYTES_ALPN).await.unwrap();
    assert_eq!(ids::node_of_endpoint(conn.remote_id()), a.net.node());
    assert!(a.blobs.status(hash).unwrap().complete);
    assert_eq!(relay.shared().metrics.relay.admitted.get(), 3, "the relay's own node, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_know_no_address_of_each_other_greet_over_a_circuit() {
    let (relay, a, b) = (relay().await, Node::start(2).await, Node::start(3).await);
    a.join(&relay).await;
    b.join(&relay).await;
    reached_through(&b, &relay).await;
    let greeted = || b.shared().book().members().contains(&a.net.node());
    let dial = async {
        while !greeted() {
            b.shared().commands.send(actor::Command::Dial(a.net.node())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dial).await.unwrap();
    until("the other side, too", || a.shared().book().members().contains(&b.net.node())).await;
    let record = a.publish(&SecretKey::from_seed(&[2; 32]), b"one").await;
    until("B has it", || b.has(&record)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_tells_of_the_relay_and_the_cache_remembers_it() {
    let (relay, a) = (relay().await, Node::start(2).await);
    a.join(&relay).await;
    reached_through(&a, &relay).await;
    let b = Node::start(3).await;
    b.net.add_peer(only_relays(&a)).await.unwrap();
    reached_through(&b, &relay).await;
    assert!(endpoint::connect(b.shared(), a.net.node(), endpoint::SYNC_ALPN).await.is_ok());
    let dir = b.stop().await;
    let b = Node::start_in(dir, options(3)).await;
    reached_through(&b, &relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_of_another_network_isnt_relayed() {
    let relay = relay().await;
    let foreign = SecretKey::from_seed(&[201; 32]).network();
    let options = NetOptions { network: foreign, ..options(4) };
    let stranger = Node::start_in(tempfile::tempdir().unwrap(), options).await;
    stranger.net.add_peer(Ticket { network: foreign, ..only_relays(&relay) }).await.unwrap();
    let refused = || relay.shared().metrics.relay.refused.get_or_create(&Reasons { reason: "not_a_member" }).get();
    until("it is refused", || refused() > 0).await;
    assert_eq!(stranger.net.ticket().relays, []);
}
