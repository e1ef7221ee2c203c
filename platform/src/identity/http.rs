//! `/api/v1/network`: the network, its policy and its grants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{extract::State, http::StatusCode};
use mhc_api::{
    ApiError, Code, Operator, Routes,
    extract::{Json, Path, Query},
};
use mhc_protocol::{
    AuthorId, RecordId, Timestamp,
    network::{Effective, Limits, Membership, Policy, Role, When},
    record::MIN_AT,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::core::{self, PolicyChange, Request, SignError};
use crate::{
    Context,
    error::{records_error, within},
    time,
};

pub(super) fn routes(context: Context) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(show, change_policy))
        .routes(routes!(grants, give))
        .routes(routes!(revoke))
        .with_state(Arc::new(context))
}

type Shared = State<Arc<Context>>;

/// The network as this node knows it.
#[derive(Debug, Serialize, ToSchema)]
struct NetworkView {
    network: String,
    /// What it calls itself.
    name: Option<String>,
    /// Whether its root key is on this node.
    founded_here: bool,
    /// `open`: anybody writes; `members`: who holds a grant; `curated`: and only artists publish.
    #[schema(value_type = String)]
    membership: Membership,
    /// Revision of the policy; 0 before the first.
    revision: u64,
    /// What this node signs as.
    author: String,
    /// The roles it holds now.
    #[schema(value_type = Vec<String>)]
    roles: BTreeSet<Role>,
    /// Grants that hold now.
    grants: usize,
    #[schema(value_type = Object)]
    fees: BTreeMap<String, u64>,
    #[schema(value_type = Object)]
    gates: BTreeMap<String, BTreeSet<String>>,
    #[schema(value_type = Object)]
    quotas: BTreeMap<String, Limits>,
    #[schema(value_type = Vec<String>)]
    essential: BTreeSet<RecordId>,
    #[schema(value_type = Vec<String>)]
    issuers: BTreeSet<AuthorId>,
}

/// Which network.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct NetworkQuery {
    /// One that this node follows; the home when absent.
    network: Option<String>,
}

/// The network, its policy, and what this node is in it.
#[utoipa::path(
    get, path = "/api/v1/network", tag = "network", params(NetworkQuery),
    responses((status = 200, body = NetworkView), (status = 404))
)]
async fn show(State(context): Shared, Query(query): Query<NetworkQuery>) -> Result<Json<NetworkView>, ApiError> {
    view(&within(&context, query.network.as_deref())?).map(Json)
}

fn view(context: &Context) -> Result<NetworkView, ApiError> {
    let when = When::now(context.now());
    let authority = core::authority(context).map_err(SignError::from)?;
    let author = context.publisher.author();
    let roles = match author == authority.root() {
        true => Role::ALL.into(),
        false => authority.holding(author, when).map(|held| held.grant.role).collect(),
    };
    let grants = authority.grants().filter(|held| held.holds(when)).count();
    let Policy { revision, name, membership, fees, gates, quotas, essential, issuers } =
        authority.latest().cloned().unwrap_or_default();
    Ok(NetworkView {
        network: context.publisher.network().to_string(),
        name,
        founded_here: context.root.is_some(),
        membership,
        revision,
        author: author.to_string(),
        roles,
        grants,
        fees,
        gates,
        quotas,
        essential,
        issuers,
    })
}

/// A grant as clients see it.
#[derive(Debug, Serialize, ToSchema)]
struct GrantView {
    /// The grant's id, to revoke it by.
    grant: String,
    #[schema(value_type = String)]
    to: AuthorId,
    #[schema(value_type = String)]
    role: Role,
    /// `active`, `not_yet`, `expired` or `revoked`.
    state: &'static str,
    #[schema(value_type = Option<String>)]
    channel: Option<AuthorId>,
    /// RFC 3339; absent when it holds from ever on.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// RFC 3339; absent when it has no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    depth: u8,
    /// Who gave it.
    #[schema(value_type = String)]
    by: AuthorId,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl GrantView {
    fn new(held: &Effective, now: Timestamp) -> Self {
        let grant = &held.grant;
        let state = match held.holds(When::now(now)) {
            true => "active",
            false if held.revoked.is_some() => "revoked",
            false if now < grant.from => "not_yet",
            false => "expired",
        };
        Self {
            grant: held.id.to_string(),
            to: grant.to,
            role: grant.role,
            state,
            channel: grant.channel,
            from: (grant.from > MIN_AT).then(|| time::rfc3339(grant.from)),
            until: grant.until.map(time::rfc3339),
            depth: grant.depth,
            by: held.by,
            note: grant.note.clone(),
        }
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct GrantsQuery {
    /// Only those of this author.
    to: Option<String>,
    /// Also those that don't hold now.
    #[serde(default)]
    all: bool,
    /// In this network, which this node follows; in the home when absent.
    network: Option<String>,
}

/// Who holds which role. Grants that nobody had a right to give aren't among them.
#[utoipa::path(
    get, path = "/api/v1/network/grants", tag = "network", params(GrantsQuery),
    responses((status = 200, body = Vec<GrantView>), (status = 404))
)]
async fn grants(State(context): Shared, Query(query): Query<GrantsQuery>) -> Result<Json<Vec<GrantView>>, ApiError> {
    let context = within(&context, query.network.as_deref())?;
    let to: Option<AuthorId> = query.to.as_deref().map(|to| parse("to", to)).transpose()?;
    let (now, authority) = (context.now(), core::authority(&context).map_err(SignError::from)?);
    let wanted = authority.grants().filter(|held| to.is_none_or(|to| held.grant.to == to));
    let shown = wanted.filter(|held| query.all || held.holds(When::now(now)));
    Ok(Json(shown.map(|held| GrantView::new(held, now)).collect()))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GiveBody {
    /// Author id, 64 hex digits.
    to: String,
    #[schema(value_type = String)]
    role: Role,
    /// Only on this channel (for moderators), 64 hex digits.
    channel: Option<String>,
    /// RFC 3339; without end when absent.
    until: Option<String>,
    /// How often it may be handed on, 0 to 8.
    #[serde(default)]
    depth: u8,
    /// What for, one line.
    note: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Signed {
    /// Id of the signed record; of a grant, to revoke it by.
    record: String,
}

/// Gives somebody a role.
#[utoipa::path(
    post, path = "/api/v1/network/grants", tag = "network", params(NetworkQuery), request_body = GiveBody,
    responses((status = 201, body = Signed), (status = 400), (status = 401), (status = 403, description = "this node may not give it"))
)]
async fn give(
    State(context): Shared,
    _operator: Operator,
    Query(query): Query<NetworkQuery>,
    Json(body): Json<GiveBody>,
) -> Result<(StatusCode, Json<Signed>), ApiError> {
    let context = within(&context, query.network.as_deref())?;
    let request = Request {
        to: parse("to", &body.to)?,
        role: body.role,
        channel: body.channel.as_deref().map(|channel| parse("channel", channel)).transpose()?,
        until: body.until.as_deref().map(|until| moment("until", until)).transpose()?,
        depth: body.depth,
        note: body.note,
    };
    let record = core::grant(&context, request).await?;
    Ok((StatusCode::CREATED, Json(Signed { record: record.id().to_string() })))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct RevokeQuery {
    /// Nothing that its holder signed under it counts, not even what came before.
    #[serde(default)]
    void: bool,
    /// Why, one line.
    reason: Option<String>,
    /// In this network, which this node follows; in the home when absent.
    network: Option<String>,
}

/// Ends a grant. What its holder has signed so far stays, unless `void`.
#[utoipa::path(
    delete, path = "/api/v1/network/grants/{id}", tag = "network",
    params(("id" = String, Path, description = "the grant's id"), RevokeQuery),
    responses((status = 200, body = Signed), (status = 401), (status = 403), (status = 404))
)]
async fn revoke(
    State(context): Shared,
    _operator: Operator,
    Path(id): Path<String>,
    Query(query): Query<RevokeQuery>,
) -> Result<Json<Signed>, ApiError> {
    let context = within(&context, query.network.as_deref())?;
    let grant = id.parse().map_err(|_| SignError::NoGrant)?;
    let record = core::revoke(&context, grant, query.void, query.reason).await?;
    Ok(Json(Signed { record: record.id().to_string() }))
}

/// What to change; what is absent stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PolicyBody {
    name: Option<String>,
    #[schema(value_type = Option<String>)]
    membership: Option<Membership>,
    #[schema(value_type = Option<Object>)]
    fees: Option<BTreeMap<String, u64>>,
    #[schema(value_type = Option<Object>)]
    gates: Option<BTreeMap<String, BTreeSet<String>>>,
    #[schema(value_type = Option<Object>)]
    quotas: Option<BTreeMap<String, Limits>>,
    #[schema(value_type = Option<Vec<String>>)]
    essential: Option<BTreeSet<RecordId>>,
    #[schema(value_type = Option<Vec<String>>)]
    issuers: Option<BTreeSet<AuthorId>>,
}

/// Signs the next revision of the policy.
#[utoipa::path(
    patch, path = "/api/v1/network", tag = "network", params(NetworkQuery), request_body = PolicyBody,
    responses((status = 200, body = NetworkView), (status = 400), (status = 401), (status = 403))
)]
async fn change_policy(
    State(context): Shared,
    _operator: Operator,
    Query(query): Query<NetworkQuery>,
    Json(body): Json<PolicyBody>,
) -> Result<Json<NetworkView>, ApiError> {
    let context = within(&context, query.network.as_deref())?;
    let PolicyBody { name, membership, fees, gates, quotas, essential, issuers } = body;
    let change = PolicyChange { name, membership, fees, gates, quotas, essential, issuers };
    core::change_policy(&context, change).await?;
    view(&context).map(Json)
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error| ApiError::new(Code::BadRequest, format!("{field}: {error}")))
}

fn moment(field: &str, text: &str) -> Result<Timestamp, ApiError> {
    time::parse(text)
        .ok_or_else(|| ApiError::new(Code::BadRequest, format!("{field} must be a moment like 2027-01-31T12:00:00Z")))
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Body(error) => Self::new(Code::BadRequest, error.to_string()),
            SignError::Denied(_) | SignError::CantGive(_) => Self::new(Code::Forbidden, error.to_string()),
            SignError::NoGrant => Self::new(Code::NotFound, error.to_string()),
            SignError::Records(error) => records_error(error),
        }
    }
}
