//! The two-way uplink: one HTTP request says what a node has and lacks and how much it may cost, and the answer is a
//! row of entries as they lie in a bundle: records first, then pieces of blobs. One round trip serves many objects, all
//! of it can be checked on arrival, whoever passed it on, and a broken answer is gone on with anywhere: what is lacking
//! is said anew each time.

mod meter;
mod request;

pub use self::{
    meter::{Debit, Meter, Priority, month_of},
    request::{ExchangeError, ExchangeRequest, MAX_REQUEST_BYTES},
};

use std::time::Duration;

/// Longest wait for a connection: narrowband links have gaps of over a minute.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for the next bytes. There is no bound on all of an exchange.
pub const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a blob in one entry: what a broken connection costs at most.
pub const PIECE_BYTES: u64 = 1 << 20;

/// What an exchange of so many bytes of HTTP takes on the link, headers of TCP, IP and TLS and some repeats included.
pub const fn on_link(body_bytes: u64) -> u64 {
    const SESSION_BYTES: u64 = 8 << 10;
    body_bytes.saturating_add(body_bytes / 12).saturating_add(SESSION_BYTES)
}

/// The most bytes of HTTP that take at most `link_bytes` on the link.
pub const fn within(link_bytes: u64) -> u64 {
    const SESSION_BYTES: u64 = 8 << 10;
    link_bytes.saturating_sub(SESSION_BYTES) / 13 * 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_never_takes_more_than_there_is() {
        for link_bytes in (0..100_000).step_by(7).chain([u64::MAX / 2, 1 << 40]) {
            assert!(within(link_bytes) == 0 || on_link(within(link_bytes)) <= link_bytes, "{link_bytes}");
        }
    }
}
