//! An invoice as a customer may see it: amounts as text, no draft, and no address but the provider's own. Called by the portal page.

use serde_json::Value as Json;
use warp::http::Uri;

use crate::domain::money;

/// An invoice as the customer sees it: every amount is text with its currency.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvoiceRow {
    pub(super) number: String,
    pub(super) description: String,
    pub(super) date: String,
    pub(super) status: &'static str,
    pub(super) tone: &'static str,
    pub(super) amount: String,
    pub(super) paid: String,
    pub(super) remaining: String,
    pub(super) refunded: String,
    pub(super) url: Option<String>,
    pub(super) action: &'static str,
}

impl InvoiceRow {
    /// `None` for a draft: it has no number yet and may never be sent. `sandbox` is the address of our own provider, if there is one.
    pub(super) fn from_json(invoice: &Json, sandbox: Option<&str>) -> Option<Self> {
        let word = |name: &str| invoice[name].as_str().unwrap_or_default();
        let currency = word("currency");
        let minor = |name: &str| invoice[name].as_i64().unwrap_or_default();
        let amount = |name: &str| money::display(minor(name), currency);
        // A zero says nothing to a customer; an empty cell is left out on a phone.
        let unless_zero = |name: &str| if minor(name) == 0 { String::new() } else { amount(name) };
        let (paid, refunded) = (minor("amount_paid_minor"), minor("refunded_minor"));
        let (status, tone) = match word("status") {
            "draft" => return None,
            "paid" if refunded > 0 && refunded >= paid => ("Refunded", ""),
            "paid" if refunded > 0 => ("Partly refunded", ""),
            "paid" => ("Paid", "ok"),
            "open" => ("Open", "warn"),
            "void" => ("Void", ""),
            "uncollectible" => ("Uncollectible", "bad"),
            _ => ("Unknown", ""),
        };
        let number = if word("number").is_empty() { word("id") } else { word("number") };
        Some(Self {
            number: number.to_owned(),
            description: word("description").to_owned(),
            date: word("date").to_owned(),
            status,
            tone,
            amount: amount("amount_minor"),
            paid: unless_zero("amount_paid_minor"),
            remaining: unless_zero("amount_remaining_minor"),
            refunded: unless_zero("refunded_minor"),
            url: link(word("hosted_invoice_url"), sandbox).map(str::to_owned),
            action: if status == "Open" { "Pay" } else { "View" },
        })
    }
}

/// The address if a customer may be sent there: the provider's own hosts over https, or our sandbox on this machine.
pub(super) fn link<'a>(url: &'a str, sandbox: Option<&str>) -> Option<&'a str> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let host = authority.host();
    let allowed = match uri.scheme_str()? {
        "https" => host == "stripe.com" || host.ends_with(".stripe.com"),
        "http" => sandbox.is_some_and(|address| authority.as_str() == address),
        _ => false,
    };
    (allowed && !authority.as_str().contains('@')).then_some(url)
}
