//! What a relay counts.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
    },
    registry::Registry,
};

/// The label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reasons {
    /// As of [`Refusal::kind`](crate::Refusal::kind).
    pub reason: &'static str,
}

/// The counters of a relay, all since the process started. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RelayMetrics {
    /// Connections of members now.
    pub connections: Gauge,
    /// Connections that were let in.
    pub admitted: Counter,
    /// Connections that were refused, by the reason.
    pub refused: Family<Reasons, Counter>,
    /// What the server itself counts, once there is one.
    pub(crate) server: Arc<OnceLock<Arc<iroh_relay::server::Metrics>>>,
}

impl RelayMetrics {
    /// Registers every counter under its `mhc_relay_…` name.
    pub fn register(&self, r: &mut Registry) {
        r.register("mhc_relay_connections", "Connections to this relay now", self.connections.clone());
        r.register("mhc_relay_admitted", "Connections that this relay let in", self.admitted.clone());
        r.register("mhc_relay_refused", "Connections that this relay refused, by reason", self.refused.clone());
        r.register_collector(Box::new(Traffic(Arc::clone(&self.server))));
    }
}

/// What the server counts, asked when it is wanted.
#[derive(Debug)]
struct Traffic(Arc<OnceLock<Arc<iroh_relay::server::Metrics>>>);

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(metrics) = self.0.get() else { return Ok(()) };
        let counts = [
            ("mhc_relay_bytes", "Bytes passed on between members", metrics.bytes_sent.get()),
            (
                "mhc_relay_bytes_throttled",
                "Bytes that waited for their sender's share",
                metrics.bytes_rx_ratelimited_total.get(),
            ),
            (
                "mhc_relay_packets_dropped",
                "Packets dropped: nobody there, or too slow",
                metrics.send_packets_dropped.get(),
            ),
            ("mhc_relay_addresses_told", "Nodes that were told how they are seen", metrics.qad_connections.get()),
        ];
        for (name, help, count) in counts {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_exposed_under_their_names() {
        let metrics = RelayMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.refused.get_or_create(&Reasons { reason: "not_a_member" }).inc();
        let server = Arc::new(iroh_relay::server::Metrics::default());
        server.bytes_sent.inc_by(7);
        metrics.server.set(server).unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in
            ["mhc_relay_refused_total{reason=\"not_a_member\"} 1", "mhc_relay_bytes_total 7", "mhc_relay_connections 0"]
        {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
