//! Invitations: everything a node needs to reach another and join its network, as one line of text.
//!
//! `mhc1` followed by base32 (RFC 4648, lower case, no padding) of the CBOR body and the first four bytes of
//! its BLAKE3 hash, so that a mistyped ticket is told from a dead one.

use std::{fmt, net::SocketAddr, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{
    NetworkId, NodeId, cbor,
    relay::{MAX_RELAYS, Relay},
};

const PREFIX: &str = "mhc1";
const CHECKSUM_BYTES: usize = 4;
/// Longest ticket that is read, in bytes of CBOR.
pub const MAX_TICKET_BYTES: usize = 4096;
/// Most addresses of one kind in a ticket.
pub const MAX_TICKET_ADDRS: usize = 32;

/// Where a node is and which network it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The node that made the ticket.
    pub node: NodeId,
    /// The network it invites to.
    pub network: NetworkId,
    /// Where its libp2p listens (the same port for QUIC and TCP), as `ip:port` texts.
    #[serde(with = "addr_texts")]
    pub p2p: Vec<SocketAddr>,
    /// Where its iroh endpoint listens (UDP), as `ip:port` texts.
    #[serde(with = "addr_texts")]
    pub iroh: Vec<SocketAddr>,
    /// Relays through which its iroh endpoint can be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<Relay>,
}

/// Why a text isn't a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else, or of a version this node doesn't know.
    #[error("a ticket starts with '{PREFIX}'; copy the whole line that `mhc ticket` prints")]
    Prefix,
    /// Characters outside base32.
    #[error("the ticket has characters that don't belong in it; copy the whole line that `mhc ticket` prints")]
    Alphabet,
    /// Cut short or mistyped.
    #[error("the ticket is damaged (its checksum doesn't match); copy the whole line that `mhc ticket` prints")]
    Checksum,
    /// Well copied, but not a ticket.
    #[error("the ticket can't be read: {0}")]
    Body(#[from] cbor::CborError),
    /// More addresses than a node can have.
    #[error("the ticket lists more than {MAX_TICKET_ADDRS} addresses")]
    TooManyAddresses,
    /// More relays than a node uses.
    #[error("the ticket lists more than {MAX_RELAYS} relays")]
    TooManyRelays,
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = *blake3::hash(body).as_bytes();
    [a, b, c, d]
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = cbor::encode(self).map_err(|_| fmt::Error)?;
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim().to_ascii_lowercase();
        let code = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        if code.len() > (MAX_TICKET_BYTES + CHECKSUM_BYTES) * 8 / 5 + 1 {
            return Err(cbor::CborError::TooLarge { len: code.len() * 5 / 8, limit: MAX_TICKET_BYTES }.into());
        }
        let bytes = BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes()).map_err(|_| TicketError::Alphabet)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Checksum)?;
        if checksum(body) != *sum {
            return Err(TicketError::Checksum);
        }
        let ticket: Self = cbor::decode(body, MAX_TICKET_BYTES)?;
        if ticket.p2p.len() > MAX_TICKET_ADDRS || ticket.iroh.len() > MAX_TICKET_ADDRS {
            return Err(TicketError::TooManyAddresses);
        }
        if ticket.relays.len() > MAX_RELAYS {
            return Err(TicketError::TooManyRelays);
        }
        Ok(ticket)
    }
}

/// Serialises socket addresses as `ip:port` texts, whatever the format.
pub(crate) mod addr_texts {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(addrs: &[SocketAddr], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(addrs.iter().map(SocketAddr::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn ticket() -> Ticket {
        let key = SecretKey::from_seed(&[7; 32]);
        Ticket {
            node: key.node(),
            network: key.network(),
            p2p: vec!["127.0.0.1:4480".parse().unwrap(), "[::1]:4480".parse().unwrap()],
            iroh: vec!["127.0.0.1:4481".parse().unwrap()],
            relays: vec![],
        }
    }

    fn relay() -> Relay {
        Relay { node: ticket().node, url: "https://relay.example.org".parse().unwrap() }
    }

    #[test]
    fn round_trips_whatever_the_case() {
        let text = ticket().to_string();
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(ticket()));
        let relayed = Ticket { relays: vec![relay()], ..ticket() };
        assert_eq!(relayed.to_string().parse(), Ok(relayed));
    }

    #[test]
    fn a_ticket_without_relays_is_as_it_was_before_there_were_any() {
        #[derive(Serialize)]
        struct Before {
            node: NodeId,
            network: NetworkId,
            #[serde(with = "addr_texts")]
            p2p: Vec<SocketAddr>,
            #[serde(with = "addr_texts")]
            iroh: Vec<SocketAddr>,
        }
        let Ticket { node, network, p2p, iroh, .. } = ticket();
        assert_eq!(cbor::encode(&ticket()), cbor::encode(&Before { node, network, p2p, iroh }));
    }

    #[test]
    fn what_is_not_a_ticket_says_why() {
        let text = ticket().to_string();
        let flipped = text.replace("mhc1p", "mhc1q").replace("mhc1u", "mhc1v");
        let cases: Vec<(String, TicketError)> = vec![
            (String::new(), TicketError::Prefix),
            ("blobabc".into(), TicketError::Prefix),
            ("mhc1!!!!".into(), TicketError::Alphabet),
            ("mhc1".into(), TicketError::Checksum),
            (text[..text.len() - 8].into(), TicketError::Checksum),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Ticket>(), Err(error), "{text}");
        }
        assert!(flipped == text || flipped.parse::<Ticket>().is_err());
        let mut crowd = ticket();
        crowd.p2p = vec!["127.0.0.1:1".parse().unwrap(); MAX_TICKET_ADDRS + 1];
        assert_eq!(crowd.to_string().parse::<Ticket>(), Err(TicketError::TooManyAddresses));
        let many = Ticket { relays: vec![relay(); MAX_RELAYS + 1], ..ticket() };
        assert_eq!(many.to_string().parse::<Ticket>(), Err(TicketError::TooManyRelays));
    }

    #[test]
    fn a_full_ticket_fits() {
        let addr: SocketAddr = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let url = format!("https://{}.{}.example.org:65535", "a".repeat(50), "b".repeat(44)).parse().unwrap();
        let addrs = || vec![addr; MAX_TICKET_ADDRS];
        let full =
            Ticket { p2p: addrs(), iroh: addrs(), relays: vec![Relay { url, ..relay() }; MAX_RELAYS], ..ticket() };
        assert_eq!(full.to_string().parse(), Ok(full));
    }
}
