//! Who may change things: the operator of this node, by the token in `<home>/api.token`.
//!
//! Accounts of members come with a later issue; until then every state-changing route takes [`Operator`].

use std::sync::Arc;

use axum::{
    Extension,
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::{ApiError, Problem},
    extract::Json,
};

/// The operator's token. Compared in constant time, never printed.
#[derive(Clone)]
pub struct OperatorToken(blake3::Hash);

impl OperatorToken {
    /// The token that `text` is. Only its hash is kept.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether `candidate` is the token. Takes the same time for every candidate of one length.
    pub fn is(&self, candidate: &str) -> bool {
        // blake3::Hash compares in constant time.
        self.0 == blake3::hash(candidate.as_bytes())
    }
}

impl std::fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorToken(..)")
    }
}

/// Proof that the request carries the operator's token: `Authorization: Bearer <token>`. Take it as the first
/// argument of every handler that changes something; the answer is 401 otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Operator(());

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(token) = parts.extensions.get::<OperatorToken>() else {
            return Err(ApiError::internal("the gateway was assembled without an operator token"));
        };
        match bearer(parts) {
            None => Err(ApiError::unauthorized("This needs the operator's token: Authorization: Bearer <token>.")),
            Some(candidate) if token.is(candidate) => Ok(Self(())),
            Some(_) => Err(ApiError::unauthorized("That isn't this node's operator token (see <home>/api.token).")),
        }
    }
}

/// The token of `Authorization: Bearer`, when there is exactly one such header.
fn bearer(parts: &Parts) -> Option<&str> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// One-time codes that are exchanged for the operator's token, so that a link printed on the terminal can set up
/// a browser. Implemented by the node.
pub trait SetupCodes: Send + Sync + 'static {
    /// The operator's token when `code` is good. A code works once: the second call with it gives `None`.
    fn redeem(&self, code: &str) -> Option<String>;
}

/// Body of `POST /api/v1/setup`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SetupRequest {
    /// The one-time code of the link that `mhc up` printed.
    code: String,
}

/// Answer of `POST /api/v1/setup`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct SetupAnswer {
    /// The operator's token, to be sent as `Authorization: Bearer <token>`.
    token: String,
}

type Codes = Arc<dyn SetupCodes>;

pub(crate) fn routes(codes: Option<Codes>) -> crate::Routes {
    OpenApiRouter::new().routes(routes!(setup)).layer(Extension(codes))
}

/// Exchange the one-time set-up code for the operator's token
#[utoipa::path(post, path = "/api/v1/setup", tag = "node", request_body = SetupRequest, responses(
    (status = 200, description = "The token; the code is used up", body = SetupAnswer),
    (status = 401, description = "Unknown or used code", body = Problem, content_type = "application/problem+json"),
))]
async fn setup(
    Extension(codes): Extension<Option<Codes>>,
    Json(request): Json<SetupRequest>,
) -> Result<Json<SetupAnswer>, ApiError> {
    match codes.and_then(|codes| codes.redeem(&request.code)) {
        Some(token) => Ok(Json(SetupAnswer { token })),
        None => Err(ApiError::unauthorized("This set-up code is unknown or was used. Restart the node for a new one.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_well_formed_bearer_header_counts() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["Bearer abc"], Some("abc")),
            (&["bearer  abc "], Some("abc")),
            (&["Bearer "], None),
            (&["Bearer"], None),
            (&["Basic abc"], None),
            (&["abc"], None),
            (&["Bearer abc", "Bearer abc"], None),
        ];
        for (headers, expected) in table {
            let mut request = axum::http::Request::new(());
            for value in *headers {
                request.headers_mut().append(header::AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(bearer(&request.into_parts().0), *expected, "{headers:?}");
        }
    }
}
