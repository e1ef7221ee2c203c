//! Continuity: what keeps a network going when little else does. So far the index of its alerts.
//!
//! The node itself shows, spreads and sends alerts; here is which of them records have told it about, so that it finds
//! those again that it missed.

mod index;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mhc_protocol::{
    alert::{ALERT, AlertRecord, DetailsError},
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::record::{Malformed, Projection, Rows};
use utoipa_axum::router::OpenApiRouter;

pub use self::index::alerts_since;
use crate::{Context, Service};

/// The service; it holds no state of its own.
#[derive(Debug)]
pub struct Continuity;

/// The projection's name.
pub const NAME: &str = "continuity";

impl Projection for Continuity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn kinds(&self) -> &'static [RecordKind] {
        const KINDS: &[RecordKind] = &[ALERT];
        KINDS
    }

    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed> {
        match AlertRecord::of(record) {
            Ok(alert) => index::insert(rows, record, &alert),
            // An erased body shows nothing.
            Err(DetailsError::Absent) => {}
            Err(error) => return Err(Malformed(error.to_string())),
        }
        Ok(())
    }
}

impl Service for Continuity {
    fn routes(self: Arc<Self>, _: Context) -> mhc_api::Routes {
        OpenApiRouter::new()
    }
}
