//! Identity: who is who in the network, by what its root and those it trusts have signed.
//!
//! Grants, revocations and the policy are records; `mhc_protocol::network` says what they amount to and the record
//! store holds every record against it. Here is what an operator and an admin see and sign. Accounts of members
//! come with a later issue.

mod core;
mod http;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mhc_protocol::record::{RecordKind, VerifiedRecord};
use mhc_storage::record::{Malformed, Projection, Rows};

use crate::{Context, Service};

/// The service; it holds no state of its own.
#[derive(Debug)]
pub struct Identity;

impl Projection for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn version(&self) -> u32 {
        1
    }

    fn kinds(&self) -> &'static [RecordKind] {
        // What governs is kept by the record store itself, which needs it before any index.
        &[]
    }

    fn rows(&self, _: &VerifiedRecord, _: &mut Rows) -> Result<(), Malformed> {
        Ok(())
    }
}

impl Service for Identity {
    fn routes(self: Arc<Self>, context: Context) -> mhc_api::Routes {
        http::routes(context)
    }
}
