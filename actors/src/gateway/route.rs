//! How an endpoint is declared: method, pattern, scope, handler. Called by the area files' `routes`. The path is matched segment
//! by segment as it was sent and `{name}` segments are percent-decoded exactly once. Handlers never reject: rejection means
//! "not my path" and nothing else, and a path that knows other methods leaves them in the request's trail for the 405.

use std::{
    future::{Future, ready},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;
use warp::{
    Filter, Rejection,
    filters::BoxedFilter,
    http::{HeaderMap, Method},
    path::FullPath,
    reply::Response,
};

use super::{
    Shell,
    auth::{Caller, Scope},
    respond,
};
use crate::{
    env::Env,
    error::{Error, Result},
};

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What the routes learn about a request on its way through them.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail(Arc<Walked>);

#[derive(Debug, Default)]
struct Walked {
    allowed: Mutex<Vec<Method>>,
    pattern: OnceLock<&'static str>,
}

impl Trail {
    /// The pattern of the route that took the request: what the log names instead of the path, which may hold an address.
    pub(super) fn pattern(&self) -> Option<&'static str> {
        self.0.pattern.get().copied()
    }

    /// Methods that this path knows, for `Allow`; empty if no route knows the path.
    pub(super) fn allow(&self) -> String {
        let mut names = Vec::new();
        for method in self.0.allowed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            names.push(method.as_str().to_owned());
            if *method == Method::GET {
                names.push("HEAD".to_owned());
            }
        }
        names.join(", ")
    }
}

/// A request as a handler gets it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) pattern: &'static str,
    /// The `{...}` segments in order, decoded once; `None` for one that is not UTF-8.
    params: Vec<Option<String>>,
    /// The raw query string, without `?`.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// The body as it came: never decompressed, never re-serialised.
    pub(super) body: Bytes,
    pub(super) peer: SocketAddr,
}

impl Request {
    /// The segment of the path that stands for the `i`th `{...}`.
    pub(super) fn param(&self, i: usize) -> Result<&str> {
        match self.params.get(i) {
            Some(Some(text)) => Ok(text),
            _ => Err(Error::invalid("path", "the path is not UTF-8")),
        }
    }

    /// A header's text, if it is there once and readable.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    /// A query parameter. Errors: `invalid` naming one that is there twice.
    pub(super) fn query(&self, name: &'static str) -> Result<Option<String>> {
        let mut values = form_urlencoded::parse(self.query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        match (values.next(), values.next()) {
            (value, None) => Ok(value.filter(|v| !v.is_empty())),
            _ => Err(Error::field(name, format!("{name} is given twice"))),
        }
    }

    /// A query parameter that must be a whole number in a range.
    pub(super) fn number(&self, name: &'static str, default: i64, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
        let Some(text) = self.query(name)? else { return Ok(default) };
        text.parse()
            .ok()
            .filter(|n| range.contains(n))
            .ok_or_else(|| Error::field(name, format!("{name} must be a whole number from {} to {}", range.start(), range.end())))
    }

    /// A query parameter that is `true` or `false`; absent it is false.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool> {
        match self.query(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Error::field(name, format!("{name} must be true or false"))),
        }
    }

    /// How many items a list answers: 1 to 100, 20 unless asked otherwise.
    pub(super) fn limit(&self) -> Result<usize> {
        Ok(usize::try_from(self.number("limit", 20, 1..=100)?).unwrap_or(20))
    }

    /// The body as text of a JSON object; `None` if there is no body. Errors: `invalid` (415 another media type, 400 not JSON).
    pub(super) fn json_text(&self) -> Result<Option<&str>> {
        if self.body.is_empty() {
            return Ok(None);
        }
        let media = self.headers.get("content-type").map(|v| v.to_str().unwrap_or_default());
        let essence = media.map(|m| m.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        if essence.is_some_and(|e| e != "application/json" && !e.ends_with("+json")) {
            return Err(Error::invalid("media_type", "the body must be application/json"));
        }
        let text = std::str::from_utf8(&self.body).map_err(|_| Error::invalid("body", "the body is not UTF-8"))?;
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(_)) => Ok(Some(text)),
            Ok(_) => Err(Error::invalid("body", "the body must be a JSON object")),
            Err(error) => Err(Error::invalid("body", format!("the body is not JSON: {error}"))),
        }
    }

    /// The body as a JSON object, `{}` if there is none.
    pub(super) fn json(&self) -> Result<Json> {
        Ok(serde_json::from_str(self.json_text()?.unwrap_or("{}"))?)
    }

    /// The caller's Idempotency-Key: 1 to 255 printable characters.
    pub(super) fn idempotency_key(&self) -> Result<Option<String>> {
        if !self.headers.contains_key("idempotency-key") {
            return Ok(None);
        }
        let usable = |k: &&str| (1..=255).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        match self.header("idempotency-key").filter(usable) {
            Some(key) => Ok(Some(key.to_owned())),
            None => Err(Error::field("Idempotency-Key", "an Idempotency-Key has 1 to 255 printable characters and is sent once")),
        }
    }
}

/// A request that was let in.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) shell: Shell,
    pub(super) request: Request,
    pub(super) caller: Caller,
}

impl Call {
    pub(super) fn env(&self) -> &Env {
        &self.shell.env
    }
}

/// A request for this method and pattern, e.g. `/api/tasks/{name}`. GET answers HEAD too.
fn on(method: Method, pattern: &'static str) -> impl Filter<Extract = (Request,), Error = Rejection> + Clone {
    let segments: Arc<[&'static str]> = pattern.split('/').skip(1).collect();
    warp::method()
        .and(warp::path::full())
        .and(warp::ext::optional::<Trail>())
        .and_then(move |asked: Method, path: FullPath, trail: Option<Trail>| {
            let Some(params) = matched(&segments, path.as_str()) else { return ready(Err(warp::reject::not_found())) };
            let trail = trail.unwrap_or_default();
            if asked != method && !(asked == Method::HEAD && method == Method::GET) {
                trail.0.allowed.lock().unwrap_or_else(PoisonError::into_inner).push(method.clone());
                return ready(Err(warp::reject::not_found()));
            }
            let _ = trail.0.pattern.set(pattern); // the first route that takes a request is the only one
            ready(Ok((asked, params)))
        })
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .and(warp::body::bytes())
        .map(move |(method, params), query, headers, peer: Option<Peer>, body| {
            let peer = peer.map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |p| p.0);
            Request { method, pattern, params, query, headers, body, peer }
        })
}

fn matched(segments: &[&str], path: &str) -> Option<Vec<Option<String>>> {
    let mut params = Vec::new();
    let mut given = path.split('/').skip(1);
    for segment in segments {
        let part = given.next()?;
        if segment.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            params.push(percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned));
        } else if part != *segment {
            return None;
        }
    }
    given.next().is_none().then_some(params)
}

/// An endpoint without a key.
pub(super) fn open<H, F>(shell: &Shell, method: Method, pattern: &'static str, handler: H) -> BoxedFilter<(Response,)>
where
    H: Fn(Shell, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response>> + Send,
{
    let shell = shell.clone();
    on(method, pattern)
        .then(move |request| {
            let (shell, handler) = (shell.clone(), handler.clone());
            async move { handler(shell, request).await.unwrap_or_else(|error| respond::problem(&error)) }
        })
        .boxed()
}

/// An endpoint that needs a key or a session with this scope.
pub(super) fn api<H, F>(shell: &Shell, method: Method, pattern: &'static str, scope: Scope, handler: H) -> BoxedFilter<(Response,)>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response>> + Send,
{
    open(shell, method, pattern, move |shell, request| {
        let handler = handler.clone();
        async move {
            let caller = shell.gate.admit(&shell.env, &request, scope).await?;
            handler(Call { shell, request, caller }).await
        }
    })
}

/// The routes of an area, tried in order.
pub(super) fn any_of(routes: impl IntoIterator<Item = BoxedFilter<(Response,)>>) -> BoxedFilter<(Response,)> {
    let mut routes = routes.into_iter();
    let first = routes.next().unwrap_or_else(|| {
        warp::any().and_then(|| ready(Err::<Response, _>(warp::reject::not_found()))).boxed() // an area without routes
    });
    routes.fold(first, |all, next| all.or(next).unify().boxed())
}

/// A member of a body that is a time; `None` if it is absent or null. Errors: `invalid` naming it.
pub(super) fn body_time(body: &Json, field: &'static str) -> Result<Option<DateTime<Utc>>> {
    match &body[field] {
        Json::Null => Ok(None),
        Json::String(text) => time_in(field, text.trim()).map(Some),
        _ => Err(no_time(field)),
    }
}

/// The time that a text is. Errors: `invalid` naming the field.
pub(super) fn time_in(field: &'static str, text: &str) -> Result<DateTime<Utc>> {
    text.parse().map_err(|_| no_time(field))
}

fn no_time(field: &'static str) -> Error {
    Error::field(field, format!("{field} must be a time in RFC 3339, e.g. 2026-03-01T00:00:00Z"))
}

/// A page of a list that is read whole: the items after the one whose `id` member is the cursor.
pub(super) fn page(request: &Request, items: Vec<Json>, id: &str) -> Result<(Vec<Json>, Option<String>)> {
    let limit = request.limit()?;
    let start = match request.query("after")? {
        None => 0,
        Some(after) => items.iter().position(|i| i[id] == after).ok_or_else(|| Error::field("after", "this cursor is not known"))? + 1,
    };
    let more = items.len() > start + limit;
    let items: Vec<Json> = items.into_iter().skip(start).take(limit).collect();
    let next = items.last().filter(|_| more).and_then(|i| i[id].as_str()).map(str::to_owned);
    Ok((items, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Request {
        Request {
            method: Method::GET,
            pattern: "/",
            params: Vec::new(),
            query: query.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        }
    }

    #[test]
    fn a_path_is_matched_as_sent_and_decoded_once() {
        let pattern = ["api", "customer", "invoices", "{email}"];
        let first = |path: &str| matched(&pattern, path).map(|p| p[0].clone());
        assert_eq!(first("/api/customer/invoices/a+b@x.org"), Some(Some("a+b@x.org".into())));
        assert_eq!(first("/api/customer/invoices/a%2Bb%40x.org"), Some(Some("a+b@x.org".into())));
        assert_eq!(first("/api/customer/invoices/a%252Bb"), Some(Some("a%2Bb".into())));
        assert_eq!(first("/api/customer/invoices/a%2Fb"), Some(Some("a/b".into())));
        assert_eq!(first("/api/customer/invoices/%ff"), Some(None));
        for path in ["/api/customer/invoices/", "/api/customer/invoices", "/api/customer/invoices/a/b", "/api//customer/invoices/a", "/"] {
            assert_eq!(first(path), None, "{path}");
        }
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for query in ["limit=0", "limit=101", "limit=x", "limit=1&limit=2", "limit=-1", "limit=1.5"] {
            let error = request(query).limit().unwrap_err();
            assert_eq!(error.field.as_deref(), Some("limit"), "{query}");
        }
        assert_eq!(request("").limit().unwrap(), 20);
        assert_eq!(request("limit=100&other=1").limit().unwrap(), 100);
    }

    #[test]
    fn a_page_follows_its_cursor_to_the_end() {
        let items: Vec<Json> = (0..5).map(|n| serde_json::json!({"id": format!("i{n}")})).collect();
        let (first, next) = page(&request("limit=3"), items.clone(), "id").unwrap();
        assert_eq!((first.len(), next.as_deref()), (3, Some("i2")));
        let (second, next) = page(&request("limit=3&after=i2"), items.clone(), "id").unwrap();
        assert_eq!((second.len(), next), (2, None));
        assert_eq!(page(&request("after=zz"), items, "id").unwrap_err().field.as_deref(), Some("after"));
    }

    #[test]
    fn only_json_objects_are_bodies() {
        let with = |media: Option<&'static str>, body: &'static [u8]| {
            let mut r = request("");
            r.body = Bytes::from_static(body);
            if let Some(media) = media {
                r.headers.insert("content-type", media.parse().unwrap());
            }
            r.json().map_err(|e| e.reason.to_string())
        };
        assert_eq!(with(Some("application/x-www-form-urlencoded"), b""), Ok(serde_json::json!({})));
        assert_eq!(with(Some("application/json; charset=utf-8"), b"{}"), Ok(serde_json::json!({})));
        assert_eq!(with(None, b"{}"), Ok(serde_json::json!({})));
        assert_eq!(with(Some("text/plain"), b"{}"), Err("media_type".into()));
        assert_eq!(with(None, b"[]"), Err("body".into()));
        assert_eq!(with(None, b"\xff"), Err("body".into()));
    }
}
