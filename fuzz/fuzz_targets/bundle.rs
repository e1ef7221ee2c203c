//! Everything that is read from a stick: never a panic, what is accepted has this one encoding, lengths are bounded
//! before anything is allocated, and names made of titles stay in their folder. The bytes are also tried as the
//! inside of a signed index and of a want-list, past signature and checksum.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use mhc_protocol::{
    SecretKey,
    bundle::{
        BundleId, Frame, Index, MAX_BLOB_FRAME_BYTES, MAX_RECORD_FRAME_BYTES, WantList, is_committed, media_name,
    },
    cbor,
};
use serde_bytes::{ByteArray, ByteBuf};

fn indexes(file: &[u8], key: &SecretKey) {
    if let Ok(index) = Index::open(file) {
        assert!(index.entries.iter().all(|entry| entry.bytes <= MAX_BLOB_FRAME_BYTES));
        if index.node == key.node() {
            assert_eq!(index.seal(key).as_deref(), Ok(file));
        }
    }
}

fn wants(file: &[u8]) {
    if let Ok(list) = WantList::decode(file) {
        assert_eq!(list.encode().as_deref(), Ok(file));
    }
}

fn frames(data: &[u8]) {
    if let Ok(frame) = Frame::decode(data) {
        let head = frame.encode();
        assert!(data.starts_with(&head));
        assert!(frame.bytes() <= MAX_BLOB_FRAME_BYTES.max(MAX_RECORD_FRAME_BYTES));
        assert_eq!(frame.bytes(), frame.head_bytes() + frame.payload_bytes());
    }
}

fn names(text: &str) {
    if let Ok(id) = text.parse::<BundleId>() {
        assert_eq!(id.to_string(), text.to_ascii_uppercase());
    }
    let name = media_name(text, "video/mp4", |name| !name.contains('(')).expect("media");
    let mut parts = Path::new(&name).components();
    assert!(matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)), "{name:?}");
    assert!(name.len() <= 255 && !name.contains(['/', '\\', ':', '\0']) && !name.starts_with('.'), "{name:?}");
}

fuzz_target!(|data: &[u8]| {
    let key = SecretKey::from_seed(&[1; 32]);
    indexes(data, &key);
    wants(data);
    frames(data);
    is_committed(data, data);
    let signature = key.sign(&blake3::derive_key("mhc 2026 bundle index v1", data));
    let signed = (ByteBuf::from(data), ByteArray::new(signature.0));
    indexes(&cbor::encode(&signed).expect("bytes encode"), &key);
    let summed = (ByteBuf::from(data), ByteArray::new(*blake3::hash(data).as_bytes()));
    wants(&cbor::encode(&summed).expect("bytes encode"));
    if let Ok(text) = std::str::from_utf8(data) {
        names(text);
    }
});
