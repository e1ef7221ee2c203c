//! Records from peers: never a panic; what is accepted says the same when it is sent on; what the bytes say as the
//! body of a record that we sign comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::{
    SecretKey, Timestamp,
    record::{Body, Draft, MAX_ENVELOPE_BYTES, Record, RecordKind},
};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::verify(data, NOW) {
        assert_eq!(record.to_bytes(), data);
        assert_eq!(Record::verify_stored(data).as_ref(), Ok(&record));
    }
    let key = SecretKey::from_seed(&[1; 32]);
    let body = Body { salt: [9; 16], bytes: data.to_vec() };
    let kind = RecordKind::new("fuzz.v1");
    let draft = Draft { network: key.network(), epoch: 0, seq: 0, prev: None, at: NOW, kind, body };
    if let Ok(record) = draft.sign(&key) {
        let bytes = record.to_bytes();
        assert!(bytes.len() <= MAX_ENVELOPE_BYTES);
        let read = Record::verify(&bytes, NOW).expect("what we sign, we accept");
        assert_eq!(read.body(), Some(data));
    }
});
