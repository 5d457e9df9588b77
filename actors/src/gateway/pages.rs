//! Pages for people. Called by the gateway, which puts them behind every other route.

use warp::{Filter as _, filters::BoxedFilter, reply::Response};

use super::respond;
use crate::env::Env;

/// The pages' routes.
pub fn routes(env: Env) -> BoxedFilter<(Response,)> {
    warp::path::end()
        .and(warp::get())
        .map(move || respond::json(&serde_json::json!({"ok": true, "mode": env.config().provider.mode.as_str()})))
        .boxed()
}
