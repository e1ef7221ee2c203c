//! Which answer may send its next piece: an upload cap, fair shares for peers, and viewers before copies.
//!
//! Pure: the driver asks for each piece of an answer before it sends it ([`Uploads::ask`]), sends the pieces that
//! [`Uploads::poll`] names, and reports each as over ([`Uploads::done`]), also one that was never sent because its
//! reader left. It polls after every `ask` and `done`, and at [`Uploads::next_wake`].
//!
//! - **The cap** is a token bucket. A piece may overdraw it; the next one then waits.
//! - **Urgency**: a waiting piece of a more urgent class goes first. Copies get [`BACKGROUND_SHARE`] all the same, so
//!   that a busy evening doesn't stop the replication that would share the load. Without a cap nothing waits for long,
//!   but a copy holds back for a moment ([`YIELD_MS`]) while somebody's bytes are on their way.
//! - **Fairness**: within a class the peer that was given the fewest bytes goes first (start-time fair queueing: who
//!   comes, or comes back, starts at what the others have had, not at zero).

use std::collections::BTreeMap;

use crate::{NodeId, Timestamp, sched::DemandClass};

/// Names a piece; [`Uploads`] chooses it.
pub type PieceId = u64;

/// One byte in so many goes to copies while viewers wait.
const BACKGROUND_SHARE: u64 = 16;
/// How long a copy's piece holds back, in milliseconds, while bytes that somebody waits for are under way.
const YIELD_MS: u64 = 40;
/// The bucket holds what the cap allows in this time, in milliseconds.
const BURST_MS: u64 = 200;

/// How a request says how urgent it is: the byte behind it on the wire.
pub fn urgency_byte(class: DemandClass) -> u8 {
    match class {
        DemandClass::Playhead => 0,
        DemandClass::Lookahead => 1,
        DemandClass::Background => 2,
    }
}

/// The class of a request that ended with `byte`, if it did. Who doesn't say isn't put behind those who do.
pub fn class_of_urgency(byte: Option<u8>) -> DemandClass {
    match byte {
        Some(0) => DemandClass::Playhead,
        Some(1) | None => DemandClass::Lookahead,
        Some(_) => DemandClass::Background,
    }
}

#[derive(Debug)]
struct Piece {
    node: NodeId,
    class: DemandClass,
    bytes: u64,
    asked: Timestamp,
    sending: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Uploads {
    /// Bytes per second, none for no limit.
    cap_bytes_per_s: Option<u64>,
    /// Thousandths of a byte that may be sent; negative after an overdraft.
    tokens: i128,
    refilled: Timestamp,
    pieces: BTreeMap<PieceId, Piece>,
    next_piece: PieceId,
    /// Bytes each peer was given.
    given: BTreeMap<NodeId, u64>,
    /// What the last piece's peer had been given before it: where newcomers start.
    floor: u64,
    /// Bytes that copies are owed while viewers wait, times [`BACKGROUND_SHARE`].
    owed: u64,
}

impl Uploads {
    /// With a cap in bytes per second, or none.
    pub fn new(cap_bytes_per_s: Option<u64>) -> Self {
        let cap_bytes_per_s = cap_bytes_per_s.map(|cap| cap.max(1));
        let burst = cap_bytes_per_s.map_or(0, |cap| i128::from(cap) * i128::from(BURST_MS));
        Self { cap_bytes_per_s, tokens: burst, ..Self::default() }
    }

    /// `node` wants to be sent a piece of `bytes`.
    pub fn ask(&mut self, now: Timestamp, node: NodeId, class: DemandClass, bytes: u64) -> PieceId {
        let id = self.next_piece;
        self.next_piece += 1;
        let floor = self.floor;
        let given = self.given.entry(node).or_insert(floor);
        *given = (*given).max(floor);
        self.pieces.insert(id, Piece { node, class, bytes, asked: now, sending: false });
        id
    }

    /// The piece was sent, or won't be.
    pub fn done(&mut self, id: PieceId) {
        self.pieces.remove(&id);
        // Who left is remembered as long as it is ahead: coming back makes nobody new.
        let (floor, pieces) = (self.floor, &self.pieces);
        self.given.retain(|node, given| *given > floor || pieces.values().any(|piece| piece.node == *node));
    }

    /// The pieces to send now.
    pub fn poll(&mut self, now: Timestamp) -> Vec<PieceId> {
        self.refill(now);
        let mut granted = vec![];
        while self.has_tokens() {
            let Some(id) = self.first(now) else { break };
            self.grant(id);
            granted.push(id);
        }
        granted
    }

    /// When [`Uploads::poll`] has something to do even if nothing happens; none: never.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let waiting = || self.pieces.values().filter(|piece| !piece.sending);
        let cap = i128::from(self.cap_bytes_per_s.unwrap_or(1));
        if !self.has_tokens() {
            let wait_ms = u64::try_from(-self.tokens / cap + 1).unwrap_or(u64::MAX);
            return waiting().next().map(|_| self.refilled.saturating_add_ms(wait_ms));
        }
        waiting().map(|piece| piece.asked.saturating_add_ms(YIELD_MS)).min()
    }

    fn has_tokens(&self) -> bool {
        self.cap_bytes_per_s.is_none() || self.tokens > 0
    }

    fn refill(&mut self, now: Timestamp) {
        let Some(cap) = self.cap_bytes_per_s.map(i128::from) else { return };
        let passed_ms = i128::from(now.saturating_ms_since(self.refilled));
        self.tokens = (self.tokens + cap * passed_ms).min(cap * i128::from(BURST_MS));
        self.refilled = now.max(self.refilled);
    }

    /// The piece that goes next, if one may.
    fn first(&self, now: Timestamp) -> Option<PieceId> {
        let waiting = || self.pieces.iter().filter(|(_, piece)| !piece.sending);
        let live = |piece: &Piece| piece.class != DemandClass::Background;
        let live_waits = waiting().any(|(_, piece)| live(piece));
        let copies_are_due = self.owed >= BACKGROUND_SHARE * waiting().map(|(_, p)| p.bytes).max().unwrap_or(0);
        let live_is_sent = self.pieces.values().any(|piece| piece.sending && live(piece));
        let key = |(id, piece): (&PieceId, &Piece)| {
            let given = self.given.get(&piece.node).copied().unwrap_or_default();
            let turn = if live_waits && copies_are_due && !live(piece) { 0 } else { 1 + piece.class as u8 };
            (turn, given, *id)
        };
        let held_back = |piece: &Piece| {
            let young = now.saturating_ms_since(piece.asked) < YIELD_MS;
            !live(piece) && !live_waits && live_is_sent && young
        };
        waiting().filter(|(_, piece)| !held_back(piece)).map(key).min().map(|(.., id)| id)
    }

    fn grant(&mut self, id: PieceId) {
        let Some(piece) = self.pieces.get_mut(&id) else { return };
        piece.sending = true;
        let given = self.given.entry(piece.node).or_default();
        self.floor = self.floor.max(*given);
        *given += piece.bytes;
        self.owed = match piece.class {
            DemandClass::Background => self.owed.saturating_sub(BACKGROUND_SHARE * piece.bytes),
            // Not hoarded over an evening without copies.
            _ => (self.owed + piece.bytes).min(2 * BACKGROUND_SHARE * piece.bytes.max(1 << 20)),
        };
        if self.cap_bytes_per_s.is_some() {
            self.tokens -= i128::from(piece.bytes) * 1000;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Everybody always wants the next piece; a piece takes no time to send. Returns the bytes each was given.
    fn run(uploads: &mut Uploads, wants: &[(u8, DemandClass, u64)], for_ms: u64) -> Vec<u64> {
        let mut given = vec![0; wants.len()];
        let mut open: BTreeMap<PieceId, usize> = BTreeMap::new();
        for now in (0..for_ms).map(Timestamp) {
            for (index, (n, class, bytes)) in wants.iter().enumerate() {
                if !open.values().any(|open| *open == index) {
                    open.insert(uploads.ask(now, node(*n), *class, *bytes), index);
                }
            }
            for id in uploads.poll(now) {
                let index = open.remove(&id).unwrap();
                given[index] += wants[index].2;
                uploads.done(id);
            }
        }
        open.into_keys().for_each(|id| uploads.done(id));
        given
    }

    #[test]
    fn the_cap_is_kept_and_used() {
        for bytes in [1, 16 * KIB, 256 * KIB, 3_000_000] {
            let given = run(&mut Uploads::new(Some(1_000_000)), &[(1, DemandClass::Lookahead, bytes)], 20_000)[0];
            let fastest = 20_000 * bytes; // One piece a millisecond is all this test asks for.
            let most = 20_000_000 + 200_000 + bytes;
            assert!(given <= most && given >= 19_900_000.min(fastest - bytes), "{bytes}: {given}");
        }
    }

    #[test]
    fn peers_get_equal_shares_whatever_their_pieces_and_streams() {
        use DemandClass::Background;
        let wants = [(1, Background, 16 * KIB), (2, Background, 256 * KIB), (2, Background, 256 * KIB)];
        let given = run(&mut Uploads::new(Some(2_000_000)), &wants, 20_000);
        let (one, two) = (given[0] as f64, (given[1] + given[2]) as f64);
        assert!((0.9..1.1).contains(&(one / two)), "{given:?}");
    }

    #[test]
    fn who_comes_late_starts_with_the_others() {
        let mut uploads = Uploads::new(Some(1_000_000));
        run(&mut uploads, &[(1, DemandClass::Lookahead, 64 * KIB)], 10_000);
        let wants = [(1, DemandClass::Lookahead, 64 * KIB), (2, DemandClass::Lookahead, 64 * KIB)];
        let mut late = Uploads { refilled: Timestamp(0), ..uploads };
        let given = run(&mut late, &wants, 10_000);
        let ratio = given[0] as f64 / given[1] as f64;
        assert!((0.8..1.25).contains(&ratio), "{given:?}");
    }

    #[test]
    fn viewers_go_first_and_copies_never_starve() {
        use DemandClass::{Background, Playhead};
        let wants = [(1, Background, 256 * KIB), (2, Playhead, 256 * KIB)];
        let given = run(&mut Uploads::new(Some(4_000_000)), &wants, 60_000);
        let share = given[0] as f64 / (given[0] + given[1]) as f64;
        assert!((0.03..0.12).contains(&share), "{given:?}");
    }

    #[test]
    fn without_a_cap_a_copy_holds_back_for_a_moment_only() {
        let mut uploads = Uploads::new(None);
        let live = uploads.ask(Timestamp(0), node(1), DemandClass::Playhead, KIB);
        let copy = uploads.ask(Timestamp(0), node(2), DemandClass::Background, KIB);
        assert_eq!(uploads.poll(Timestamp(0)), [live]);
        assert!(uploads.poll(Timestamp(YIELD_MS - 1)).is_empty());
        assert_eq!(uploads.next_wake(), Some(Timestamp(YIELD_MS)));
        assert_eq!(uploads.poll(Timestamp(YIELD_MS)), [copy]);
        let next = uploads.ask(Timestamp(50), node(2), DemandClass::Background, KIB);
        uploads.done(live);
        assert_eq!(uploads.poll(Timestamp(50)), [next], "the viewer has what it asked for");
        [copy, next].into_iter().for_each(|id| uploads.done(id));
        assert_eq!(uploads.next_wake(), None);
    }

    #[test]
    fn urgency_travels_as_a_byte() {
        for class in [DemandClass::Playhead, DemandClass::Lookahead, DemandClass::Background] {
            assert_eq!(class_of_urgency(Some(urgency_byte(class))), class);
        }
        assert_eq!(class_of_urgency(None), DemandClass::Lookahead);
        assert_eq!(class_of_urgency(Some(99)), DemandClass::Background);
    }
}
