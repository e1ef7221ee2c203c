//! Networks of real nodes for tests and drills. Never shipped.
//!
//! A test starts `mhc up` processes with homes of their own on loopback, talks to them as an outsider would (the
//! command line and HTTP), and kills, stops and restarts them. Nothing outlives the test: a [`Node`] that is
//! dropped kills its process and prints what the process logged.
//!
//! - [`node`]: a node as a process
//! - [`http`]: requests, well-formed and not
//! - [`media`]: files to publish, made by ffmpeg and kept under `target/`
//! - [`wait`]: waiting for what comes about by itself
//! - [`rng`]: repeatable random numbers
//! - [`wire`]: a long wire between two network namespaces

pub mod http;
pub mod media;
pub mod node;
pub mod rng;
pub mod wait;
pub mod wire;

pub use http::{Http, Reply};
pub use node::{Node, NodeOptions, Output, Ready};
pub use rng::Rng;
pub use wait::{eventually, holds_for};
