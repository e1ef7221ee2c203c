//! The services of the platform, a folder each.
//!
//! A service folds the records of some kinds into index tables and brings its own routes. It knows no peer, no
//! socket and no path: bytes come through `RangeSource`, records through `Records`.

pub mod catalog;
mod service;

pub use service::{Service, ServiceError};
