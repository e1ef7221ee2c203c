//! The sending side.

use std::collections::{HashMap, VecDeque};

use mhc_protocol::{NetworkId, SecretKey};
use raptorq::{SourceBlockEncoder, SourceBlockEncodingPlan};

use super::{
    CarouselError, INDEX_EVERY_MS, INDEX_PAUSE_MS, MAX_PAGE_OBJECTS, Object, ObjectId, PACKETS_PER_PAGE, Packet, Page,
    Playlist, Schedule, SymbolBytes, rule,
};

/// Repair symbols are taken from so many and then from the first again.
const REPAIR_SYMBOLS: u32 = 1 << 23;
/// The code for repair symbols is made when so much of the source symbols is still to be sent.
const PREPARE_AT: u32 = 8;

/// How a sender sends.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// The network of what it sends.
    pub network: NetworkId,
    /// Length of symbols.
    pub symbol: SymbolBytes,
    /// Bytes of objects that are on air at one time; see [`Schedule`].
    pub window_bytes: u64,
    /// Symbols of a turn beyond those that the object has, for what is lost.
    pub margin_percent: u32,
    /// Where repair symbols begin: random, so that a sender that starts again doesn't send the same ones.
    pub seed: u32,
}

/// What an object's symbols are made of.
#[derive(Debug)]
pub enum Material {
    /// The object's bytes.
    Source(Vec<u8>),
    /// The code for repair symbols, some two times as long.
    Repair(Box<SourceBlockEncoder>),
}

impl Material {
    /// Makes what a request asks for of the object's bytes; a second of work for the longest. Fails when they aren't
    /// the object's.
    pub fn new(request: &LoadRequest, mut bytes: Vec<u8>) -> Result<Self, CarouselError> {
        let LoadRequest { object, symbol, repair, .. } = request;
        rule(blake3::hash(&bytes) == object.hash, "bytes that aren't the object's")?;
        let symbols = object.symbols(*symbol);
        bytes.resize(symbols as usize * usize::from(symbol.get()), 0);
        if !repair {
            return Ok(Self::Source(bytes));
        }
        let count = u16::try_from(symbols).map_err(|_| CarouselError::Invalid("an object of too many symbols"))?;
        let plan = SourceBlockEncodingPlan::generate(count);
        let encoder = SourceBlockEncoder::with_encoding_plan(0, &object.code(*symbol), &bytes, &plan);
        Ok(Self::Repair(Box::new(encoder)))
    }
}

/// An object whose bytes the sender needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadRequest {
    /// Its number in the playlist.
    pub at: usize,
    /// Which.
    pub object: Object,
    /// Length of symbols.
    pub symbol: SymbolBytes,
    /// Whether repair symbols are to be made of it.
    pub repair: bool,
}

#[derive(Debug)]
struct Sending {
    object: Object,
    id: ObjectId,
    symbols: u32,
    /// Symbols sent so far: source symbols first.
    sent: u64,
    source: Option<Vec<u8>>,
    repair: Option<Box<SourceBlockEncoder>>,
    asked: bool,
}

/// Makes packets of a playlist, one after the other and without end.
#[derive(Debug)]
pub struct Sender {
    key: SecretKey,
    options: SenderOptions,
    objects: Vec<Sending>,
    schedule: Schedule,
    pages: VecDeque<Vec<u8>>,
    index_at_ms: Option<u64>,
    /// Symbols sent since.
    since_index: usize,
}

impl Sender {
    /// A sender of `playlist` that signs with `key`.
    pub fn new(key: SecretKey, options: SenderOptions, playlist: &Playlist) -> Self {
        let schedule = Schedule::new(options.window_bytes, options.margin_percent);
        let (objects, pages) = (Vec::new(), VecDeque::new());
        let mut sender = Self { key, options, objects, schedule, pages, index_at_ms: None, since_index: 0 };
        sender.replace(playlist);
        sender
    }

    /// Puts another playlist on air, index first. What is on both goes on with symbols that weren't sent yet. To be
    /// called when nothing that was asked for is still to be loaded.
    pub fn replace(&mut self, playlist: &Playlist) {
        let SenderOptions { network, symbol, window_bytes, margin_percent, .. } = self.options;
        self.schedule = Schedule::new(window_bytes, margin_percent);
        self.index_at_ms = None;
        let mut before: HashMap<ObjectId, Sending> =
            self.objects.drain(..).map(|sending| (sending.id, sending)).collect();
        for item in &playlist.items {
            let symbols = item.object.symbols(symbol);
            self.schedule.add(item.object.bytes.into(), symbols, item.class.weight());
            let id = item.object.id(network, self.key.node(), symbol);
            let new = Sending { object: item.object, id, symbols, sent: 0, source: None, repair: None, asked: false };
            self.objects.push(before.remove(&id).map_or(new, |known| Sending { asked: false, ..known }));
        }
        self.forget_inactive();
    }

    /// The most urgent object that the sender needs and hasn't asked for yet.
    pub fn wanted(&mut self) -> Option<LoadRequest> {
        let symbol = self.options.symbol;
        let needs = |(at, sending): (usize, &mut Sending)| {
            let repair = sending.needs()?;
            sending.asked = true;
            Some(LoadRequest { at, object: sending.object, symbol, repair })
        };
        let active = self.objects.iter_mut().enumerate().filter(|(at, _)| self.schedule.is_active(*at));
        active.filter(|(_, sending)| !sending.asked).find_map(needs)
    }

    /// Takes what was asked for; none when it can't be had: the object is off air from then on.
    pub fn loaded(&mut self, at: usize, material: Option<Material>) {
        let Some(sending) = self.objects.get_mut(at) else { return };
        sending.asked = false;
        match material {
            Some(Material::Source(bytes)) => sending.source = Some(bytes),
            Some(Material::Repair(encoder)) => sending.repair = Some(encoder),
            None => self.schedule.remove(at),
        }
        self.forget_inactive();
    }

    /// The next packet; none while everything that is on air has to be loaded first. `now_ms` may be any clock's that
    /// doesn't go back.
    pub fn next(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if self.index_at_ms.is_none_or(|at_ms| self.is_index_due(now_ms.saturating_sub(at_ms))) {
            (self.index_at_ms, self.since_index) = (Some(now_ms), 0);
            self.pages = self.index();
        }
        if let Some(page) = self.pages.pop_front() {
            return Some(page);
        }
        let at = self.schedule.next(|at| self.objects.get(at).is_some_and(Sending::is_ready))?;
        let first_repair = self.options.seed % REPAIR_SYMBOLS;
        let symbol_bytes = usize::from(self.options.symbol.get());
        let sending = self.objects.get_mut(at)?;
        let (symbol, payload) = sending.symbol(first_repair, symbol_bytes)?;
        sending.sent += 1;
        self.since_index += 1;
        let packet = Packet::Symbol { object: sending.id, symbol, payload: &payload }.encode(&self.key);
        if !self.schedule.is_active(at) {
            self.forget_inactive();
        }
        Some(packet)
    }

    fn is_index_due(&self, since_ms: u64) -> bool {
        let pages = self.objects.len().div_ceil(MAX_PAGE_OBJECTS);
        let is_cheap = self.since_index >= pages * PACKETS_PER_PAGE;
        since_ms >= INDEX_EVERY_MS || since_ms >= INDEX_PAUSE_MS && is_cheap
    }

    /// Turns that everything on air has had.
    pub fn rounds(&self) -> u64 {
        self.schedule.rounds()
    }

    /// The pages of the index.
    fn index(&self) -> VecDeque<Vec<u8>> {
        let SenderOptions { network, symbol, .. } = self.options;
        let objects: Vec<Object> = self.objects.iter().map(|sending| sending.object).collect();
        let page = |objects: &[Object]| Page { network, sender: self.key.node(), symbol, objects: objects.to_vec() };
        // A page of checked objects always fits.
        objects.chunks(MAX_PAGE_OBJECTS).filter_map(|objects| page(objects).seal(&self.key).ok()).collect()
    }

    fn forget_inactive(&mut self) {
        let inactive = self.objects.iter_mut().enumerate().filter(|(at, _)| !self.schedule.is_active(*at));
        inactive.for_each(|(_, sending)| (sending.source, sending.repair) = (None, None));
    }
}

impl Sending {
    fn source_left(&self) -> u32 {
        u32::try_from(u64::from(self.symbols).saturating_sub(self.sent)).unwrap_or(0)
    }

    /// What it lacks: `Some(true)` is the code for repair symbols, `Some(false)` its bytes.
    fn needs(&self) -> Option<bool> {
        let left = self.source_left();
        if left > 0 && self.source.is_none() {
            return Some(false);
        }
        (left <= self.symbols / PREPARE_AT && self.repair.is_none()).then_some(true)
    }

    fn is_ready(&self) -> bool {
        if self.source_left() > 0 { self.source.is_some() } else { self.repair.is_some() }
    }

    fn symbol(&mut self, first_repair: u32, symbol_bytes: usize) -> Option<(u32, Vec<u8>)> {
        if self.source_left() > 0 {
            let symbol = u32::try_from(self.sent).ok()?;
            let start = symbol as usize * symbol_bytes;
            let payload = self.source.as_ref()?.get(start..start + symbol_bytes)?.to_vec();
            return Some((symbol, payload));
        }
        self.source = None;
        let repaired = self.sent - u64::from(self.symbols);
        let repair = (u64::from(first_repair) + repaired) % u64::from(REPAIR_SYMBOLS);
        let packet = self.repair.as_ref()?.repair_packets(u32::try_from(repair).ok()?, 1).pop()?;
        let (id, payload) = packet.split();
        Some((id.encoding_symbol_id(), payload))
    }
}
