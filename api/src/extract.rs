//! Axum's extractors with rejections that come out as problems, never as plain text.

use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{ApiError, Code};

/// A JSON body, in or out. At most 2 MiB in; 400, 413 or 415 as a problem otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

/// The query string; 400 as a problem when it doesn't fit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

/// The variables of the path. What doesn't parse names nothing: 404 as a problem.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let axum::Json(value) = axum::Json::from_request(request, state).await.map_err(json_error)?;
        Ok(Self(value))
    }
}

fn json_error(rejection: JsonRejection) -> ApiError {
    let code = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => Code::BadRequest,
        status => Code::of_status(status),
    };
    ApiError::new(code, rejection.body_text())
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(axum::http::header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => ApiError::internal(error).into_response(),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|rejection| match rejection.status() {
            StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(rejection.body_text()),
            _ => ApiError::not_found(rejection.body_text()),
        })
    }
}
