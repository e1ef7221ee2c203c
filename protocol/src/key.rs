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
        #[cfg(feature = "testing")]
        return testing::remembered(self, author, message);
        #[cfg(not(feature = "testing"))]
        self.is_by(author, message)
    }

    fn is_by(&self, author: &AuthorId, message: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(author.as_bytes()) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&self.0)).is_ok()
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// For simulations, in which one thread plays all the nodes that verify a signature.
#[cfg(feature = "testing")]
pub mod testing {
    use std::{cell::RefCell, collections::HashSet};

    use super::Signature;
    use crate::AuthorId;

    thread_local! {
        static VALID: RefCell<Option<HashSet<[u8; 32]>>> = const { RefCell::new(None) };
    }

    /// From now on, this thread computes each signature that is valid once: nothing else comes out of it, two thirds of
    /// a simulation's time aside. What was remembered before is forgotten.
    pub fn remember_valid_signatures() {
        VALID.with_borrow_mut(|valid| *valid = Some(HashSet::new()));
    }

    pub(super) fn remembered(signature: &Signature, author: &AuthorId, message: &[u8]) -> bool {
        VALID.with_borrow_mut(|valid| {
            let Some(valid) = valid else { return signature.is_by(author, message) };
            let mut hasher = blake3::Hasher::new();
            hasher.update(author.as_bytes()).update(&signature.0).update(message);
            let asked = *hasher.finalize().as_bytes();
            valid.contains(&asked) || signature.is_by(author, message) && valid.insert(asked)
        })
    }
}
