//! `/api/v1/node/carousel` and `/api/v1/node/satellite`: the operator's side of the satellite links. Answers of jobs are events, as with bundles.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use axum::{extract::State, response::Response};
use mhc_api::{ApiError, Code, Operator, Routes, extract::Json};
use mhc_protocol::RecordId;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Satellite, answer,
    exchange::{self, Asked},
    program::ProgramRequest,
    receive::{self, Received},
    send::{self, SendRequest, Target},
};
use crate::bundle::answer as events;

type Shared = State<Arc<Satellite>>;

const DEFAULT_RATE: u64 = 1_000_000;
const DEFAULT_CAPACITY_BYTES: u64 = 1 << 30;
const DEFAULT_MARGIN_PERCENT: u32 = 50;
const MAX_MARGIN_PERCENT: u32 = 1_000;
const MAX_HOPS: u32 = 255;

pub(crate) fn routes(satellite: Arc<Satellite>) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(send))
        .routes(routes!(import))
        .routes(routes!(budget))
        .routes(routes!(exchange_with))
        .routes(routes!(answer::exchange))
        .with_state(satellite)
}

/// What the carousel's receiver has heard since the node started.
#[utoipa::path(get, path = "/api/v1/node/carousel", tag = "node", responses((status = 200, body = Object)))]
async fn status(State(satellite): Shared) -> Json<Received> {
    Json(satellite.received())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendBody {
    /// Write the stream into this file of the node's machine.
    #[schema(value_type = Option<String>)]
    to_file: Option<PathBuf>,
    /// Send it to this group or address and port.
    #[schema(value_type = Option<String>)]
    group: Option<SocketAddr>,
    /// IPv4 address of the interface to send on.
    #[schema(value_type = Option<String>)]
    interface: Option<IpAddr>,
    /// How many routers may pass it on; 1 stays in the local network.
    hops: Option<u32>,
    /// Bits a second, headers of UDP and IP included; by default 1,000,000.
    rate_bits_per_s: Option<u64>,
    /// Symbols sent in each turn for what is lost, in percent of what is sent; by default 50.
    margin_percent: Option<u32>,
    /// Turns that every object gets; by default one in a file, without end to a group.
    rounds: Option<u64>,
    /// Contents to send by name. Without any: the newest.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    contents: Vec<RecordId>,
    /// Also send the newest when contents are named.
    #[serde(default)]
    newest: bool,
    /// Most bytes that are on air; by default 1 GiB.
    capacity_bytes: Option<u64>,
}

impl SendBody {
    fn request(self) -> Result<SendRequest, ApiError> {
        let wrong = |text: &str| ApiError::new(Code::BadRequest, text);
        let is_file = self.to_file.is_some();
        let target = match (self.to_file, self.group) {
            (Some(path), None) => Target::File(path),
            (None, Some(to)) if to.port() != 0 => {
                Target::Group { to, interface: self.interface, hops: self.hops.unwrap_or(1) }
            }
            _ => return Err(wrong("name either a file, or a group with its port")),
        };
        let rate_bits_per_s = self.rate_bits_per_s.unwrap_or(DEFAULT_RATE);
        let margin_percent = self.margin_percent.unwrap_or(DEFAULT_MARGIN_PERCENT);
        if !(1_000..=10_000_000_000).contains(&rate_bits_per_s) {
            return Err(wrong("a rate is 1,000 to 10,000,000,000 bits a second"));
        }
        if margin_percent > MAX_MARGIN_PERCENT || self.hops.is_some_and(|hops| hops > MAX_HOPS) {
            return Err(wrong("a margin is at most 1,000 percent, and hops at most 255"));
        }
        let newest = self.newest || self.contents.is_empty();
        let capacity_bytes = self.capacity_bytes.unwrap_or(DEFAULT_CAPACITY_BYTES);
        let rounds = self.rounds.or(is_file.then_some(1));
        let program = ProgramRequest { contents: self.contents, newest, capacity_bytes };
        Ok(SendRequest { target, rate_bits_per_s, margin_percent, rounds, program })
    }
}

/// Sends a carousel, until it has gone round often enough or the connection is closed.
#[utoipa::path(
    post, path = "/api/v1/node/carousel/send", tag = "node", request_body = SendBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 404, description = "nothing to send"), (status = 409),
    )
)]
async fn send(State(satellite): Shared, _operator: Operator, Json(body): Json<SendBody>) -> Result<Response, ApiError> {
    let request = body.request()?;
    events(satellite.sending.start(move |stores, reporter| send::run(stores, &request, reporter))?).await
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ImportBody {
    /// A recorded stream on the node's machine.
    #[schema(value_type = String)]
    path: PathBuf,
}

/// Takes in a recorded carousel.
#[utoipa::path(
    post, path = "/api/v1/node/carousel/import", tag = "node", request_body = ImportBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 404), (status = 409),
    )
)]
async fn import(
    State(satellite): Shared,
    _operator: Operator,
    Json(body): Json<ImportBody>,
) -> Result<Response, ApiError> {
    let (intake, trust, memory_bytes) = (satellite.intake.clone(), satellite.trust.clone(), satellite.memory_bytes);
    let job = satellite
        .importing
        .start(move |_, reporter| receive::import(&intake, trust, memory_bytes, &body.path, reporter));
    events(job?).await
}

/// The uplink's budget this month.
#[utoipa::path(get, path = "/api/v1/node/satellite", tag = "node", responses((status = 200, body = Object)))]
async fn budget(State(satellite): Shared) -> Result<Json<exchange::Shown>, ApiError> {
    Ok(Json(exchange::shown(&satellite.intake.stores, satellite.uplink.budget_bytes)?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExchangeBody {
    /// A gateway of the network, such as `https://tube.example.org`.
    url: String,
    /// Contents whose bytes are wanted. Records come in any case.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    contents: Vec<RecordId>,
    /// Most bytes on the link; by default what the month's budget allows.
    max_bytes: Option<u64>,
}

/// Exchanges with a gateway over the metered uplink.
#[utoipa::path(
    post, path = "/api/v1/node/satellite/exchange", tag = "node", request_body = ExchangeBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 403, description = "the budget doesn't allow it"), (status = 404), (status = 409),
    )
)]
async fn exchange_with(
    State(satellite): Shared,
    _operator: Operator,
    Json(body): Json<ExchangeBody>,
) -> Result<Response, ApiError> {
    let ExchangeBody { url, contents, max_bytes } = body;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(ApiError::new(Code::BadRequest, "url must begin with http:// or https://"));
    }
    let (intake, uplink, asked) =
        (satellite.intake.clone(), satellite.uplink.clone(), Asked { url, contents, max_bytes });
    let job = satellite.exchanging.start(move |_, reporter| exchange::run(&intake, &uplink, &asked, reporter));
    events(job?).await
}
