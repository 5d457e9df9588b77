//! API keys: list, make, revoke. For admins only; a key is shown once, in the answer that makes it.

use chrono::DateTime;
use serde_json::{Value as Json, json};
use warp::{
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    error::{Error, Result},
    operations::keys,
};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Every key, without the key itself.
        api(shell, Method::GET, "/api/keys", Scope::Admin, list),
        // Makes one: `name`, `scope`, `expires_at`.
        api(shell, Method::POST, "/api/keys", Scope::Admin, create),
        // Ends one at once.
        api(shell, Method::DELETE, "/api/keys/{id}", Scope::Admin, revoke),
        // The same for clients that know no DELETE.
        api(shell, Method::POST, "/api/keys/{id}/revoke", Scope::Admin, revoke),
    ])
}

async fn list(call: Call) -> Result<Response> {
    let (keys, next) = page(&call.request, keys::list(call.env()).await?, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": keys.len(), "keys": keys, "next": next})))
}

async fn create(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let text = |name: &'static str| body[name].as_str().ok_or_else(|| Error::field(name, format!("{name} must be a text")));
    let expires_at = match &body["expires_at"] {
        Json::Null => None,
        value => {
            let at = value.as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
            Some(at.ok_or_else(|| Error::field("expires_at", "expires_at is a time such as 2026-01-31T00:00:00Z"))?.to_utc())
        }
    };
    let made = keys::create(call.env(), text("name")?, text("scope")?, expires_at, &call.caller.key_id).await?;
    call.shell.gate.forget_keys();
    Ok(respond::with_status(StatusCode::CREATED, &made))
}

async fn revoke(call: Call) -> Result<Response> {
    let answer = keys::revoke(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    call.shell.gate.forget_keys();
    Ok(respond::json(&answer))
}
