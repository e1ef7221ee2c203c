//! Ed25519 keys and signatures.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use crate::{AuthorId, NetworkId, NodeId};

/// The private half of an identity. Its 32-byte seed is what a key file holds.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From the 32-byte seed of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed. Whoever holds it is the identity: keep it out of logs.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The node this key is.
    pub fn node(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// The author this key is.
    pub fn author(&self) -> AuthorId {
        AuthorId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// The network this key is the root of.
    pub fn network(&self) -> NetworkId {
        NetworkId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {:?})", self.author())
    }
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Whether `author` signed `message`. Strict: weak keys and non-canonical encodings are refused, so that
    /// every node agrees on what is valid.
    pub fn verifies(&self, author: &AuthorId, message: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(author.as_bytes()) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&self.0)).is_ok()
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}
