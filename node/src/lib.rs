//! The node: swarm, endpoint, fetch, services and gateway put together.

pub mod fetch;
pub mod home;
pub mod net;
