//! Classes of links. The ladder that chooses between them comes with the links themselves.

use serde::{Deserialize, Serialize};

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
    /// The class that a direct path to `address` has.
    pub fn of_ip(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => Self::Lan,
            std::net::IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self::of_ip(v4.into()),
                None if v6.octets()[0] & 0xfe == 0x02 => Self::Yggdrasil,
                None if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => Self::Lan,
                None => Self::Direct,
            },
            std::net::IpAddr::V4(_) => Self::Direct,
        }
    }
}
