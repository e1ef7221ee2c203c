//! The ladder: which way bytes take to each peer, and when another one is better.
//!
//! Links, in the usual order of preference: lan, direct, Yggdrasil, relay, satellite, bundle. The order is a policy over
//! scores, not a fixed sequence: what a path was measured to be counts, too.
//!
//! [`Ladder`] is a pure state machine, for all peers at once: `now` comes in with every call, decisions come out, and it
//! knows no clock, socket or task. `node::net` is the shell that drives it, `tests/suite` drives it in virtual time.
//!
//! # Driving it
//! 1. [`Ladder::learn`] every address that a peer may have; [`Ladder::offer`] links that don't belong to a transport, such
//!    as a satellite uplink, with what they cost and may carry.
//! 2. When the transport has paths open and must know which of them carries: [`Ladder::select`].
//! 3. Every [`TICK_MS`], of each open path what moved since, [`Ladder::sample`]; [`Ladder::closed`] for those that aren't
//!    open any more; then [`Ladder::tick`], and carry out what it returns. A question that was asked is told with
//!    [`Ladder::asked`].
//! 4. [`Ladder::kick`] when an interface of this machine came or went.
//! 5. Before bytes are asked for or sent over something that may be metered: [`Ladder::choose`], and afterwards
//!    [`Ladder::settle`] with what it really cost.
//!
//! # What it promises
//! - A demand of P0 to P2 is told to wait only when no usable path may carry it.
//! - What is granted of a metered budget never exceeds it, and a fifth of it is for alerts.
//! - A path that works is left only for one that is better by a margin, has moved bytes, and has kept up since it last
//!   failed, and at most once in [`Options::dwell_ms`]. A path that fails is left at once.
//! - Silence is told from having nothing to say: a path that isn't answering when asked is suspect, then down.
//! - What it holds is bounded, whatever comes in.

mod budget;
mod explain;
mod ladder;
mod path;
mod types;
pub mod yggdrasil;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

pub use budget::ALERT_SHARE;
pub use explain::{PathView, PeerView, Switch, Why};
pub use ladder::{Choice, Effect, Ladder};
use serde::{Deserialize, Serialize};
pub use types::{
    Capability, Closed, Demand, LinkCost, LinkPolicy, Offer, Options, PathState, Sample, TICK_MS, Traffic,
};

/// How bytes get from one node to another, in the usual order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkClass {
    /// The same local network (or the same machine).
    Lan,
    /// A direct internet path.
    Direct,
    /// The Yggdrasil overlay, 200::/7.
    Yggdrasil,
    /// Through a relay.
    Relay,
    /// A satellite uplink.
    Satellite,
    /// A bundle of files carried by hand.
    Bundle,
}

impl LinkClass {
    /// All of them, in the usual order.
    pub const ALL: [Self; 6] = [Self::Lan, Self::Direct, Self::Yggdrasil, Self::Relay, Self::Satellite, Self::Bundle];

    /// The class that a direct path to `address` has.
    pub fn of_ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => Self::Lan,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self::of_ip(v4.into()),
                None if v6.octets()[0] & 0xfe == 0x02 => Self::Yggdrasil,
                None if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => Self::Lan,
                None => Self::Direct,
            },
            IpAddr::V4(_) => Self::Direct,
        }
    }
}

impl fmt::Display for LinkClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Yggdrasil => "yggdrasil",
            Self::Relay => "relay",
            Self::Satellite => "satellite",
            Self::Bundle => "bundle",
        })
    }
}

/// One way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// Straight to this address.
    Ip(SocketAddr),
    /// Through the relay of this URL.
    Relay(String),
    /// Over the satellite uplink.
    Satellite,
    /// On a stick.
    Bundle,
}

impl Route {
    /// What kind of way it is.
    pub fn class(&self) -> LinkClass {
        match self {
            Self::Ip(addr) => LinkClass::of_ip(addr.ip()),
            Self::Relay(_) => LinkClass::Relay,
            Self::Satellite => LinkClass::Satellite,
            Self::Bundle => LinkClass::Bundle,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Relay(url) => f.write_str(url),
            Self::Satellite => f.write_str("satellite uplink"),
            Self::Bundle => f.write_str("bundle"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_classes() {
        let cases = [
            ("127.0.0.1", LinkClass::Lan),
            ("10.1.2.3", LinkClass::Lan),
            ("192.168.7.7", LinkClass::Lan),
            ("169.254.1.1", LinkClass::Lan),
            ("::1", LinkClass::Lan),
            ("fd00::7", LinkClass::Lan),
            ("fe80::7", LinkClass::Lan),
            ("::ffff:10.0.0.1", LinkClass::Lan),
            ("203.0.113.9", LinkClass::Direct),
            ("100.64.0.1", LinkClass::Direct),
            ("2001:db8::1", LinkClass::Direct),
            ("::ffff:203.0.113.9", LinkClass::Direct),
            ("200::1", LinkClass::Yggdrasil),
            ("3ff:ffff::1", LinkClass::Yggdrasil),
            ("400::1", LinkClass::Direct),
        ];
        for (text, class) in cases {
            assert_eq!(LinkClass::of_ip(text.parse().unwrap()), class, "{text}");
        }
        assert_eq!(Route::Relay("https://relay.example".into()).class(), LinkClass::Relay);
        assert!(LinkClass::ALL.is_sorted());
    }
}
