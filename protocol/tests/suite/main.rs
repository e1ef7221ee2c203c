//! The scheduler and the ladder against simulated networks in virtual time, and reconciliation over messages, through their public
//! interfaces only.
//!
//! `cargo test -p mhc-protocol --test suite -- --nocapture` prints the tables; `MHC_NETWORKS` sets how many networks,
//! `MHC_SEED` repeats a random one.

mod downloads;
mod ladder;
mod net;
mod omniscient;
mod player;
mod readers;
mod reconcile;
mod streams;
