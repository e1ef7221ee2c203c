//! What the store promises, run against every engine that is compiled in: `--features engine-fjall,engine-sled`
//! adds those. `MHC_SOAK=1` makes the kill-9 rounds 100 instead of a few.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's helpers for something else than tests")]

mod child;
mod conformance;
mod damage;
mod engines;
mod failures;
mod index;
mod kill;
mod log;
mod power;
mod records;
mod standing;
mod torn;

/// The kind of the suite's records.
const NOTE: mhc_protocol::record::RecordKind = mhc_protocol::record::RecordKind::new("note.v1");
