//! What is put on air: a policy over what there is.

use super::{MAX_OBJECTS, Object};

/// Why something is to be on air, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Records: small, and all else hangs on them.
    Records,
    /// What the network's policy calls essential.
    Essential,
    /// What was asked for by name.
    Wanted,
    /// The newest of the rest.
    Newest,
}

impl Class {
    /// How much more often than the least urgent it comes round.
    pub const fn weight(self) -> u32 {
        match self {
            Self::Records => 8,
            Self::Essential => 4,
            Self::Wanted => 2,
            Self::Newest => 1,
        }
    }
}

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Why.
    pub class: Class,
    /// When it was published, for the order among those of a class: the newest first.
    pub at_ms: u64,
    /// What.
    pub object: Object,
}

/// What is on air, the most urgent first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Playlist {
    /// The items.
    pub items: Vec<Item>,
    /// How many candidates had no room.
    pub left_out: usize,
}

impl Playlist {
    /// Chooses among candidates: by class and then age, each object once, as many as `capacity_bytes` hold. A large one
    /// that doesn't fit is passed over; smaller ones may.
    pub fn choose(mut candidates: Vec<Item>, capacity_bytes: u64) -> Self {
        candidates.sort_by_key(|item| (item.class, std::cmp::Reverse(item.at_ms), item.object.hash));
        let mut list = Self::default();
        let (mut seen, mut bytes) = (std::collections::HashSet::new(), 0);
        for item in candidates {
            if !seen.insert(item.object.hash) {
                continue;
            }
            let with = bytes + u64::from(item.object.bytes);
            match with <= capacity_bytes && list.items.len() < MAX_OBJECTS {
                true => {
                    bytes = with;
                    list.items.push(item);
                }
                false => list.left_out += 1,
            }
        }
        list
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| u64::from(item.object.bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carousel::About;

    fn item(class: Class, at_ms: u64, name: u8, bytes: u32) -> Item {
        Item { class, at_ms, object: Object { hash: [name; 32], bytes, about: About::Records } }
    }

    #[test]
    fn the_urgent_come_first_then_the_newest_and_what_fits() {
        let candidates = vec![
            item(Class::Newest, 9, 1, 50),
            item(Class::Newest, 8, 2, 500),
            item(Class::Newest, 7, 3, 50),
            item(Class::Records, 1, 4, 10),
            item(Class::Essential, 2, 5, 100),
            item(Class::Wanted, 3, 6, 100),
            // The same once more, less urgent.
            item(Class::Newest, 2, 5, 100),
        ];
        let list = Playlist::choose(candidates, 310);
        let names: Vec<u8> = list.items.iter().map(|item| item.object.hash[0]).collect();
        assert_eq!((names, list.left_out, list.bytes()), (vec![4, 5, 6, 1, 3], 1, 310));
    }

    #[test]
    fn there_is_an_end_to_objects() {
        let many = (0..MAX_OBJECTS as u64 + 5).map(|n| {
            let mut item = item(Class::Newest, n, 0, 1);
            item.object.hash[..8].copy_from_slice(&n.to_le_bytes());
            item
        });
        assert_eq!(Playlist::choose(many.collect(), u64::MAX).left_out, 5);
    }
}
