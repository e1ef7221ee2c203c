//! What the network counts. Names on `/metrics` end in `_total` for counters.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcomes {
    /// `appended`, `duplicate`, `pending`, `forked`, `refused`, `rejected` (junk) or `failed` (our own failure).
    pub outcome: &'static str,
}

/// The label `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kinds {
    /// `bad_bytes`, `bad_record`, `junk_gossip`, `junk_hello`, `junk_sync` or `flood`.
    pub kind: &'static str,
}

/// The label `stack`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stacks {
    /// `libp2p` or `iroh`.
    pub stack: &'static str,
}

/// The counters of the network. All count since the process started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Gossiped records that reached this node for the first time, by what became of them. Repeats that
    /// gossipsub drops by itself aren't counted.
    pub gossip_records_received: Family<Outcomes, Counter>,
    /// Local records handed to at least one subscribed peer by gossip.
    pub gossip_records_published: Counter,
    /// Gossiped lists of blobs that were taken over.
    pub gossip_haves_received: Counter,
    /// Records received by sync, by what became of them.
    pub sync_records: Family<Outcomes, Counter>,
    /// Bytes of answers to this node's requests in sync, without the transport's overhead.
    pub sync_bytes_received: Counter,
    /// Sync sessions this node started that ran to their end.
    pub sync_sessions: Counter,
    /// Sync sessions this node started that broke off.
    pub sync_failures: Counter,
    /// Sync requests answered.
    pub sync_requests_served: Counter,
    /// Peers with a libp2p or iroh connection now.
    pub peers_connected: Gauge,
    /// Connections opened, in either direction.
    pub connections: Family<Stacks, Counter>,
    /// Attempts to reach a peer that failed.
    pub dial_failures: Family<Stacks, Counter>,
    /// Bytes of blobs sent, with their proofs and size headers, without the transport's overhead.
    pub blob_bytes_served: Counter,
    /// Verified content bytes received, as fetch reports them.
    pub blob_bytes_received: Counter,
    /// Blob requests answered to their end.
    pub blob_requests_served: Counter,
    /// Blob requests refused: not here, over a limit, or of a kind this node doesn't serve.
    pub blob_requests_refused: Counter,
    /// Blob requests that had to wait because their sender asked too often.
    pub blob_requests_throttled: Counter,
    /// Things an honest peer doesn't do.
    pub peer_misbehaviour: Family<Kinds, Counter>,
    /// Peers cut off for a time.
    pub peers_cut_off: Counter,
    /// This node's own relay.
    pub relay: mhc_relay::RelayMetrics,
}

impl Metrics {
    /// Registers every counter under its `mhc_…` name.
    pub fn register(&self, registry: &mut Registry) {
        self.register_exchange(registry);
        self.register_peers(registry);
        self.register_blobs(registry);
        self.relay.register(registry);
    }

    fn register_exchange(&self, r: &mut Registry) {
        r.register("mhc_gossip_records_received", "Gossiped records by outcome", self.gossip_records_received.clone());
        r.register("mhc_gossip_records_published", "Local records gossiped", self.gossip_records_published.clone());
        r.register("mhc_gossip_haves_received", "Gossiped lists of blobs", self.gossip_haves_received.clone());
        r.register("mhc_sync_records", "Records received by sync by outcome", self.sync_records.clone());
        r.register("mhc_sync_sessions", "Sync sessions finished", self.sync_sessions.clone());
        r.register("mhc_sync_failures", "Sync sessions that broke off", self.sync_failures.clone());
        r.register("mhc_sync_requests_served", "Sync requests answered", self.sync_requests_served.clone());
    }

    fn register_peers(&self, r: &mut Registry) {
        r.register("mhc_peers_connected", "Peers connected now", self.peers_connected.clone());
        r.register("mhc_connections", "Connections opened", self.connections.clone());
        r.register("mhc_dial_failures", "Attempts to reach a peer that failed", self.dial_failures.clone());
        r.register("mhc_peer_misbehaviour", "What no honest peer does, by kind", self.peer_misbehaviour.clone());
        r.register("mhc_peers_cut_off", "Peers cut off for a time", self.peers_cut_off.clone());
    }

    fn register_blobs(&self, r: &mut Registry) {
        r.register("mhc_blob_bytes_served", "Blob bytes sent, proofs included", self.blob_bytes_served.clone());
        r.register("mhc_blob_bytes_received", "Verified blob bytes received", self.blob_bytes_received.clone());
        r.register("mhc_blob_requests_served", "Blob requests answered", self.blob_requests_served.clone());
        r.register("mhc_blob_requests_refused", "Blob requests refused", self.blob_requests_refused.clone());
        r.register("mhc_blob_requests_throttled", "Blob requests delayed", self.blob_requests_throttled.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_exposed_under_its_documented_name() {
        let metrics = Metrics::default();
        metrics.gossip_records_received.get_or_create(&Outcomes { outcome: "appended" }).inc();
        metrics.peer_misbehaviour.get_or_create(&Kinds { kind: "bad_bytes" }).inc();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "mhc_gossip_records_received_total{outcome=\"appended\"} 1",
            "mhc_peer_misbehaviour_total{kind=\"bad_bytes\"} 1",
            "mhc_blob_bytes_served_total 0",
            "mhc_peers_connected 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
