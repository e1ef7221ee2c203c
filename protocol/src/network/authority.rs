//! Who may do what, from the records that govern a network.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{Action, GRANT, Grant, Limits, Membership, POLICY, Policy, Position, REVOKE, Revoke, Role};
use crate::{AuthorId, NetworkId, RecordId, Timestamp, record::VerifiedRecord};

/// Furthest that a policy's revision may be above the one it replaces, so that nobody uses the numbers up.
const MAX_REVISION_LEAP: u64 = 1024;

/// What one governing record says, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deed {
    id: RecordId,
    author: AuthorId,
    position: Position,
    at: Timestamp,
    body: DeedBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeedBody {
    Grant(Grant),
    Revoke(Revoke),
    Policy(Policy),
}

impl Deed {
    /// Of a record whose kind governs; `None` for other kinds, erased bodies and malformed ones.
    pub fn of(record: &VerifiedRecord) -> Option<Self> {
        let (header, body) = (record.header(), record.body()?);
        let body = match &header.kind {
            kind if *kind == GRANT => DeedBody::Grant(Grant::decode(body).ok()?),
            kind if *kind == REVOKE => DeedBody::Revoke(Revoke::decode(body).ok()?),
            kind if *kind == POLICY => DeedBody::Policy(Policy::decode(body).ok()?),
            _ => return None,
        };
        let position = (header.epoch, header.seq);
        Some(Self { id: record.id(), author: header.author, position, at: header.at, body })
    }
}

/// The moment of an act: its author's time, and its place in the author's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// By the author's clock.
    pub at: Timestamp,
    /// Where in the author's log.
    pub position: Position,
}

impl When {
    /// Of a record.
    pub fn of(record: &VerifiedRecord) -> Self {
        let header = record.header();
        Self { at: header.at, position: (header.epoch, header.seq) }
    }

    /// Of what an author is about to do: after everything in the log.
    pub const fn now(at: Timestamp) -> Self {
        Self { at, position: (u64::MAX, u64::MAX) }
    }
}

/// A grant that holds, for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The record that gave it.
    pub id: RecordId,
    /// Who gave it.
    pub by: AuthorId,
    /// What it gives; `from` and `until` are those of the whole chain.
    pub grant: Grant,
    /// Once revoked: the last place in the holder's log that counts, if any does.
    pub revoked: Option<Option<Position>>,
}

impl Effective {
    /// Whether it holds at that moment.
    pub fn holds(&self, when: When) -> bool {
        let in_time = self.grant.from <= when.at && self.grant.until.is_none_or(|until| when.at < until);
        let kept = match self.revoked {
            None => true,
            Some(keep) => keep.is_some_and(|keep| when.position <= keep),
        };
        in_time && kept
    }
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Holds no role, where only those who do may write.
    #[error("only members of this network may do that; ask one of its admins for a grant")]
    NotMember,
    /// Holds none of the roles that may.
    #[error("that takes another role in this network; ask one of its admins for a grant")]
    Role,
}

/// What a network's governing records amount to. A pure function of their set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    root: AuthorId,
    grants: BTreeMap<AuthorId, Vec<Effective>>,
    /// In ascending order of their revisions.
    policies: Vec<(Timestamp, RecordId, Policy)>,
}

impl Authority {
    /// Of a network whose governing records are `deeds`, in any order.
    pub fn new<'a>(network: NetworkId, deeds: impl IntoIterator<Item = &'a Deed>) -> Self {
        let root = AuthorId::from_bytes(*network.as_bytes());
        let deeds: Vec<&Deed> = deeds.into_iter().collect();
        let mut building = Building::new(root, &deeds);
        // Nothing that concerns admins depends on other roles, so that "any admin may revoke it" is settled first.
        building.settle(|role| role == Role::Admin);
        building.settle(|role| role != Role::Admin);
        let mut grants: BTreeMap<AuthorId, Vec<Effective>> = BTreeMap::new();
        for effective in building.effective.into_values() {
            grants.entry(effective.grant.to).or_default().push(effective);
        }
        grants.values_mut().for_each(|held| held.sort_by_key(|effective| effective.id));
        let mut authority = Self { root, grants, policies: Vec::new() };
        authority.policies = authority.valid_policies(&deeds);
        authority
    }

    /// The network's root, as an author.
    pub fn root(&self) -> AuthorId {
        self.root
    }

    /// Whether `actor` may do `action` at that moment.
    pub fn may(&self, actor: AuthorId, action: Action, when: When) -> Result<(), Denied> {
        if actor == self.root {
            return Ok(());
        }
        let membership = self.membership();
        let mut roles = self.holding(actor, when).map(|effective| (effective.grant.role, effective.grant.channel));
        let is_member = self.holding(actor, when).next().is_some();
        let allowed = match action {
            Action::Write => is_member || membership == Membership::Open,
            Action::Publish => match membership {
                Membership::Open => true,
                Membership::Members => is_member,
                Membership::Curated => {
                    roles.any(|(role, _)| matches!(role, Role::Artist | Role::Moderator | Role::Admin))
                }
            },
            Action::Moderate(channel) => roles.any(|(role, only)| match role {
                Role::Admin => true,
                Role::Moderator => only.is_none() || only == channel,
                _ => false,
            }),
            Action::ConfirmPayments => roles.any(|(role, _)| role == Role::Treasurer),
            Action::ServeEdge => roles.any(|(role, _)| role == Role::Relay),
            Action::Broadcast => self.is_issuer(actor) || roles.any(|(role, _)| role == Role::Admin),
            Action::SetPolicy => roles.any(|(role, _)| role == Role::Admin),
        };
        match (allowed, is_member || membership == Membership::Open) {
            (true, _) => Ok(()),
            (false, true) => Err(Denied::Role),
            (false, false) => Err(Denied::NotMember),
        }
    }

    /// Whether the policy names `author` as an emergency issuer.
    fn is_issuer(&self, author: AuthorId) -> bool {
        self.latest().is_some_and(|policy| policy.issuers.contains(&author))
    }

    /// Whether a record counts: belongs into the index.
    pub fn permits(&self, record: &VerifiedRecord) -> bool {
        let header = record.header();
        Action::of(&header.kind).is_none_or(|action| self.may(header.author, action, When::of(record)).is_ok())
    }

    /// How much `author` may write at that moment.
    pub fn limits(&self, author: AuthorId, when: When) -> Limits {
        let role = match author == self.root {
            true => Some(Role::Admin),
            false => self.role(author, when),
        };
        // An emergency issuer who holds no role must still be able to alert.
        if role.is_none() && self.membership() != Membership::Open && !self.is_issuer(author) {
            return Limits::NONE;
        }
        let name = role.map_or(Limits::ANYONE, Role::as_str);
        let set = self.policy(when.at).and_then(|policy| policy.quotas.get(name)).cloned();
        match author == self.root {
            // A root that locked itself out could never mend it.
            true => Limits::default_of(role),
            false => set.unwrap_or_else(|| Limits::default_of(role)),
        }
    }

    /// The highest role that `author` holds at that moment.
    pub fn role(&self, author: AuthorId, when: When) -> Option<Role> {
        self.holding(author, when).map(|effective| effective.grant.role).max()
    }

    /// The policy with the highest revision; `None` before the first: then the defaults hold.
    pub fn latest(&self) -> Option<&Policy> {
        self.policies.last().map(|(.., policy)| policy)
    }

    /// Who may write. Whatever the time of what is written: strangers would date it back to before the network was
    /// closed.
    fn membership(&self) -> Membership {
        self.latest().map_or(Membership::default(), |policy| policy.membership)
    }

    /// The policy whose quotas hold at that time; `None` before the first: then the defaults hold.
    pub fn policy(&self, at: Timestamp) -> Option<&Policy> {
        self.policies.iter().rev().find(|(from, ..)| *from <= at).map(|(.., policy)| policy)
    }

    /// Every grant that holds or once held, by holder.
    pub fn grants(&self) -> impl Iterator<Item = &Effective> {
        self.grants.values().flatten()
    }

    /// The grants that hold for `author` at that moment.
    pub fn holding(&self, author: AuthorId, when: When) -> impl Iterator<Item = &Effective> {
        self.grants.get(&author).into_iter().flatten().filter(move |effective| effective.holds(when))
    }

    /// A grant of `author` to stand on when giving `role`, if there is one; the root needs none.
    pub fn stand_on(&self, author: AuthorId, role: Role, when: When) -> Option<&Effective> {
        let able = self.holding(author, when).filter(|held| held.grant.depth > 0 && held.grant.role.covers(role));
        able.max_by_key(|held| (held.grant.channel.is_none(), held.grant.depth, held.grant.until.is_none(), held.id))
    }

    /// Authors whose records may count otherwise than under `before`; `None` when that can be everybody.
    pub fn differs_for(&self, before: &Self) -> Option<BTreeSet<AuthorId>> {
        if self.policies != before.policies {
            return None;
        }
        let holders = self.grants.keys().chain(before.grants.keys()).copied();
        Some(holders.filter(|holder| self.grants.get(holder) != before.grants.get(holder)).collect())
    }

    fn valid_policies(&self, deeds: &[&Deed]) -> Vec<(Timestamp, RecordId, Policy)> {
        let mut proposed: Vec<(bool, &Deed, &Policy)> = deeds
            .iter()
            .filter_map(|deed| match &deed.body {
                DeedBody::Policy(policy) => Some((deed.author != self.root, *deed, policy)),
                _ => None,
            })
            .filter(|(_, deed, _)| {
                let when = When { at: deed.at, position: deed.position };
                let is_admin = self.holding(deed.author, when).any(|held| held.grant.role == Role::Admin);
                deed.author == self.root || is_admin
            })
            .collect();
        // Of several with one revision the root's counts, then the one with the smallest id.
        proposed.sort_by_key(|(by_admin, deed, policy)| (policy.revision, *by_admin, deed.id));
        let mut valid: Vec<(Timestamp, RecordId, Policy)> = Vec::new();
        for (_, deed, policy) in proposed {
            let last = valid.last().map_or(0, |(.., last)| last.revision);
            if policy.revision > last && policy.revision - last <= MAX_REVISION_LEAP {
                valid.push((deed.at, deed.id, policy.clone()));
            }
        }
        valid
    }
}

/// Grants while it is being settled which of them hold.
struct Building<'a> {
    root: AuthorId,
    /// By id.
    grants: HashMap<RecordId, (&'a Deed, &'a Grant)>,
    /// By the grant they stand on.
    below: HashMap<Option<RecordId>, Vec<RecordId>>,
    /// By the grant they end.
    revocations: HashMap<RecordId, Vec<(&'a Deed, &'a Revoke)>>,
    effective: HashMap<RecordId, Effective>,
    /// What makes somebody an admin, by holder.
    admins: HashMap<AuthorId, Vec<RecordId>>,
}

impl<'a> Building<'a> {
    fn new(root: AuthorId, deeds: &[&'a Deed]) -> Self {
        let mut new = Self {
            root,
            grants: HashMap::new(),
            below: HashMap::new(),
            revocations: HashMap::new(),
            effective: HashMap::new(),
            admins: HashMap::new(),
        };
        for deed in deeds {
            match &deed.body {
                DeedBody::Grant(grant) => {
                    new.grants.insert(deed.id, (deed, grant));
                    new.below.entry(grant.under).or_default().push(deed.id);
                }
                DeedBody::Revoke(revoke) => new.revocations.entry(revoke.grant).or_default().push((deed, revoke)),
                DeedBody::Policy(_) => {}
            }
        }
        new
    }

    /// Settles the grants of these roles, from the root's downwards. A grant names the hash of the one it stands
    /// on, so there are no circles.
    fn settle(&mut self, of: impl Fn(Role) -> bool) {
        // Below what was settled before, too: a moderator's grant stands on an admin's.
        let mut waiting: Vec<RecordId> = self.below.get(&None).into_iter().flatten().copied().collect();
        let settled: Vec<RecordId> = self.effective.keys().copied().collect();
        for id in settled {
            waiting.extend(self.below.get(&Some(id)).into_iter().flatten());
        }
        while let Some(id) = waiting.pop() {
            let Some(&(deed, grant)) = self.grants.get(&id) else { continue };
            if !of(grant.role) || self.effective.contains_key(&id) {
                continue;
            }
            let Some(grant) = self.in_bounds_of_parent(deed, grant) else { continue };
            let revoked = self.revoked(id, &grant);
            if grant.role == Role::Admin {
                self.admins.entry(grant.to).or_default().push(id);
            }
            self.effective.insert(id, Effective { id, by: deed.author, grant, revoked });
            waiting.extend(self.below.get(&Some(id)).into_iter().flatten());
        }
    }

    /// The grant within what its parent allows, unless its author had no right to give it.
    fn in_bounds_of_parent(&self, deed: &Deed, grant: &Grant) -> Option<Grant> {
        let mut grant = grant.clone();
        let Some(under) = grant.under else { return (deed.author == self.root).then_some(grant) };
        let parent = self.effective.get(&under)?;
        let held = &parent.grant;
        let allowed = deed.author == held.to
            && parent.holds(When { at: deed.at, position: deed.position })
            && grant.depth < held.depth
            && held.role.covers(grant.role)
            && (held.channel.is_none() || held.channel == grant.channel);
        grant.from = grant.from.max(held.from);
        grant.until = match (grant.until, held.until) {
            (Some(own), Some(parents)) => Some(own.min(parents)),
            (own, parents) => own.or(parents),
        };
        (allowed && grant.until.is_none_or(|until| grant.from < until)).then_some(grant)
    }

    /// Where the grant ends, if it was revoked by somebody who may: the root, its holder, the holder of a grant
    /// above it, or, unless it makes an admin, any admin.
    fn revoked(&self, id: RecordId, grant: &Grant) -> Option<Option<Position>> {
        let valid = self.revocations.get(&id).into_iter().flatten().filter(|(deed, _)| {
            let when = When { at: deed.at, position: deed.position };
            deed.author == self.root
                || deed.author == grant.to
                || self.above(grant.under).any(|held| held.grant.to == deed.author && held.holds(when))
                || (grant.role != Role::Admin && self.is_admin(deed.author, when))
        });
        // The strictest of several: keeping nothing is the least.
        valid.map(|(_, revoke)| revoke.keep).min()
    }

    fn above(&self, under: Option<RecordId>) -> impl Iterator<Item = &Effective> {
        let mut next = under;
        std::iter::from_fn(move || {
            let held = self.effective.get(&next?)?;
            next = held.grant.under;
            Some(held)
        })
    }

    fn is_admin(&self, author: AuthorId, when: When) -> bool {
        let mut held = self.admins.get(&author).into_iter().flatten().filter_map(|id| self.effective.get(id));
        held.any(|held| held.holds(when))
    }
}
