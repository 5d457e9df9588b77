//! The page behind a signed link in a message. GET says what would be done and changes nothing, so that a mail scanner that follows links
//! does no harm; POST does it. The link itself is the permission: no key, no session, and the address is told to nobody.

use askama::Template;
use warp::{
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};

use super::{Chrome, MessagePage, Policy, html, render};
use crate::{
    env::Env,
    error::{Error, Result},
    gateway::{
        Shell,
        route::{Request, any_of, open},
    },
    operations::follow_link::{self, Offer},
};

/// One form that goes to ourselves, no script.
const LINK: Policy = Policy {
    csp: "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    referrer: "no-referrer",
};
const FIELDS: [&str; 4] = ["do", "about", "expires", "sig"];

#[derive(Template)]
#[template(path = "act.html")]
struct ActPage {
    chrome: Chrome,
    offer: Offer,
    fields: Vec<(String, String)>,
}

pub(in crate::gateway) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // What a link in a message would do.
        open(shell, Method::GET, "/act", show),
        // Does it.
        open(shell, Method::POST, "/act", act),
    ])
}

async fn show(shell: Shell, request: Request) -> Result<Response> {
    let fields =
        form_urlencoded::parse(request.query.as_bytes()).into_owned().filter(|(name, _)| FIELDS.contains(&name.as_str())).collect();
    Ok(answer(&shell.env, follow_link::offer(&shell.env, &request.query).await, fields))
}

async fn act(shell: Shell, request: Request) -> Result<Response> {
    let form = String::from_utf8_lossy(&request.body);
    Ok(answer(&shell.env, follow_link::follow(&shell.env, &form).await, Vec::new()))
}

fn answer(env: &Env, offer: Result<Offer>, fields: Vec<(String, String)>) -> Response {
    let chrome = Chrome::of(env);
    match offer {
        Ok(offer) => html(StatusCode::OK, &LINK, render(&ActPage { chrome, offer, fields })),
        Err(error) => refusal(chrome, &error),
    }
}

/// One page for every link that does not verify; another for what passes.
fn refusal(chrome: Chrome, error: &Error) -> Response {
    let (status, title, text) = if error.is_retryable() {
        (StatusCode::SERVICE_UNAVAILABLE, "Not available just now", "It cannot be done at the moment. Please try again in a minute.")
    } else {
        (StatusCode::FORBIDDEN, "This link does not work", "It may be incomplete or out of date. The page of alerts shows how things are.")
    };
    html(status, &LINK, render(&MessagePage { chrome, title, text }))
}
