//! The side that is asked.

use super::{Heads, Position, cut, fingerprint, mark, pieces};
use crate::{
    AuthorId,
    record::MAX_ENVELOPE_BYTES,
    wire::{
        Bound, Content, Head, MAX_HEADS, MAX_LOG_BYTES, MAX_LOG_RECORDS, MAX_PARTS, MAX_SYNC_RESPONSE_BYTES, Mark,
        Part, SyncResponse, Want,
    },
};

/// What a head, a part without its bound, an envelope's frame and the rest of a response take at most, in bytes.
const HEAD_BYTES: usize = 96;
const PART_BYTES: usize = 16;
const ENVELOPE_FRAME_BYTES: usize = 5;
const RESPONSE_FRAME_BYTES: usize = 256;
/// Most [`Compared::rivals`].
const MAX_RIVALS: usize = 64;

/// Some of a log.
#[derive(Debug, Default)]
pub struct Page {
    /// Records as they travel.
    pub envelopes: Vec<Vec<u8>>,
    /// Whether there may be more after the last.
    pub more: bool,
}

/// Where a server reads records.
pub trait Logs {
    /// Why that failed.
    type Error;

    /// An author's records from a position on, in the order of the log, with the evidence of forks: at most
    /// `max_records`, and at most `max_bytes` of them, but at least one if there is one.
    fn log(&self, author: AuthorId, from: Position, max_records: usize, max_bytes: usize) -> Result<Page, Self::Error>;
}

/// The answer to a comparison, and what it told the server by the way.
#[derive(Debug)]
pub struct Compared {
    /// What to send.
    pub response: SyncResponse,
    /// Where the client has, by its marks, another record than ours in the place of our head: proof of equivocation
    /// that it may show us still when it has taken our branch and its head is no longer another. A few of them.
    pub rivals: Vec<Want>,
}

/// Answers a comparison from `heads`. Takes time in proportion to their number.
pub fn compare<L: Logs>(
    heads: &Heads,
    logs: &L,
    salt: u64,
    asked: &[Part],
    push_bytes: u32,
) -> Result<Compared, L::Error> {
    let (mut differing, mut missing) = (vec![], Missing::default());
    let mut lower = Bound::start();
    for Part { upper, content } in asked {
        let ours = heads.between(&lower, upper);
        match content {
            Content::Skipped => {}
            // Where we have nothing there is nothing to pull.
            Content::Fingerprint(theirs) if ours.is_empty() || *theirs == fingerprint(salt, ours) => {}
            Content::Fingerprint(_) => differing.push((lower, upper, ours)),
            Content::Listed(marks) => missing.add(salt, ours, marks),
        }
        lower = upper.clone();
    }
    let parts = smaller(salt, &differing);
    let Missing { heads, from, rivals, more } = missing;
    let taken: usize = parts.iter().map(|part| part.upper.len_bytes() + PART_BYTES).sum::<usize>()
        + heads.len() * HEAD_BYTES
        + RESPONSE_FRAME_BYTES;
    let room = MAX_SYNC_RESPONSE_BYTES.saturating_sub(taken).min(push_bytes as usize);
    let mut pages = Pages::new(room);
    for (head, from) in heads.iter().zip(from) {
        if let Some(from) = from
            && !pages.add(logs, head.author, from)?
        {
            break;
        }
    }
    let response = SyncResponse::Compare { parts, heads, more, envelopes: pages.envelopes };
    Ok(Compared { response, rivals })
}

/// Answers a request for logs.
pub fn logs<L: Logs>(logs: &L, wants: &[Want]) -> Result<SyncResponse, L::Error> {
    let mut pages = Pages::new(MAX_LOG_BYTES);
    let mut more = false;
    for want in wants {
        if !pages.add(logs, want.author, (want.epoch, want.seq))? {
            more = !pages.envelopes.is_empty();
            break;
        }
    }
    Ok(SyncResponse::Logs { envelopes: pages.envelopes, more })
}

/// Cuts the parts that differ into smaller ones, in the order they came.
fn smaller(salt: u64, differing: &[(Bound, &Bound, &[Head])]) -> Vec<Part> {
    let most = MAX_PARTS / differing.len().max(1);
    let mut parts: Vec<Part> = vec![];
    for (lower, upper, heads) in differing {
        if parts.last().map_or(Bound::start(), |part| part.upper.clone()) < *lower {
            parts.push(Part { upper: lower.clone(), content: Content::Skipped });
        }
        let fingerprinted = cut(heads, upper, pieces(heads.len(), most))
            .map(|(upper, heads)| Part { upper, content: Content::Fingerprint(fingerprint(salt, heads)) });
        parts.extend(fingerprinted);
    }
    parts
}

/// Heads that the client didn't list, each with the position from where it lacks the log, as far as its marks tell.
#[derive(Debug, Default)]
struct Missing {
    heads: Vec<Head>,
    from: Vec<Option<Position>>,
    rivals: Vec<Want>,
    more: bool,
}

impl Missing {
    fn add(&mut self, salt: u64, ours: &[Head], theirs: &[Mark]) {
        if self.more {
            return;
        }
        let mut theirs: Vec<&Mark> = theirs.iter().collect();
        theirs.sort_unstable_by_key(|mark| mark.mark);
        for head in ours {
            let own = mark(salt, head);
            let tag = own.mark >> 32;
            let first = theirs.partition_point(|mark| mark.mark >> 32 < tag);
            let same_tag = theirs.iter().skip(first).take_while(|mark| mark.mark >> 32 == tag);
            if same_tag.clone().any(|mark| **mark == own) {
                continue;
            }
            if self.heads.len() == MAX_HEADS {
                self.more = true;
                return;
            }
            let rival = same_tag.clone().any(|mark| (mark.epoch, mark.seq) == (head.epoch, head.seq));
            if rival && self.rivals.len() < MAX_RIVALS {
                self.rivals.push(Want { author: head.author, epoch: head.epoch, seq: head.seq });
            }
            self.heads.push(*head);
            self.from.push(start_of_missing(head, same_tag.copied()));
        }
    }
}

/// From where a client lacks our log, by its mark of the same author. Two authors may have the same tag: then it has to
/// ask.
fn start_of_missing<'a>(head: &Head, mut marks: impl Iterator<Item = &'a Mark>) -> Option<Position> {
    let Some(mark) = marks.next() else { return Some(super::LOG_START) };
    if marks.next().is_some() {
        return None;
    }
    match (head.epoch, head.seq).cmp(&(mark.epoch, mark.seq)) {
        std::cmp::Ordering::Greater => Some((mark.epoch, mark.seq + 1)),
        std::cmp::Ordering::Equal => Some((head.epoch, head.seq)),
        std::cmp::Ordering::Less => None,
    }
}

/// Records of several logs, one log after the other.
struct Pages {
    envelopes: Vec<Vec<u8>>,
    bytes_left: usize,
}

impl Pages {
    fn new(max_bytes: usize) -> Self {
        Self { envelopes: vec![], bytes_left: max_bytes.min(MAX_LOG_BYTES) }
    }

    /// Adds a log as far as there is room. False when there wasn't enough for all of it.
    fn add<L: Logs>(&mut self, logs: &L, author: AuthorId, from: Position) -> Result<bool, L::Error> {
        let max_records = MAX_LOG_RECORDS.saturating_sub(self.envelopes.len());
        let frames = max_records * ENVELOPE_FRAME_BYTES;
        let max_bytes = self.bytes_left.saturating_sub(frames);
        // Less, and the one record that there may always be wouldn't fit.
        if max_records == 0 || max_bytes < MAX_ENVELOPE_BYTES {
            return Ok(false);
        }
        let page = logs.log(author, from, max_records, max_bytes)?;
        let bytes: usize = page.envelopes.iter().map(|envelope| envelope.len() + ENVELOPE_FRAME_BYTES).sum();
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.envelopes.extend(page.envelopes);
        Ok(!page.more)
    }
}
