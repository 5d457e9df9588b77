//! Invoices that collect themselves: a draft is finalized when its hour is over and paid with the card that is known; one of a
//! subscription that is declined is tried again on a fixed schedule. Called by the clock, and by subscriptions for an invoice
//! that is due at once.

use serde_json::{Value as Json, json};

use super::{
    clock::DAY,
    documents::{Kind, Tx, id_of},
    failure::Api,
    form::Params,
    invoices, renewals,
    subscription_shapes::subscription_of,
};

/// Days from one declined payment of a subscription's invoice to the next try.
const RETRY_AFTER_DAYS: [i64; 3] = [3, 5, 7];

/// An invoice's time has come: a draft's hour is over, or an unpaid one is tried again.
pub(super) async fn proceed(tx: &mut Tx<'_>, mut invoice: Json) -> Api<()> {
    invoice["_due"] = Json::Null;
    tx.put(invoice.clone());
    if invoice["status"] == "draft" {
        invoice = match invoices::finalize_draft(tx, invoice).await {
            Ok(invoice) => invoice,
            Err(failure) if failure.status < 500 => {
                tracing::info!(target: "sandbox", reason = %failure.message, "an invoice could not be finalized automatically");
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
    }
    collect(tx, invoice).await.map(drop)
}

/// Tries to have an open invoice paid and answers what became of it. A decline or a missing card leaves it open; the events say so.
pub(super) async fn collect(tx: &mut Tx<'_>, mut invoice: Json) -> Api<Json> {
    if invoice["status"] != "open" || invoice["collection_method"] != "charge_automatically" {
        return Ok(invoice);
    }
    let id = id_of(&invoice).to_owned();
    // A first invoice is not tried again: its subscription has not begun.
    let retries =
        subscription_of(&invoice).is_some() && invoice["auto_advance"] == true && invoice["billing_reason"] != "subscription_create";
    if retries {
        let tried = invoice["_tries"].as_u64().unwrap_or_default();
        let wait = usize::try_from(tried).ok().and_then(|tried| RETRY_AFTER_DAYS.get(tried));
        let next = wait.map(|days| tx.now + days * DAY);
        invoice["_tries"] = (tried + 1).into();
        (invoice["next_payment_attempt"], invoice["_due"]) = (next.into(), next.into());
    }
    let attempts = invoice["attempt_count"].clone();
    tx.put(invoice);
    let none = json!({});
    match invoices::pay(tx, &id, Params::new(&none)).await {
        Err(failure) if failure.status >= 500 => return Err(failure),
        _ => {}
    }
    let mut invoice = tx.need(Kind::Invoice, &id, "invoice").await?;
    if invoice["status"] == "open" && retries {
        if invoice["attempt_count"] == attempts {
            // There was no card to try.
            invoices::count_failure(tx, &mut invoice);
        }
        renewals::not_paid(tx, &invoice).await?;
    }
    Ok(invoice)
}
