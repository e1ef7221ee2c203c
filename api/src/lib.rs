//! The gateway kit: what every HTTP answer of a node is made with.
//!
//! A service of the platform brings its own [`Routes`]; [`Gateway`] assembles them with its own (health, metrics,
//! OpenAPI, blobs, the page), and puts the same things around all of them: the Host and Origin check, request ids,
//! `application/problem+json` for every error, metrics, caught panics, time-outs and a bounded shutdown.
//!
//! A request goes: [`serve`] (connection limits, header time-out) → [`observe`] (request id, span, figures, problem
//! rendering) → [`guard`] (Host, Origin) → routing → [`auth`] and [`extract`] → handler → [`blobs`] for bytes.
//!
//! Nothing here knows a rule of the platform, a peer or a path on disk.

pub mod auth;
pub mod blobs;
pub mod error;
pub mod extract;
pub mod guard;
pub mod metrics;
pub mod observe;
pub mod page;
pub mod range;
pub mod serve;
pub mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod upload;

pub use auth::{Operator, OperatorToken, SetupCodes};
pub use error::{ApiError, Code, Problem};
pub use extract::{Json, Path, Query};
pub use guard::Scheme;
pub use metrics::Registry;
pub use serve::{Connections, Place};
pub use server::{BindError, BoundGateway, Gateway, GatewayOptions, Limits, Site};

/// A service's HTTP together with the OpenAPI that describes it.
pub type Routes = utoipa_axum::router::OpenApiRouter;
