//! Honest nodes among themselves.

use mhc_storage::{
    kv::{
        Durability, Engine, KeyRange,
        redb::{Redb, RedbOptions},
    },
    record::RECORDS_FILE,
};

use super::*;
use crate::net::metrics::Outcomes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_enough_to_meet() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let ticket = a.net.ticket();
    assert!(!ticket.p2p.is_empty() && !ticket.iroh.is_empty(), "{ticket:?}");
    assert!(ticket.p2p.iter().chain(&ticket.iroh).all(|addr| addr.port() != 0 && !addr.ip().is_unspecified()));
    b.join(&a).await;
    let seen = b.peer(&a);
    assert_eq!((seen.name.as_str(), seen.membership, seen.connected), ("node 1", Membership::Member, true));
    assert!(seen.links.iter().all(|link| link.class == mhc_protocol::link::LinkClass::Lan));
    assert_eq!(seen.links.iter().filter(|link| link.selected).count().min(1), 1, "{:?}", seen.links);
    assert_eq!((a.net.connected_count(), b.net.connected_count()), (1, 1));
    assert!(matches!(a.net.add_peer(ticket.clone()).await, Err(NetError::OwnTicket)));
    let foreign = Ticket { network: SecretKey::from_seed(&[9; 32]).network(), ..ticket };
    assert!(matches!(b.net.add_peer(foreign).await, Err(NetError::OtherNetwork { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_goes_through_the_middle_and_empties_the_outbox() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    let key = SecretKey::from_seed(&[1; 32]);
    let early = a.publish(&key, b"before anybody was there").await;
    b.join(&a).await;
    c.join(&b).await;
    until("sync brings what is old", || b.has(&early) && c.has(&early)).await;
    until("the outbox empties", || a.records.outbox(8).unwrap().is_empty()).await;
    let record = a.publish(&key, b"news").await;
    until("it arrives", || b.has(&record) && c.has(&record)).await;
    until("the outbox empties", || a.records.outbox(8).unwrap().is_empty()).await;
    let appended = |node: &Node| {
        let outcome = Outcomes { outcome: "appended" };
        let metrics = node.net.metrics();
        metrics.gossip_records_received.get_or_create(&outcome).get()
            + metrics.sync_records.get_or_create(&outcome).get()
    };
    until("each record is stored once", || (appended(&b), appended(&c)) == (2, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_joiner_gets_everything() {
    let a = Node::start(1).await;
    for seed in 50..55 {
        a.records.append(chain(seed, 100)).await.unwrap();
    }
    let long = chain(60, 700);
    a.records.append(long.clone()).await.unwrap();
    let b = Node::start(2).await;
    b.join(&a).await;
    until("all records are there", || b.records.count().unwrap() == 1200).await;
    assert!(long.iter().all(|record| b.has(record)));
    let synced = b.net.metrics().sync_records.get_or_create(&Outcomes { outcome: "appended" }).get();
    assert_eq!(synced, 1200);
}

/// Flips a bit in the middle of the record's bytes on the disk of a node that doesn't run.
fn damage(dir: &TempDir, record: &VerifiedRecord) {
    let file = dir.path().join("records").join(RECORDS_FILE);
    let store = Redb::open(&file, &RedbOptions::default()).unwrap();
    let mut tx = store.write().unwrap();
    let rows = tx.scan("log", KeyRange::all(), usize::MAX).unwrap();
    let (key, mut value) = rows.into_iter().find(|(_, value)| *value == record.to_bytes()).unwrap();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    tx.put("log", &key, &value).unwrap();
    tx.commit(Durability::Durable).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_comes_back_from_a_peer() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let log = chain(50, 5);
    a.records.append(log.clone()).await.unwrap();
    b.join(&a).await;
    until("it is synced", || b.records.count().unwrap() == 5).await;
    let dir = b.stop().await;
    damage(&dir, &log[2]);
    let b = Node::start_in(dir, options(2)).await;
    assert_eq!(b.records.scrub().await.unwrap().damaged, [log[2].id()]);
    assert!(!b.has(&log[2]));
    b.join(&a).await;
    until("it comes back", || b.has(&log[2])).await;
    let heads = |node: &Node| node.records.heads(network(), None, 9).unwrap();
    until("both have one log", || heads(&a) == heads(&b)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_peers_dont_send_the_same_logs() {
    let (a, c) = (Node::start(1).await, Node::start(3).await);
    for seed in 50..90 {
        let log = chain(seed, 100);
        a.records.append(log.clone()).await.unwrap();
        c.records.append(log).await.unwrap();
    }
    let b = Node::start(2).await;
    b.net.add_peer(a.net.ticket()).await.unwrap();
    b.net.add_peer(c.net.ticket()).await.unwrap();
    until("all records are there", || b.records.count().unwrap() == 4000).await;
    let counted = |outcome| b.net.metrics().sync_records.get_or_create(&Outcomes { outcome }).get();
    until("all are counted", || counted("appended") == 4000).await;
    // A log that goes on on the next page is asked for from its last record on.
    assert!(counted("duplicate") < 10, "{} twice", counted("duplicate"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_filled_as_soon_as_it_is_seen() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    b.join(&a).await;
    until("the first sync is over", || b.net.metrics().sync_sessions.get() > 0).await;
    // Records that nobody gossips: they came from elsewhere.
    let missed = chain(70, 10);
    a.records.append(missed.clone()).await.unwrap();
    let last = a.publish(&SecretKey::from_seed(&[70; 32]), b"after the gap").await;
    assert_eq!(last.header().seq, 10);
    until("gap and news are there", || b.has(&last) && missed.iter().all(|record| b.has(record))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_fork_reach_everybody() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let mut author = Author::new(80, network());
    let first = author.write(KIND, "common").unwrap();
    let mut rival = author.clone();
    let (left, right) = (author.write(KIND, "left").unwrap(), rival.write(KIND, "right").unwrap());
    a.records.append(vec![first.clone(), left.clone()]).await.unwrap();
    b.records.append(vec![first, right.clone()]).await.unwrap();
    b.join(&a).await;
    until("both are kept", || [&a, &b].iter().all(|node| node.has(&left) && node.has(&right))).await;
    let heads = [&a, &b].map(|node| node.records.heads(network(), None, 8).unwrap());
    assert_eq!(heads[0], heads[1], "and resolved alike");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_blob_is_told_and_found() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let early = a.import(noise(40_000)).await;
    b.join(&a).await;
    let late = a.import(noise(50_000)).await;
    for hash in [early, late] {
        let told = || b.shared().haves().providers(hash, std::time::Instant::now()) == [a.net.node()];
        until("the have arrives", told).await;
        assert_eq!(b.net.candidates(hash).await, [a.net.node()]);
    }
    assert_eq!(b.net.candidates(BlobHash::of(b"unknown")).await, [a.net.node()], "connected peers come last");
    let conn = b.net.connect(a.net.node()).await.unwrap();
    assert_eq!(b.net.connect(a.net.node()).await.unwrap().stable_id(), conn.stable_id(), "pooled");
    until("the path shows", || b.peer(&a).links.iter().any(|link| link.addr == LinkAddr::Ip(a.net.iroh_addrs()[0])))
        .await;
    until("the other side shows it too", || a.peer(&b).links.len() > 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dht_finds_a_provider_that_isnt_a_neighbour() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    b.join(&a).await;
    c.join(&b).await;
    let hash = a.import(noise(30_000)).await;
    let found = async {
        while !c.net.find_in_dht(hash, DHT_WAIT).await.contains(&a.net.node()) {
            // Announced again and again until the routing tables have filled.
            let _ = a.shared().commands.send(Command::Provide(hash)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
    // Its address isn't known: libp2p finds it, it greets, iroh connects.
    let conn = c.net.connect(a.net.node()).await.unwrap();
    assert_eq!(ids::node_of_endpoint(conn.remote_id()), a.net.node());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_is_met_but_not_told_anything() {
    let a = Node::start(1).await;
    let foreign = SecretKey::from_seed(&[9; 32]).network();
    let b = Node::start_in(tempfile::tempdir().unwrap(), NetOptions { network: foreign, ..options(2) }).await;
    let record = a.publish(&SecretKey::from_seed(&[1; 32]), b"ours").await;
    b.net.add_peer(Ticket { network: foreign, ..a.net.ticket() }).await.unwrap();
    let met = |node: &Node, other: &Node| {
        let peers = node.net.peers();
        peers.iter().any(|peer| peer.node == other.net.node() && peer.membership == Membership::OtherNetwork)
    };
    until("they see that they differ", || met(&a, &b) && met(&b, &a)).await;
    assert!(a.peer(&b).connected);
    assert!(matches!(a.net.connect(b.net.node()).await, Err(ConnectError::Refused(_))));
    assert_eq!(a.net.candidates(BlobHash::of(b"x")).await, []);
    assert!(!b.has(&record) && a.records.outbox(8).unwrap().len() == 1, "nobody of our network got it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_peers_are_found_again_after_a_restart() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    b.join(&a).await;
    let dir = b.stop().await;
    until("a notices", || a.net.connected_count() == 0).await;
    let b = Node::start_in(dir, options(2)).await;
    until("they meet without a ticket", || b.shared().book().members().contains(&a.net.node())).await;
    let addr = b.net.p2p_addrs()[0];
    let stopped = std::time::Instant::now();
    b.stop().await;
    assert!(stopped.elapsed() < Duration::from_secs(6));
    std::net::TcpListener::bind(addr).expect("the port is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(&dir.path().join("records"), RecordsOptions::default(), vec![]).unwrap();
    let blobs = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
    let tcp = std::net::TcpListener::bind(localhost(0)).unwrap();
    let udp = std::net::UdpSocket::bind(localhost(0)).unwrap();
    let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    let cases = [
        NetOptions { p2p_port: tcp_port, ..options(1) },
        NetOptions { p2p_port: udp_port, ..options(1) },
        NetOptions { iroh_port: udp_port, ..options(1) },
    ];
    for (options, port) in cases.into_iter().zip([tcp_port, udp_port, udp_port]) {
        let error = Net::start(options, records.clone(), blobs.clone()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&port.to_string()) && text.contains("--p2p-port"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unspecified_addresses_become_those_of_the_interfaces() {
    let everywhere = ["::", "0.0.0.0"].map(|ip| ip.parse().unwrap()).to_vec();
    let a = Node::start_in(tempfile::tempdir().unwrap(), NetOptions { listen: everywhere, ..options(1) }).await;
    until("loopback is announced", || a.net.ticket().p2p.iter().any(|addr| addr.ip() == Ipv4Addr::LOCALHOST)).await;
    let ticket = a.net.ticket();
    let ips = |addrs: &[SocketAddr]| addrs.iter().map(SocketAddr::ip).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ips(&ticket.p2p), ips(&ticket.iroh), "both stacks are reachable at the same addresses");
    assert!(ticket.p2p.iter().chain(&ticket.iroh).all(|addr| !addr.ip().is_unspecified() && addr.port() != 0));
    assert_eq!(ticket.p2p.iter().map(SocketAddr::port).collect::<HashSet<_>>().len(), 1, "{ticket:?}");
    let b = Node::start(2).await;
    b.join(&a).await;
    assert!(b.net.connect(a.net.node()).await.is_ok());
}

#[tokio::test]
async fn an_address_of_our_own_isnt_dialled_for_another() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    // With default ports, the loopback addresses of every ticket are those of every node too.
    b.shared().book().learn_addrs(a.net.node(), &a.net.p2p_addrs(), &b.net.iroh_addrs());
    // So its iroh isn't known, and it is met by libp2p first.
    endpoint::connect(b.shared(), a.net.node(), endpoint::BYTES_ALPN).await.unwrap();
    b.stop().await;
    a.stop().await;
}
