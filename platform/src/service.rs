use std::sync::Arc;

use futures::future::BoxFuture;
use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, Timestamp,
    manifest::MediaKind,
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    blob::BlobStore,
    record::{Projection, Records, RecordsError},
    source::RangeSource,
};

/// A service of the platform: a projection of records, its HTTP, and what it does from time to time.
///
/// The service itself holds no state: its projection exists before the log is opened, and everything else
/// comes with the [`Context`].
pub trait Service: Projection {
    /// Its HTTP and the OpenAPI that describes it.
    fn routes(self: Arc<Self>, context: Context) -> mhc_api::Routes;

    /// Periodic work. Idempotent; may be poked at any time.
    fn reconcile<'a>(&'a self, context: &'a Context, now: Timestamp) -> BoxFuture<'a, Result<(), ServiceError>> {
        let _ = (context, now);
        Box::pin(async { Ok(()) })
    }
}

/// Why periodic work failed; the text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServiceError(pub String);

/// What the node lends its services.
#[derive(Clone)]
pub struct Context {
    /// The record log and the index.
    pub records: Records,
    /// What is kept here.
    pub blobs: BlobStore,
    /// Bytes from here or anywhere.
    pub source: Arc<dyn RangeSource>,
    /// Signs and appends as this node.
    pub publisher: Arc<dyn Publisher>,
    /// Signs and appends as the network's root, on the node that holds its key.
    pub root: Option<Arc<dyn Publisher>>,
    /// Signs and appends as this node in another network that it follows.
    pub elsewhere: Arc<dyn Fn(NetworkId) -> Option<Arc<dyn Publisher>> + Send + Sync>,
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Tells what an uploaded blob is.
    pub inspector: Arc<dyn Inspector>,
    /// Longest upload in bytes.
    pub max_upload_bytes: u64,
}

impl Context {
    /// Now, by the wall clock.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The same for another network: `None` is the home. Nothing when this node doesn't follow it.
    pub fn within(&self, network: Option<NetworkId>) -> Option<Self> {
        match network {
            Some(network) if network != self.publisher.network() => {
                // The root key here is the home's.
                Some(Self { publisher: (self.elsewhere)(network)?, root: None, ..self.clone() })
            }
            _ => Some(self.clone()),
        }
    }
}

/// Appends records as one author.
pub trait Publisher: Send + Sync + 'static {
    /// The network that it publishes in.
    fn network(&self) -> NetworkId;

    /// Who signs.
    fn author(&self) -> AuthorId;

    /// Signs a record as the next of the author's log; durable when it returns.
    fn publish(&self, kind: RecordKind, body: Vec<u8>) -> BoxFuture<'_, Result<VerifiedRecord, RecordsError>>;
}

/// What a blob turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// How it is shown.
    pub kind: MediaKind,
    /// Its media type.
    pub content_type: String,
    /// Playing time in milliseconds, where there is one and it could be told.
    pub duration_ms: Option<u64>,
    /// What the publisher should know, such as why the duration is missing.
    pub note: Option<String>,
}

/// Why a blob could not be looked at; the text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InspectError(pub String);

/// Tells what a complete local blob is.
pub trait Inspector: Send + Sync + 'static {
    /// Looks at the blob's content.
    fn inspect(&self, hash: BlobHash) -> BoxFuture<'_, Result<Inspection, InspectError>>;
}
