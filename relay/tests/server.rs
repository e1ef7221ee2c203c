//! A relay and endpoints of iroh on this machine.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, TransportAddr, Watcher,
    endpoint::{PortmapperConfig, presets},
};
use iroh_relay::{RelayQuicConfig, tls::CaTlsConfig};
use mhc_protocol::{
    NetworkId, NodeId, SecretKey,
    relay::{Relay, RelayUrl, write_token},
};
use mhc_relay::{
    CertificateFiles, MAX_CONNECTIONS_PER_NODE, Members, Pins, Reasons, RelayMetrics, RelayOptions, RelayServer,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const ALPN: &[u8] = b"test";

fn network(seed: u8) -> NetworkId {
    SecretKey::from_seed(&[seed; 32]).network()
}

/// Everybody who names network 1, but the node of seed 66.
#[derive(Debug)]
struct NetworkOne;

impl Members for NetworkOne {
    fn is_member(&self, node: NodeId, networks: &[NetworkId]) -> Option<bool> {
        let is_out = node == SecretKey::from_seed(&[66; 32]).node();
        (!networks.contains(&network(99))).then(|| networks.contains(&network(1)) && !is_out)
    }
}

struct Served {
    server: RelayServer,
    metrics: RelayMetrics,
    relay: Relay,
}

async fn serve(certificate: Option<CertificateFiles>) -> Served {
    let key = SecretKey::from_seed(&[7; 32]);
    let (listen, metrics) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), RelayMetrics::default());
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let bytes_per_s = NonZeroU32::new(1 << 30).unwrap();
    let options = RelayOptions { key: key.clone(), listen, certificate, bytes_per_s };
    let server = RelayServer::start(&options, Arc::new(NetworkOne), metrics.clone()).await.unwrap();
    let url = format!("{scheme}://{}", server.addr()).parse().unwrap();
    Served { server, metrics, relay: Relay { url, node: key.node() } }
}

fn iroh_url(url: &RelayUrl) -> iroh::RelayUrl {
    url.url().clone().into()
}

async fn endpoint(seed: u8, relay: &Relay, tls: CaTlsConfig, token: Option<String>) -> Endpoint {
    let config = RelayConfig::new(iroh_url(&relay.url), Some(RelayQuicConfig::new(relay.url.port())));
    let config = match token {
        Some(token) => config.with_auth_token(token),
        None => config,
    };
    Endpoint::builder(presets::Minimal)
        .secret_key(iroh::SecretKey::from_bytes(&[seed; 32]))
        .alpns(vec![ALPN.to_vec()])
        .relay_mode(RelayMode::Custom(RelayMap::from(config)))
        .ca_tls_config(tls)
        .portmapper_config(PortmapperConfig::Disabled)
        .bind()
        .await
        .unwrap()
}

fn pinned(relay: &Relay) -> CaTlsConfig {
    let pins = Pins::default();
    pins.set([relay]);
    pins.tls()
}

async fn member(seed: u8, relay: &Relay) -> Endpoint {
    endpoint(seed, relay, pinned(relay), Some(write_token([network(1)]))).await
}

/// Why the relay refuses the endpoint; none when it lets it in.
async fn refusal(endpoint: &Endpoint) -> Option<String> {
    let mut status = endpoint.home_relay_status();
    let decided = async {
        loop {
            for relay in status.get() {
                match relay.auth_denied_reason() {
                    Some(reason) => return Some(reason.to_owned()),
                    None if relay.is_connected() => return None,
                    None => {}
                }
            }
            status.updated().await.unwrap();
        }
    };
    timeout(PATIENCE, decided).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_reach_each_other_and_learn_how_they_are_seen() {
    let served = serve(None).await;
    let [a, b] = [member(1, &served.relay).await, member(2, &served.relay).await];
    assert_eq!((refusal(&a).await, refusal(&b).await), (None, None));
    let accepting = tokio::spawn(async move {
        let conn = a.accept().await.unwrap().await.unwrap();
        conn.accept_bi().await.unwrap();
        a
    });
    let node = iroh::SecretKey::from_bytes(&[1; 32]).public();
    let there = EndpointAddr::from_parts(node, [TransportAddr::Relay(iroh_url(&served.relay.url))]);
    let conn = timeout(PATIENCE, b.connect(there, ALPN)).await.unwrap().unwrap();
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    let a = timeout(PATIENCE, accepting).await.unwrap().unwrap();
    assert_eq!(served.metrics.admitted.get(), 2);
    let mut text = String::new();
    let mut registry = Default::default();
    served.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse::<u64>().unwrap()
    };
    assert!(count("mhc_relay_addresses_told_total") >= 2, "{text}");
    assert!(count("mhc_relay_bytes_total") > 0, "{text}");
    a.close().await;
    b.close().await;
    served.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_refused_and_counted() {
    let served = serve(None).await;
    let (relay, tls) = (&served.relay, || pinned(&served.relay));
    let cases = [
        (3, None, "no_network", "names no network"),
        (4, Some("junk".to_owned()), "no_network", "names no network"),
        (5, Some(write_token([network(2)])), "not_a_member", "no member"),
        (66, Some(write_token([network(1)])), "not_a_member", "no member"),
        (6, Some(write_token([network(99)])), "fault", "fault of its own"),
    ];
    for (seed, token, reason, text) in cases {
        let stranger = endpoint(seed, relay, tls(), token).await;
        let refused = refusal(&stranger).await.unwrap_or_default();
        assert!(refused.contains(text), "{seed}: {refused}");
        assert!(served.metrics.refused.get_or_create(&Reasons { reason }).get() > 0, "{reason}");
        stranger.close().await;
    }
    assert_eq!((served.metrics.admitted.get(), served.metrics.connections.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_only_so_many_places_and_gives_them_back() {
    let served = serve(None).await;
    let mut all = vec![];
    for _ in 0..MAX_CONNECTIONS_PER_NODE {
        let endpoint = member(1, &served.relay).await;
        assert_eq!(refusal(&endpoint).await, None);
        all.push(endpoint);
    }
    let one_more = member(1, &served.relay).await;
    assert!(refusal(&one_more).await.unwrap().contains("connections"));
    for endpoint in all {
        endpoint.close().await;
    }
    // It tries again and again.
    let mut status = one_more.home_relay_status();
    let let_in = async {
        while !status.get().iter().any(|relay| relay.is_connected()) {
            status.updated().await.unwrap();
        }
    };
    timeout(PATIENCE, let_in).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_it_speaks_https_and_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = file("relay.pem", made.cert.pem());
    let key = file("relay.key", made.signing_key.serialize_pem());
    let served = serve(Some(CertificateFiles { certificate, key })).await;
    assert!(served.server.is_https());
    let token = || Some(write_token([network(1)]));
    let trusting = CaTlsConfig::custom_roots([made.cert.der().clone()]);
    let knows_it = endpoint(1, &served.relay, trusting, token()).await;
    assert_eq!(refusal(&knows_it).await, None);
    // An authority that nobody knows, and not the node's key either.
    let doesnt = endpoint(2, &served.relay, pinned(&served.relay), token()).await;
    assert!(timeout(Duration::from_secs(2), refusal(&doesnt)).await.is_err());
    assert_eq!(served.metrics.admitted.get(), 1);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (key, listen) = (SecretKey::from_seed(&[7; 32]), taken.local_addr().unwrap());
    let bytes_per_s = NonZeroU32::new(1 << 20).unwrap();
    let options = RelayOptions { key, listen, certificate: None, bytes_per_s };
    let error = RelayServer::start(&options, Arc::new(NetworkOne), RelayMetrics::default()).await.unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}
