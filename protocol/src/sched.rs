//! The chunk scheduler.
