//! Two nodes on 127.0.0.1 and what an issuer, a hostile one and a record bring.

use std::net::{IpAddr, Ipv4Addr};

use mhc_protocol::{
    SecretKey,
    alert::{Draft, Kind, Order, Severity, Status, Urgency},
    network::{POLICY, Policy},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    record::RecordsOptions,
};
use tempfile::TempDir;

use super::*;
use crate::net::NetOptions;

const PATIENCE: Duration = Duration::from_secs(30);

fn root() -> SecretKey {
    SecretKey::from_seed(&[200; 32])
}

fn network() -> NetworkId {
    root().network()
}

struct Node {
    net: Net,
    records: Records,
    emergency: Emergency,
    running: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Node {
    async fn start(seed: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let projections = vec![Arc::new(continuity::Continuity) as Arc<dyn mhc_storage::record::Projection>];
        let records = Records::open(&dir.path().join("records"), RecordsOptions::default(), projections).unwrap();
        let blobs = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
        let options = NetOptions {
            key: SecretKey::from_seed(&[seed; 32]),
            network: network(),
            p2p_port: 0,
            iroh_port: 0,
            listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            mdns: false,
            name: format!("node {seed}"),
            version: "0.1.0".into(),
            upload_bytes_per_s: None,
            relay: None,
            yggdrasil_admin: None,
        };
        let net = Net::start(options, records.clone(), blobs).await.unwrap();
        let emergency = open(&records, &net);
        let running = tokio::spawn(emergency.run());
        Self { net, records, emergency, running, _dir: dir }
    }

    async fn pair() -> (Self, Self) {
        let (a, b) = (Self::start(1).await, Self::start(2).await);
        b.net.add_peer(a.net.ticket()).await.unwrap();
        until("they meet", || a.net.connected_count() == 1 && b.net.connected_count() == 1).await;
        (a, b)
    }

    fn holds(&self) -> Vec<String> {
        let holding = self.emergency.holding(network(), now()).unwrap();
        holding.into_iter().map(|shown| shown.alert.said().text.clone()).collect()
    }

    fn count(&self, outcome: &'static str) -> u64 {
        self.emergency.0.metrics.alerts.get_or_create(&AlertOutcome { outcome }).get()
    }

    /// As the operator hands it in; passed on when it is taken.
    async fn hand(&self, alert: &Alert) -> Result<(), &'static str> {
        let taken = self.emergency.take(network(), alert.bytes(), Source::Hand).await;
        let alert = taken.map_err(|refused| refused.as_str())?;
        self.net.spread_alert(network(), alert.bytes().to_vec()).await;
        Ok(())
    }

    async fn events(&self) -> Vec<String> {
        let entries = self.emergency.0.journal.newest(100).await.unwrap();
        entries.into_iter().map(|entry| entry.event).collect()
    }
}

fn open(records: &Records, net: &Net) -> Emergency {
    Emergency::open(records, net, Arc::new(Journal::open(records).unwrap())).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// The root's alert, so many milliseconds after now.
fn alert(text: &str, after_ms: u64) -> Alert {
    sign(&root(), draft(text, after_ms))
}

fn draft(text: &str, after_ms: u64) -> Draft {
    Draft {
        status: Status::Actual,
        kind: Kind::Alert,
        severity: Severity::Critical,
        urgency: Urgency::Immediate,
        order: Order::None,
        at: now().saturating_add_ms(after_ms),
        life_min: 60,
        refers: None,
        language: Some(*b"en"),
        text: text.into(),
    }
}

fn sign(key: &SecretKey, draft: Draft) -> Alert {
    draft.sign(key, network()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_reaches_the_other_node_at_once_and_its_record_joins_it() {
    let (a, b) = Node::pair().await;
    let first = alert("The dam has broken", 0);
    a.hand(&first).await.unwrap();
    until("b shows it", || b.holds() == ["The dam has broken"]).await;
    assert_eq!(a.hand(&first).await, Err("duplicate"));
    // The long form comes as a record, by whatever link.
    let texts = [("fr".to_owned(), "Le barrage a cédé".to_owned())].into();
    let long = AlertRecord { alert: first.clone(), details: Details { texts, ..Details::default() } };
    let body = long.encode().unwrap();
    let record = a.records.publish(&root(), network(), ALERT, body, [1; 16], now()).await.unwrap();
    let details = || b.emergency.holding(network(), now()).unwrap()[0].clone();
    until("b has its record", || details().record == Some(record.id())).await;
    assert_eq!(details().details.texts["fr"], "Le barrage a cédé");
    assert_eq!((b.count("accepted"), b.count("too_many")), (1, 0));
    // Called back.
    let cancel = Draft { kind: Kind::Cancel, refers: Some(first.number()), text: String::new(), ..draft("", 1) };
    a.hand(&sign(&root(), cancel)).await.unwrap();
    until("b shows nothing", || b.holds().is_empty()).await;
    assert_eq!(a.hand(&first).await, Err("replayed"));
    assert!(b.events().await.contains(&"alert-taken".to_owned()));
    assert_eq!(a.events().await[0], "alert-dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_alerts_are_dropped_counted_and_never_shown() {
    let a = Node::start(1).await;
    let stranger = SecretKey::from_seed(&[66; 32]);
    let expired = Draft { at: Timestamp(now().as_millis() - 120_000), life_min: 1, ..draft("old", 0) };
    let mut forged = alert("forged", 0).bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let elsewhere = draft("elsewhere", 0).sign(&root(), stranger.network()).unwrap();
    let cases = [
        ("not_issuer", sign(&stranger, draft("stranger", 0)).bytes().to_vec()),
        ("expired", sign(&root(), expired).bytes().to_vec()),
        ("early", alert("future", 26 * 3_600_000).bytes().to_vec()),
        ("forged", forged),
        ("forged", elsewhere.bytes().to_vec()),
        ("malformed", vec![1; 150]),
        ("malformed", vec![]),
        ("malformed", vec![1; 1000]),
    ];
    for (outcome, bytes) in &cases {
        let refused = a.emergency.take(network(), bytes, Source::Gossip(None)).await.unwrap_err();
        assert_eq!(refused.as_str(), *outcome);
    }
    for n in 0..9 {
        let _ = a.emergency.take(network(), alert(&format!("{n}"), n).bytes(), Source::Hand).await;
    }
    assert_eq!(a.holds().len(), 6);
    let counts = ["accepted", "not_issuer", "expired", "early", "forged", "malformed", "too_many"].map(|o| a.count(o));
    assert_eq!(counts, [6, 1, 1, 1, 2, 3, 3]);
    // One note for each kind of drop, however many there are.
    let dropped = a.events().await.iter().filter(|event| *event == "alert-dropped").count();
    assert_eq!(dropped, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_is_there_after_a_restart_and_who_comes_later_is_told() {
    let a = Node::start(1).await;
    a.hand(&alert("kept", 0)).await.unwrap();
    let again = open(&a.records, &a.net);
    assert_eq!(again.holding(network(), now()).unwrap()[0].alert.said().text, "kept");
    let b = Node::start(2).await;
    b.net.add_peer(a.net.ticket()).await.unwrap();
    until("b was told", || b.holds() == ["kept"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_counts_once_the_policy_names_it() {
    let a = Node::start(1).await;
    let issuer = SecretKey::from_seed(&[7; 32]);
    let alert = sign(&issuer, draft("from an issuer", 0));
    let body = AlertRecord { alert: alert.clone(), details: Details::default() }.encode().unwrap();
    // Its record comes before the policy that names it.
    let record = mhc_protocol::record::Draft {
        network: network(),
        epoch: 0,
        seq: 0,
        prev: None,
        at: now(),
        kind: ALERT,
        body: mhc_protocol::record::Body { salt: [1; 16], bytes: body },
    };
    a.records.append(vec![record.sign(&issuer).unwrap()]).await.unwrap();
    assert_eq!(a.hand(&alert).await, Err("not_issuer"));
    let name = |issuers: Vec<AuthorId>, revision| {
        let policy = Policy { revision, issuers: issuers.into_iter().collect(), ..Policy::default() };
        policy.encode().unwrap()
    };
    let root = root();
    let policy = |body| a.records.publish(&root, network(), POLICY, body, [1; 16], now());
    policy(name(vec![issuer.author()], 1)).await.unwrap();
    until("it counts", || a.holds() == ["from an issuer"]).await;
    policy(name(vec![], 2)).await.unwrap();
    until("it doesn't any more", || a.holds().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_dropped_from_the_table() {
    let a = Node::start(1).await;
    let alert = alert("short", 0);
    a.hand(&alert).await.unwrap();
    a.emergency.tidy(alert.expires()).await;
    assert_eq!(a.emergency.all(network(), now()).unwrap().len(), 0);
    assert_eq!(kept::all(&a.emergency.0.table).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hostile_peer_gossips_is_counted_and_it_is_cut_off() {
    let (a, hostile) = Node::pair().await;
    let first = alert("called back", 0);
    a.hand(&first).await.unwrap();
    until("it is known there", || hostile.holds() == ["called back"]).await;
    // More than an issuer may send: its key was stolen.
    for n in 1..10 {
        hostile.net.spread_alert(network(), alert(&format!("{n}"), n).bytes().to_vec()).await;
    }
    until("the limit holds", || a.count("accepted") == 6 && a.count("too_many") == 4).await;
    let stranger = sign(&SecretKey::from_seed(&[66; 32]), draft("believe me", 0));
    hostile.net.spread_alert(network(), stranger.bytes().to_vec()).await;
    until("a stranger is noticed", || a.count("not_issuer") == 1).await;
    assert_eq!(a.net.connected_count(), 1, "nobody is to blame so far: policies take their time");
    for n in 0..20 {
        let mut forged = alert("forged", n).bytes().to_vec();
        forged[60] ^= 1;
        hostile.net.spread_alert(network(), forged).await;
    }
    until("it is cut off", || a.net.connected_count() == 0).await;
    assert!(a.count("forged") >= 1 && a.holds().len() == 6);
}
