//! Pages of the index. Each stands alone: a receiver that misses one knows the objects of the others.

use mhc_protocol::{BlobHash, NetworkId, NodeId, SecretKey, cbor};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{About, CarouselError, MAX_PACKET_BYTES, Object, Packet, SIGNATURE_BYTES, SymbolBytes, rule};

/// Most objects on a page: as many as fit a packet, whatever their numbers.
pub const MAX_PAGE_OBJECTS: usize = 9;
const VERSION: u8 = 1;

/// Some of what a sender has on air.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The network of its records.
    pub network: NetworkId,
    /// Who sends, and signs every packet.
    pub sender: NodeId,
    /// Length of its symbols.
    pub symbol: SymbolBytes,
    /// What is on air, at most [`MAX_PAGE_OBJECTS`].
    pub objects: Vec<Object>,
}

/// Blob, its length, start and end of the part.
type WireAbout = (BlobHash, u64, u64, u64);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    network: NetworkId,
    sender: NodeId,
    symbol: u16,
    objects: Vec<(ByteArray<32>, u32, Option<WireAbout>)>,
}

impl Page {
    /// The packet, signed by the node that `key` is. Fails when it isn't the sender or there are too many objects.
    pub fn seal(&self, key: &SecretKey) -> Result<Vec<u8>, CarouselError> {
        rule(self.sender == key.node(), "signed by another node than it says")?;
        self.check()?;
        let objects = self.objects.iter().map(|object| {
            let about = match object.about {
                About::Records => None,
                About::Blob { hash, size_bytes, start, end } => Some((hash, size_bytes, start, end)),
            };
            (ByteArray::new(object.hash), object.bytes, about)
        });
        let (network, sender, symbol) = (self.network, self.sender, self.symbol.get());
        let map = cbor::encode(&Wire { v: VERSION, network, sender, symbol, objects: objects.collect() })?;
        let datagram = Packet::Page(&map).encode(key);
        rule(datagram.len() <= MAX_PACKET_BYTES, "a page that doesn't fit a packet")?;
        Ok(datagram)
    }

    /// Reads the map of a page. Every parameter in it holds from then on; whether its sender signed it, and is to be
    /// believed, is for the caller to see.
    pub fn decode(map: &[u8]) -> Result<Self, CarouselError> {
        let wire: Wire = cbor::decode(map, MAX_PACKET_BYTES - SIGNATURE_BYTES)?;
        if wire.v != VERSION {
            return Err(CarouselError::Version(wire.v));
        }
        let objects = wire.objects.into_iter().map(|(hash, bytes, about)| {
            let about = about.map(|(hash, size_bytes, start, end)| About::Blob { hash, size_bytes, start, end });
            Object { hash: hash.into_array(), bytes, about: about.unwrap_or(About::Records) }
        });
        let symbol = SymbolBytes::new(wire.symbol)?;
        let page = Self { network: wire.network, sender: wire.sender, symbol, objects: objects.collect() };
        page.check()?;
        Ok(page)
    }

    fn check(&self) -> Result<(), CarouselError> {
        rule((1..=MAX_PAGE_OBJECTS).contains(&self.objects.len()), "a page of no or too many objects")?;
        self.objects.iter().try_for_each(Object::check)
    }
}

#[cfg(test)]
mod tests {
    use mhc_protocol::{bundle::GROUP_BYTES, manifest::MAX_BLOB_BYTES};

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn page() -> Page {
        let (size_bytes, start) = (MAX_BLOB_BYTES, MAX_BLOB_BYTES - GROUP_BYTES);
        let about = About::Blob { hash: BlobHash::of(b"film"), size_bytes, start, end: size_bytes };
        Page {
            network: NetworkId::from_bytes([9; 32]),
            sender: key().node(),
            symbol: SymbolBytes::DEFAULT,
            objects: vec![Object { hash: [3; 32], bytes: super::super::MAX_OBJECT_BYTES, about }; MAX_PAGE_OBJECTS],
        }
    }

    fn map(datagram: &[u8]) -> &[u8] {
        let Ok(Packet::Page(map)) = Packet::decode(datagram) else { panic!("not a page") };
        map
    }

    #[test]
    fn the_largest_page_fits_a_packet_and_round_trips() {
        let mut page = page();
        page.objects[1].about = About::Records;
        let datagram = page.seal(&key()).unwrap();
        assert_eq!(Page::decode(map(&datagram)), Ok(page.clone()));
        page.objects[1].about = page.objects[0].about;
        assert!(page.seal(&key()).is_ok());
    }

    #[test]
    fn hostile_parameters_are_refused_by_writer_and_reader() {
        type Change = fn(&mut Page, &mut Wire);
        let cases: &[(&str, Change)] = &[
            ("no objects", |page, wire| (page.objects.clear(), wire.objects.clear()).0),
            ("an empty object", |page, wire| (page.objects[0].bytes, wire.objects[0].1) = (0, 0)),
            ("a huge object", |page, wire| (page.objects[0].bytes, wire.objects[0].1) = (u32::MAX, u32::MAX)),
            ("version 2", |_, wire| wire.v = 2),
            ("symbols of no bytes", |_, wire| wire.symbol = 0),
            ("symbols of one byte", |_, wire| wire.symbol = 1),
            ("symbols of 64 KiB", |_, wire| wire.symbol = u16::MAX),
            ("symbols that aren't aligned", |_, wire| wire.symbol = 1_279),
        ];
        for (name, change) in cases {
            let mut bad = Page { objects: page().objects[..2].to_vec(), ..page() };
            let objects = bad.objects.iter().map(|object| (ByteArray::new(object.hash), object.bytes, None));
            let mut wire = Wire {
                v: 1,
                network: bad.network,
                sender: bad.sender,
                symbol: bad.symbol.get(),
                objects: objects.collect(),
            };
            let before = bad.clone();
            change(&mut bad, &mut wire);
            assert!(bad == before || bad.seal(&key()).is_err(), "{name}");
            assert!(Page::decode(&cbor::encode(&wire).unwrap()).is_err(), "{name}");
        }
        assert!(Page { sender: NodeId::from_bytes([4; 32]), ..page() }.seal(&key()).is_err());
    }
}
