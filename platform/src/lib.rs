//! The services of the platform, a folder each.
//!
//! A service folds the records of some kinds into index tables and brings its own routes. It knows no peer, no
//! socket and no path: bytes come through `RangeSource`, records through `Records`.

pub mod catalog;
pub mod continuity;
mod error;
pub mod identity;
mod service;
pub mod time;

use std::sync::Arc;

pub use error::{records_error, within};
pub use service::{Context, InspectError, Inspection, Inspector, Publisher, Service, ServiceError};

/// All services. Adding one is a folder and a line here.
pub fn services() -> Vec<Arc<dyn Service>> {
    vec![Arc::new(catalog::Catalog), Arc::new(identity::Identity), Arc::new(continuity::Continuity)]
}
