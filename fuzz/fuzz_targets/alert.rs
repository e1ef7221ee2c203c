//! Alerts: never a panic, and what is accepted has this one encoding. The bytes are tried as they are, as what an issuer
//! signed, and as the body of an alert's record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::{
    SecretKey, Timestamp,
    alert::{ALERT, Alert, AlertRecord, MAX_ALERT_BYTES},
    record::{Body, Draft},
};

const AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const ISSUER: std::ops::Range<usize> = 3..35;

fuzz_target!(|data: &[u8]| {
    let key = SecretKey::from_seed(&[1; 32]);
    let network = key.network();
    check(data, &key);
    let mut head = data.get(..data.len().min(MAX_ALERT_BYTES)).unwrap_or_default().to_vec();
    if let Some(issuer) = head.get_mut(ISSUER) {
        issuer.copy_from_slice(key.author().as_bytes());
    }
    let signature = key.sign(&[b"mhc 2026 alert v1\0".as_slice(), network.as_bytes(), &head].concat());
    check(&[head.as_slice(), &signature.0].concat(), &key);
    let body = Body { salt: [0; 16], bytes: data.to_vec() };
    let draft = Draft { network, epoch: 0, seq: 0, prev: None, at: AT, kind: ALERT, body };
    if let Ok(record) = draft.sign(&key)
        && let Ok(alert) = AlertRecord::of(&record)
    {
        assert_eq!(alert.encode().as_deref(), Ok(data));
    }
});

fn check(bytes: &[u8], key: &SecretKey) {
    if let Ok(alert) = Alert::verify(bytes, key.network()) {
        assert_eq!(alert.bytes(), bytes);
        if alert.issuer() == key.author() {
            assert_eq!(alert.said().clone().sign(key, key.network()), Ok(alert));
        }
    }
}
