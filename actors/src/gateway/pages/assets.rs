//! The files under `/assets/`: embedded, with one tag for all. Called by the pages' routes. A name that is not in the table does not
//! exist: no path is ever looked up on disk.

use std::sync::LazyLock;

use ring::digest;
use warp::{
    Reply,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    reply::Response,
};

pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $content_type:literal) => {
        Asset { name: $name, content_type: $content_type, body: include_bytes!(concat!("../../../../static/assets/", $name)) }
    };
}
/// Every file under `/assets/`; a name that is not here does not exist, so no path is ever looked up on disk.
pub(super) const ASSETS: [Asset; 20] = [
    asset!("alerts.js", "text/javascript; charset=utf-8"),
    asset!("api.js", "text/javascript; charset=utf-8"),
    asset!("app.css", "text/css; charset=utf-8"),
    asset!("app.js", "text/javascript; charset=utf-8"),
    asset!("backups.js", "text/javascript; charset=utf-8"),
    asset!("bars.js", "text/javascript; charset=utf-8"),
    asset!("dom.js", "text/javascript; charset=utf-8"),
    asset!("format.js", "text/javascript; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("incidents.js", "text/javascript; charset=utf-8"),
    asset!("levels.js", "text/javascript; charset=utf-8"),
    asset!("lines.js", "text/javascript; charset=utf-8"),
    asset!("money.js", "text/javascript; charset=utf-8"),
    asset!("parts.js", "text/javascript; charset=utf-8"),
    asset!("payments.js", "text/javascript; charset=utf-8"),
    asset!("schedule.js", "text/javascript; charset=utf-8"),
    asset!("task.js", "text/javascript; charset=utf-8"),
    asset!("tasks.js", "text/javascript; charset=utf-8"),
    asset!("tiles.js", "text/javascript; charset=utf-8"),
    asset!("watch.js", "text/javascript; charset=utf-8"),
];
/// One tag for all: assets change together, with the program.
static ETAG: LazyLock<String> = LazyLock::new(|| {
    let mut context = digest::Context::new(&digest::SHA256);
    for asset in &ASSETS {
        context.update(asset.body);
    }
    let start = context.finish().as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("\"{start:016x}\"")
});

pub(super) fn asset(name: String, request: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return warp::reply::with_status("There is no such asset.", StatusCode::NOT_FOUND).into_response();
    };
    let unchanged = request.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == ETAG.as_bytes());
    let mut response = if unchanged { Vec::new().into_response() } else { asset.body.into_response() };
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // An asset is shown by a page; opened by itself (an SVG can be) it may do nothing.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'self'"));
    if let Ok(tag) = HeaderValue::from_str(&ETAG) {
        headers.insert(header::ETAG, tag);
    }
    response
}
