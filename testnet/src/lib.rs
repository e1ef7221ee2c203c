//! Networks of real nodes for tests and drills. Never shipped.
//!
//! A test starts `mhc up` processes with homes of their own on loopback, talks to them as an outsider would (the
//! command line and HTTP), and kills, stops and restarts them. Nothing outlives the test: a [`Node`] that is
//! dropped kills its process and prints what the process logged.
//!
//! `mhc-testnet` runs scenarios: networks of real nodes in namespaces, over paths that are measured first.
//!
//! For every test:
//!
//! - [`node`]: a node as a process
//! - [`log`]: what a process logs
//! - [`http`]: requests, well-formed and not
//! - [`media`]: files to publish, made by ffmpeg and kept under `target/`
//! - [`wait`]: waiting for what comes about by itself
//! - [`rng`]: repeatable random numbers
//!
//! For networks of them:
//!
//! - [`netns`]: network namespaces, and how they go
//! - [`wire`]: a long wire between two of them; [`preset`]: kinds of it; [`calibrate`]: whether it is what it says
//! - [`nat`]: routers that translate addresses, and a probe that tells which kind one is
//! - [`yggdrasil`]: a daemon of the overlay
//! - [`player`]: somebody who watches
//! - [`archive`]: records of a network that has been there for long
//! - [`story`]: what scenarios are told with; [`scenarios`]: they; [`run`]: running them; [`report`]: what came of it

pub mod archive;
pub mod calibrate;
pub mod http;
pub mod log;
pub mod media;
pub mod nat;
pub mod netns;
pub mod node;
pub mod player;
pub mod preset;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenarios;
pub mod story;
pub mod wait;
pub mod wire;
pub mod yggdrasil;

pub use http::{Http, Reply};
pub use node::{Node, NodeOptions, Output, Ready};
pub use rng::Rng;
pub use wait::{eventually, holds_for};
