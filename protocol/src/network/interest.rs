//! How much of a network a node keeps.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Authority, Role};
use crate::{AuthorId, RecordId};

/// Most channels of one [`Interest::Channels`].
pub const MAX_CHANNELS: usize = 1024;

/// How much of a network a node follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interest {
    /// Everything.
    #[default]
    Whole,
    /// What governs the network, and these authors.
    Channels(BTreeSet<AuthorId>),
    /// What governs the network, and whoever published what its policy calls essential.
    Essential,
}

/// Whose logs a node keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Only these authors'.
    Only(BTreeSet<AuthorId>),
}

impl Scope {
    /// Whether it has this author's log in it.
    pub fn contains(&self, author: AuthorId) -> bool {
        match self {
            Self::All => true,
            Self::Only(authors) => authors.contains(&author),
        }
    }
}

impl Interest {
    /// Whose logs that is, by what is known now: the logs of those who govern are always among them, since without
    /// them a node would decide otherwise than others what a record counts for, and so are those of the emergency
    /// issuers and `own`. `publisher` tells who wrote a record, as far as that is known.
    pub fn scope(
        &self,
        authority: &Authority,
        own: AuthorId,
        mut publisher: impl FnMut(RecordId) -> Option<AuthorId>,
    ) -> Scope {
        let mut authors = authority.governors();
        authors.insert(own);
        authors.extend(authority.latest().map(|policy| &policy.issuers).into_iter().flatten());
        match self {
            Self::Whole => return Scope::All,
            Self::Channels(channels) => authors.extend(channels),
            Self::Essential => {
                let essential = authority.latest().map(|policy| &policy.essential).into_iter().flatten();
                authors.extend(essential.filter_map(|content| publisher(*content)));
            }
        }
        Scope::Only(authors)
    }
}

impl Authority {
    /// Everybody whose records can govern: the root, admins, and whoever may hand a role on, or could once.
    pub fn governors(&self) -> BTreeSet<AuthorId> {
        let may_sign = self.grants().filter(|held| held.grant.role == Role::Admin || held.grant.depth > 0);
        may_sign.map(|held| held.grant.to).chain([self.root()]).collect()
    }
}
