//! The table of `/v1`: which handler serves which method and path. Called by the front door inside a unit of work. To add an
//! endpoint: its line here and its handler in the file of its theme.

use serde_json::{Value as Json, json};

use super::{
    catalog, charges, credit_notes, customers, disputes,
    documents::{Kind, Tx, public},
    failure::{Api, Failure},
    form::Params,
    invoice_items, invoices, lists, manual_payouts, payments, payouts, refunds, subscriptions, webhooks,
};

/// The collections that can be listed and read one by one.
fn collection(name: &str) -> Option<Kind> {
    Some(match name {
        "customers" => Kind::Customer,
        "payment_methods" => Kind::PaymentMethod,
        "products" => Kind::Product,
        "prices" => Kind::Price,
        "invoiceitems" => Kind::InvoiceItem,
        "invoices" => Kind::Invoice,
        "invoice_payments" => Kind::InvoicePayment,
        "payment_intents" => Kind::PaymentIntent,
        "charges" => Kind::Charge,
        "refunds" => Kind::Refund,
        "balance_transactions" => Kind::BalanceTransaction,
        "payouts" => Kind::Payout,
        "disputes" => Kind::Dispute,
        "events" => Kind::Event,
        "webhook_endpoints" => Kind::WebhookEndpoint,
        "credit_notes" => Kind::CreditNote,
        "subscriptions" => Kind::Subscription,
        _ => return None,
    })
}

/// Serves one request.
pub(super) async fn dispatch(tx: &mut Tx<'_>, method: &str, path: &[&str], url: &str, p: Params<'_>) -> Api<Json> {
    let body = match (method, path) {
        ("GET", ["balance"]) => payouts::balance(tx, &[]).await?,
        ("GET", ["balance", "history"]) => return lists::list(tx, Kind::BalanceTransaction, "/v1/balance/history", p).await,
        ("GET", ["customers", id, "payment_methods"]) => {
            let tree = json!({ "customer": id, "limit": p.text("limit"), "starting_after": p.text("starting_after") });
            return lists::list(tx, Kind::PaymentMethod, url, Params::new(&tree)).await;
        }
        ("GET", ["charges", id, "refunds"]) => {
            let tree = json!({ "charge": id, "limit": p.text("limit"), "starting_after": p.text("starting_after") });
            return lists::list(tx, Kind::Refund, url, Params::new(&tree)).await;
        }
        ("GET", ["invoices", id, "lines"]) => return lists::lines(tx, Kind::Invoice, id, url, p).await,
        ("GET", ["credit_notes", id, "lines"]) => return lists::lines(tx, Kind::CreditNote, id, url, p).await,
        ("GET", [name]) => match collection(name) {
            Some(kind) => return lists::list(tx, kind, url, p).await,
            None => return Err(Failure::unknown_url(method, url)),
        },
        ("GET", [name, id]) => match collection(name) {
            Some(kind) => {
                p.only(&[])?;
                tx.need(kind, id, "id").await?
            }
            None => return Err(Failure::unknown_url(method, url)),
        },
        ("POST", _) => post(tx, path, url, p).await?,
        ("DELETE", ["customers", id]) => customers::delete(tx, id).await?,
        ("DELETE", ["invoiceitems", id]) => invoice_items::delete(tx, id).await?,
        ("DELETE", ["invoices", id]) => invoices::delete(tx, id).await?,
        ("DELETE", ["subscriptions", id]) => subscriptions::cancel(tx, id, p).await?,
        ("DELETE", ["webhook_endpoints", id]) => webhooks::delete(tx, id).await?,
        _ => return Err(Failure::unknown_url(method, url)),
    };
    Ok(public(body, &tx.base()))
}

async fn post(tx: &mut Tx<'_>, path: &[&str], url: &str, p: Params<'_>) -> Api<Json> {
    match path {
        ["customers"] => customers::create(tx, p).await,
        ["customers", id] => customers::update(tx, id, p).await,
        ["payment_methods"] => customers::create_method(tx, p),
        ["payment_methods", id, "attach"] => customers::attach_method(tx, id, p).await,
        ["payment_methods", id, "detach"] => customers::detach_method(tx, id).await,
        ["products"] => catalog::create_product(tx, p),
        ["products", id] => catalog::update_product(tx, id, p).await,
        ["prices"] => catalog::create_price(tx, p).await,
        ["prices", id] => catalog::update_price(tx, id, p).await,
        ["invoiceitems"] => invoice_items::create(tx, p).await,
        ["invoiceitems", id] => invoice_items::update(tx, id, p).await,
        ["invoices"] => invoices::create(tx, p).await,
        ["invoices", id] => invoices::update(tx, id, p).await,
        ["invoices", id, "finalize"] => invoices::finalize(tx, id, p).await,
        ["invoices", id, "pay"] => invoices::pay(tx, id, p).await,
        ["invoices", id, "send"] => invoices::send(tx, id).await,
        ["invoices", id, "void"] => invoices::void(tx, id).await,
        ["invoices", id, "mark_uncollectible"] => invoices::mark_uncollectible(tx, id).await,
        ["payment_intents"] => payments::create_intent(tx, p).await,
        ["payment_intents", id] => charges::update_intent(tx, id, p).await,
        ["payment_intents", id, "confirm"] => payments::confirm_intent(tx, id, p).await,
        ["payment_intents", id, "capture"] => payments::capture_intent(tx, id, p).await,
        ["payment_intents", id, "cancel"] => payments::cancel_intent(tx, id, p).await,
        ["charges"] => charges::create(tx, p).await,
        ["charges", id] => charges::update(tx, id, p).await,
        ["charges", id, "capture"] => charges::capture(tx, id, p).await,
        ["refunds"] => refunds::create(tx, p).await,
        ["refunds", id] => refunds::update(tx, id, p).await,
        ["refunds", id, "cancel"] => refunds::cancel(tx, id, p).await,
        ["credit_notes"] => credit_notes::create(tx, p).await,
        ["credit_notes", id] => credit_notes::update(tx, id, p).await,
        ["credit_notes", id, "void"] => credit_notes::void(tx, id, p).await,
        ["payouts"] => manual_payouts::create(tx, p).await,
        ["payouts", id] => manual_payouts::update(tx, id, p).await,
        ["payouts", id, "cancel"] => manual_payouts::cancel(tx, id, p).await,
        ["disputes", id] => disputes::update(tx, id, p).await,
        ["disputes", id, "close"] => disputes::close(tx, id, p).await,
        ["subscriptions"] => subscriptions::create(tx, p).await,
        ["subscriptions", id] => subscriptions::update(tx, id, p).await,
        ["webhook_endpoints"] => webhooks::create(tx, p),
        ["webhook_endpoints", id] => webhooks::update(tx, id, p).await,
        _ => Err(Failure::unknown_url("POST", url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_collection_and_its_own_prefix() {
        for kind in ["customers", "invoices", "events", "webhook_endpoints", "balance_transactions"].map(|c| collection(c).expect(c)) {
            assert_eq!(Kind::of_id(&kind.new_id()), Some(kind));
        }
    }
}
