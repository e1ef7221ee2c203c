//! The satellite link: the one-way [`carousel`] and the metered [`uplink`].
//!
//! Here are formats and deciders, without sockets, files or a clock; `node/src/satellite` is the shell around them. Not
//! here: the decision when to use the link, which is the link ladder's.

mod budget;
pub mod carousel;
pub mod uplink;

pub use budget::Budget;
