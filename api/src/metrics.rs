//! Figures for `/metrics`, in Prometheus' text format.
//!
//! Each module keeps its own struct of counters and registers them once. Names begin with `mhc_` and
//! end with a unit; counters get `_total` from the encoder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicI64};

pub use prometheus_client;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Metric, Unit},
};

/// Where figures are registered. Clones share one registry.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Mutex<prometheus_client::registry::Registry>>);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(prometheus_client::registry::Registry::default())))
    }

    /// Adds `metric` as `mhc_<name>`. `help` is a sentence without its full stop.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.lock().register(format!("mhc_{name}"), help, metric);
    }

    /// Adds `metric` as `mhc_<name>_<unit>`.
    pub fn register_with_unit(&self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.lock().register_with_unit(format!("mhc_{name}"), help, unit, metric);
    }

    /// Lets a module that brings its own struct of figures register them, under names that begin with `mhc_`.
    pub fn extend(&self, register: impl FnOnce(&mut prometheus_client::registry::Registry)) {
        register(&mut self.lock());
    }

    /// Everything, as the text a scraper reads.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.lock())?;
        Ok(text)
    }

    fn lock(&self) -> MutexGuard<'_, prometheus_client::registry::Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Labels of a request. The route is its template, so that their number stays bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) route: String,
    pub(crate) class: &'static str,
}

/// What the gateway counts of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct HttpMetrics {
    /// Answers begun, by route template and status class. A body that is cut later counts by its status here.
    pub(crate) requests: Family<RequestLabels, Counter>,
    /// Requests whose answer isn't fully sent.
    pub(crate) in_flight: Gauge<i64, AtomicI64>,
    /// Body bytes handed to the connection, without headers.
    pub(crate) bytes_out: Counter,
    /// Bodies that broke off: no source had the rest, or our own failure. Clients that went away don't count.
    pub(crate) bodies_cut: Counter,
    /// Open connections.
    pub(crate) connections: Gauge<i64, AtomicI64>,
}

impl HttpMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let made = Self::default();
        registry.register("http_requests", "Answers begun, by route and status class", made.requests.clone());
        registry.register("http_requests_in_flight", "Requests being answered", made.in_flight.clone());
        registry.register_with_unit("http_sent", "Body bytes sent", Unit::Bytes, made.bytes_out.clone());
        registry.register("http_bodies_cut", "Bodies that broke off for want of bytes", made.bodies_cut.clone());
        registry.register("http_connections", "Open connections", made.connections.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_prefix_and_unit() {
        let registry = Registry::new();
        let metrics = HttpMetrics::register(&registry);
        metrics.bytes_out.inc_by(7);
        metrics.requests.get_or_create(&RequestLabels { route: "/x".into(), class: "2xx" }).inc();
        let text = registry.encode().unwrap();
        assert!(text.contains("mhc_http_sent_bytes_total 7"), "{text}");
        assert!(text.contains("mhc_http_requests_total{route=\"/x\",class=\"2xx\"} 1"), "{text}");
    }
}
