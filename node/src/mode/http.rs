//! `/api/v1/node/shutdown-mode`: the mode, why, and the operator's choice.

use axum::extract::State;
use mhc_api::{ApiError, Operator, Routes, extract::Json};
use mhc_platform::{records_error, time::rfc3339};
use mhc_protocol::mode::{Cause, Choice};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ShutdownMode, why, word};

pub(crate) fn routes(mode: ShutdownMode) -> Routes {
    OpenApiRouter::new().routes(routes!(show, choose)).with_state(mode)
}

/// The node's mode.
#[derive(Debug, Serialize, ToSchema)]
struct ModeView {
    /// `normal` or `shutdown`.
    mode: &'static str,
    /// `nothing`, `hand`, `order` or `anchors`.
    cause: &'static str,
    /// The same in words.
    why: &'static str,
    /// RFC 3339: since when it is in this mode.
    since: String,
    /// What the operator chose: `auto`, `on` or `off`.
    #[schema(value_type = String)]
    choice: Choice,
    /// The alert that orders it.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<String>,
    anchors: Vec<AnchorView>,
    /// What the policy calls essential, as it was last looked for in shutdown mode.
    essential: EssentialView,
}

#[derive(Debug, Serialize, ToSchema)]
struct AnchorView {
    /// A node's id, or an address.
    anchor: String,
    /// Whether it did when it was last asked; absent before.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct EssentialView {
    /// Contents whose records are here.
    wanted: usize,
    /// Of them, those whose bytes are all here.
    complete: usize,
}

/// The node's mode and why.
#[utoipa::path(get, path = "/api/v1/node/shutdown-mode", tag = "node", responses((status = 200, body = ModeView)))]
async fn show(State(mode): State<ShutdownMode>) -> Json<ModeView> {
    Json(view(&mode))
}

fn view(mode: &ShutdownMode) -> ModeView {
    let state = mode.state();
    let (cause, alert) = match state.decision.cause {
        Cause::Nothing => ("nothing", None),
        Cause::Hand => ("hand", None),
        Cause::Order(alert) => ("order", Some(alert.to_string())),
        Cause::Anchors => ("anchors", None),
    };
    let anchors = mode.0.anchors.iter().zip(&state.answers);
    ModeView {
        mode: word(state.decision.mode),
        cause,
        why: why(&state.decision),
        since: rfc3339(state.since),
        choice: state.switch.choice(),
        alert,
        anchors: anchors
            .map(|(anchor, answers)| AnchorView { anchor: anchor.to_string(), answers: *answers })
            .collect(),
        essential: EssentialView { wanted: state.essential.wanted, complete: state.essential.complete },
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChoiceBody {
    /// `on`, `off` (never, whatever anchors and alerts say) or `auto`.
    #[schema(value_type = String)]
    choice: Choice,
}

/// Chooses whether the node is in shutdown mode. Kept over restarts.
#[utoipa::path(
    post, path = "/api/v1/node/shutdown-mode", tag = "node", request_body = ChoiceBody,
    responses((status = 200, body = ModeView), (status = 400), (status = 401), (status = 507))
)]
async fn choose(
    State(mode): State<ShutdownMode>,
    _operator: Operator,
    Json(body): Json<ChoiceBody>,
) -> Result<Json<ModeView>, ApiError> {
    mode.choose(body.choice).await.map_err(records_error)?;
    Ok(Json(view(&mode)))
}
