//! `/api/v1/networks`: which networks this node follows, and how much of each.

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode};
use mhc_api::{
    ApiError, Code, Operator,
    extract::{Json, Path},
};
use mhc_protocol::{AuthorId, NetworkId, network::Interest, ticket::Ticket};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operations, Shared, net_error};
use crate::net::FollowedNetwork;

/// How much of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HowMuch {
    /// Everything.
    #[default]
    Whole,
    /// What governs it, and the channels that are named.
    Channels,
    /// What governs it, and whoever published what its policy calls essential.
    Essential,
}

/// A network that this node follows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FollowedView {
    #[schema(value_type = String)]
    network: NetworkId,
    /// What it calls itself.
    name: Option<String>,
    /// Whether it is the home: where this node publishes unless it is told otherwise.
    home: bool,
    interest: HowMuch,
    /// Whose channels, where only some are of interest.
    #[schema(value_type = Vec<String>)]
    channels: BTreeSet<AuthorId>,
    /// Peers there with a connection now.
    peers: usize,
    /// Authors of whom something is here.
    authors: usize,
}

/// Authors that are counted one by one; with more, this many are told.
const MAX_COUNTED: usize = 100_000;

fn view(ops: &Operations, followed: FollowedNetwork) -> Result<FollowedView, ApiError> {
    let FollowedNetwork { network, home, interest, peers } = followed;
    let records = &ops.context.records;
    let name = records.authority(network).map_err(ApiError::internal)?.latest().and_then(|policy| policy.name.clone());
    let authors = records.heads(network, None, MAX_COUNTED).map_err(ApiError::internal)?.len();
    let (interest, channels) = match interest {
        Interest::Whole => (HowMuch::Whole, BTreeSet::new()),
        Interest::Channels(channels) => (HowMuch::Channels, channels),
        Interest::Essential => (HowMuch::Essential, BTreeSet::new()),
    };
    Ok(FollowedView { network, name, home, interest, channels, peers, authors })
}

fn find(ops: &Operations, network: NetworkId) -> Result<FollowedView, ApiError> {
    let followed = ops.net.networks().into_iter().find(|followed| followed.network == network);
    view(ops, followed.ok_or_else(not_followed)?)
}

fn not_followed() -> ApiError {
    ApiError::new(Code::NotFound, "this node doesn't follow that network; `mhc network list` shows which it does")
}

fn parse_id(id: &str) -> Result<NetworkId, ApiError> {
    id.parse().map_err(|_| not_followed())
}

/// The networks that this node follows, the home first.
#[utoipa::path(get, path = "/api/v1/networks", tag = "network", responses((status = 200, body = Vec<FollowedView>)))]
pub(super) async fn list(State(ops): Shared) -> Result<Json<Vec<FollowedView>>, ApiError> {
    let mut followed = ops.net.networks();
    followed.sort_by_key(|followed| (!followed.home, followed.network));
    followed.into_iter().map(|followed| view(&ops, followed)).collect::<Result<_, _>>().map(Json)
}

/// How much of a network is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InterestBody {
    #[serde(default)]
    interest: HowMuch,
    /// Author ids, 64 hex digits each, with the interest `channels` only.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    channels: BTreeSet<AuthorId>,
}

impl InterestBody {
    fn read(self) -> Result<Interest, ApiError> {
        match (self.interest, self.channels.is_empty()) {
            (HowMuch::Whole, true) => Ok(Interest::Whole),
            (HowMuch::Essential, true) => Ok(Interest::Essential),
            (HowMuch::Channels, false) => Ok(Interest::Channels(self.channels)),
            _ => Err(ApiError::new(Code::BadRequest, "channels are named with the interest `channels`, and only then")),
        }
    }
}

/// A network to follow.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FollowBody {
    /// What `mhc ticket` prints on a node of that network.
    ticket: String,
    #[serde(default)]
    interest: HowMuch,
    /// Author ids, 64 hex digits each, with the interest `channels` only.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    channels: BTreeSet<AuthorId>,
}

/// Follows another network beside the home.
#[utoipa::path(
    post, path = "/api/v1/networks", tag = "network", request_body = FollowBody,
    responses(
        (status = 201, body = FollowedView), (status = 400), (status = 401),
        (status = 409, description = "too many are followed, or the ticket is this node's own"),
    )
)]
pub(super) async fn follow(
    State(ops): Shared,
    _operator: Operator,
    Json(body): Json<FollowBody>,
) -> Result<(StatusCode, Json<FollowedView>), ApiError> {
    let FollowBody { ticket, interest, channels } = body;
    let interest = InterestBody { interest, channels }.read()?;
    let ticket: Ticket = ticket.parse().map_err(|error| ApiError::new(Code::BadRequest, format!("ticket: {error}")))?;
    let network = ticket.network;
    ops.net.follow(ticket, interest).await.map_err(net_error)?;
    Ok((StatusCode::CREATED, Json(find(&ops, network)?)))
}

/// Follows more or less of a network from now on. What is here already stays until `POST /api/v1/node/gc`.
#[utoipa::path(
    put, path = "/api/v1/networks/{id}/interest", tag = "network", request_body = InterestBody,
    params(("id" = String, Path, description = "network id")),
    responses((status = 200, body = FollowedView), (status = 400), (status = 401), (status = 404))
)]
pub(super) async fn set_interest(
    State(ops): Shared,
    _operator: Operator,
    Path(id): Path<String>,
    Json(body): Json<InterestBody>,
) -> Result<Json<FollowedView>, ApiError> {
    let network = parse_id(&id)?;
    ops.net.set_interest(network, body.read()?).await.map_err(net_error)?;
    find(&ops, network).map(Json)
}

/// Stops following a network. Its records stay here, unseen, until `POST /api/v1/node/gc`.
#[utoipa::path(
    delete, path = "/api/v1/networks/{id}", tag = "network", params(("id" = String, Path, description = "network id")),
    responses((status = 204), (status = 401), (status = 404), (status = 409, description = "it is the home"))
)]
pub(super) async fn unfollow(
    State(ops): Shared,
    _operator: Operator,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    ops.net.unfollow(parse_id(&id)?).await.map_err(net_error)?;
    Ok(StatusCode::NO_CONTENT)
}
