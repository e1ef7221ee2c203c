//! Packets as they are on air.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | 1 a symbol, 2 a page of the index |
//! | … | a symbol: object (16), symbol's id (4, big-endian, below 2^24) and its bytes; a page: its map |
//! | 64 | the sender's signature over all that comes before |

use mhc_protocol::{NodeId, SecretKey, Signature};

use super::{CarouselError, ObjectId, rule};

/// Longest packet: what a frame of Ethernet carries in UDP over IPv4.
pub const MAX_PACKET_BYTES: usize = 1_472;
/// Bytes before a symbol.
pub const SYMBOL_HEAD_BYTES: usize = 22;
/// Bytes after it.
pub const SIGNATURE_BYTES: usize = 64;
const VERSION: u8 = 1;
const SYMBOL: u8 = 1;
const PAGE: u8 = 2;
const MAX_SYMBOL_ID: u32 = (1 << 24) - 1;
/// A symbol's signature is over a hash made for this purpose alone.
const SIGN_CONTEXT: &str = "mhc 2026 carousel packet v1";

/// A packet, its signature not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A symbol of an object.
    Symbol {
        /// Which object.
        object: ObjectId,
        /// Which symbol: source symbols first, then repair symbols.
        symbol: u32,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A page of the index, still encoded.
    Page(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, CarouselError> {
        rule(datagram.len() <= MAX_PACKET_BYTES, "a packet that is too long")?;
        let (body, _) = split(datagram)?;
        let [version, kind, rest @ ..] = body else { return Err(CarouselError::Invalid("a packet that is too short")) };
        match (*version, *kind) {
            (VERSION, SYMBOL) => Self::symbol(rest),
            (VERSION, PAGE) => Ok(Self::Page(rest)),
            (VERSION, _) => Err(CarouselError::Invalid("a packet of unknown kind")),
            (version, _) => Err(CarouselError::Version(version)),
        }
    }

    fn symbol(rest: &'a [u8]) -> Result<Self, CarouselError> {
        const SHORT: CarouselError = CarouselError::Invalid("a packet that is too short");
        let (object, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
        let (symbol, payload) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        let symbol = u32::from_be_bytes(*symbol);
        rule(symbol <= MAX_SYMBOL_ID, "a symbol's id over 2^24")?;
        rule(!payload.is_empty(), "an empty symbol")?;
        Ok(Self::Symbol { object: ObjectId(*object), symbol, payload })
    }

    /// The datagram, signed.
    pub fn encode(&self, key: &SecretKey) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(MAX_PACKET_BYTES);
        match self {
            Self::Symbol { object, symbol, payload } => {
                datagram.extend([VERSION, SYMBOL]);
                datagram.extend(object.0);
                datagram.extend(symbol.to_be_bytes());
                datagram.extend(*payload);
            }
            Self::Page(map) => {
                datagram.extend([VERSION, PAGE]);
                datagram.extend(*map);
            }
        }
        let signature = key.sign(&to_sign(&datagram));
        datagram.extend(signature.0);
        datagram
    }

    /// Whether `sender` signed the datagram. By far the dearest thing done to a packet.
    pub fn is_signed_by(datagram: &[u8], sender: NodeId) -> bool {
        let Ok((body, signature)) = split(datagram) else { return false };
        Signature(*signature).verifies(&sender.into(), &to_sign(body))
    }
}

fn split(datagram: &[u8]) -> Result<(&[u8], &[u8; SIGNATURE_BYTES]), CarouselError> {
    datagram.split_last_chunk().ok_or(CarouselError::Invalid("a packet that is too short"))
}

fn to_sign(body: &[u8]) -> [u8; 32] {
    blake3::derive_key(SIGN_CONTEXT, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    #[test]
    fn packets_round_trip_and_every_flipped_bit_is_noticed() {
        let symbol = Packet::Symbol { object: ObjectId([7; 16]), symbol: MAX_SYMBOL_ID, payload: &[9; 40] };
        for packet in [symbol, Packet::Page(b"map"), Packet::Page(b"")] {
            let good = packet.encode(&key());
            assert_eq!(Packet::decode(&good), Ok(packet));
            assert!(Packet::is_signed_by(&good, key().node()));
            assert!(!Packet::is_signed_by(&good, SecretKey::from_seed(&[2; 32]).node()));
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!Packet::is_signed_by(&bad, key().node()), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_no_sender_sends_is_refused() {
        let bytes = |head: &[u8], length: usize| {
            let mut bytes = head.to_vec();
            bytes.resize(length, 0);
            bytes
        };
        let huge_id = [&[1, 1][..], &[0; 16], &[1, 0, 0, 0]].concat();
        let cases: &[(&str, Vec<u8>)] = &[
            ("nothing", vec![]),
            ("no body", vec![1; 64]),
            ("no kind", vec![1; 65]),
            ("version 0", bytes(&[0, 1], 200)),
            ("version 2", bytes(&[2, 1], 200)),
            ("kind 0", bytes(&[1, 0], 200)),
            ("kind 3", bytes(&[1, 3], 200)),
            ("no symbol's id", bytes(&[1, 1], 64 + 21)),
            ("an empty symbol", bytes(&[1, 1], 64 + 22)),
            ("a symbol's id over 24 bits", bytes(&huge_id, 200)),
            ("too long", bytes(&[1, 1], MAX_PACKET_BYTES + 1)),
        ];
        for (name, datagram) in cases {
            assert!(Packet::decode(datagram).is_err(), "{name}");
        }
    }
}
