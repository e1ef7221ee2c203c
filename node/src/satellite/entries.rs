//! What goes over a satellite, out of the stores: entries back to back, as they lie in a bundle.

use mhc_protocol::{
    BlobHash, RecordId,
    bundle::{Frame, Span},
    record::VerifiedRecord,
};
use tokio::runtime::Handle;

use crate::bundle::{JobError, Stores, chunks_of};

/// A record as an entry.
pub(crate) fn record(record: &VerifiedRecord) -> Vec<u8> {
    let envelope = record.to_bytes();
    let mut entry = Frame::Record { id: record.id(), envelope_bytes: envelope.len() as u64 }.encode();
    entry.extend(envelope);
    entry
}

/// Records by their ids; those that are gone are left out.
pub(crate) fn records(stores: &Stores, ids: &[RecordId]) -> Result<Vec<u8>, JobError> {
    let mut entries = Vec::new();
    for id in ids {
        if let Some(found) = stores.records.get(*id)? {
            entries.extend(record(&found));
        }
    }
    Ok(entries)
}

/// A piece of a blob as an entry. Blocks, on a thread of the runtime that may.
pub(crate) fn piece(stores: &Stores, hash: BlobHash, span: Span) -> Result<Vec<u8>, JobError> {
    let frame = Frame::Blob { hash, span };
    let mut entry = frame.encode();
    if span.size_bytes > 0 {
        let mut encoder = stores.blobs.encoder(hash, &chunks_of(&span))?;
        while let Some(bytes) = Handle::current().block_on(encoder.next()) {
            entry.extend_from_slice(&bytes?);
        }
    }
    Ok(entry)
}
