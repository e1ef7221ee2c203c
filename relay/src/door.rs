//! Who is let in at a relay: members of its networks, so many connections of each and so many in all. Pure.

use std::collections::HashMap;

use mhc_protocol::NodeId;

/// Most connections of one node: a second while the first is about to be noticed as dead, and a few for a bad line.
pub const MAX_CONNECTIONS_PER_NODE: usize = 4;
/// Most connections in all.
pub const MAX_CONNECTIONS: usize = 4096;

/// Why a node isn't relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It doesn't say of which network it is, or says it badly.
    #[error("it names no network")]
    NoNetwork,
    /// It is no member of a network that this relay serves, or it is cut off.
    #[error("it is no member of a network of this relay")]
    NotAMember,
    /// It has [`MAX_CONNECTIONS_PER_NODE`].
    #[error("it has {MAX_CONNECTIONS_PER_NODE} connections")]
    TooMany,
    /// There are [`MAX_CONNECTIONS`].
    #[error("the relay is full")]
    Full,
    /// The relay can't tell who is a member.
    #[error("the relay has a fault of its own")]
    Fault,
}

impl Refusal {
    /// The label of the metric.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NoNetwork => "no_network",
            Self::NotAMember => "not_a_member",
            Self::TooMany => "too_many",
            Self::Full => "full",
            Self::Fault => "fault",
        }
    }
}

/// Who is in.
#[derive(Debug, Default)]
pub(crate) struct Door {
    inside: HashMap<NodeId, usize>,
    count: usize,
}

impl Door {
    /// A member comes in with one more connection.
    pub(crate) fn enter(&mut self, node: NodeId) -> Result<(), Refusal> {
        if self.count >= MAX_CONNECTIONS {
            return Err(Refusal::Full);
        }
        let connections = self.inside.entry(node).or_default();
        if *connections >= MAX_CONNECTIONS_PER_NODE {
            return Err(Refusal::TooMany);
        }
        *connections += 1;
        self.count += 1;
        Ok(())
    }

    /// One of its connections ended.
    pub(crate) fn leave(&mut self, node: NodeId) {
        let Some(connections) = self.inside.get_mut(&node) else { return };
        *connections -= 1;
        if *connections == 0 {
            self.inside.remove(&node);
        }
        self.count -= 1;
    }

    /// Connections in all.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn each_has_its_share_of_the_places() {
        let mut door = Door::default();
        for _ in 0..MAX_CONNECTIONS_PER_NODE {
            assert_eq!(door.enter(node(1)), Ok(()));
        }
        assert_eq!(door.enter(node(1)), Err(Refusal::TooMany));
        assert_eq!(door.enter(node(2)), Ok(()));
        door.leave(node(1));
        assert_eq!(door.enter(node(1)), Ok(()));
        door.leave(node(3));
        assert_eq!(door.count(), MAX_CONNECTIONS_PER_NODE + 1);
        for n in door.count()..MAX_CONNECTIONS {
            assert_eq!(door.enter(node(1000 + n)), Ok(()));
        }
        assert_eq!(door.enter(node(9)), Err(Refusal::Full));
        door.leave(node(2));
        assert_eq!(door.enter(node(9)), Ok(()));
        assert!(!door.inside.contains_key(&node(2)), "who left isn't remembered");
    }
}
