//! The satellite link: the one-way [`carousel`], and what an uplink may carry.
//!
//! Here are formats and deciders, without sockets, files or a clock; `node/src/satellite` is the shell around them. Not
//! here: the decision when to use the link, which is the link ladder's.

pub mod carousel;
mod budget;

pub use budget::Budget;
