//! The ladder's shell: what the transports have open is told to the decider of `mhc_protocol::link`, and what it decides
//! is carried out.
//!
//! iroh keeps one path to an address and closes the others, so a change for the better takes a look (a short connection,
//! on which both ends try each other's addresses), and a change for the worse takes a new connection, whose first packets
//! go to all addresses at once. See docs/decisions/0016-ladder.md.

mod interfaces;
mod overlay;
mod report;
mod selector;
mod watch;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use iroh::{TransportAddr, endpoint::LocalTransportAddr};
use mhc_protocol::{
    NodeId, Timestamp,
    link::{Ladder, LinkPolicy, Options, Route},
};
use tokio::sync::Notify;

pub(super) use interfaces::watch as watch_interfaces;
pub(super) use overlay::watch as watch_overlay;
pub use overlay::{AdminState, OverlayState};
pub(super) use report::report;
pub use report::{ClassReport, LinkReport, PeerReport};
pub(super) use selector::LadderSelector;
pub(super) use watch::run;

use super::ids;

/// The decider with its clock.
#[derive(Debug)]
pub(super) struct Links {
    ladder: Mutex<Ladder>,
    overlay: Mutex<OverlayState>,
    /// Addresses of this machine's interfaces that are up, once they are known.
    own_addresses: Mutex<BTreeSet<IpAddr>>,
    /// Something happened that is worth a look before the next tick.
    poke: Notify,
    /// The clock never goes back: the time of the start, and what has passed since.
    started: (Timestamp, Instant),
}

impl Links {
    pub(super) fn new() -> Self {
        Self {
            ladder: Mutex::new(Ladder::new(Options::default())),
            overlay: Mutex::default(),
            own_addresses: Mutex::default(),
            poke: Notify::new(),
            started: (ids::now(), Instant::now()),
        }
    }

    /// The ladder. Never held across an await, and never while the book is locked.
    fn ladder(&self) -> MutexGuard<'_, Ladder> {
        self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay(&self) -> MutexGuard<'_, OverlayState> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        let (at, since) = self.started;
        at.saturating_add_ms(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn policy(&self) -> LinkPolicy {
        self.ladder().policy()
    }

    pub(super) fn set_policy(&self, policy: LinkPolicy) {
        self.ladder().set_policy(policy);
        self.poke.notify_one();
    }

    /// Discovery says that the peer left. Its connections may know better.
    pub(super) fn doubt(&self, node: NodeId) {
        self.ladder().doubt(node);
        self.poke.notify_one();
    }

    /// Interfaces of this machine came or went, or their addresses.
    pub(super) fn interfaces_changed(&self) {
        let now = self.now();
        self.ladder().kick(now, &[]);
        self.poke.notify_one();
    }

    fn set_own_addresses(&self, own: BTreeSet<IpAddr>) {
        *self.own_addresses.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.own_addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn route_of(addr: &TransportAddr) -> Option<Route> {
    match addr {
        TransportAddr::Ip(addr) => Some(Route::Ip(*addr)),
        TransportAddr::Relay(url) => Some(Route::Relay(url.to_string())),
        _ => None,
    }
}

/// This machine's end of a path.
fn local_ip(addr: &LocalTransportAddr) -> Option<IpAddr> {
    match addr {
        LocalTransportAddr::Ip(ip) => ip.map(|ip| ip.to_canonical()),
        _ => None,
    }
}
