//! What a browser sees: the dashboard or the sign-in page, the assets, and the customer's page behind a signed link. Templates and
//! assets are embedded; the templates escape everything. Called by `gateway/mod.rs`. No page may load anything from another host,
//! run inline script, or tell a customer why a link was refused.

/// What a signed link in a message leads to.
pub(super) mod act;
mod assets;
mod invoice;

use askama::Template;
use chrono::DateTime;
use serde_json::Value as Json;
use warp::{
    Filter, Reply,
    filters::BoxedFilter,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    reply::Response,
};

use self::invoice::InvoiceRow;
use super::{
    respond, session,
    tasks::{self, RUN_STATES},
};
use crate::{
    domain::{money, portal::Grant},
    env::{Env, rfc3339},
    error::{Code, Error, Result},
    operations::{invoices, portal_link},
};

/// What a page may do in the browser, and what it tells others about where a request comes from.
struct Policy {
    csp: &'static str,
    referrer: &'static str,
}

/// Not `no-referrer`: with it a browser sends a form with `Origin: null`, and signing in and out check the origin.
const OPERATOR: Policy = Policy {
    csp: "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; \
          base-uri 'none'; frame-ancestors 'none'",
    referrer: "same-origin",
};
/// No script, no form, no call; and the address with its signature is told to nobody.
const CUSTOMER: Policy = Policy {
    csp: "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    referrer: "no-referrer",
};
/// Currencies offered for a test invoice.
const OFFERED: [&str; 8] = ["usd", "eur", "gbp", "chf", "cad", "aud", "sek", "jpy"];

pub(super) fn routes(env: Env) -> BoxedFilter<(Response,)> {
    let env = move || {
        let env = env.clone();
        warp::any().map(move || env.clone())
    };
    let read = || warp::get().or(warp::head()).unify();
    let query = || warp::query::raw().or(warp::any().map(String::new)).unify();
    // The dashboard, or the sign-in page for a browser that is not signed in.
    let home = warp::path::end()
        .or(warp::path!("login"))
        .unify()
        .and(read())
        .and(env())
        .and(warp::header::headers_cloned())
        .and(query())
        .then(home);
    // Money, backups, the tasks, one task, and the supervisor's parts.
    let operator = warp::path!("money")
        .map(|| Place::Money)
        .or(warp::path!("levels").map(|| Place::Levels))
        .unify()
        .or(warp::path!("alerts").map(|| Place::Alerts))
        .unify()
        .or(warp::path!("backups").map(|| Place::Backups))
        .unify()
        .or(warp::path!("tasks").map(|| Place::Tasks))
        .unify()
        .or(warp::path!("tasks" / String).map(Place::Task))
        .unify()
        .or(warp::path!("parts").map(|| Place::Parts))
        .unify()
        .or(warp::path!("incidents").map(|| Place::Incidents))
        .unify()
        .and(read())
        .and(env())
        .and(warp::header::headers_cloned())
        .then(operator);
    // Style, scripts, icon.
    let assets = warp::path!("assets" / String).and(read()).and(warp::header::headers_cloned()).map(assets::asset);
    // The customer's page.
    let portal = warp::path!("portal").and(read()).and(env()).and(query()).then(portal);
    home.or(assets).unify().or(operator).unify().or(portal).unify().boxed()
}

/// What every page shows around its content.
struct Chrome {
    test_mode: bool,
}

impl Chrome {
    fn of(env: &Env) -> Self {
        Self { test_mode: !env.config().provider.mode.is_live() }
    }
}

struct Currency {
    code: &'static str,
    label: String,
    digits: u32,
}

/// The pages of an operator, as the header links them.
const PAGES: [(&str, &str); 8] = [
    ("/", "Dashboard"),
    ("/money", "Money"),
    ("/alerts", "Alerts"),
    ("/incidents", "Incidents"),
    ("/levels", "Levels"),
    ("/backups", "Backups"),
    ("/tasks", "Tasks"),
    ("/parts", "Parts"),
];
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where an operator wants to go.
#[derive(Debug)]
enum Place {
    Money,
    Alerts,
    Levels,
    Backups,
    Tasks,
    Task(String),
    Parts,
    Incidents,
}

#[derive(Template)]
#[template(path = "dashboard.html")]
struct DashboardPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
    currencies: Vec<Currency>,
}

#[derive(Template)]
#[template(path = "money.html")]
struct MoneyPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
}

#[derive(Template)]
#[template(path = "levels.html")]
struct LevelsPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
}

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
}

#[derive(Template)]
#[template(path = "backups.html")]
struct BackupsPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
}

/// A page of an operator that knows nothing but where it is: its script asks for the rest.
macro_rules! plain_page {
    ($name:ident, $path:tt) => {
        #[derive(Template)]
        #[template(path = $path)]
        struct $name {
            chrome: Chrome,
            version: &'static str,
            here: &'static str,
        }
    };
}
plain_page!(TasksPage, "tasks.html");
plain_page!(PartsPage, "parts.html");
plain_page!(IncidentsPage, "incidents.html");

#[derive(Template)]
#[template(path = "task.html")]
struct TaskPage {
    chrome: Chrome,
    version: &'static str,
    here: &'static str,
    task: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    chrome: Chrome,
    problem: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    chrome: Chrome,
    title: &'static str,
    text: &'static str,
}

#[derive(Template)]
#[template(path = "portal.html")]
struct PortalPage {
    chrome: Chrome,
    email: String,
    expires: String,
    expires_iso: String,
    stale: bool,
    invoices: Vec<InvoiceRow>,
}

async fn home(env: Env, headers: HeaderMap, query: String) -> Response {
    let chrome = Chrome::of(&env);
    let page = if session::current(&env, &headers).await.is_some() { dashboard(chrome) } else { login(chrome, &query) };
    html(StatusCode::OK, &OPERATOR, page)
}

fn dashboard(chrome: Chrome) -> Result<String> {
    let currency = |code: &'static str| Currency { code, label: code.to_uppercase(), digits: money::exponent(code) };
    render(&DashboardPage { chrome, version: VERSION, here: "/", currencies: OFFERED.map(currency).into() })
}

/// A page of an operator; whoever is not signed in is asked to do that first.
async fn operator(place: Place, env: Env, headers: HeaderMap) -> Response {
    if session::current(&env, &headers).await.is_none() {
        return respond::see_other("/login");
    }
    let (chrome, version) = (Chrome::of(&env), VERSION);
    let page = match place {
        Place::Money => render(&MoneyPage { chrome, version, here: "/money" }),
        Place::Levels => render(&LevelsPage { chrome, version, here: "/levels" }),
        Place::Alerts => render(&AlertsPage { chrome, version, here: "/alerts" }),
        Place::Backups => render(&BackupsPage { chrome, version, here: "/backups" }),
        Place::Tasks => render(&TasksPage { chrome, version, here: "/tasks" }),
        Place::Incidents => render(&IncidentsPage { chrome, version, here: "/incidents" }),
        Place::Parts => render(&PartsPage { chrome, version, here: "/parts" }),
        Place::Task(task) => match tasks::find(&env, &task).await {
            Err(error) if error.code == Code::NotFound => {
                let page = MessagePage { chrome, title: "No such task", text: "The page of all tasks shows what there is." };
                return html(StatusCode::NOT_FOUND, &OPERATOR, render(&page));
            }
            // While the timer cannot be asked, the page says so itself.
            _ => render(&TaskPage { chrome, version, here: "/tasks", task }),
        },
    };
    html(StatusCode::OK, &OPERATOR, page)
}

fn login(chrome: Chrome, query: &str) -> Result<String> {
    let reason = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "error");
    let problem = reason.map(|(_, reason)| match reason.as_ref() {
        "key" | "unauthorized" => "That key is not known, or it was revoked. Check it and try again.",
        "limited" => "Too many tries with a wrong key. Wait a minute and try again.",
        _ => "Signing in did not work just now. Please try again.",
    });
    render(&LoginPage { chrome, problem })
}

async fn portal(env: Env, query: String) -> Response {
    let chrome = Chrome::of(&env);
    match invoices_behind(&env, &query).await {
        Ok((grant, answer)) => {
            let sandbox = env.sandbox_address().map(|address| address.to_string());
            html(StatusCode::OK, &CUSTOMER, customer_page(chrome, &grant, &answer, sandbox.as_deref()))
        }
        Err(error) => refusal(chrome, &error),
    }
}

async fn invoices_behind(env: &Env, query: &str) -> Result<(Grant, Json)> {
    let grant = portal_link::verify(env, query).await?;
    let answer = invoices::customer_invoices(env, &grant.email).await?;
    Ok((grant, answer))
}

fn customer_page(chrome: Chrome, grant: &Grant, answer: &Json, sandbox: Option<&str>) -> Result<String> {
    let expires = DateTime::from_timestamp(grant.expires, 0).unwrap_or_default();
    let rows = answer["invoices"].as_array().into_iter().flatten();
    render(&PortalPage {
        chrome,
        email: grant.email.clone(),
        expires: expires.format("%-d %B %Y, %H:%M UTC").to_string(),
        expires_iso: rfc3339(expires),
        stale: answer["stale"].as_bool().unwrap_or_default(),
        invoices: rows.filter_map(|invoice| InvoiceRow::from_json(invoice, sandbox)).collect(),
    })
}

/// One page for every link that does not verify; another only for what is our own trouble and passes.
fn refusal(chrome: Chrome, error: &Error) -> Response {
    let (status, title, text) = if error.is_retryable() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not available just now",
            "Your invoices cannot be shown at the moment. Please try again in a minute.",
        )
    } else {
        (StatusCode::FORBIDDEN, "This link does not work", "It may be incomplete, out of date or withdrawn. Please ask for a new one.")
    };
    html(status, &CUSTOMER, render(&MessagePage { chrome, title, text }))
}

fn render(page: &impl Template) -> Result<String> {
    page.render().map_err(|error| Error::internal(format!("a page cannot be rendered: {error}")))
}

fn html(status: StatusCode, policy: &Policy, page: Result<String>) -> Response {
    let (status, body) = match page {
        Ok(body) => (status, body),
        Err(error) => {
            tracing::error!(actor = "gateway", %error, "a page is missing");
            (StatusCode::INTERNAL_SERVER_ERROR, "This page cannot be shown.".to_owned())
        }
    };
    let mut response = body.into_response();
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy.csp));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static(policy.referrer));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    response
}

#[cfg(test)]
mod tests;
