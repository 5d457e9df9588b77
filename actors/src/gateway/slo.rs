//! The service level: the verdict on the recorded requests, seed phase 68.

use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{error::Result, slo};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // PASS, FAIL or NO_DATA, and why.
        api(shell, Method::GET, "/api/slo/status", Scope::Read, status),
    ])
}

async fn status(call: Call) -> Result<Response> {
    Ok(respond::json_text(slo::judged(call.env(), "api").await?.text.clone()))
}
