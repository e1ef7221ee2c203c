//! Reconciliation: what one node has and another lacks, at a cost that follows the difference. Pure: messages in,
//! messages out, so that it runs over any link and in simulation.
//!
//! What is compared are the heads of logs, sorted by author ([`Heads`]). The [`Client`] cuts the authors into parts and
//! tells a fingerprint of each; the server answers with smaller parts where its own fingerprint is another; where the
//! client has few heads left it lists them in short form ([`Mark`]), and the server answers with its heads that aren't
//! listed, and with records if the client wants them at once. What is missing after that is asked for with one request
//! for many logs. Small networks are listed at once. Each side pulls for itself; the server keeps nothing between
//! requests, so a session may end anywhere and the next one goes on with what is left.
//!
//! # Driving a client
//! [`Client::start`] gives the first request. From then on, until [`Step::Done`]:
//!
//! - [`Step::Ask`]: send the request, hand the response to [`Client::answered`];
//! - [`Step::Store`]: verify the records, hand them to [`Client::check`], append them, and tell
//!   [`Client::stored`] what became of each. Nothing is asked for before.
//!
//! An error of kind [`Trouble::Junk`] is the server's fault and ends the session.
//!
//! # Bounds
//! A client holds at most [`MAX_OPEN`] parts and some, the wants of one response and one page of records, and asks
//! at most [`MAX_COMPARES`] times for heads. It gives up after [`MAX_BARREN`] pages in a row that brought nothing. A
//! server holds one response.
//!
//! # Forks
//! A head of theirs is behind ours when we have that record. When we don't, or when it is at the place of ours, or
//! when what they have from our head on doesn't follow it, then the author signed two records for one place
//! somewhere: first the record at that place is asked for, and if it joins nothing the log from its start.

mod client;
mod pull;
mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::Arc;

pub use self::{
    client::{Client, Start, Step, Store, Stored, Trouble},
    server::{Compared, Logs, Page, compare, logs},
};
use crate::{
    AuthorId,
    wire::{Bound, Head, Mark},
};

/// Position in a log: epoch, and sequence number within it.
pub type Position = (u64, u64);

/// Where every log begins.
const LOG_START: Position = (0, 0);
/// Most parts that one part is cut into, and that a session begins with.
pub const FANOUT: usize = 256;
/// So many heads are listed instead of being cut into parts.
pub const LIST_HEADS: usize = 64;
/// Heads in a part that isn't worth cutting: with fewer there are more fingerprints, with more there are longer
/// lists.
pub const LEAF_HEADS: usize = 12;
/// Above so many parts that may differ, fingerprints aren't paying: parts are listed.
pub const MAX_OPEN: usize = 16_384;
/// Most requests of a session that look for heads.
pub const MAX_COMPARES: u32 = 4096;
/// After so many pages in a row without a new record a session ends.
pub const MAX_BARREN: u32 = 64;

/// Ids whose bytes are brought together to be hashed.
const HASHED_AT_ONCE: usize = 1024;

/// The heads of a network in the order of their authors. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Heads(Arc<[Head]>);

impl Heads {
    /// Sorts them; of several of one author the last stays.
    pub fn new(mut heads: Vec<Head>) -> Self {
        if !heads.is_sorted_by(|a, b| a.author < b.author) {
            heads.reverse();
            heads.sort_by_key(|head| head.author);
            heads.dedup_by_key(|head| head.author);
        }
        Self(heads.into())
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Head] {
        &self.0
    }

    /// The same heads with some changed: each change names an author and its head now, if it has one. The last
    /// change of an author counts.
    #[must_use]
    pub fn with(&self, mut changes: Vec<(AuthorId, Option<Head>)>) -> Self {
        changes.reverse();
        changes.sort_by_key(|(author, _)| *author);
        changes.dedup_by_key(|(author, _)| *author);
        let mut heads = Vec::with_capacity(self.0.len() + changes.len());
        let mut old = self.0.iter().peekable();
        for (author, head) in changes {
            while let Some(before) = old.next_if(|head| head.author < author) {
                heads.push(*before);
            }
            old.next_if(|head| head.author == author);
            heads.extend(head);
        }
        heads.extend(old);
        Self(heads.into())
    }

    /// Those between two bounds.
    fn between(&self, lower: &Bound, upper: &Bound) -> &[Head] {
        let place = |bound: &Bound| self.0.partition_point(|head| bound.is_after(head.author));
        let (from, to) = (place(lower), place(upper));
        self.0.get(from..to).unwrap_or_default()
    }
}

/// The first eight bytes, as a big-endian number, of BLAKE3 over the salt and the ids of the heads.
fn fingerprint(salt: u64, heads: &[Head]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&salt.to_be_bytes());
    // Many at a time: long inputs are hashed several times as fast.
    let mut ids = Vec::with_capacity(32 * heads.len().min(HASHED_AT_ONCE));
    for heads in heads.chunks(HASHED_AT_ONCE) {
        ids.clear();
        heads.iter().for_each(|head| ids.extend_from_slice(head.id.as_bytes()));
        hasher.update(&ids);
    }
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn mark(salt: u64, head: &Head) -> Mark {
    let tag = head.author.as_bytes().last_chunk().map_or(0, |last| u32::from_be_bytes(*last));
    let mark = (u64::from(tag) << 32) | (fingerprint(salt, std::slice::from_ref(head)) >> 32);
    Mark { mark, epoch: head.epoch, seq: head.seq }
}

/// Cuts `heads`, all before `upper`, into `count` pieces of about the same length, each with the bound where it ends.
/// `count` is at most their number, or 1.
fn cut<'a>(heads: &'a [Head], upper: &'a Bound, count: usize) -> impl Iterator<Item = (Bound, &'a [Head])> {
    let place = move |n: usize| heads.len() * n / count;
    (1..=count).map(move |n| {
        let (piece, rest) = (heads.get(place(n - 1)..place(n)).unwrap_or_default(), heads.get(place(n)));
        let end = match (piece.last(), rest) {
            (Some(last), Some(next)) if n < count => Bound::between(last.author, next.author),
            _ => upper.clone(),
        };
        (end, piece)
    })
}

/// Into how many pieces so many heads are cut, when at most `most` may be made.
fn pieces(heads: usize, most: usize) -> usize {
    heads.div_ceil(LEAF_HEADS).min(most).clamp(1, FANOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordId;

    fn author(n: u8) -> AuthorId {
        AuthorId::from_bytes([n; 32])
    }

    fn head(n: u8, seq: u64) -> Head {
        Head { author: author(n), epoch: 0, seq, id: RecordId::from_bytes([seq as u8; 32]) }
    }

    #[test]
    fn heads_are_kept_in_order_and_changed() {
        let heads = Heads::new(vec![head(5, 1), head(1, 1), head(3, 1), head(1, 2)]);
        assert_eq!(heads.as_slice(), [head(1, 2), head(3, 1), head(5, 1)]);
        let change = |n, seq: Option<u64>| (author(n), seq.map(|seq| head(n, seq)));
        let changes = vec![change(4, Some(7)), change(9, Some(9)), change(3, Some(2)), change(5, None)];
        let changed = heads.with([changes, vec![change(3, Some(3)), change(0, None)]].concat());
        assert_eq!(changed.as_slice(), [head(1, 2), head(3, 3), head(4, 7), head(9, 9)]);
    }

    #[test]
    fn pieces_cover_everything_once() {
        let heads = Heads::new((0..100).map(|n| head(n, n.into())).collect());
        for count in [1, 2, 7, 99, 100] {
            let (mut lower, mut seen) = (Bound::start(), 0);
            let end = Bound::end();
            for (upper, piece) in cut(heads.as_slice(), &end, count) {
                assert_eq!(heads.between(&lower, &upper), piece);
                assert!(lower < upper && piece.len() >= 100 / count);
                seen += piece.len();
                lower = upper;
            }
            assert_eq!((seen, lower), (100, Bound::end()), "{count}");
        }
        assert_eq!(cut(&[], &Bound::end(), 1).collect::<Vec<_>>(), [(Bound::end(), &[][..])]);
    }

    #[test]
    fn the_salt_changes_every_fingerprint_and_no_authors_half() {
        let heads = [head(1, 1), head(2, 1)];
        assert_ne!(fingerprint(1, &heads), fingerprint(2, &heads));
        assert_ne!(fingerprint(1, &heads), fingerprint(1, &heads[..1]));
        let (one, two) = (mark(1, &heads[0]), mark(2, &heads[0]));
        assert_eq!((one.mark >> 32, two.mark >> 32), (0x0101_0101, 0x0101_0101));
        assert_ne!(one.mark, two.mark);
    }
}
