//! The figures of the dashboard.

use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{error::Result, insight};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Money, webhooks, reconciliation, backups.
        api(shell, Method::GET, "/api/overview", Scope::Read, overview),
    ])
}

async fn overview(call: Call) -> Result<Response> {
    Ok(respond::json(&insight::overview(call.env()).await?))
}
