//! What is on air, and the parameters of its code.
//!
//! An object is one source block with one sub-block, so its length and the symbols' length say all there is to say.
//! Everything that RaptorQ takes for granted about them is checked here, once, where they come in.

use mhc_protocol::{BlobHash, NetworkId, NodeId, bundle::GROUP_BYTES, manifest::MAX_BLOB_BYTES};
use raptorq::ObjectTransmissionInformation;

use super::{CarouselError, rule};

/// Longest object. A receiver holds all of it, and some four times as much while it is decoded.
pub const MAX_OBJECT_BYTES: u32 = 20 << 20;
/// Bounds of symbols: an object of 20 MiB has at most 40,960 of them (RaptorQ has blocks of up to 56,403), and a packet
/// of the longest fits an Ethernet frame.
const SYMBOL_BOUNDS: std::ops::RangeInclusive<u16> = 512..=1_360;
const ID_CONTEXT: &str = "mhc 2026 carousel object v1";

/// The length of symbols in bytes: 512 to 1,360, a multiple of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolBytes(u16);

impl SymbolBytes {
    /// What senders use: with all headers and the signature a packet has 1,394 bytes, which fits tunnels too.
    pub const DEFAULT: Self = Self(1_280);

    /// Checks a length.
    pub fn new(bytes: u16) -> Result<Self, CarouselError> {
        rule(SYMBOL_BOUNDS.contains(&bytes) && bytes.is_multiple_of(8), "symbols of impossible length")?;
        Ok(Self(bytes))
    }

    /// In bytes.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// An object of one sender as packets name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 16]);

/// A row of entries that is sent as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Its length, 1 to [`MAX_OBJECT_BYTES`].
    pub bytes: u32,
    /// What is in it.
    pub about: About,
}

/// What is in an object, so that a receiver can leave alone what it has. Not proof of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Records.
    Records,
    /// A part of a blob, in whole groups.
    Blob {
        /// Which.
        hash: BlobHash,
        /// The blob's length in bytes.
        size_bytes: u64,
        /// Where the part begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
}

impl Object {
    /// An object of these bytes. Fails when there are none or too many, or `about` is out of bounds.
    pub fn new(bytes: &[u8], about: About) -> Result<Self, CarouselError> {
        let length = u32::try_from(bytes.len()).map_err(|_| CarouselError::Invalid("an object over 4 GiB"))?;
        let object = Self { hash: *blake3::hash(bytes).as_bytes(), bytes: length, about };
        object.check()?;
        Ok(object)
    }

    pub(super) fn check(&self) -> Result<(), CarouselError> {
        rule((1..=MAX_OBJECT_BYTES).contains(&self.bytes), "an object of impossible length")?;
        let About::Blob { size_bytes, start, end, .. } = self.about else { return Ok(()) };
        rule(size_bytes <= MAX_BLOB_BYTES, "a blob over 16 TiB")?;
        let inside = start < end && end <= size_bytes || (size_bytes, start, end) == (0, 0, 0);
        let whole = start.is_multiple_of(GROUP_BYTES) && (end.is_multiple_of(GROUP_BYTES) || end == size_bytes);
        rule(inside && whole, "a part that isn't whole groups of its blob")
    }

    /// How packets of `sender` name it.
    pub fn id(&self, network: NetworkId, sender: NodeId, symbol: SymbolBytes) -> ObjectId {
        let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
        hasher.update(network.as_bytes()).update(sender.as_bytes()).update(&self.hash);
        hasher.update(&self.bytes.to_le_bytes()).update(&symbol.get().to_le_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        ObjectId(id)
    }

    /// Symbols that it is cut into; the last one is filled up with zeros.
    pub fn symbols(&self, symbol: SymbolBytes) -> u32 {
        self.bytes.div_ceil(u32::from(symbol.get()))
    }

    /// The parameters of its code. They hold for every object and symbol length that passed its check.
    pub(super) fn code(&self, symbol: SymbolBytes) -> ObjectTransmissionInformation {
        ObjectTransmissionInformation::new(u64::from(self.bytes), symbol.get(), 1, 1, 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_the_code_can_not_take_are_refused() {
        let about = |size_bytes, start, end| About::Blob { hash: BlobHash::of(b""), size_bytes, start, end };
        let object = |bytes, about| Object { hash: [1; 32], bytes, about };
        let good = [
            object(1, About::Records),
            object(MAX_OBJECT_BYTES, About::Records),
            object(80, about(0, 0, 0)),
            object(80, about(10, 0, 10)),
            object(80, about(5 * GROUP_BYTES, GROUP_BYTES, 3 * GROUP_BYTES)),
        ];
        for object in good {
            assert_eq!(object.check(), Ok(()), "{object:?}");
        }
        let bad = [
            object(0, About::Records),
            object(MAX_OBJECT_BYTES + 1, About::Records),
            object(u32::MAX, About::Records),
            object(80, about(10, 0, 9)),
            object(80, about(10, 10, 10)),
            object(80, about(GROUP_BYTES * 2, 1, GROUP_BYTES)),
            object(80, about(GROUP_BYTES, GROUP_BYTES, 0)),
            object(80, about(u64::MAX, 0, u64::MAX)),
        ];
        for object in bad {
            assert!(object.check().is_err(), "{object:?}");
        }
        for bytes in [0, 1, 504, 511, 513, 1_281, 1_368, u16::MAX] {
            assert!(SymbolBytes::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn the_extremes_make_a_code() {
        for symbol in [512, 1_280, 1_360].map(|bytes| SymbolBytes::new(bytes).unwrap()) {
            for bytes in [1, 511, 512, 513, MAX_OBJECT_BYTES] {
                let object = Object { hash: [0; 32], bytes, about: About::Records };
                let code = object.code(symbol);
                assert!(object.symbols(symbol) <= 56_403);
                assert_eq!((code.transfer_length(), code.source_blocks()), (u64::from(bytes), 1));
            }
        }
    }
}
