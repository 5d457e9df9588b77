//! The page behind `hosted_invoice_url`: what a customer sees and where the test invoice can be paid with a test card. Called
//! by the front door. Everything shown is escaped; no scripts, nothing from other hosts.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use warp::http::{HeaderValue, Response, StatusCode};

use super::{
    Inner,
    documents::{Kind, Origin, id_of},
    form::Params,
    invoices,
};
use crate::{domain::money, error::Result};

pub(super) async fn answer(inner: &Arc<Inner>, method: &str, path: &[&str]) -> Response<Bytes> {
    let result = match (method, path) {
        ("GET", [id]) => show(inner, id, None).await,
        ("POST", [id, "pay"]) => pay(inner, id).await,
        _ => Ok(None),
    };
    let mut response = match result {
        Ok(Some(page)) => page,
        Ok(None) => page(404, "Not found", "<p>There is no such invoice.</p>"),
        Err(error) => {
            tracing::error!(target: "sandbox", error = %error, "the invoice's page could not be made");
            page(500, "Error", "<p>The page cannot be shown now.</p>")
        }
    };
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn show(inner: &Inner, id: &str, notice: Option<&str>) -> Result<Option<Response<Bytes>>> {
    let invoice = inner.begin(Origin::default()).await.get(Kind::Invoice, id).await?;
    // A draft has no page, as it has no number.
    Ok(invoice.filter(|i| i["status"] != "draft").map(|invoice| page(200, "Invoice", &content(&invoice, notice))))
}

async fn pay(inner: &Inner, id: &str) -> Result<Option<Response<Bytes>>> {
    inner.catch_up().await?;
    let mut tx = inner.begin(Origin::default()).await;
    let Some(invoice) = tx.get(Kind::Invoice, id).await?.filter(|i| i["status"] != "draft") else { return Ok(None) };
    if invoice["status"] == "open" {
        let card = json!({ "payment_method": "pm_card_visa" });
        if let Err(failure) = invoices::pay(&mut tx, id_of(&invoice), Params::new(&card)).await {
            drop(tx);
            return show(inner, id, Some(&failure.message)).await;
        }
        tx.commit().await?;
    }
    let mut back = page(303, "Paid", "");
    if let Ok(location) = HeaderValue::from_str(&format!("/invoice/{}", id_of(&invoice))) {
        back.headers_mut().insert("location", location);
    }
    Ok(Some(back))
}

fn content(invoice: &Json, notice: Option<&str>) -> String {
    let currency = invoice["currency"].as_str().unwrap_or_default();
    let amount = |value: &Json| money::display(value.as_i64().unwrap_or_default(), currency);
    let text = |name: &str| escape(invoice[name].as_str().unwrap_or_default());
    let notice = notice.map(|n| format!("<p role=alert>{}</p>", escape(n))).unwrap_or_default();
    let row = |line: &Json| {
        format!("<tr><td>{}</td><td>{}</td></tr>", escape(line["description"].as_str().unwrap_or("Item")), amount(&line["amount"]))
    };
    let rows: Vec<String> = invoice["lines"]["data"].as_array().into_iter().flatten().map(row).collect();
    let (number, email, status, description) = (text("number"), text("customer_email"), text("status"), text("description"));
    let (due, rows) = (amount(&invoice["amount_remaining"]), rows.concat());
    let button = if invoice["status"] == "open" {
        let id = escape(id_of(invoice));
        format!(
            "<form method=post action=\"/invoice/{id}/pay\"><button>Pay {due}</button></form><p>Pays with a test card; no money moves.</p>"
        )
    } else {
        String::new()
    };
    format!(
        "<p class=test>TEST MODE</p><h1>Invoice {number}</h1>{notice}<p>For {email} · <strong>{status}</strong></p><p>{description}</p>\
         <table>{rows}<tr><th>Amount due</th><th>{due}</th></tr></table>{button}"
    )
}

fn page(status: u16, title: &str, content: &str) -> Response<Bytes> {
    let style = "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
                 table{width:100%;border-collapse:collapse}td,th{text-align:left;padding:.5rem 0;border-bottom:1px solid #8886}\
                 td:last-child,th:last-child{text-align:right}button{font:inherit;padding:.6rem 1.2rem;margin-top:1rem}.test{font-weight:700;color:#b45309}";
    let html = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title><style>{style}</style></head><body><main>{content}</main></body></html>"
    );
    let mut response = Response::new(Bytes::from(html));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
