//! What a file is and how long it plays.
//!
//! Here will live the ladder of renditions, thumbnails, storyboards, live segmenting and the auto-editor's
//! analysis. Not here: networking, accounts, and where files are kept.

mod probe;
mod sniff;

pub use probe::{ProbeError, duration_ms};
pub use sniff::{MediaType, SNIFF_BYTES, sniff};
