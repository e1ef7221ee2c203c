//! What a node keeps: blobs, record logs and the index derived from them, and its private tables.

pub mod blob;
pub mod kv;
pub mod record;
mod reserve;
pub mod source;
