//! Sync: peers exchange the heads of their logs and pull what they miss. ALPN `/mhc/sync/1`, messages of
//! `mhc_protocol::wire`. Each side pulls for itself; nobody pushes.

mod client;
mod driver;
mod server;

pub(super) use self::{
    client::Stuck,
    driver::drive,
    server::{Server, serve},
};
