//! What fetch counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Why a unit failed: `missing`, `broken`, `lied` or `storage`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The reason's name.
    pub reason: &'static str,
}

/// Counters of a [`Fetcher`](super::Fetcher).
#[derive(Debug, Default)]
pub struct FetchMetrics {
    /// Verified content bytes that came from other nodes. Hashes, headers and refused bytes aren't counted.
    pub bytes: Counter,
    /// Requests that ended without all their bytes, by reason. Cancelled ones aren't counted.
    pub units_failed: Family<Reason, Counter>,
    /// Requests that brought no verified byte for the stall time and were given to another provider.
    pub stalls: Counter,
    /// Providers banned for a blob because they sent bad bytes.
    pub providers_cut_off: Counter,
    /// Blobs that somebody waits for now.
    pub active: Gauge,
}

impl FetchMetrics {
    /// Registers every counter under its `mhc_fetch_…` name.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mhc_fetch");
        registry.register_with_unit("received", "Verified bytes from other nodes", Unit::Bytes, self.bytes.clone());
        registry.register("units_failed", "Requests that failed, by reason", self.units_failed.clone());
        registry.register("stalls", "Requests taken from a provider that stalled", self.stalls.clone());
        registry.register("providers_cut_off", "Providers that sent bad bytes", self.providers_cut_off.clone());
        registry.register("active", "Blobs in transfer", self.active.clone());
    }

    pub(super) fn unit_failed(&self, reason: &'static str) {
        self.units_failed.get_or_create(&Reason { reason }).inc();
    }
}
