//! `/api/v1/node/emergency`: alerts as everybody sees them and as issuers send them; `/api/v1/node/journal`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{extract::State, http::StatusCode};
use mhc_api::{
    ApiError, Code, Operator, Routes,
    extract::{Json, Query},
};
use mhc_platform::{Context, records_error, time::rfc3339, within};
use mhc_protocol::{
    AuthorId, NetworkId, SecretKey,
    alert::{Alert, AlertDesk, Dropped, Kind, MAX_ALERT_BYTES, Order, Severity, Status, Urgency},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Emergency, Refused, Shown, Source,
    issue::{AlertBody, Issuer},
    may_alert,
};
use crate::{author::now, journal::Facts};

const DEFAULT_ENTRIES: u64 = 50;
const MAX_ENTRIES: u64 = 1_000;

/// What the routes need.
pub(crate) struct Desk {
    pub(crate) emergency: Emergency,
    pub(crate) context: Context,
    pub(crate) node_key: SecretKey,
    /// The home network's root, on the node that founded it.
    pub(crate) network_key: Option<SecretKey>,
}

type Shared = State<Arc<Desk>>;

pub(crate) fn routes(desk: Desk) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list, send))
        .routes(routes!(hand_in))
        .routes(routes!(journal))
        .with_state(Arc::new(desk))
}

/// An alert as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlertView {
    /// Names it, for `refers`.
    id: String,
    network: String,
    #[schema(value_type = String)]
    issuer: AuthorId,
    #[schema(value_type = String)]
    kind: Kind,
    #[schema(value_type = String)]
    status: Status,
    /// Whether nothing has really happened.
    drill: bool,
    #[schema(value_type = String)]
    severity: Severity,
    #[schema(value_type = String)]
    urgency: Urgency,
    /// What nodes do by themselves; absent when nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    order: Option<Order>,
    /// `in_force`, `ended`, `expired`, or `cancellation`.
    state: &'static str,
    /// RFC 3339, by the issuer's clock.
    sent_at: String,
    /// RFC 3339.
    expires_at: String,
    /// RFC 3339, by this node's clock.
    received_at: String,
    /// The line of the compact form.
    short: String,
    /// Its language, two letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    /// The whole text by language tag; empty until the long form is here.
    #[schema(value_type = Object)]
    texts: BTreeMap<String, String>,
    areas: BTreeSet<String>,
    /// Content that tells more.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// The record with the long form; absent until it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    /// The compact form in base64url, for links of another kind; `POST /api/v1/node/emergency/take` takes it.
    compact: String,
}

impl AlertView {
    fn of(network: String, shown: Shown) -> Self {
        let Shown { alert, taken_at, record, details, holds, ended } = shown;
        let said = alert.said();
        let state = match (said.kind, holds, ended) {
            (Kind::Cancel, ..) => "cancellation",
            (_, true, _) => "in_force",
            (_, _, true) => "ended",
            _ => "expired",
        };
        Self {
            id: alert.id().to_string(),
            network,
            issuer: alert.issuer(),
            kind: said.kind,
            status: said.status,
            drill: alert.is_drill(),
            severity: said.severity,
            urgency: said.urgency,
            order: (said.order != Order::None).then_some(said.order),
            state,
            sent_at: rfc3339(said.at),
            expires_at: rfc3339(alert.expires()),
            received_at: rfc3339(taken_at),
            short: said.text.clone(),
            language: said.language.map(|letters| String::from_utf8_lossy(&letters).into_owned()),
            texts: details.texts,
            areas: details.areas,
            content: details.content.map(|content| content.to_string()),
            record: record.map(|record| record.to_string()),
            compact: data_encoding::BASE64URL_NOPAD.encode(alert.bytes()),
        }
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Also cancellations, and what they and updates ended, until it has expired.
    #[serde(default)]
    all: bool,
    /// A network that this node follows; the home when absent.
    network: Option<String>,
}

/// Alerts that hold, the worst first and drills last.
#[utoipa::path(
    get, path = "/api/v1/node/emergency", tag = "node", params(ListQuery),
    responses((status = 200, body = Vec<AlertView>), (status = 404))
)]
async fn list(State(desk): Shared, Query(query): Query<ListQuery>) -> Result<Json<Vec<AlertView>>, ApiError> {
    let network = within(&desk.context, query.network.as_deref())?.publisher.network();
    let mut shown = desk.emergency.all(network, now()).map_err(records_error)?;
    shown.retain(|shown| query.all || shown.holds);
    Ok(Json(shown.into_iter().map(|shown| AlertView::of(network.to_string(), shown)).collect()))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct NetworkQuery {
    /// A network that this node follows; the home when absent.
    network: Option<String>,
}

/// What became of an alert that was sent.
#[derive(Debug, Serialize, ToSchema)]
struct Sent {
    #[serde(flatten)]
    alert: AlertView,
    /// Whether a peer was there to hear it. Those who come later are told.
    heard: bool,
    /// Why the long form isn't on its way, if it isn't; the compact form is.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// Sends an alert to every node of the network, by every link. For its root, its admins and its emergency issuers.
#[utoipa::path(
    post, path = "/api/v1/node/emergency", tag = "node", params(NetworkQuery), request_body = AlertBody,
    responses(
        (status = 201, body = Sent), (status = 400), (status = 401), (status = 403, description = "not an issuer"),
        (status = 404, description = "no such alert to update or cancel"), (status = 429), (status = 507),
    )
)]
async fn send(
    State(desk): Shared,
    _operator: Operator,
    Query(query): Query<NetworkQuery>,
    Json(body): Json<AlertBody>,
) -> Result<(StatusCode, Json<Sent>), ApiError> {
    let context = within(&desk.context, query.network.as_deref())?;
    let issuer = desk.issuer(&context)?;
    let network = context.publisher.network();
    let known = desk.emergency.known(network);
    let record = body.sign(issuer.key, network, &known, now())?;
    // Bounds of the long form, before anything goes out.
    record.encode().map_err(|error| ApiError::new(Code::BadRequest, error.to_string()))?;
    let taken = desk.emergency.take(network, record.alert.bytes(), Source::Here).await;
    let alert = taken.map_err(refusal)?;
    let heard = desk.emergency.spread(network, &alert).await;
    let warning = match issuer.publish(&record).await {
        Ok(id) => {
            desk.emergency.join_record(network, &alert, id).await.map_err(records_error)?;
            None
        }
        Err(error) => {
            tracing::error!(%error, "the alert's record isn't published");
            Some(format!("only the short line was sent: {error}"))
        }
    };
    let shown = desk.emergency.all(network, now()).map_err(records_error)?;
    let shown = shown.into_iter().find(|shown| shown.alert.id() == alert.id());
    let shown = shown.ok_or_else(|| ApiError::internal("the alert that was just sent is gone"))?;
    let alert = AlertView::of(network.to_string(), shown);
    Ok((StatusCode::CREATED, Json(Sent { alert, heard, warning })))
}

impl Desk {
    /// Who of this home may alert the network: the node itself, else the root.
    fn issuer<'a>(&'a self, context: &'a Context) -> Result<Issuer<'a>, ApiError> {
        let authority = context.records.authority(context.publisher.network()).map_err(records_error)?;
        let node = Issuer { key: &self.node_key, publisher: &*context.publisher };
        if may_alert(&authority, node.key.author(), now()) {
            return Ok(node);
        }
        let root = self.network_key.as_ref().zip(context.root.as_deref());
        let root = root.map(|(key, publisher)| Issuer { key, publisher });
        root.ok_or_else(|| ApiError::new(Code::Forbidden, Dropped::NotIssuer.to_string()))
    }
}

fn refusal(refused: Refused) -> ApiError {
    let code = match refused {
        Refused::Failed(error) => return records_error(error),
        Refused::Bad(_) => Code::BadRequest,
        Refused::Dropped(Dropped::NotIssuer) => Code::Forbidden,
        Refused::Dropped(Dropped::TooMany) => Code::RateLimited,
        Refused::Dropped(_) => Code::Conflict,
    };
    ApiError::new(code, refused.to_string())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HandedIn {
    /// The compact form in base64url, as the list has it.
    compact: String,
}

/// Takes an alert that came by a link of another kind, such as radio, and passes it on. What is forged, expired or known
/// is refused.
#[utoipa::path(
    post, path = "/api/v1/node/emergency/take", tag = "node", params(NetworkQuery), request_body = HandedIn,
    responses(
        (status = 201, body = AlertView), (status = 400, description = "no alert, or forged"), (status = 401),
        (status = 403, description = "not an issuer"), (status = 409, description = "known, ended or expired"), (status = 429),
    )
)]
async fn hand_in(
    State(desk): Shared,
    _operator: Operator,
    Query(query): Query<NetworkQuery>,
    Json(body): Json<HandedIn>,
) -> Result<(StatusCode, Json<AlertView>), ApiError> {
    let network = within(&desk.context, query.network.as_deref())?.publisher.network();
    let text = body.compact.trim();
    if text.len() > 2 * MAX_ALERT_BYTES {
        return Err(ApiError::new(Code::BadRequest, format!("an alert has at most {MAX_ALERT_BYTES} bytes")));
    }
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
    let bytes = bytes.map_err(|error| ApiError::new(Code::BadRequest, format!("compact: {error}")))?;
    let alert = desk.emergency.take(network, &bytes, Source::Hand).await.map_err(refusal)?;
    desk.emergency.spread(network, &alert).await;
    let shown = desk.emergency.all(network, now()).map_err(records_error)?;
    let shown = shown.into_iter().find(|shown| shown.alert.id() == alert.id());
    let shown = shown.ok_or_else(|| ApiError::internal("the alert that was just taken is gone"))?;
    Ok((StatusCode::CREATED, Json(AlertView::of(network.to_string(), shown))))
}

impl Emergency {
    /// The desk of a network as it is now.
    fn known(&self, network: NetworkId) -> AlertDesk {
        self.read().get(&network).map(|held| held.desk.clone()).unwrap_or_default()
    }

    /// Tells all peers; whether one was there.
    async fn spread(&self, network: NetworkId, alert: &Alert) -> bool {
        let heard = self.gossip(network, alert).await;
        let facts = Facts::from([("alert", alert.id().to_string()), ("heard", heard.to_string())]);
        self.0.journal.note(now(), "alert-sent", facts).await;
        heard
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct JournalQuery {
    /// Most entries, 1,000 at most; 50 when absent.
    limit: Option<u64>,
}

/// An entry of the journal.
#[derive(Debug, Serialize, ToSchema)]
struct EntryView {
    number: u64,
    /// RFC 3339.
    at: String,
    event: String,
    #[schema(value_type = Object)]
    facts: BTreeMap<String, String>,
    /// Whether it names the hash of the entry before it; absent where that one isn't shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
}

/// What this node did and refused about alerts and shutdown mode, newest first.
#[utoipa::path(
    get, path = "/api/v1/node/journal", tag = "node", params(JournalQuery),
    responses((status = 200, body = Vec<EntryView>), (status = 401))
)]
async fn journal(
    State(desk): Shared,
    _operator: Operator,
    Query(query): Query<JournalQuery>,
) -> Result<Json<Vec<EntryView>>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_ENTRIES).min(MAX_ENTRIES);
    let entries = desk.emergency.0.journal.newest(limit).await.map_err(records_error)?.into_iter();
    let view = |entry: crate::journal::Entry| {
        let crate::journal::Entry { number, at, event, facts, fits } = entry;
        EntryView { number, at: rfc3339(at), event, facts, fits }
    };
    Ok(Json(entries.map(view).collect()))
}
