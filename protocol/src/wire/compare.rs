//! What two nodes say about the heads of their logs while they look for those that differ.
//!
//! The authors of a network, in the order of their ids, are cut into [`Part`]s. Of each a node tells a fingerprint, or
//! lists what it has. See `reconcile` for what is done with it, and `docs/protocol.md` for the bytes.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::WireError;
use crate::{AuthorId, record::MAX_SEQ};

/// Longest [`Bound`], in bytes: an author and one more.
pub const MAX_BOUND_BYTES: usize = 33;

/// A place between authors: everybody whose id is less, as bytes, is before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bound(Vec<u8>);

impl Bound {
    /// Before everybody.
    pub const fn start() -> Self {
        Self(Vec::new())
    }

    /// After everybody.
    pub fn end() -> Self {
        Self(vec![0xff; MAX_BOUND_BYTES])
    }

    /// Right before `author`.
    pub fn before(author: AuthorId) -> Self {
        Self(author.as_bytes().to_vec())
    }

    /// Right after `author`.
    pub fn after(author: AuthorId) -> Self {
        Self([author.as_bytes().as_slice(), &[0]].concat())
    }

    /// The shortest between two authors, of which `low` is the lesser.
    pub fn between(low: AuthorId, high: AuthorId) -> Self {
        let shared = low.as_bytes().iter().zip(high.as_bytes()).take_while(|(low, high)| low == high).count();
        Self(high.as_bytes().iter().copied().take(shared + 1).collect())
    }

    /// Whether `author` is before this.
    pub fn is_after(&self, author: AuthorId) -> bool {
        author.as_bytes().as_slice() < self.0.as_slice()
    }

    /// How many bytes it takes when it travels, without framing.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

/// The authors from where the part before ends (the first: from the start) to `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it ends.
    pub upper: Bound,
    /// What is said of it.
    pub content: Content,
}

/// What is said of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: it isn't in question.
    Skipped,
    /// The fingerprint of the sender's heads.
    Fingerprint(u64),
    /// Every head of the sender. In requests only.
    Listed(Vec<Mark>),
}

/// A head in few bytes: enough to see whether the reader's is another, and mostly which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// High half: the last four bytes of the author. Low half: four bytes of the salted hash of the head's id.
    pub mark: u64,
    /// The head's epoch.
    pub epoch: u64,
    /// Its position in the epoch.
    pub seq: u64,
}

/// `[upper or null for the end, fingerprint or null, list or null]`.
#[derive(Serialize, Deserialize)]
pub(super) struct PartWire(Option<ByteBuf>, Option<u64>, Option<Vec<(u64, u64, u64)>>);

impl From<Part> for PartWire {
    fn from(part: Part) -> Self {
        let upper = (part.upper != Bound::end()).then(|| ByteBuf::from(part.upper.0));
        match part.content {
            Content::Skipped => Self(upper, None, None),
            Content::Fingerprint(fingerprint) => Self(upper, Some(fingerprint), None),
            Content::Listed(marks) => {
                Self(upper, None, Some(marks.into_iter().map(|mark| (mark.mark, mark.epoch, mark.seq)).collect()))
            }
        }
    }
}

impl TryFrom<PartWire> for Part {
    type Error = WireError;

    fn try_from(PartWire(upper, fingerprint, listed): PartWire) -> Result<Self, WireError> {
        let upper = match upper {
            None => Bound::end(),
            // Travels as null, so that each bound has one encoding.
            Some(bytes) if bytes.as_slice() == Bound::end().0 => return Err(WireError::Invalid("bound")),
            Some(bytes) => Bound(bytes.into_vec()),
        };
        let content = match (fingerprint, listed) {
            (None, None) => Content::Skipped,
            (Some(fingerprint), None) => Content::Fingerprint(fingerprint),
            (None, Some(marks)) => {
                Content::Listed(marks.into_iter().map(|(mark, epoch, seq)| Mark { mark, epoch, seq }).collect())
            }
            (Some(_), Some(_)) => return Err(WireError::Invalid("part")),
        };
        Ok(Self { upper, content })
    }
}

/// Checks that parts ascend, and that their lists are within bounds: together at most `max_marks`.
pub(super) fn check_parts(parts: &[Part], max_marks: usize) -> Result<(), WireError> {
    let mut before = Bound::start();
    let mut marks = 0;
    for part in parts {
        if part.upper <= before || part.upper.0.len() > MAX_BOUND_BYTES {
            return Err(WireError::Invalid("parts"));
        }
        if let Content::Listed(listed) = &part.content {
            marks += listed.len();
            if marks > max_marks || listed.iter().any(|mark| mark.epoch > MAX_SEQ || mark.seq > MAX_SEQ) {
                return Err(WireError::Invalid("list"));
            }
        }
        before = part.upper.clone();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_lie_where_they_say() {
        let author = |bytes: [u8; 3]| {
            let mut id = [0; 32];
            id[..3].copy_from_slice(&bytes);
            AuthorId::from_bytes(id)
        };
        let (low, high) = (author([1, 2, 3]), author([1, 2, 4]));
        let between = Bound::between(low, high);
        assert_eq!((between.len_bytes(), between.is_after(low), between.is_after(high)), (3, true, false));
        assert_eq!(Bound::between(author([1, 0, 0]), author([2, 0, 0])).len_bytes(), 1);
        assert!(Bound::after(low).is_after(low) && !Bound::after(low).is_after(high));
        let last = AuthorId::from_bytes([0xff; 32]);
        assert!(Bound::end().is_after(last) && Bound::end() > Bound::after(last));
        assert!(!Bound::start().is_after(AuthorId::from_bytes([0; 32])));
    }
}
