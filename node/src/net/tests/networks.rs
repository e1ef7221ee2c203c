//! Several networks, and little of one.

use futures::StreamExt;
use libp2p::{SwarmBuilder, identity, noise, request_response as rr, swarm::SwarmEvent, tcp, yamux};
use mhc_protocol::{
    network::{Interest, POLICY, Policy},
    wire::{Follows, Hello},
};

use super::*;
use crate::net::{
    metrics::Outcomes,
    swarm::{FIRST_HELLO_PROTOCOL, Greeting, HelloCodec},
};

fn other() -> NetworkId {
    SecretKey::from_seed(&[201; 32]).network()
}

fn in_other(seed: u8, len: usize) -> Vec<VerifiedRecord> {
    let mut author = Author::new(seed, other());
    (0..len).map(|n| author.write(KIND, n.to_le_bytes()).unwrap()).collect()
}

async fn elsewhere(seed: u8) -> Node {
    let options = NetOptions { network: other(), ..options(seed) };
    Node::start_in(tempfile::tempdir().unwrap(), options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_meet_in_a_node_and_nowhere_else() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, elsewhere(3).await);
    // The same author in both: a log in each.
    let (in_x, in_y) = (chain(50, 20), in_other(50, 30));
    a.records.append(in_x.clone()).await.unwrap();
    c.records.append(in_y.clone()).await.unwrap();
    b.join(&a).await;
    b.net.follow(c.net.ticket(), Interest::Whole).await.unwrap();
    until("both are there", || in_x.iter().chain(&in_y).all(|record| b.has(record))).await;
    let row = b.peer(&c);
    assert_eq!((row.membership, row.networks), (Membership::Member, vec![other()]));
    // News, too, each in its own network, although all three are connected.
    a.net.add_peer(Ticket { network: network(), ..c.net.ticket() }).await.unwrap();
    until("a and c know each other", || a.net.peers().iter().any(|peer| peer.membership == Membership::OtherNetwork))
        .await;
    let key = SecretKey::from_seed(&[3; 32]);
    let news = c.records.publish(&key, other(), KIND, b"news".to_vec(), [1; 16], ids::now()).await.unwrap();
    until("news arrive", || b.has(&news)).await;
    let own = SecretKey::from_seed(&[2; 32]);
    let back = b.records.publish(&own, other(), KIND, b"back".to_vec(), [1; 16], ids::now()).await.unwrap();
    let home = b.publish(&own, b"home").await;
    until("each goes where it belongs", || c.has(&back) && a.has(&home)).await;
    assert_eq!((a.records.count().unwrap(), c.records.count().unwrap()), (21, 32));
    assert_eq!(a.records.networks().unwrap(), [network()]);

    // Nobody is told of what isn't followed any more, and nothing of it comes.
    b.net.unfollow(other()).await.unwrap();
    until("they part", || b.peer(&c).membership == Membership::OtherNetwork).await;
    until("c has heard of it", || c.peer(&b).membership == Membership::OtherNetwork).await;
    let later = c.records.publish(&key, other(), KIND, b"later".to_vec(), [1; 16], ids::now()).await.unwrap();
    let after = a.publish(&SecretKey::from_seed(&[1; 32]), b"after").await;
    until("what comes after it is there", || b.has(&after)).await;
    assert!(!b.has(&later));
    assert!(matches!(b.net.add_peer(c.net.ticket()).await, Err(NetError::OtherNetwork { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_wants_one_channel_of_many_gets_that_and_pays_for_that() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let mut root = Author::new(200, network());
    let policy = Policy { revision: 1, name: Some("Village".into()), ..Policy::default() };
    let policy = root.write(POLICY, policy.encode().unwrap()).unwrap();
    let wanted = chain(50, 100);
    a.records.append([vec![policy.clone()], wanted.clone()].concat()).await.unwrap();
    for seed in 51..70 {
        a.records.append(chain(seed, 100)).await.unwrap();
    }
    let channel = SecretKey::from_seed(&[50; 32]);
    b.net.set_interest(network(), Interest::Channels([channel.author()].into())).await.unwrap();
    b.join(&a).await;
    until("the channel is there", || b.has(&policy) && wanted.iter().all(|record| b.has(record))).await;
    until("the session ends", || b.net.metrics().sync_sessions.get() > 0).await;
    assert_eq!(b.records.count().unwrap(), 101);
    let bytes: usize = wanted.iter().chain([&policy]).map(|record| record.to_bytes().len()).sum();
    let received = b.net.metrics().sync_bytes_received.get();
    assert!(received < bytes as u64 + 8192, "{received} bytes received for {bytes}");
    // The other one doesn't ask for what it wouldn't find here.
    until("it has looked", || a.net.metrics().sync_sessions.get() > 0).await;
    let asked = a.net.metrics().sync_bytes_received.get();
    assert!(asked < 8192, "{asked} bytes");

    // News of others don't even come near.
    let foreign = a.publish(&SecretKey::from_seed(&[51; 32]), b"another channel").await;
    let news = a.publish(&channel, b"the channel").await;
    let own = b.publish(&SecretKey::from_seed(&[2; 32]), b"its own").await;
    until("its own is heard", || a.has(&own)).await;
    b.shared().sync_pokes.send((a.net.node(), network())).await.unwrap();
    until("news are synced", || b.has(&news)).await;
    assert!(!b.has(&foreign) && b.records.count().unwrap() == 103);
    let gossiped = b.net.metrics().gossip_records_received.get_or_create(&Outcomes { outcome: "refused" }).get();
    assert_eq!(gossiped, 0);

    b.net.set_interest(network(), Interest::Whole).await.unwrap();
    until("all is there", || b.records.count().unwrap() == a.records.count().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn essential_content_is_found_by_what_the_policy_names() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let (essential, rest) = (chain(50, 5), chain(51, 5));
    let mut root = Author::new(200, network());
    let policy = Policy { revision: 1, essential: [essential[4].id()].into(), ..Policy::default() };
    let policy = root.write(POLICY, policy.encode().unwrap()).unwrap();
    a.records.append([essential.clone(), rest, vec![policy]].concat()).await.unwrap();
    b.net.set_interest(network(), Interest::Essential).await.unwrap();
    b.join(&a).await;
    until("the essential is there", || essential.iter().all(|record| b.has(record))).await;
    assert_eq!(b.records.count().unwrap(), 6);
}

/// It can be told of one network only, and which one it follows is known when it has answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_first_version_is_told_of_its_own_network() {
    let b = Node::start(2).await;
    let key = SecretKey::from_seed(&[66; 32]);
    let protocols = || [(FIRST_HELLO_PROTOCOL, rr::ProtocolSupport::Full)];
    let mut old = SwarmBuilder::with_existing_identity(identity::Keypair::ed25519_from_bytes(key.seed()).unwrap())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| rr::Behaviour::with_codec(HelloCodec, protocols(), rr::Config::default()))
        .unwrap()
        .build();
    old.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = old.select_next_some().await {
            break ids::socket_addr(&address).unwrap();
        }
    };
    let networks = vec![Follows { network: other(), whole: true }];
    let (name, version, iroh, relays) = ("old".into(), "0.1.0".into(), vec![], vec![]);
    let first = Hello { networks, run: None, iroh, p2p: vec![addr], relays, name, version }.encode().unwrap();
    let ticket = Ticket { node: key.node(), network: other(), p2p: vec![addr], iroh: vec![], relays: vec![] };
    b.net.follow(ticket, Interest::Whole).await.unwrap();
    let told = async {
        loop {
            let SwarmEvent::Behaviour(rr::Event::Message { message, .. }) = old.select_next_some().await else {
                continue;
            };
            let rr::Message::Request { request, channel, .. } = message else { continue };
            let greeting = Greeting { first: first.clone(), ..Greeting::default() };
            old.behaviour_mut().send_response(channel, greeting).unwrap();
            if Hello::decode(&request.latest).unwrap().networks[0].network == other() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    until("it is a member", || b.shared().book().members_of(other()) == [key.node()]).await;
}
