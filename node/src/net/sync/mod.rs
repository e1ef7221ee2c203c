//! Sync: nodes compare the heads of their logs and pull what they miss. ALPN `/mhc/sync/2`. What is asked and answered
//! is decided by the pure `mhc_protocol::reconcile`; here are the streams, the store and the order of things. Each side
//! pulls for itself; nobody pushes unasked.
//!
//! | file | does |
//! |---|---|
//! | `driver` | with whom to sync when |
//! | `client` | one session: asks, verifies, appends, one page at a time |
//! | `pulls` | which session pulls which log, and which logs brought nothing |
//! | `server` | answers |
//! | `heads` | the heads of our logs, kept sorted until they change |
//! | `local` | our store as reconciliation sees it |

mod client;
mod driver;
mod heads;
mod local;
mod pulls;
mod server;
#[cfg(test)]
mod tests;

pub(super) use self::{
    driver::drive,
    heads::HeadCache,
    pulls::Pulls,
    server::{Server, serve},
};
