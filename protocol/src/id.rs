//! The 32-byte names of things: keys by their public half, blobs and records by their BLAKE3 hash.
//!
//! All of them print, parse and (in JSON) serialise as 64 lower-case hex digits, and travel as 32 bytes in CBOR.

use std::{fmt, str::FromStr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text isn't an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ParseIdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 10 hex digits, for logs and pages where the whole would drown the rest.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                if text.len() != 64 {
                    return Err(ParseIdError);
                }
                HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut bytes).map_err(|_| ParseIdError)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    serde_bytes::ByteArray::<32>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
                }
            }
        }
    };
}

id! {
    /// A node: its Ed25519 public key. The same key is its libp2p PeerId and its iroh EndpointId.
    NodeId
}
id! {
    /// Whoever writes a log: the Ed25519 public key of an account, of a node that publishes by itself, or of a
    /// network's root.
    AuthorId
}
id! {
    /// A network: the Ed25519 public key of its root.
    NetworkId
}
id! {
    /// A blob: the BLAKE3 hash of its bytes.
    BlobHash
}
id! {
    /// A record: the BLAKE3 hash of its signed header. A manifest's record id is also its content id.
    RecordId
}

impl From<NodeId> for AuthorId {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl BlobHash {
    /// Hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_nothing_else_parses() {
        let id = BlobHash::of(b"hello");
        assert_eq!(id.to_string().parse::<BlobHash>(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<BlobHash>(), Ok(id));
        for bad in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
            assert_eq!(bad.parse::<BlobHash>(), Err(ParseIdError), "{bad}");
        }
    }
}
