//! What the pages promise: everything is escaped, nothing is kept or framed, refusals are all alike, assets are what they say.

use http_body_util::BodyExt as _;
use serde_json::json;

use super::{
    assets::{ASSETS, asset},
    invoice::link,
    *,
};

const TEST: fn() -> Chrome = || Chrome { test_mode: true };

fn grant() -> Grant {
    Grant { email: "a+b@example.com".into(), expires: 1_700_000_000 }
}

fn invoice(change: &Json) -> Json {
    let mut invoice = json!({
        "id": "in_1", "number": "ABC-0001", "date": "2025-10-20", "status": "paid", "currency": "usd", "amount_minor": 1200,
        "amount": "12.00", "amount_paid_minor": 1200, "amount_remaining_minor": 0, "refunded_minor": 0,
        "hosted_invoice_url": "https://invoice.stripe.com/i/1", "description": "Advice",
    });
    let members = invoice.as_object_mut().unwrap();
    members.extend(change.as_object().unwrap().clone());
    invoice
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn what_a_customer_or_an_attacker_wrote_is_text_and_never_markup() {
    let evil = "<script>alert(1)</script>\"'&";
    let answer = json!({"invoices": [invoice(&json!({"description": evil, "number": evil, "date": evil}))]});
    let page = customer_page(TEST(), &Grant { email: "<b>@example.com".into(), expires: 0 }, &answer, None).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>@"), "{page}");
    assert!(page.contains("&#60;script&#62;"), "{page}");
}

#[test]
fn the_customers_page_shows_amounts_with_their_currencys_digits_and_hides_drafts() {
    let rows = [
        invoice(&json!({})),
        invoice(&json!({"currency": "jpy", "amount_minor": 500, "status": "open", "amount_paid_minor": 0, "amount_remaining_minor": 500})),
        invoice(&json!({"refunded_minor": 200})),
        invoice(&json!({"status": "draft", "number": "DRAFT"})),
    ];
    let page = customer_page(TEST(), &grant(), &json!({"stale": true, "invoices": rows}), None).unwrap();
    for text in
        ["12.00 USD", "500 JPY", ">Pay<", "Partly refunded", "2.00 USD", "TEST MODE", "does not answer", "14 November 2023, 22:13 UTC"]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("DRAFT"));
    let live = customer_page(Chrome { test_mode: false }, &grant(), &json!({"invoices": []}), None).unwrap();
    assert!(live.contains("No invoices") && !live.contains("TEST MODE"));
}

#[test]
fn a_customer_is_sent_to_the_provider_or_the_sandbox_only() {
    let sandbox = Some("127.0.0.1:4242");
    for (url, allowed) in [
        ("https://invoice.stripe.com/i/1", true),
        ("http://127.0.0.1:4242/invoice/1", true),
        ("http://127.0.0.1:4243/invoice/1", false),
        ("http://invoice.stripe.com/i/1", false),
        ("https://stripe.com.example.org/", false),
        ("https://notstripe.com/", false),
        ("https://stripe.com@example.org/", false),
        ("https://user@stripe.com/", false),
        ("javascript:alert(1)", false),
        ("//stripe.com/", false),
        ("", false),
    ] {
        assert_eq!(link(url, sandbox).is_some(), allowed, "{url}");
    }
    assert_eq!(link("http://127.0.0.1:4242/", None), None);
}

#[tokio::test]
async fn every_refused_link_gets_the_same_page_and_our_own_trouble_another() {
    let errors = [Error::forbidden("expired", "late"), Error::forbidden("bad_signature", "no"), Error::invalid("malformed", "what")];
    let mut pages = Vec::new();
    for error in errors {
        let response = refusal(TEST(), &error);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        pages.push((format!("{:?}", response.headers()), text(response).await));
    }
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(refusal(TEST(), &Error::unavailable("store", "away")).status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn pages_are_not_kept_framed_or_sniffed_and_run_nothing_inline() {
    let operator = [
        render(&BackupsPage { chrome: TEST(), version: VERSION, here: "/backups" }),
        render(&TasksPage { chrome: TEST(), version: VERSION, here: "/tasks" }),
        render(&TaskPage { chrome: TEST(), version: VERSION, here: "/tasks", task: "a_task".into() }),
        render(&PartsPage { chrome: TEST(), version: VERSION, here: "/parts" }),
        render(&IncidentsPage { chrome: TEST(), version: VERSION, here: "/incidents" }),
    ];
    for (policy, page) in operator.into_iter().map(|page| (&OPERATOR, page)).chain([
        (&OPERATOR, dashboard(TEST())),
        (&OPERATOR, login(TEST(), "error=key")),
        (&CUSTOMER, Ok(String::new())),
    ]) {
        let body = page.clone().unwrap();
        for word in ["style=\"", "onclick", "onload", "javascript:", "http://", "https://", "<style"] {
            assert!(!body.contains(word), "{word}");
        }
        assert_eq!(body.matches("<script").count(), body.matches("<script type=\"module\" src=\"/assets/").count());
        let response = html(StatusCode::OK, policy, page);
        let value = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(value("cache-control"), "no-store");
        assert_eq!(value("referrer-policy"), policy.referrer);
        assert_eq!(value("x-robots-tag"), "noindex");
        assert_eq!(value("x-content-type-options"), "nosniff");
        assert!(value("content-security-policy").contains("frame-ancestors 'none'"));
        assert!(!value("content-security-policy").contains("unsafe"));
    }
    assert!(!CUSTOMER.csp.contains("script") && CUSTOMER.referrer == "no-referrer");
    assert!(login(TEST(), "error=key").unwrap().contains("not known"));
    assert!(!login(TEST(), "").unwrap().contains("not known"));
}

#[tokio::test]
async fn assets_have_their_type_and_a_tag_and_nothing_else_is_an_asset() {
    for one in &ASSETS {
        let response = asset(one.name.into(), HeaderMap::new());
        assert_eq!(response.headers()[header::CONTENT_TYPE], one.content_type);
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, response.headers()[header::ETAG].clone());
        assert_eq!(text(response).await.as_bytes(), one.body);
        assert_eq!(asset(one.name.into(), again).status(), StatusCode::NOT_MODIFIED);
    }
    for name in ["", "..", "../templates/base.html", "%2e%2e%2fapp.js", "app.js/", "APP.JS", "payments_card.html"] {
        assert_eq!(asset(name.into(), HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{name}");
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/assets");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), ASSETS.len(), "every file of the folder is served");
}

#[test]
fn the_page_counts_the_digits_of_a_currency_as_the_server_does() {
    let script = include_str!("../../../../static/assets/format.js");
    let list = |name: &str| {
        let line = script.lines().find(|line| line.starts_with(&format!("const {name} = "))).unwrap();
        line.split('"').nth(1).unwrap().split(' ').collect::<Vec<_>>()
    };
    let (none, three) = (list("NO_DIGITS"), list("THREE_DIGITS"));
    let letters = || b'a'..=b'z';
    for code in letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c]))) {
        let code = std::str::from_utf8(&code).unwrap();
        let shown = if none.contains(&code) { 0 } else { 2 + u32::from(three.contains(&code)) };
        assert_eq!(shown, money::exponent(code), "{code}");
    }
}
