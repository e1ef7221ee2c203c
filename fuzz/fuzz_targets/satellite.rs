//! Everything that comes over a satellite: never a panic, and what is accepted has this one encoding and parameters
//! that the code can take. The bytes are also tried as the inside of what a trusted sender signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::{NetworkId, NodeId, SecretKey, Timestamp};
use mhc_satellite::{
    carousel::{
        Judge, MAX_OBJECT_BYTES, Object, ObjectId, Packet, Page, Receiver, ReceiverOptions, SymbolBytes, Unframer,
    },
    uplink::ExchangeRequest,
};

struct Everything;

impl Judge for Everything {
    fn trusts(&self, _: NodeId) -> bool {
        true
    }

    fn wants(&self, _: &Object) -> bool {
        true
    }
}

fn page(map: &[u8], key: &SecretKey) {
    let Ok(page) = Page::decode(map) else { return };
    assert!(page.objects.iter().all(|object| (1..=MAX_OBJECT_BYTES).contains(&object.bytes)));
    assert!(page.objects.iter().all(|object| object.symbols(page.symbol) <= 56_403));
    if page.sender == key.node() {
        assert_eq!(page.seal(key).as_deref(), Ok(&Packet::Page(map).encode(key)[..]));
    }
}

fn receiver(data: &[u8], key: &SecretKey) {
    let options = ReceiverOptions { network: NetworkId::from_bytes([9; 32]), memory_bytes: 1 << 16 };
    let mut receiver = Receiver::new(options);
    let object = Object::new(b"x", mhc_satellite::carousel::About::Records).expect("an object");
    let (network, sender, symbol) = (options.network, key.node(), SymbolBytes::DEFAULT);
    let announced = Page { network, sender, symbol, objects: vec![object] }.seal(key).expect("a page");
    let id: ObjectId = object.id(network, sender, symbol);
    let mut payload = data.to_vec();
    payload.resize(usize::from(symbol.get()), 0);
    let symbols = (0..4).map(|n| Packet::Symbol { object: id, symbol: n * 7, payload: &payload }.encode(key));
    for packet in [data.to_vec(), Packet::Page(data).encode(key), announced].into_iter().chain(symbols) {
        let _ = receiver.packet(0, &packet, &Everything);
        while let Some(job) = receiver.next_job() {
            receiver.finished(job.run());
        }
        assert!(receiver.held_bytes() <= options.memory_bytes);
    }
}

fuzz_target!(|data: &[u8]| {
    let key = SecretKey::from_seed(&[1; 32]);
    if let Ok(packet @ (Packet::Symbol { .. } | Packet::Page(_))) = Packet::decode(data) {
        let again = packet.encode(&key);
        assert_eq!(Packet::decode(&again), Ok(packet));
    }
    page(data, &key);
    receiver(data, &key);
    let mut unframer = Unframer::default();
    for piece in data.chunks(7) {
        unframer.push(piece);
        while unframer.take().is_some() {}
    }
    if let Ok(request) = ExchangeRequest::open(data, Timestamp(0)) {
        assert!(request.node != key.node() || request.seal(&key).as_deref() == Ok(data));
    }
});
