//! The catalogue: what the network has, newest first.
//!
//! A manifest record becomes an [`Entry`](index::Entry) in the index, reachable by content id, by time, by
//! author and by blob. A manifest that supersedes another by the same author hides it. Publishing stores the
//! bytes, looks at what they are, and appends a manifest; from there on a local publication and one that came
//! from five hops away are the same thing.

mod core;
mod http;
mod index;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mhc_protocol::{
    manifest::{MANIFEST, Manifest},
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::record::{Malformed, Projection, Rows};

pub use self::{
    core::{Publication, PublishError, Published, publish},
    http::{PublishedBody, content_type_of, publish_and_tell},
    index::{Entry, Place, entries_of_blob, entry, is_replaced, newest},
};
use crate::{Context, Service};

/// The service; it holds no state of its own.
#[derive(Debug)]
pub struct Catalog;

/// The projection's name.
pub const NAME: &str = "catalog";

impl Projection for Catalog {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn kinds(&self) -> &'static [RecordKind] {
        const KINDS: &[RecordKind] = &[MANIFEST];
        KINDS
    }

    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed> {
        // An erased body is a record like any other but shows nothing.
        let Some(body) = record.body() else { return Ok(()) };
        let manifest = Manifest::decode(body).map_err(|error| Malformed(error.to_string()))?;
        index::insert(rows, record, manifest)
    }
}

impl Service for Catalog {
    fn routes(self: Arc<Self>, context: Context) -> mhc_api::Routes {
        http::routes(context)
    }
}
