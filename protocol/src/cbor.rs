//! Deterministic CBOR (DAG-CBOR): one value has exactly one encoding.

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes aren't the deterministic encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// More bytes than this kind of value may have.
    #[error("{len} bytes where at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not CBOR, or not of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Decodes, but isn't what the deterministic encoder would have written.
    #[error("not the deterministic encoding")]
    NotCanonical,
    /// A value that can't be encoded.
    #[error("can't be encoded: {0}")]
    Unencodable(String),
}

/// Encodes `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|error| CborError::Unencodable(error.to_string()))
}

/// Decodes at most `limit` bytes; refuses trailing bytes and every encoding but the deterministic one.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLarge { len: bytes.len(), limit });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes).map_err(|error| CborError::Malformed(error.to_string()))?;
    match encode(&value)? == bytes {
        true => Ok(value),
        false => Err(CborError::NotCanonical),
    }
}
