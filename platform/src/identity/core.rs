//! Signing grants, revocations and policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mhc_protocol::{
    AuthorId, RecordId, Timestamp,
    network::{
        Action, Authority, BodyError, Denied, Effective, GRANT, Grant, Limits, MAX_DEPTH, Membership, POLICY, Policy,
        REVOKE, Revoke, Role, When,
    },
    record::{MIN_AT, VerifiedRecord},
};
use mhc_storage::record::RecordsError;

use crate::{Context, Publisher};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// The words are out of bounds.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// This node may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// This node holds no grant that lets it give this one.
    #[error(
        "this node can't make anybody {0}: it holds neither the network's root key nor a grant that may be handed on"
    )]
    CantGive(&'static str),
    /// There is no such grant here.
    #[error("there is no such grant on this node")]
    NoGrant,
    /// The log refused.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// A grant that somebody asks for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// To whom.
    pub(super) to: AuthorId,
    /// What.
    pub(super) role: Role,
    /// Only on this channel.
    pub(super) channel: Option<AuthorId>,
    /// Until when.
    pub(super) until: Option<Timestamp>,
    /// How often it may be handed on.
    pub(super) depth: u8,
    /// What for.
    pub(super) note: Option<String>,
}

/// What to change in the [`Policy`]; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub(super) struct PolicyChange {
    pub(super) name: Option<String>,
    pub(super) membership: Option<Membership>,
    pub(super) fees: Option<BTreeMap<String, u64>>,
    pub(super) gates: Option<BTreeMap<String, BTreeSet<String>>>,
    pub(super) quotas: Option<BTreeMap<String, Limits>>,
    pub(super) essential: Option<BTreeSet<RecordId>>,
    pub(super) issuers: Option<BTreeSet<AuthorId>>,
}

/// Signs a grant: with the root key where it is here, else by a grant of this node that may be handed on.
pub(super) async fn grant(context: &Context, request: Request) -> Result<VerifiedRecord, SignError> {
    let (now, authority) = (context.now(), authority(context)?);
    let (signer, under) = match &context.root {
        Some(root) => (root, None),
        None => {
            let held = authority.stand_on(context.publisher.author(), request.role, When::now(now));
            let held = held.ok_or(SignError::CantGive(request.role.as_str()))?;
            (&context.publisher, Some(held.id))
        }
    };
    let Request { to, role, channel, until, depth, note } = request;
    // From ever on: what somebody wrote before is theirs as well.
    let grant = Grant { to, role, channel, from: MIN_AT, until, depth, under, note };
    Ok(signer.publish(GRANT, grant.encode()?).await?)
}

/// Ends a grant. What its holder has signed so far stays, unless `void`: then nothing of it counts.
pub(super) async fn revoke(
    context: &Context,
    grant: RecordId,
    void: bool,
    reason: Option<String>,
) -> Result<VerifiedRecord, SignError> {
    let (now, authority) = (context.now(), authority(context)?);
    let held = authority.grants().find(|held| held.id == grant).ok_or(SignError::NoGrant)?;
    let signer = match &context.root {
        Some(root) => root,
        None if may_revoke(&authority, held, context.publisher.author(), now) => &context.publisher,
        None => return Err(Denied::Role.into()),
    };
    let head = context.records.head(context.publisher.network(), held.grant.to)?;
    let keep = head.filter(|_| !void).map(|head| (head.epoch, head.seq));
    let revoke = Revoke { grant, keep, reason };
    Ok(signer.publish(REVOKE, revoke.encode()?).await?)
}

fn may_revoke(authority: &Authority, held: &Effective, author: AuthorId, now: Timestamp) -> bool {
    let is_admin = || authority.holding(author, When::now(now)).any(|held| held.grant.role == Role::Admin);
    held.by == author || held.grant.to == author || (held.grant.role != Role::Admin && is_admin())
}

/// Signs the next revision of the policy. Where that closes the network, the node that holds the root key first
/// makes its own author an admin, or it couldn't publish any more.
pub(super) async fn change_policy(context: &Context, change: PolicyChange) -> Result<VerifiedRecord, SignError> {
    let (now, authority) = (context.now(), authority(context)?);
    let author = context.publisher.author();
    let signer: &Arc<dyn Publisher> = match &context.root {
        Some(root) => root,
        None => {
            authority.may(author, Action::SetPolicy, When::now(now))?;
            &context.publisher
        }
    };
    let mut policy = authority.latest().cloned().unwrap_or_default();
    policy.revision += 1;
    policy.name = change.name.or(policy.name);
    policy.membership = change.membership.unwrap_or(policy.membership);
    policy.fees = change.fees.unwrap_or(policy.fees);
    policy.gates = change.gates.unwrap_or(policy.gates);
    policy.quotas = change.quotas.unwrap_or(policy.quotas);
    policy.essential = change.essential.unwrap_or(policy.essential);
    policy.issuers = change.issuers.unwrap_or(policy.issuers);
    let body = Policy::encode(&policy)?;
    let closes = policy.membership != Membership::Open && authority.role(author, When::now(now)).is_none();
    if closes && context.root.is_some() {
        let note = Some("the node that founded the network".to_owned());
        let request = Request { to: author, role: Role::Admin, channel: None, until: None, depth: MAX_DEPTH, note };
        grant(context, request).await?;
    }
    Ok(signer.publish(POLICY, body).await?)
}

pub(super) fn authority(context: &Context) -> Result<Authority, RecordsError> {
    context.records.authority(context.publisher.network())
}
