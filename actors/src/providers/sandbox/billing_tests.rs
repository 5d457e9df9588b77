//! Recurring billing from the outside, over HTTP and by the virtual clock: renewals, prorations, declined cards, trials, ends.

use serde_json::{Value as Json, json};

use super::{
    clock::DAY,
    tests::{Served, serve},
};

const CARD_OF_TROUBLE: &str = "pm_card_chargeCustomerFail";

/// A sandbox with a product, its prices and a customer with a card.
struct Shop {
    served: Served,
    _folder: tempfile::TempDir,
    customer: String,
    calls: std::cell::Cell<u32>,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let served = serve(&folder).await;
        let mut shop = Self { served, _folder: folder, customer: String::new(), calls: std::cell::Cell::new(0) };
        shop.customer = id(&shop.post("/v1/customers", &[("email", "a@example.com")]).await);
        shop.card("pm_card_visa").await;
        shop
    }

    async fn post(&self, path: &str, params: &[(&str, &str)]) -> Json {
        self.try_post(path, params).await.unwrap()
    }

    async fn try_post(&self, path: &str, params: &[(&str, &str)]) -> crate::error::Result<Json> {
        self.calls.set(self.calls.get() + 1);
        let params: Vec<(&str, String)> = params.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Ok(self.served.client.post(path, &params, &format!("k{}", self.calls.get())).await?.body)
    }

    async fn card(&self, card: &str) {
        self.calls.set(self.calls.get() + 1);
        self.served.client.attach_payment_method(&self.customer, card, &format!("card{}", self.calls.get())).await.unwrap();
    }

    async fn price(&self, amount: i64, interval: &str) -> String {
        let amount = amount.to_string();
        let params = [("currency", "usd"), ("unit_amount", &*amount), ("recurring[interval]", interval), ("product_data[name]", "Team")];
        id(&self.post("/v1/prices", &params).await)
    }

    async fn subscribe(&self, price: &str, more: &[(&str, &str)]) -> Json {
        let params = [&[("customer", self.customer.as_str()), ("items[0][price]", price)], more].concat();
        self.post("/v1/subscriptions", &params).await
    }

    async fn get(&self, path: &str) -> Json {
        self.served.client.get(path, &[]).await.unwrap().body
    }

    async fn again(&self, subscription: &Json) -> Json {
        self.get(&format!("/v1/subscriptions/{}", id(subscription))).await
    }

    /// The invoices of a subscription, oldest first: (reason, status, amount due).
    async fn invoices(&self, subscription: &Json) -> Vec<(String, String, i64)> {
        let all = self.served.client.list_all("/v1/invoices", &[("subscription", id(subscription))]).await.unwrap();
        let text = |i: &Json, name: &str| i[name].as_str().unwrap().to_owned();
        all.iter().rev().map(|i| (text(i, "billing_reason"), text(i, "status"), i["amount_due"].as_i64().unwrap())).collect()
    }

    async fn latest_invoice(&self, subscription: &Json) -> Json {
        let subscription = self.again(subscription).await;
        self.get(&format!("/v1/invoices/{}", subscription["latest_invoice"].as_str().unwrap())).await
    }

    /// The types of events about an object, oldest first, with their `previous_attributes`.
    async fn events(&self, kind: &str) -> Vec<(String, Json)> {
        let all = self.served.client.list_all("/v1/events", &[("type", kind.to_owned())]).await.unwrap();
        all.iter().rev().map(|e| (e["type"].as_str().unwrap().to_owned(), e["data"]["previous_attributes"].clone())).collect()
    }

    async fn advance_s(&self, seconds: i64) {
        self.served.sandbox.advance(seconds).await.unwrap();
    }

    async fn days(&self, days: i64) {
        self.advance_s(days * DAY).await;
    }

    /// To a second after the present period's end; the draft it makes has still its hour.
    async fn to_period_end(&self, subscription: &Json) {
        let end = item(&self.again(subscription).await)["current_period_end"].as_i64().unwrap();
        self.advance_s(end - self.served.sandbox.now().await + 1).await;
    }
}

fn id(body: &Json) -> String {
    body["id"].as_str().unwrap().to_owned()
}

fn item(subscription: &Json) -> &Json {
    &subscription["items"]["data"][0]
}

fn row(reason: &str, status: &str, due: i64) -> (String, String, i64) {
    (format!("subscription_{reason}"), status.to_owned(), due)
}

#[tokio::test]
async fn a_subscription_is_paid_at_once_and_again_every_month() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let s = shop.subscribe(&price, &[("items[0][quantity]", "2"), ("metadata[a]", "b")]).await;
    assert_eq!((&s["status"], &s["currency"], &s["metadata"]), (&json!("active"), &json!("usd"), &json!({"a": "b"})));
    let first = shop.latest_invoice(&s).await;
    assert_eq!(
        (&first["status"], &first["amount_paid"], &first["parent"]["subscription_details"]["subscription"]),
        (&json!("paid"), &json!(9800), &s["id"])
    );
    let line = &first["lines"]["data"][0];
    assert_eq!(line["period"], json!({"start": item(&s)["current_period_start"], "end": item(&s)["current_period_end"]}));
    assert_eq!(line["pricing"]["price_details"]["price"], price.as_str());
    assert_eq!(line["description"], "2 × Team (at $49.00 / month)");
    shop.to_period_end(&s).await;
    assert_eq!(shop.invoices(&s).await[1], row("cycle", "draft", 9800));
    let renewed = shop.again(&s).await;
    assert_eq!(item(&renewed)["current_period_start"], item(&s)["current_period_end"]);
    shop.advance_s(3600).await;
    assert_eq!(shop.invoices(&s).await[1], row("cycle", "paid", 9800));
    shop.days(31 * 2).await;
    assert_eq!(shop.invoices(&s).await.iter().map(|i| i.1.as_str()).collect::<Vec<_>>(), ["paid"; 4]);
    // Everything that was paid settled and was paid out.
    shop.days(5).await;
    let paid_out: i64 = shop.served.client.payouts(0, i64::MAX).await.unwrap().iter().filter_map(|p| p["amount"].as_i64()).sum();
    assert_eq!(paid_out, 4 * (9800 - 314));
    let updated = shop.events("customer.subscription.updated").await;
    assert!(!updated.is_empty(), "the newest is younger than the 30 days that events are kept");
    assert!(updated.iter().all(|(_, previous)| previous["items"].is_object() && previous["latest_invoice"].is_string()), "{updated:?}");
    shop.served.stop().await;
}

#[tokio::test]
async fn an_upgrade_credits_the_unused_time_and_charges_the_rest_to_the_cent() {
    let shop = Shop::open().await;
    let (small, large) = (shop.price(1900, "month").await, shop.price(4900, "month").await);
    let s = shop.subscribe(&small, &[]).await;
    shop.days(10).await;
    let item_id = id(item(&s));
    let path = format!("/v1/subscriptions/{}", id(&s));
    let change = |price: &str, how: &str| {
        [("items[0][id]", item_id.clone()), ("items[0][price]", price.to_owned()), ("proration_behavior", how.to_owned())]
    };
    let strs = |params: &[(&'static str, String); 3]| params.clone();
    let call = async |params: [(&'static str, String); 3]| {
        let borrowed: Vec<(&str, &str)> = params.iter().map(|(k, v)| (*k, v.as_str())).collect();
        shop.post(&path, &borrowed).await
    };
    let changed = call(strs(&change(&large, "create_prorations"))).await;
    assert_eq!(item(&changed)["price"]["id"], large.as_str());
    let now = shop.served.sandbox.now().await;
    let (start, end) = (item(&s)["current_period_start"].as_i64().unwrap(), item(&s)["current_period_end"].as_i64().unwrap());
    let part = |amount: i64, at: i64| (2 * amount * (end - at) + (end - start)).div_euclid(2 * (end - start));
    let waiting =
        shop.served.client.list_all("/v1/invoiceitems", &[("customer", shop.customer.clone()), ("pending", "true".into())]).await.unwrap();
    let amounts: Vec<i64> = waiting.iter().rev().map(|i| i["amount"].as_i64().unwrap()).collect();
    let near = |made: i64| (0..3).any(|late| amounts == [-part(1900, made - late), part(4900, made - late)]);
    assert!(near(now), "{amounts:?}");
    // A manual invoice does not take what waits for the subscription's own.
    let manual = shop.post("/v1/invoices", &[("customer", &shop.customer), ("pending_invoice_items_behavior", "include")]).await;
    assert_eq!(manual["lines"]["data"], json!([]));
    shop.to_period_end(&s).await;
    let next = shop.latest_invoice(&s).await;
    let lines: Vec<(i64, bool)> = next["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| (l["amount"].as_i64().unwrap(), l["parent"]["subscription_item_details"]["proration"].as_bool().unwrap()))
        .collect();
    assert_eq!(lines, [(amounts[0], true), (amounts[1], true), (4900, false)]);
    assert_eq!(next["total"], amounts[0] + amounts[1] + 4900);
    shop.advance_s(3600).await;
    assert_eq!(shop.latest_invoice(&s).await["amount_paid"], amounts[0] + amounts[1] + 4900);

    // A downgrade at once is in the customer's favour: nothing is paid, and the next invoice is less.
    shop.days(5).await;
    call(strs(&change(&small, "always_invoice"))).await;
    let credit = shop.latest_invoice(&s).await;
    assert_eq!(
        (&credit["billing_reason"], &credit["status"], &credit["amount_due"]),
        (&json!("subscription_update"), &json!("paid"), &json!(0))
    );
    let total = credit["total"].as_i64().unwrap();
    assert!(total < 0 && credit["ending_balance"] == total);
    assert_eq!(shop.served.client.invoice_payments(&id(&credit)).await.unwrap(), Vec::<Json>::new());
    assert_eq!(shop.get(&format!("/v1/customers/{}", shop.customer)).await["balance"], total);
    shop.to_period_end(&s).await;
    shop.advance_s(3600).await;
    let next = shop.latest_invoice(&s).await;
    let due = (1900 + total).max(0);
    assert_eq!(
        (&next["total"], &next["starting_balance"], &next["amount_due"], &next["status"]),
        (&json!(1900), &json!(total), &json!(due), &json!("paid"))
    );
    assert_eq!(next["ending_balance"], (1900 + total).min(0));

    // Another interval begins a new period now and is invoiced now.
    let yearly = shop.price(49_000, "year").await;
    let changed = call(strs(&change(&yearly, "none"))).await;
    assert_eq!(shop.invoices(&s).await.last().unwrap().0, "subscription_update");
    assert_eq!(shop.latest_invoice(&s).await["total"], 49_000);
    assert_eq!(changed["billing_cycle_anchor"], item(&changed)["current_period_start"]);
    assert!(item(&changed)["current_period_end"].as_i64().unwrap() - item(&changed)["current_period_start"].as_i64().unwrap() >= 365 * DAY);
    shop.served.stop().await;
}

#[tokio::test]
async fn a_declined_renewal_is_tried_after_three_five_and_seven_days_and_then_ends_the_subscription() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let s = shop.subscribe(&price, &[]).await;
    shop.card(CARD_OF_TROUBLE).await;
    shop.to_period_end(&s).await;
    shop.advance_s(3600).await;
    let mut waits = Vec::new();
    for attempt in 1..=3 {
        let invoice = shop.latest_invoice(&s).await;
        assert_eq!((&invoice["status"], &invoice["attempt_count"]), (&json!("open"), &json!(attempt)));
        assert_eq!(shop.again(&s).await["status"], "past_due");
        let wait = invoice["next_payment_attempt"].as_i64().unwrap() - shop.served.sandbox.now().await;
        waits.push((wait + DAY / 2) / DAY);
        shop.advance_s(wait + 1).await;
    }
    assert_eq!(waits, [3, 5, 7]);
    let ended = shop.again(&s).await;
    assert_eq!((&ended["status"], &ended["cancellation_details"]["reason"]), (&json!("canceled"), &json!("payment_failed")));
    assert!(ended["ended_at"].is_i64());
    let invoice = shop.latest_invoice(&s).await;
    assert_eq!((&invoice["status"], &invoice["attempt_count"], &invoice["next_payment_attempt"]), (&json!("open"), &json!(4), &Json::Null));
    assert_eq!(shop.events("invoice.payment_failed").await.len(), 4);
    assert_eq!(shop.events("customer.subscription.deleted").await.len(), 1);
    let count = shop.invoices(&s).await.len();
    shop.days(70).await;
    assert_eq!(shop.invoices(&s).await.len(), count, "nothing is invoiced after the end");
    assert_eq!(shop.get("/v1/subscriptions").await["data"], json!([]));
    assert_eq!(shop.get("/v1/subscriptions?status=canceled").await["data"][0]["id"], s["id"]);
    shop.served.stop().await;
}

#[tokio::test]
async fn a_new_card_pays_what_is_past_due_and_the_subscription_goes_on() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let s = shop.subscribe(&price, &[]).await;
    shop.card(CARD_OF_TROUBLE).await;
    shop.to_period_end(&s).await;
    shop.advance_s(3600).await;
    assert_eq!(shop.again(&s).await["status"], "past_due");
    shop.card("pm_card_visa").await;
    shop.days(3).await;
    assert_eq!(shop.again(&s).await["status"], "active");
    let invoice = shop.latest_invoice(&s).await;
    assert_eq!((&invoice["status"], &invoice["attempt_count"], &invoice["next_payment_attempt"]), (&json!("paid"), &json!(2), &Json::Null));
    let states: Vec<Json> =
        shop.events("customer.subscription.updated").await.into_iter().map(|(_, p)| p["status"].clone()).filter(|s| !s.is_null()).collect();
    assert_eq!(states, ["active", "past_due"]);
    shop.served.stop().await;
}

#[tokio::test]
async fn a_first_payment_that_fails_leaves_an_incomplete_subscription_that_expires() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    shop.card(CARD_OF_TROUBLE).await;
    let refused = shop
        .try_post(
            "/v1/subscriptions",
            &[("customer", &shop.customer), ("items[0][price]", &price), ("payment_behavior", "error_if_incomplete")],
        )
        .await;
    assert_eq!(refused.unwrap_err().reason, "card_declined");
    assert_eq!(shop.get("/v1/subscriptions?status=all").await["data"], json!([]), "nothing is left of it");
    let lost = shop.subscribe(&price, &[]).await;
    let saved = shop.subscribe(&price, &[]).await;
    assert_eq!((&lost["status"], &saved["status"]), (&json!("incomplete"), &json!("incomplete")));
    let invoice = shop.latest_invoice(&saved).await;
    shop.post(&format!("/v1/invoices/{}/pay", id(&invoice)), &[("payment_method", "pm_card_visa")]).await;
    shop.days(1).await;
    assert_eq!(shop.again(&saved).await["status"], "active");
    assert_eq!(shop.again(&lost).await["status"], "incomplete_expired");
    assert_eq!(shop.latest_invoice(&lost).await["status"], "void");
    shop.served.stop().await;
}

#[tokio::test]
async fn a_trial_costs_nothing_until_its_end_is_announced_and_comes() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let s = shop.subscribe(&price, &[("trial_period_days", "14")]).await;
    assert_eq!((&s["status"], &s["trial_end"]), (&json!("trialing"), &s["billing_cycle_anchor"]));
    assert_eq!(shop.invoices(&s).await, [row("create", "paid", 0)]);
    assert_eq!(shop.served.client.charges(10).await.unwrap(), Vec::<Json>::new());
    shop.days(10).await;
    assert_eq!(shop.events("customer.subscription.trial_will_end").await.len(), 0);
    shop.days(2).await;
    assert_eq!(shop.events("customer.subscription.trial_will_end").await.len(), 1);
    shop.days(3).await;
    assert_eq!(shop.again(&s).await["status"], "active");
    assert_eq!(shop.invoices(&s).await, [row("create", "paid", 0), row("cycle", "paid", 4900)]);
    shop.served.stop().await;
}

#[tokio::test]
async fn a_subscription_ends_at_the_end_of_its_period_or_at_once() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let (kept, left, gone) = (shop.subscribe(&price, &[]).await, shop.subscribe(&price, &[]).await, shop.subscribe(&price, &[]).await);
    let path = |s: &Json| format!("/v1/subscriptions/{}", id(s));
    for s in [&kept, &left] {
        let wish = shop.post(&path(s), &[("cancel_at_period_end", "true")]).await;
        assert_eq!((&wish["status"], &wish["cancel_at"]), (&json!("active"), &item(s)["current_period_end"]));
    }
    let back = shop.post(&path(&kept), &[("cancel_at_period_end", "false")]).await;
    assert_eq!((&back["cancel_at"], &back["canceled_at"]), (&Json::Null, &Json::Null));
    shop.days(15).await;
    let url = format!("{}/v1/subscriptions/{}", shop.served.sandbox.inner.base(), id(&gone));
    let request = |body: &'static str| shop.served.sandbox.inner.client().delete(format!("{url}{body}")).bearer_auth("sk_test_1");
    let ended: Json = request("?prorate=true&invoice_now=true").send().await.unwrap().json().await.unwrap();
    assert_eq!(ended["status"], "canceled");
    assert_eq!(request("").send().await.unwrap().status(), 404, "twice");
    let balance = shop.get(&format!("/v1/customers/{}", shop.customer)).await["balance"].as_i64().unwrap();
    assert!((-4900 * 18 / 31..=-4900 * 14 / 31).contains(&balance), "about half of it comes back: {balance}");
    shop.days(17).await;
    assert_eq!(shop.again(&left).await["status"], "canceled");
    assert_eq!(shop.again(&kept).await["status"], "active");
    assert_eq!((shop.invoices(&left).await.len(), shop.invoices(&kept).await.len()), (1, 2));
    assert_eq!(shop.events("customer.subscription.deleted").await.len(), 2);
    let refused = shop.try_post(&path(&left), &[("cancel_at_period_end", "false")]).await;
    assert!(refused.unwrap_err().message.contains("canceled subscription"));
    shop.post(&path(&left), &[("metadata[why]", "moved")]).await;
    shop.served.stop().await;
}

#[tokio::test]
async fn what_a_subscription_cannot_be_is_refused_by_name() {
    let shop = Shop::open().await;
    let price = shop.price(4900, "month").await;
    let once = id(&shop.post("/v1/prices", &[("currency", "usd"), ("unit_amount", "5"), ("product_data[name]", "x")]).await);
    for (params, reason) in [
        (vec![("items[0][price]", &*once)], "parameter_invalid_string"),
        (vec![("items[0][price]", "price_none")], "resource_missing"),
        (vec![], "parameter_missing"),
        (vec![("items[0][price]", &price), ("items[1][price]", &price)], "parameter_invalid"),
        (vec![("items[0][price]", &price), ("trial_period_days", "800")], "parameter_invalid_integer"),
        (vec![("items[0][price]", &price), ("collection_method", "send_invoice")], "parameter_missing"),
        (vec![("items[0][price]", &price), ("nonsense", "1")], "parameter_unknown"),
    ] {
        let params = [vec![("customer", shop.customer.as_str())], params].concat();
        assert_eq!(shop.try_post("/v1/subscriptions", &params).await.unwrap_err().reason, reason, "{params:?}");
    }
    let poor = id(&shop.post("/v1/customers", &[("email", "b@example.com")]).await);
    let refused = shop.try_post("/v1/subscriptions", &[("customer", &poor), ("items[0][price]", &price)]).await;
    assert_eq!(refused.unwrap_err().reason, "resource_missing");
    let sent = [("customer", &*poor), ("items[0][price]", &*price), ("collection_method", "send_invoice"), ("days_until_due", "14")];
    let sent = shop.post("/v1/subscriptions", &sent).await;
    assert_eq!((&sent["status"], &shop.invoices(&sent).await[0].1), (&json!("active"), &"open".to_owned()));
    shop.served.stop().await;
}
