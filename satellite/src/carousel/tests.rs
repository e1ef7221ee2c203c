//! A sender, a channel that loses, and receivers, in virtual time.

use mhc_protocol::{BlobHash, NetworkId, NodeId, SecretKey};

use super::{pace::HEADER_BYTES, *};

const NETWORK: NetworkId = NetworkId::from_bytes([9; 32]);
const MB: usize = 1_000_000;

/// Repeatable noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

/// Trusts one sender and wants all but what it has.
struct OneSender {
    sender: NodeId,
    has: Vec<[u8; 32]>,
}

impl Judge for OneSender {
    fn trusts(&self, sender: NodeId) -> bool {
        sender == self.sender
    }

    fn wants(&self, object: &Object) -> bool {
        !self.has.contains(&object.hash)
    }
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn object(bytes: &[u8]) -> Object {
    Object::new(bytes, About::Records).unwrap()
}

fn playlist(contents: &[Vec<u8>]) -> Playlist {
    let item = |bytes: &Vec<u8>| Item { class: Class::Newest, at_ms: 1, object: object(bytes) };
    Playlist::choose(contents.iter().map(item).collect(), u64::MAX)
}

/// A sender with its contents at hand.
struct Station {
    sender: Sender,
    contents: Vec<Vec<u8>>,
}

impl Station {
    fn new(contents: &[Vec<u8>], seed: u32) -> Self {
        let options = SenderOptions {
            network: NETWORK,
            symbol: SymbolBytes::DEFAULT,
            window_bytes: 48 << 20,
            margin_percent: 50,
            seed,
        };
        Self { sender: Sender::new(key(), options, &playlist(contents)), contents: contents.to_vec() }
    }

    fn next(&mut self, now_ms: u64) -> Vec<u8> {
        while let Some(request) = self.sender.wanted() {
            let bytes = self.contents.iter().find(|bytes| blake3::hash(bytes) == request.object.hash);
            self.sender.loaded(request.at, Some(Material::new(&request, bytes.unwrap().clone()).unwrap()));
        }
        self.sender.next(now_ms).expect("something is on air")
    }
}

/// A receiver that decodes at once.
struct Listener {
    receiver: Receiver,
    judge: OneSender,
    delivered: Vec<Vec<u8>>,
}

impl Listener {
    fn new(memory_bytes: usize) -> Self {
        let receiver = Receiver::new(ReceiverOptions { network: NETWORK, memory_bytes });
        Self { receiver, judge: OneSender { sender: key().node(), has: vec![] }, delivered: vec![] }
    }

    fn hear(&mut self, now_ms: u64, packet: &[u8]) -> Result<Heard, CarouselError> {
        let heard = self.receiver.packet(now_ms, packet, &self.judge);
        while let Some(job) = self.receiver.next_job() {
            if let Some(delivered) = self.receiver.finished(job.run()) {
                self.judge.has.push(delivered.object.hash);
                self.delivered.push(delivered.bytes);
            }
        }
        heard
    }
}

fn air_us(packet: &[u8], rate_bits_per_s: u64) -> u64 {
    (packet.len() as u64 + HEADER_BYTES) * 8 * 1_000_000 / rate_bits_per_s
}

#[test]
fn a_late_listener_behind_a_channel_that_loses_a_fifth_and_fades_has_it_all_in_1_15_of_the_ideal_time() {
    const RATE: u64 = 1_000_000;
    const JOIN_US: u64 = 47_000_000;
    const FADE_US: std::ops::Range<u64> = 120_000_000..130_000_000;
    let mut noise = Noise(7);
    let contents = [MB, 5 * MB, 20 * MB].map(|len| noise.bytes(len));
    let (mut station, mut listener) = (Station::new(&contents, 1), Listener::new(48 << 20));
    let mut now_us = 0;
    while listener.delivered.len() < contents.len() {
        let packet = station.next(now_us / 1000);
        now_us += air_us(&packet, RATE);
        assert!(now_us < 1_000_000_000, "delivered {}", listener.delivered.len());
        if now_us >= JOIN_US && !FADE_US.contains(&now_us) && !noise.percent(20) {
            listener.hear(now_us / 1000, &packet).unwrap();
        }
        assert!(listener.receiver.held_bytes() <= 48 << 20);
    }
    // Nothing but the objects' bytes, of which the channel takes a fifth, from when the listener joined.
    let bits: u64 = contents.iter().map(|bytes| bytes.len() as u64 * 8).sum();
    let ideal_us = bits * 1_000_000 / (RATE * 8 / 10) + (FADE_US.end - FADE_US.start);
    let ratio = (now_us - JOIN_US) as f64 / ideal_us as f64;
    eprintln!("{:.1} s, {ratio:.3} of the ideal", (now_us - JOIN_US) as f64 / 1e6);
    assert!(ratio < 1.15, "{ratio}");
    for bytes in &contents {
        assert!(listener.delivered.contains(bytes));
    }
    assert_eq!(listener.receiver.counters().spoiled, 0);
}

#[test]
fn flipped_symbols_and_a_forger_beside_the_receiver_cost_nothing_but_time() {
    let mut noise = Noise(3);
    let contents = [noise.bytes(300_000)];
    let (mut station, mut listener) = (Station::new(&contents, 1), Listener::new(1 << 20));
    let forger = SecretKey::from_seed(&[66; 32]);
    let id = object(&contents[0]).id(NETWORK, key().node(), SymbolBytes::DEFAULT);
    let mut packets = 0;
    while listener.delivered.is_empty() {
        let mut packet = station.next(0);
        packets += 1;
        assert!(packets < 2_000, "it ends");
        if packets > 1 && noise.percent(30) {
            let bit = noise.next() as usize % (packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        // Whatever is made of it: a flip may make it a symbol of nothing.
        let _ = listener.hear(0, &packet);
        let symbol = noise.next() as u32 & 0xff_ffff;
        let forged = Packet::Symbol { object: id, symbol, payload: &noise.bytes(1_280) }.encode(&forger);
        assert!(listener.hear(0, &forged).is_err() || !listener.delivered.is_empty());
    }
    assert_eq!(listener.delivered, contents);
    let counters = listener.receiver.counters();
    assert_eq!((counters.spoiled, counters.decoded), (0, 1));
    assert!(counters.refused > 100, "{counters:?}");
}

#[test]
fn a_forged_index_is_refused_and_takes_no_memory() {
    let mut listener = Listener::new(1 << 20);
    let stranger = SecretKey::from_seed(&[66; 32]);
    let page = |sender: NodeId, network: NetworkId| Page {
        network,
        sender,
        symbol: SymbolBytes::DEFAULT,
        objects: vec![object(b"anything")],
    };
    let by_stranger = page(stranger.node(), NETWORK).seal(&stranger).unwrap();
    assert!(listener.hear(0, &by_stranger).is_err());
    // The stranger's page in the name of the sender: what it signed doesn't match.
    let mut good = page(key().node(), NETWORK).seal(&key()).unwrap();
    let at = good.len() - 1;
    good[at] ^= 1;
    assert_eq!(listener.hear(0, &good), Err(CarouselError::Signature));
    let elsewhere = page(key().node(), NetworkId::from_bytes([8; 32])).seal(&key()).unwrap();
    assert_eq!(listener.hear(0, &elsewhere), Ok(Heard::Ignored));
    assert!(listener.receiver.progress().is_empty());
    let id = object(b"anything").id(NETWORK, stranger.node(), SymbolBytes::DEFAULT);
    let symbol = Packet::Symbol { object: id, symbol: 0, payload: &[0; 1_280] }.encode(&stranger);
    assert_eq!(listener.hear(0, &symbol), Ok(Heard::Ignored));
    assert_eq!(listener.receiver.held_bytes(), 0);
}

#[test]
fn a_trusted_sender_that_sends_other_bytes_than_it_says_is_left_alone_in_the_end() {
    let mut listener = Listener::new(1 << 20);
    let object = Object { hash: [5; 32], bytes: 2_000, about: About::Records };
    let (network, sender, symbol) = (NETWORK, key().node(), SymbolBytes::DEFAULT);
    let page = Page { network, sender, symbol, objects: vec![object] }.seal(&key()).unwrap();
    let id = object.id(network, sender, symbol);
    let mut kept = 0;
    for round in 0..100 {
        listener.hear(round, &page).unwrap();
        let packet = Packet::Symbol { object: id, symbol: round as u32, payload: &[7; 1_280] }.encode(&key());
        kept += usize::from(listener.hear(round, &packet) == Ok(Heard::Symbol));
    }
    assert!(listener.delivered.is_empty());
    assert_eq!(listener.receiver.counters().spoiled, 3);
    assert!(kept < 20, "{kept}");
    assert_eq!(listener.receiver.held_bytes(), 0);
}

#[test]
fn memory_is_bounded_and_what_gets_nothing_more_gives_way() {
    let mut noise = Noise(5);
    let contents = [noise.bytes(400_000), noise.bytes(500_000)];
    let mut listener = Listener::new(600_000);
    // Half of the first, which then goes off air for good.
    let mut first = Station::new(&contents[..1], 1);
    for _ in 0..160 {
        listener.hear(0, &first.next(0)).unwrap();
    }
    let mut second = Station::new(&contents[1..], 1);
    let mut no_room = 0;
    for n in 0_u64.. {
        let now_ms = n * 100;
        no_room += u64::from(listener.hear(now_ms, &second.next(now_ms)) == Ok(Heard::NoRoom));
        assert!(listener.receiver.held_bytes() <= 600_000);
        if !listener.delivered.is_empty() {
            break;
        }
        assert!(n < 2_000, "it ends");
    }
    assert_eq!(listener.delivered, contents[1..]);
    assert!(listener.receiver.counters().no_room == no_room);
}

#[test]
fn a_sender_that_starts_again_sends_other_repair_symbols() {
    let content = Noise(8).bytes(64_000);
    let contents = [content];
    let (mut once, mut again) = (Station::new(&contents, 1), Station::new(&contents, 1 << 20));
    let repair = |station: &mut Station| -> Vec<u32> {
        let packets = (0..90).map(|_| station.next(0));
        let ids = packets.filter_map(|packet| match Packet::decode(&packet) {
            Ok(Packet::Symbol { symbol, .. }) => Some(symbol).filter(|symbol| *symbol >= 50),
            _ => None,
        });
        ids.collect()
    };
    let (once, again) = (repair(&mut once), repair(&mut again));
    assert!(once.len() > 30 && again.len() > 30);
    assert!(once.iter().all(|symbol| !again.contains(symbol)));
}

#[test]
fn a_recording_is_the_stream() {
    let contents = [Noise(4).bytes(200_000), Noise(6).bytes(1)];
    let mut station = Station::new(&contents, 1);
    let mut file = vec![];
    for _ in 0..400 {
        file.extend(frame(&station.next(0)));
    }
    // A hole in the file is a fade.
    file.drain(50_000..90_001);
    let (mut listener, mut unframer) = (Listener::new(1 << 20), Unframer::default());
    for piece in file.chunks(10_000) {
        unframer.push(piece);
        while let Some(packet) = unframer.take() {
            let _ = listener.hear(0, packet);
        }
    }
    assert_eq!(listener.delivered.len(), 2);
    assert!(contents.iter().all(|bytes| listener.delivered.contains(bytes)));
}

#[test]
fn what_goes_off_air_for_want_of_its_bytes_leaves_the_others_on() {
    let contents = [Noise(1).bytes(9_000), Noise(2).bytes(9_000)];
    let mut station = Station::new(&contents, 1);
    while let Some(request) = station.sender.wanted() {
        let gone = blake3::hash(&contents[0]) == request.object.hash;
        let right = || Material::new(&request, contents[1].clone()).unwrap();
        station.sender.loaded(request.at, (!gone).then(right));
        assert!(!gone || Material::new(&request, contents[1].clone()).is_err(), "other bytes aren't sent");
    }
    let mut listener = Listener::new(1 << 20);
    for _ in 0..20 {
        if let Some(packet) = station.sender.next(0) {
            listener.hear(0, &packet).unwrap();
        }
    }
    assert_eq!(listener.delivered, contents[1..]);
}

#[test]
fn a_part_of_a_blob_is_told_on_the_page() {
    let about = About::Blob { hash: BlobHash::of(b"film"), size_bytes: 40_000, start: 16_384, end: 40_000 };
    let object = Object::new(b"entries", about).unwrap();
    let page = Page { network: NETWORK, sender: key().node(), symbol: SymbolBytes::DEFAULT, objects: vec![object] };
    let mut listener = Listener::new(1 << 20);
    listener.hear(0, &page.seal(&key()).unwrap()).unwrap();
    assert_eq!(listener.receiver.progress()[0].object, object);
}
