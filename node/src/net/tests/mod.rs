//! Real networks on 127.0.0.1, each node with folders and free ports of its own.

mod exchange;
mod hostile;
mod networks;
mod provider;
mod relays;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mhc_protocol::{
    BlobHash, NetworkId, SecretKey,
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    record::{Records, RecordsOptions, testing::Author},
};
use tempfile::TempDir;

use super::{shared::Shared, *};

const KIND: RecordKind = RecordKind::new("test.v1");
const PATIENCE: Duration = Duration::from_secs(30);

fn network() -> NetworkId {
    SecretKey::from_seed(&[200; 32]).network()
}

fn options(seed: u8) -> NetOptions {
    NetOptions {
        key: SecretKey::from_seed(&[seed; 32]),
        network: network(),
        p2p_port: 0,
        iroh_port: 0,
        listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        mdns: false,
        name: format!("node {seed}"),
        version: "0.1.0".into(),
        yggdrasil_admin: None,
        upload_bytes_per_s: None,
        relay: None,
    }
}

/// A node's network and what it stores.
struct Node {
    net: Net,
    records: Records,
    blobs: BlobStore,
    dir: TempDir,
}

impl Node {
    async fn start(seed: u8) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options(seed)).await
    }

    async fn start_in(dir: TempDir, options: NetOptions) -> Self {
        let records = Records::open(&dir.path().join("records"), RecordsOptions::default(), vec![]).unwrap();
        let blobs = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
        let net = Net::start(options, records.clone(), blobs.clone()).await.unwrap();
        Self { net, records, blobs, dir }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.net.0.shared
    }

    async fn join(&self, other: &Node) {
        self.net.add_peer(other.net.ticket()).await.unwrap();
        let met = || self.shared().book().members().contains(&other.net.node());
        until("they greet", met).await;
        until("they greet", || other.shared().book().members().contains(&self.net.node())).await;
    }

    async fn import(&self, bytes: Vec<u8>) -> BlobHash {
        let limit = bytes.len() as u64;
        let stream = futures::stream::iter([Ok(Bytes::from(bytes))]);
        self.blobs.import_stream(stream, limit).await.unwrap().hash
    }

    async fn publish(&self, key: &SecretKey, body: &[u8]) -> VerifiedRecord {
        self.records.publish(key, network(), KIND, body.to_vec(), [1; 16], ids::now()).await.unwrap()
    }

    fn has(&self, record: &VerifiedRecord) -> bool {
        self.records.get(record.id()).unwrap().is_some()
    }

    fn peer(&self, other: &Node) -> PeerInfo {
        self.net.peers().into_iter().find(|peer| peer.node == other.net.node()).unwrap()
    }

    /// Closes everything and gives the folder back.
    async fn stop(self) -> TempDir {
        self.net.shutdown().await;
        self.records.close().await;
        self.blobs.shutdown().await;
        self.dir
    }
}

/// Waits for a condition that nothing announces; fails when it doesn't come true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

fn chain(seed: u8, len: usize) -> Vec<VerifiedRecord> {
    let mut author = Author::new(seed, network());
    (0..len).map(|n| author.write(KIND, n.to_le_bytes()).unwrap()).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn localhost(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
