use std::sync::Arc;

use futures::future::BoxFuture;
use mhc_protocol::Timestamp;
use mhc_storage::record::Projection;

/// A service of the platform: a projection of records, its HTTP, and what it does from time to time.
pub trait Service: Projection {
    /// Its HTTP and the OpenAPI that describes it.
    fn routes(self: Arc<Self>) -> mhc_api::Routes;

    /// Periodic work. Idempotent; may be poked at any time.
    fn reconcile(&self, now: Timestamp) -> BoxFuture<'_, Result<(), ServiceError>> {
        let _ = now;
        Box::pin(async { Ok(()) })
    }
}

/// Why periodic work failed; the text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServiceError(pub String);
