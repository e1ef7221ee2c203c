//! The receiving side. It sends nothing and asks nobody.
//!
//! What an attacker near the receiver can do is bounded: packets that the announced sender didn't sign are dropped, at
//! the price of checking one signature, and at no price when nothing of that name is collected or the symbol is there
//! already. Packets that were recorded and are played again are symbols like any other.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
};

use mhc_protocol::{NetworkId, NodeId};
use raptorq::{EncodingPacket, PayloadId, SourceBlockDecoder};

use super::{CarouselError, MAX_OBJECTS, Object, ObjectId, Packet, Page, SymbolBytes};

/// With two symbols more than there are source symbols, decoding fails once in a million times.
const EXTRA_SYMBOLS: usize = 2;
/// When it failed, so many more are collected before the next try.
const MORE_SYMBOLS: usize = 4;
/// How often an object may turn out to be something else than its hash says before it is left alone.
const MAX_SPOILED: u32 = 3;
/// An object that hasn't been announced for so long is forgotten when others need its place.
const FORGET_AFTER_MS: u64 = 600_000;
/// An object that has got nothing for so long gives way to others.
const YIELD_AFTER_MS: u64 = 30_000;
/// What a symbol takes in memory beside its bytes.
const SYMBOL_OVERHEAD_BYTES: usize = 64;

/// What a receiver doesn't decide by itself.
pub trait Judge {
    /// Whether `sender` may say what is on air.
    fn trusts(&self, sender: NodeId) -> bool;
    /// Whether this is to be collected.
    fn wants(&self, object: &Object) -> bool;
}

/// How a receiver receives.
#[derive(Debug, Clone, Copy)]
pub struct ReceiverOptions {
    /// Its network; what is on air for others is ignored.
    pub network: NetworkId,
    /// Most bytes of collected symbols. Decoding takes four times an object's length on top of it.
    pub memory_bytes: usize,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A page of the index was read.
    Page,
    /// A symbol was kept.
    Symbol,
    /// It was of nothing that is collected, or was there already.
    Ignored,
    /// A symbol had no room.
    NoRoom,
}

/// What a receiver has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Pages of the index by trusted senders.
    pub pages: u64,
    /// Symbols kept.
    pub symbols: u64,
    /// Packets that were malformed, forged, changed on the way or by a sender that isn't trusted.
    pub refused: u64,
    /// Packets of other networks, of what isn't collected, or that were there already.
    pub ignored: u64,
    /// Symbols for which there was no memory.
    pub no_room: u64,
    /// Objects that were decoded and right.
    pub decoded: u64,
    /// Times that what was decoded wasn't what the index says.
    pub spoiled: u64,
}

/// How far an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub object: Object,
    /// Who sends it.
    pub sender: NodeId,
    /// Symbols collected.
    pub symbols: usize,
    /// Symbols needed, almost always.
    pub needed: usize,
    /// It was delivered.
    pub done: bool,
}

#[derive(Debug)]
struct Collecting {
    object: Object,
    sender: NodeId,
    symbol: SymbolBytes,
    symbols: BTreeMap<u32, Vec<u8>>,
    source_symbols: usize,
    /// Symbols that make the next try worth it.
    try_at: usize,
    state: State,
    spoiled: u32,
    announced_ms: u64,
    fed_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not wanted at present, or given up.
    Idle,
    Collecting,
    Decoding,
    Done,
}

/// Collects objects from packets.
#[derive(Debug)]
pub struct Receiver {
    options: ReceiverOptions,
    objects: HashMap<ObjectId, Collecting>,
    held_bytes: usize,
    decoding: bool,
    counters: Counters,
}

/// An object to decode: a second of work for the longest.
#[derive(Debug)]
pub struct Job {
    id: ObjectId,
    object: Object,
    symbol: SymbolBytes,
    symbols: BTreeMap<u32, Vec<u8>>,
}

/// What decoding brought.
#[derive(Debug)]
pub struct Decoded {
    id: ObjectId,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Right(Vec<u8>),
    /// More symbols are needed.
    Short(BTreeMap<u32, Vec<u8>>),
    /// Other bytes than the index says.
    Spoiled,
}

/// An object that is whole and has the hash that its index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Which.
    pub object: Object,
    /// Whose index said so.
    pub sender: NodeId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Receiver {
    /// A receiver that knows nothing yet.
    pub fn new(options: ReceiverOptions) -> Self {
        Self { options, objects: HashMap::new(), held_bytes: 0, decoding: false, counters: Counters::default() }
    }

    /// Takes a datagram from anybody. `now_ms` may be any clock's that doesn't go back.
    pub fn packet(&mut self, now_ms: u64, datagram: &[u8], judge: &impl Judge) -> Result<Heard, CarouselError> {
        let heard = match Packet::decode(datagram) {
            Ok(Packet::Page(map)) => self.page(now_ms, datagram, map, judge),
            Ok(Packet::Symbol { object, symbol, payload }) => self.symbol(now_ms, datagram, object, symbol, payload),
            Err(error) => Err(error),
        };
        let counter = match heard {
            Ok(Heard::Page) => &mut self.counters.pages,
            Ok(Heard::Symbol) => &mut self.counters.symbols,
            Ok(Heard::Ignored) => &mut self.counters.ignored,
            Ok(Heard::NoRoom) => &mut self.counters.no_room,
            Err(_) => &mut self.counters.refused,
        };
        *counter += 1;
        heard
    }

    fn page(&mut self, now_ms: u64, datagram: &[u8], map: &[u8], judge: &impl Judge) -> Result<Heard, CarouselError> {
        let page = Page::decode(map)?;
        if page.network != self.options.network {
            return Ok(Heard::Ignored);
        }
        if !judge.trusts(page.sender) {
            return Err(CarouselError::Invalid("a page by a sender that isn't trusted"));
        }
        if !Packet::is_signed_by(datagram, page.sender) {
            return Err(CarouselError::Signature);
        }
        for object in &page.objects {
            self.announced(now_ms, &page, *object, judge.wants(object));
        }
        Ok(Heard::Page)
    }

    fn announced(&mut self, now_ms: u64, page: &Page, object: Object, wanted: bool) {
        let id = object.id(self.options.network, page.sender, page.symbol);
        if !self.objects.contains_key(&id) && !self.make_place(now_ms) {
            return;
        }
        let source_symbols = object.symbols(page.symbol) as usize;
        let known = self.objects.entry(id).or_insert_with(|| Collecting {
            object,
            sender: page.sender,
            symbol: page.symbol,
            symbols: BTreeMap::new(),
            source_symbols,
            try_at: source_symbols + EXTRA_SYMBOLS,
            state: State::Idle,
            spoiled: 0,
            announced_ms: now_ms,
            fed_ms: now_ms,
        });
        (known.object, known.announced_ms) = (object, now_ms);
        let next = match (known.state, wanted && known.spoiled < MAX_SPOILED) {
            (State::Decoding, _) => State::Decoding,
            // What was delivered and is wanted again was lost: there was no room for it, or it was evicted.
            (_, true) => State::Collecting,
            (State::Done, false) => State::Done,
            (_, false) => State::Idle,
        };
        known.state = next;
        if next != State::Collecting {
            self.drop_symbols(id);
        }
    }

    /// Whether there is a place for one more object.
    fn make_place(&mut self, now_ms: u64) -> bool {
        if self.objects.len() < 2 * MAX_OBJECTS {
            return true;
        }
        let stale = self.objects.iter().filter(|(_, known)| {
            known.state != State::Decoding && now_ms.saturating_sub(known.announced_ms) >= FORGET_AFTER_MS
        });
        let Some(id) = stale.min_by_key(|(_, known)| known.announced_ms).map(|(id, _)| *id) else { return false };
        self.drop_symbols(id);
        self.objects.remove(&id);
        true
    }

    fn drop_symbols(&mut self, id: ObjectId) {
        let Some(known) = self.objects.get_mut(&id) else { return };
        self.held_bytes -= known.held_bytes();
        known.symbols.clear();
    }

    fn symbol(
        &mut self,
        now_ms: u64,
        datagram: &[u8],
        id: ObjectId,
        symbol: u32,
        payload: &[u8],
    ) -> Result<Heard, CarouselError> {
        let Some(known) = self.objects.get(&id).filter(|known| known.state == State::Collecting) else {
            return Ok(Heard::Ignored);
        };
        if payload.len() != usize::from(known.symbol.get()) {
            return Err(CarouselError::Invalid("a symbol of another length than the index says"));
        }
        if known.symbols.contains_key(&symbol) || known.is_ready() {
            return Ok(Heard::Ignored);
        }
        if !Packet::is_signed_by(datagram, known.sender) {
            return Err(CarouselError::Signature);
        }
        if !self.make_room(now_ms, id, payload.len() + SYMBOL_OVERHEAD_BYTES) {
            return Ok(Heard::NoRoom);
        }
        let Some(known) = self.objects.get_mut(&id) else { return Ok(Heard::Ignored) };
        known.symbols.insert(symbol, payload.to_vec());
        known.fed_ms = now_ms;
        self.held_bytes += payload.len() + SYMBOL_OVERHEAD_BYTES;
        Ok(Heard::Symbol)
    }

    /// Whether there is memory for a symbol of `id`; what has got nothing for long gives way.
    fn make_room(&mut self, now_ms: u64, id: ObjectId, bytes: usize) -> bool {
        while self.held_bytes + bytes > self.options.memory_bytes {
            let others = self.objects.iter().filter(|(other, known)| {
                **other != id
                    && known.state == State::Collecting
                    && !known.symbols.is_empty()
                    && !known.is_ready()
                    && now_ms.saturating_sub(known.fed_ms) >= YIELD_AFTER_MS
            });
            let Some(other) = others.min_by_key(|(_, known)| known.fed_ms).map(|(other, _)| *other) else {
                return false;
            };
            self.drop_symbols(other);
        }
        true
    }

    /// An object that can be decoded; one at a time.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.decoding {
            return None;
        }
        let ready = |(_, known): &(&ObjectId, &mut Collecting)| known.state == State::Collecting && known.is_ready();
        let (id, known) = self.objects.iter_mut().find(ready)?;
        known.state = State::Decoding;
        self.decoding = true;
        let job =
            Job { id: *id, object: known.object, symbol: known.symbol, symbols: std::mem::take(&mut known.symbols) };
        self.held_bytes -= job.symbols.len() * (usize::from(job.symbol.get()) + SYMBOL_OVERHEAD_BYTES);
        Some(job)
    }

    /// Takes what a job brought. What is delivered counts as done until the judge wants it again.
    pub fn finished(&mut self, decoded: Decoded) -> Option<Delivered> {
        self.decoding = false;
        let known = self.objects.get_mut(&decoded.id)?;
        known.state = State::Collecting;
        match decoded.outcome {
            Outcome::Right(bytes) => {
                known.state = State::Done;
                self.counters.decoded += 1;
                Some(Delivered { object: known.object, sender: known.sender, bytes })
            }
            Outcome::Short(symbols) => {
                known.try_at = symbols.len() + MORE_SYMBOLS;
                known.symbols = symbols;
                self.held_bytes += known.held_bytes();
                None
            }
            Outcome::Spoiled => {
                // Every symbol was signed: the sender itself sends something else than it says. Other symbols may be
                // right, but not without end.
                known.spoiled += 1;
                known.try_at = known.source_symbols + EXTRA_SYMBOLS;
                if known.spoiled >= MAX_SPOILED {
                    known.state = State::Idle;
                }
                self.counters.spoiled += 1;
                None
            }
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of symbols in memory.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What is on air and wanted, or was delivered, in no order.
    pub fn progress(&self) -> Vec<Progress> {
        let known = self.objects.values().filter(|known| known.state != State::Idle);
        let progress = known.map(|known| Progress {
            object: known.object,
            sender: known.sender,
            symbols: if known.state == State::Decoding { known.try_at } else { known.symbols.len() },
            needed: known.try_at,
            done: known.state == State::Done,
        });
        progress.collect()
    }
}

impl Collecting {
    fn held_bytes(&self) -> usize {
        self.symbols.len() * (usize::from(self.symbol.get()) + SYMBOL_OVERHEAD_BYTES)
    }

    /// All source symbols, or enough of any.
    fn is_ready(&self) -> bool {
        let all_source = || self.symbols.range(..self.source_symbols as u32).count() == self.source_symbols;
        self.symbols.len() >= self.try_at || (self.symbols.len() == self.source_symbols && all_source())
    }
}

impl Job {
    /// Decodes.
    pub fn run(self) -> Decoded {
        let Self { id, object, symbol, symbols } = self;
        let payload = |(id, bytes): (&u32, &Vec<u8>)| EncodingPacket::new(PayloadId::new(0, *id), bytes.clone());
        let packets: Vec<_> = symbols.iter().map(payload).collect();
        // The parameters were checked; should the crate stumble over a set of symbols all the same, others may do.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let length = u64::from(object.symbols(symbol)) * u64::from(symbol.get());
            SourceBlockDecoder::new(0, &object.code(symbol), length).decode(packets)
        }));
        let outcome = match decoded {
            Ok(Some(mut bytes)) => {
                bytes.truncate(object.bytes as usize);
                match blake3::hash(&bytes) == object.hash {
                    true => Outcome::Right(bytes),
                    false => Outcome::Spoiled,
                }
            }
            Ok(None) => Outcome::Short(symbols),
            Err(_) => Outcome::Spoiled,
        };
        Decoded { id, outcome }
    }
}
