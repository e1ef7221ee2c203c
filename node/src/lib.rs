//! The node: swarm, endpoint, fetch, services and gateway put together.
//!
//! [`Node::start`] opens everything in order and [`Node::run_until`] serves until it is told to stop. Everything
//! here is a shell around deciders of `mhc_protocol`; no rule of the platform lives here.

mod author;
mod blob_ticket;
mod bundle;
mod checks;
pub mod doctor;
mod emergency;
pub mod fetch;
mod forget;
pub mod home;
mod http;
mod journal;
mod mode;
pub mod net;
mod node;
mod pins;
mod satellite;

/// Takes as many file handles as this process may have: by default, systems grant 1024 and more on request.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "no more file handles to be had");
    }
}

pub use node::{Node, NodeOptions, ReadyInfo, StartError};
