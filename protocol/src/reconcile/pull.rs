//! One log that is being pulled: from where to ask, and when to stop.

use super::{LOG_START, Position, Stored};
use crate::wire::{Head, Want};

/// A log of which the server has something that we lack.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) theirs: Head,
    /// Our head when it began.
    pub(super) ours: Option<Head>,
    began: Position,
    from: Position,
    new: u64,
}

/// What became of a log's records on one page.
#[derive(Debug, Default)]
pub(super) struct Tally {
    new: u64,
    waiting: u64,
    /// Whether the last one is in its log now.
    joined: bool,
    first: Option<Position>,
    last: Option<Position>,
}

impl Tally {
    pub(super) fn add(&mut self, position: Position, stored: Stored) {
        self.new += u64::from(stored == Stored::New);
        self.waiting += u64::from(stored == Stored::Waiting);
        self.joined = matches!(stored, Stored::New | Stored::Known);
        self.first.get_or_insert(position);
        self.last = Some(position);
    }
}

/// How a pull goes on.
#[derive(Debug)]
pub(super) enum Next {
    Ask(Pull),
    /// With whether it brought anything.
    Over(Pull, bool),
}

impl Pull {
    /// What of their log is missing; none when nothing is. `known`: whether their head is one of our records.
    pub(super) fn begin<E>(
        ours: Option<Head>,
        theirs: Head,
        known: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Self>, E> {
        let place = (theirs.epoch, theirs.seq);
        let from = match ours {
            None => LOG_START,
            Some(ours) if ours.id == theirs.id => return Ok(None),
            Some(ours) => match place.cmp(&(ours.epoch, ours.seq)) {
                std::cmp::Ordering::Greater => (ours.epoch, ours.seq + 1),
                std::cmp::Ordering::Equal => place,
                // Behind us, unless our log went another way: then theirs may be the one that counts.
                std::cmp::Ordering::Less if known()? => return Ok(None),
                std::cmp::Ordering::Less => place,
            },
        };
        Ok(Some(Self { theirs, ours, began: from, from, new: 0 }))
    }

    pub(super) fn want(&self) -> Want {
        Want { author: self.theirs.author, epoch: self.from.0, seq: self.from.1 }
    }

    pub(super) fn from(&self) -> Position {
        self.from
    }

    /// Records came with the head, all that there are if `all`.
    pub(super) fn pushed(self, tally: &Tally, all: bool) -> Next {
        // The server goes by marks, and two authors may have the same: then it began too late.
        if tally.new == 0 && tally.first.is_some_and(|first| first > self.from) {
            return Next::Ask(self);
        }
        if all { self.whole(tally) } else { self.partial(tally) }
    }

    /// All that the server has was on this page.
    pub(super) fn whole(mut self, tally: &Tally) -> Next {
        self.new += tally.new;
        if self.new == 0 && tally.waiting > 0 && self.began != LOG_START {
            // Nothing joined: the fork lies further back.
            (self.began, self.from) = (LOG_START, LOG_START);
            return Next::Ask(self);
        }
        let brought = self.new > 0;
        Next::Over(self, brought)
    }

    /// There may be more than was on this page.
    pub(super) fn partial(mut self, tally: &Tally) -> Next {
        let Some(last) = tally.last.filter(|_| tally.new > 0 || tally.joined) else { return self.whole(tally) };
        // Once more from the last position: evidence of a fork at it may be on the next page.
        let from = if last > self.from { last } else { (last.0, last.1 + 1) };
        if from > (self.theirs.epoch, self.theirs.seq) {
            return self.whole(tally);
        }
        self.new += tally.new;
        self.from = from;
        Next::Ask(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuthorId, RecordId};

    fn head(epoch: u64, seq: u64, id: u8) -> Head {
        Head { author: AuthorId::from_bytes([1; 32]), epoch, seq, id: RecordId::from_bytes([id; 32]) }
    }

    fn pull(ours: Option<Head>, theirs: Head, known: bool) -> Option<Pull> {
        Pull::begin(ours, theirs, || Ok::<_, ()>(known)).unwrap()
    }

    fn tally(page: &[(u64, Stored)]) -> Tally {
        let mut tally = Tally::default();
        page.iter().for_each(|(seq, stored)| tally.add((0, *seq), *stored));
        tally
    }

    #[test]
    fn what_is_missing_follows_from_the_heads() {
        let ours = |epoch, seq| Some(head(epoch, seq, 1));
        let cases = [
            (None, head(0, 5, 1), false, Some((0, 0)), "an author we don't know"),
            (ours(0, 5), head(0, 5, 1), true, None, "the same"),
            (ours(0, 5), head(0, 9, 2), false, Some((0, 6)), "they are ahead"),
            (ours(0, 9), head(0, 5, 2), true, None, "they are behind"),
            (ours(0, 9), head(0, 5, 2), false, Some((0, 5)), "they are on another branch"),
            (ours(0, 5), head(0, 5, 2), false, Some((0, 5)), "a fork"),
            (ours(0, 5), head(1, 0, 2), false, Some((0, 6)), "a new epoch"),
            (ours(1, 0), head(0, 9, 2), true, None, "an old epoch"),
        ];
        for (ours, theirs, known, expected, name) in cases {
            assert_eq!(pull(ours, theirs, known).map(|pull| pull.from), expected, "{name}");
        }
    }

    #[test]
    fn what_joins_nothing_is_asked_for_from_the_start_once() {
        use Stored::{Known, New, Refused, Waiting};
        let begin = || pull(Some(head(0, 5, 1)), head(0, 9, 2), false).unwrap();
        let Next::Ask(again) = begin().whole(&tally(&[(6, Waiting), (7, Waiting)])) else { panic!("from the start") };
        assert_eq!(again.from, (0, 0));
        let over = again.whole(&tally(&[(0, Known), (1, Refused), (2, Waiting)]));
        assert!(matches!(over, Next::Over(_, false)), "{over:?}");
        assert!(matches!(begin().whole(&tally(&[(6, New), (7, Waiting)])), Next::Over(_, true)));
        assert!(matches!(begin().whole(&tally(&[(6, Refused)])), Next::Over(_, false)));
        assert!(matches!(begin().whole(&tally(&[])), Next::Over(_, false)));
    }

    #[test]
    fn a_push_that_began_too_late_counts_for_nothing() {
        let begin = || pull(None, head(0, 9, 2), false).unwrap();
        let next = begin().pushed(&tally(&[(6, Stored::Waiting), (7, Stored::Waiting)]), true);
        assert!(matches!(next, Next::Ask(pull) if pull.from == (0, 0)));
        let next = begin().pushed(&tally(&[(0, Stored::Refused)]), true);
        assert!(matches!(next, Next::Over(_, false)));
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        use Stored::{Known, New, Refused, Waiting};
        let begin = || pull(Some(head(0, 5, 1)), head(0, 99, 2), false).unwrap();
        let from = |next| if let Next::Ask(pull) = next { Some(pull.from) } else { None };
        assert_eq!(from(begin().partial(&tally(&[(6, New), (7, New)]))), Some((0, 7)));
        assert_eq!(from(begin().partial(&tally(&[(6, New)]))), Some((0, 7)), "never the same place again");
        assert_eq!(from(begin().partial(&tally(&[(6, Known), (7, Known)]))), Some((0, 7)));
        assert_eq!(from(begin().partial(&tally(&[(6, Waiting), (7, Waiting)]))), Some((0, 0)), "joins nothing");
        assert_eq!(from(begin().partial(&tally(&[(6, Known), (7, Refused)]))), None, "a branch that lost");
        assert_eq!(from(begin().partial(&tally(&[(6, New), (200, New)]))), None, "beyond their head");
    }
}
