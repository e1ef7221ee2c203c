//! Peers that do what no honest one does.

use futures::StreamExt;
use iroh::{Endpoint, SecretKey as IrohKey, endpoint::presets};
use libp2p::{Swarm, gossipsub, swarm::SwarmEvent};
use mhc_protocol::{
    Timestamp,
    wire::{Bound, Content, Haves, Part, SyncRequest, haves_topic, records_topic},
};

use super::*;
use crate::{
    fetch::BadBytes,
    net::{
        metrics::{Kinds, Outcomes},
        swarm::{Behaviour, BehaviourEvent},
    },
};

/// A swarm of our own kind, driven by hand: it says what the test wants.
struct Puppet {
    swarm: Swarm<Behaviour>,
    records: gossipsub::IdentTopic,
    haves: gossipsub::IdentTopic,
    node: NodeId,
}

impl Puppet {
    /// Connects to `target` and waits until gossip would reach it.
    async fn beside(target: &Node, seed: u8) -> Self {
        let options = options(seed);
        let mut swarm = swarm::start(&options).await.unwrap();
        let (records, haves) = (records_topic(network()), haves_topic(network()));
        let [records, haves] = [records, haves].map(gossipsub::IdentTopic::new);
        for topic in [&records, &haves] {
            swarm.behaviour_mut().gossip.subscribe(topic).unwrap();
        }
        for addr in ids::multiaddrs(target.net.p2p_addrs()[0]) {
            swarm.dial(addr).unwrap();
        }
        let mut puppet = Self { swarm, records, haves, node: options.key.node() };
        let mut topics = 0;
        while topics < 2 {
            if let BehaviourEvent::Gossip(gossipsub::Event::Subscribed { .. }) = puppet.event().await {
                topics += 1;
            }
        }
        puppet
    }

    async fn event(&mut self) -> BehaviourEvent {
        loop {
            if let SwarmEvent::Behaviour(event) = self.swarm.select_next_some().await {
                return event;
            }
        }
    }

    fn say(&mut self, topic: gossipsub::IdentTopic, data: Vec<u8>) {
        let _ = self.swarm.behaviour_mut().gossip.publish(topic, data);
    }

    /// Lets the swarm run until `condition` holds.
    async fn until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let run = async {
            loop {
                self.swarm.select_next_some().await;
            }
        };
        tokio::select! {
            () = until(what, condition) => {}
            () = run => {}
        }
    }
}

fn faults(node: &Node, kind: &'static str) -> u64 {
    node.net.metrics().peer_misbehaviour.get_or_create(&Kinds { kind }).get()
}

fn rejected(node: &Node) -> u64 {
    node.net.metrics().gossip_records_received.get_or_create(&Outcomes { outcome: "rejected" }).get()
}

fn row(node: &Node, peer: NodeId) -> PeerInfo {
    node.net.peers().into_iter().find(|info| info.node == peer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_gossip_is_scored_down_until_its_sender_is_cut_off() {
    let a = Node::start(1).await;
    let mut puppet = Puppet::beside(&a, 66).await;
    let mut forged = chain(90, 1)[0].to_bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let records = puppet.records.clone();
    let foreign = Author::new(91, SecretKey::from_seed(&[9; 32]).network()).write(KIND, "x").unwrap();
    puppet.say(records.clone(), forged);
    puppet.until("bad signature noticed", || faults(&a, "bad_record") == 1).await;
    assert!(row(&a, puppet.node).score < 0 && row(&a, puppet.node).cut_off.is_none());
    puppet.say(records, foreign.to_bytes());
    puppet.until("foreign network noticed", || faults(&a, "junk_gossip") == 1).await;
    puppet.until("both are counted", || rejected(&a) == 2).await;
    let node = puppet.node;
    puppet.until("cut off", || row(&a, node).cut_off.is_some()).await;
    until("disconnected", || !row(&a, node).connected).await;
    assert_eq!((a.records.count().unwrap(), a.net.metrics().peers_cut_off.get()), (0, 1));
    // It may not come back.
    let addr = ids::multiaddrs(a.net.p2p_addrs()[0])[0].clone();
    puppet.swarm.dial(addr).unwrap();
    let refused = async {
        while !matches!(
            puppet.swarm.select_next_some().await,
            SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. }
        ) {}
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(!row(&a, node).connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haves_count_only_from_whom_they_name_and_once() {
    let a = Node::start(1).await;
    let mut puppet = Puppet::beside(&a, 66).await;
    let (node, haves) = (puppet.node, puppet.haves.clone());
    let hash = BlobHash::of(b"blob");
    let say = |node, at| Haves { node, at, complete: vec![hash], partial: vec![] }.encode().unwrap();
    let far = Timestamp::from_millis(ids::now().0 + 400 * 86_400_000);
    let victim = SecretKey::from_seed(&[77; 32]).node();
    puppet.say(haves.clone(), say(node, far));
    puppet.say(haves.clone(), say(victim, ids::now()));
    puppet.until("a false name is noticed", || faults(&a, "junk_gossip") == 1).await;
    assert!(a.shared().haves().providers(hash, std::time::Instant::now()).is_empty());
    puppet.say(haves, say(node, ids::now()));
    puppet
        .until("an honest one counts", || a.shared().haves().providers(hash, std::time::Instant::now()) == [node])
        .await;
    assert_eq!(a.net.metrics().gossip_haves_received.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_bad_bytes_is_cut_off_and_shown() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    b.join(&a).await;
    let hash = a.import(noise(1000)).await;
    until("told", || !b.shared().haves().providers(hash, std::time::Instant::now()).is_empty()).await;
    let conn = b.net.connect(a.net.node()).await.unwrap();
    b.net.received(a.net.node(), 512);
    b.net.misbehaved(a.net.node(), Misbehaviour::BadBytes { hash, how: BadBytes::LeafHash });
    assert!(conn.close_reason().is_some(), "closed at once");
    assert!(matches!(b.net.connect(a.net.node()).await, Err(ConnectError::Refused(_))));
    assert_eq!(b.net.candidates(hash).await, []);
    until("disconnected", || !b.peer(&a).connected).await;
    let row = b.peer(&a);
    assert!(row.cut_off.as_deref().is_some_and(|why| why.contains("bad bytes")), "{row:?}");
    assert_eq!((row.bytes_in, row.score), (512, CUT_OFF_SCORE));
    assert_eq!(faults(&b, "bad_bytes"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_in_sync_is_scored_down_on_both_sides() {
    let a = Node::start(1).await;
    let key = SecretKey::from_seed(&[66; 32]);
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(IrohKey::from_bytes(&key.seed()))
        .alpns(vec![endpoint::SYNC_ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr(localhost(0))
        .unwrap()
        .bind()
        .await
        .unwrap();
    // As a client: a request that isn't one.
    let addr = ids::endpoint_addr(a.net.node(), &a.net.iroh_addrs(), &[]).unwrap();
    let conn = endpoint.connect(addr, endpoint::SYNC_ALPN).await.unwrap();
    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    send.write_all(&[0xff; 64]).await.unwrap();
    send.finish().unwrap();
    assert!(recv.read_to_end(1024).await.is_err());
    until("scored down", || faults(&a, "junk_sync") == 1).await;
    // A good request is answered all the same.
    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    let parts = vec![Part { upper: Bound::end(), content: Content::Listed(vec![]) }];
    let request = SyncRequest::Compare { network: network(), salt: 1, parts, push_bytes: 0 };
    send.write_all(&request.encode().unwrap()).await.unwrap();
    send.finish().unwrap();
    assert!(recv.read_to_end(1024).await.is_ok());
    // As a server: an answer that isn't one.
    a.shared().book().learn_addrs(key.node(), &[], &endpoint.bound_sockets());
    a.shared().sync_pokes.send((key.node(), network())).await.unwrap();
    let serve = async {
        let conn = endpoint.accept().await.unwrap().await.unwrap();
        while let Ok((mut send, mut recv)) = conn.accept_bi().await {
            recv.read_to_end(1 << 18).await.unwrap();
            let _ = send.write_all(&[0x81; 5000]).await;
            let _ = send.finish();
        }
    };
    tokio::select! {
        () = serve => {}
        () = until("cut off", || row(&a, key.node()).cut_off.is_some()) => {}
    }
    assert_eq!(faults(&a, "junk_sync"), 2);
    until("its connections are closed", || conn.close_reason().is_some()).await;
}
