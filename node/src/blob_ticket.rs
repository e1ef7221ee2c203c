//! Tickets for single blobs in the form that the public tool `sendme` understands.

use bytes::Bytes;
use futures::stream;
use iroh::{EndpointAddr, EndpointId, TransportAddr};
use iroh_blobs::{BlobFormat, Hash, format::collection::Collection, ticket::BlobTicket};
use mhc_api::ApiError;
use mhc_protocol::BlobHash;
use mhc_storage::blob::{BlobError, BlobStore};

use crate::net::Net;

const MAX_COLLECTION_BYTES: u64 = 64 * 1024;

/// Wraps `hash` under `name` in a collection, which `sendme` always asks for, keeps the collection's two small
/// blobs here, and makes a ticket for it.
pub(crate) async fn make(blobs: &BlobStore, net: &Net, hash: BlobHash, name: String) -> Result<String, ApiError> {
    let collection: Collection = [(name, Hash::from_bytes(*hash.as_bytes()))].into_iter().collect();
    let mut root = hash;
    // The last of them is the root, which names the others.
    for part in collection.to_blobs() {
        root = keep(blobs, part).await?;
    }
    let addrs = net.iroh_addrs().into_iter().map(TransportAddr::Ip);
    let id = EndpointId::from_bytes(net.node().as_bytes()).map_err(ApiError::internal)?;
    let root = Hash::from_bytes(*root.as_bytes());
    Ok(BlobTicket::new(EndpointAddr::from_parts(id, addrs), root, BlobFormat::HashSeq).to_string())
}

async fn keep(blobs: &BlobStore, part: Bytes) -> Result<BlobHash, BlobError> {
    let imported = blobs.import_stream(stream::iter([Ok(part)]), MAX_COLLECTION_BYTES).await?;
    blobs.set_pinned(imported.hash, true).await?;
    Ok(imported.hash)
}
