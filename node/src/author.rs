//! This node as an author and as a judge of files: what the platform's services borrow from the node.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use mhc_media::{MediaType, ProbeError, SNIFF_BYTES};
use mhc_platform::{InspectError, Inspection, Inspector, Publisher};
use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, SecretKey, Timestamp,
    manifest::MediaKind,
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    blob::BlobStore,
    kv::KvError,
    record::{Records, RecordsError},
};

/// The wall clock. A clock before 1970 counts as 1970: records are then refused as out of bounds, not lost.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Publishes under a key of this home.
pub(crate) struct NodeAuthor {
    pub(crate) key: SecretKey,
    pub(crate) network: NetworkId,
    pub(crate) records: Records,
}

impl Publisher for NodeAuthor {
    fn network(&self) -> NetworkId {
        self.network
    }

    fn author(&self) -> AuthorId {
        self.key.author()
    }

    fn publish(&self, kind: RecordKind, body: Vec<u8>) -> BoxFuture<'_, Result<VerifiedRecord, RecordsError>> {
        Box::pin(async move {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(|error| KvError::Other(format!("no randomness: {error}")))?;
            self.records.publish(&self.key, self.network, kind, body, salt, now()).await
        })
    }
}

/// Looks at blobs in the local store.
pub(crate) struct LocalInspector {
    pub(crate) blobs: BlobStore,
}

impl Inspector for LocalInspector {
    fn inspect(&self, hash: BlobHash) -> BoxFuture<'_, Result<Inspection, InspectError>> {
        Box::pin(async move {
            let head = self.head(hash).await?;
            let (kind, content_type, plays) = match mhc_media::sniff(&head) {
                MediaType::Video(name) => (MediaKind::Video, name, true),
                MediaType::Audio(name) => (MediaKind::Audio, name, true),
                MediaType::Image(name) => (MediaKind::Image, name, false),
                MediaType::File(name) => (MediaKind::File, name, false),
            };
            let (duration_ms, note) = match (plays, kind) {
                (true, _) => self.duration(hash).await,
                (false, MediaKind::File) => {
                    (None, Some("this isn't media that plays in a browser; it is offered as a download".into()))
                }
                _ => (None, None),
            };
            Ok(Inspection { kind, content_type: content_type.into(), duration_ms, note })
        })
    }
}

impl LocalInspector {
    async fn head(&self, hash: BlobHash) -> Result<Vec<u8>, InspectError> {
        use futures::TryStreamExt;
        let size = self.blobs.status(hash).map_or(0, |status| status.size_bytes);
        let range = 0..size.min(SNIFF_BYTES as u64);
        let pieces: Result<Vec<_>, _> = self.blobs.read_local(hash, range).try_collect().await;
        pieces.map(|pieces| pieces.concat()).map_err(|error| InspectError(error.to_string()))
    }

    /// Playing time, or a note that says why there is none.
    async fn duration(&self, hash: BlobHash) -> (Option<u64>, Option<String>) {
        let Some(path) = self.blobs.path(hash) else { return (None, None) };
        match mhc_media::duration_ms(&path).await {
            Ok(duration) => (duration, None),
            Err(error @ ProbeError::Missing) => {
                (None, Some(format!("the playing time is unknown: {error}; install ffmpeg")))
            }
            Err(error) => {
                tracing::warn!(blob = %hash.short(), %error, "probing failed");
                (None, Some("the playing time could not be told; the file may be damaged".into()))
            }
        }
    }
}
