//! The journal: walking its chains.

use std::time::Duration;

use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::error::{Error, Result};

/// A journal that takes longer is verified by the command line.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Whether an entry was changed, removed or reordered, and which.
        api(shell, Method::GET, "/api/journal/verify", Scope::Read, verify),
    ])
}

async fn verify(call: Call) -> Result<Response> {
    let report = tokio::time::timeout(PATIENCE, call.env().store().verify_journal())
        .await
        .map_err(|_| Error::unavailable("timeout", "the journal is too long to verify in one request; use the command line"))??;
    Ok(respond::json(&serde_json::to_value(report)?))
}
