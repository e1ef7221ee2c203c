//! `/api/v1/node/links`: why each byte came the way it came.

use axum::extract::State;
use mhc_api::extract::Json;
use mhc_protocol::link::{LinkClass, PathState};

use super::Shared;
use crate::net::{ClassReport, LinkReport};

/// Each kind of link, the ways to each peer, which of them carries, and why.
#[utoipa::path(get, path = "/api/v1/node/links", tag = "node", responses((status = 200, body = Object)))]
pub(super) async fn links(State(ops): Shared) -> Json<LinkReport> {
    let mut report = ops.net.link_report();
    report.classes.extend(ops.satellite.budget_left_bytes().map(satellite));
    Json(report)
}

/// The uplink is used when somebody asks for an exchange, and holds no path open.
fn satellite(left_bytes: u64) -> ClassReport {
    let (state, why) = match left_bytes {
        0 => (PathState::Down, "this month's budget is spent"),
        _ => (PathState::Up, "carries exchanges that are asked for"),
    };
    ClassReport {
        class: LinkClass::Satellite,
        state,
        why: why.into(),
        paths: 0,
        carries: 0,
        rtt_ms: None,
        rate_bytes_per_s: 0,
        in_bytes: 0,
        out_bytes: 0,
        budget_left_bytes: Some(left_bytes),
    }
}
