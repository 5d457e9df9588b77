//! Lists with their cursors and filters, and `expand`. Called by the dispatcher for every GET of a collection and for every
//! answer.

use serde_json::{Value as Json, json};

use super::{
    clock::DAY,
    documents::{Kind, Query, Tx, id_of, public},
    failure::{Api, Failure},
    form::Params,
    payouts,
};

/// A list of a kind with the filters that the provider has for it.
pub(super) async fn list(tx: &Tx<'_>, kind: Kind, url: &str, p: Params<'_>) -> Api<Json> {
    let mut query = Query { limit: limit(p)?, oldest_first: false, ..Query::of(kind) };
    filters(tx, &mut query, p).await?;
    page(tx, query, url, p).await
}

fn limit(p: Params<'_>) -> Api<i64> {
    match p.int("limit")?.unwrap_or(10) {
        limit @ 1..=100 => Ok(limit),
        limit if limit < 1 => {
            Err(Failure::parameter("parameter_invalid_integer", "limit", "This value must be greater than or equal to 1."))
        }
        _ => Err(Failure::parameter("parameter_invalid_integer", "limit", "This value must be less than or equal to 100.")),
    }
}

const PAGING: [&str; 3] = ["limit", "starting_after", "ending_before"];

fn allow(p: Params<'_>, own: &[&str]) -> Api<()> {
    p.only(&[&PAGING[..], own].concat())
}

async fn filters(tx: &Tx<'_>, query: &mut Query, p: Params<'_>) -> Api<()> {
    let text = |name: &str| p.text(name).map(str::to_owned);
    let active = || p.boolean("active").map(|a| a.map(|a| a.to_string()));
    match query.kind {
        Kind::Customer => {
            allow(p, &["email", "created"])?;
            // Case-sensitive, as the provider's is.
            (query.link, query.status) = (text("email"), Some("active".into()));
        }
        Kind::PaymentMethod => {
            allow(p, &["customer", "type"])?;
            (query.customer, query.type_like) = (text("customer"), text("type"));
        }
        Kind::Product => {
            allow(p, &["active", "created"])?;
            query.status = active()?;
        }
        Kind::Price => {
            allow(p, &["active", "created", "product", "currency", "type"])?;
            (query.link, query.currency, query.type_like) = (text("product"), text("currency"), text("type"));
            query.status = active()?;
        }
        Kind::InvoiceItem => {
            allow(p, &["customer", "invoice", "pending", "created"])?;
            (query.customer, query.link) = (text("customer"), text("invoice"));
            query.status = p.boolean("pending")?.map(|pending| if pending { "pending" } else { "attached" }.into());
        }
        Kind::Invoice => {
            allow(p, &["customer", "status", "collection_method", "created", "due_date", "subscription"])?;
            query.link = text("subscription");
            (query.customer, query.status, query.type_like) = (text("customer"), text("status"), text("collection_method"));
            query.at = p.range("due_date")?;
        }
        Kind::InvoicePayment => {
            allow(p, &["invoice", "payment", "status", "created"])?;
            (query.link, query.status) = (text("invoice"), text("status"));
            if let Some(payment) = p.sub("payment") {
                payment.only(&["type", "payment_intent"])?;
                query.second = payment.text("payment_intent").map(str::to_owned);
            }
        }
        Kind::PaymentIntent => {
            allow(p, &["customer", "created"])?;
            query.customer = text("customer");
        }
        Kind::Charge => {
            allow(p, &["customer", "created", "payment_intent"])?;
            (query.customer, query.link) = (text("customer"), text("payment_intent"));
        }
        Kind::Refund | Kind::Dispute => {
            allow(p, &["charge", "created", "payment_intent"])?;
            (query.link, query.second) = (text("charge"), text("payment_intent"));
        }
        Kind::BalanceTransaction => {
            allow(p, &["payout", "type", "source", "currency", "created", "available_on"])?;
            if let Some(payout) = p.text("payout") {
                payouts::itemised(&tx.need(Kind::Payout, payout, "payout").await?)?;
            }
            (query.second, query.type_like, query.link, query.currency) = (text("payout"), text("type"), text("source"), text("currency"));
            query.at = p.range("available_on")?;
        }
        Kind::Payout => {
            allow(p, &["status", "arrival_date", "created", "destination"])?;
            (query.status, query.link) = (text("status"), text("destination"));
            query.at = p.range("arrival_date")?;
        }
        Kind::CreditNote => {
            allow(p, &["customer", "invoice", "created"])?;
            (query.customer, query.link) = (text("customer"), text("invoice"));
        }
        Kind::Subscription => subscription_filters(query, p)?,
        Kind::Event => event_filters(tx, query, p)?,
        Kind::WebhookEndpoint => allow(p, &[])?,
    }
    if let Some(created) = p.range("created")? {
        query.created.min = query.created.min.max(created.min);
        query.created.max = created.max;
    }
    Ok(())
}

/// Subscriptions that have ended are listed only if they are asked for.
fn subscription_filters(query: &mut Query, p: Params<'_>) -> Api<()> {
    const STATES: [&str; 10] =
        ["all", "ended", "active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid"];
    allow(p, &["customer", "price", "status", "collection_method", "created", "current_period_end"])?;
    let text = |name: &str| p.text(name).map(str::to_owned);
    (query.customer, query.link, query.second) = (text("customer"), text("price"), text("collection_method"));
    query.at = p.range("current_period_end")?;
    match p.choice("status", &STATES)? {
        Some("all") => {}
        Some("ended") => query.types = Some(",canceled,incomplete_expired,".into()),
        Some(status) => query.status = Some(status.into()),
        None => query.types = Some(",active,incomplete,past_due,paused,trialing,unpaid,".into()),
    }
    Ok(())
}

fn event_filters(tx: &Tx<'_>, query: &mut Query, p: Params<'_>) -> Api<()> {
    allow(p, &["type", "types", "created", "delivery_success"])?;
    query.type_like = p.text("type").map(str::to_owned);
    let types = p.list("types");
    if types.len() > 20 {
        return Err(Failure::parameter("parameter_invalid_string", "types", "You may pass at most 20 types."));
    }
    if !types.is_empty() && query.type_like.is_some() {
        return Err(Failure::refused(None, "You may pass either type or types, but not both."));
    }
    query.types = (!types.is_empty()).then(|| format!(",{},", types.join(",")));
    query.status = p.boolean("delivery_success")?.map(|delivered| delivered.to_string());
    // The provider keeps them for 30 days.
    query.created.min = tx.now - 30 * DAY;
    Ok(())
}

async fn page(tx: &Tx<'_>, mut query: Query, url: &str, p: Params<'_>) -> Api<Json> {
    let limit = usize::try_from(query.limit).unwrap_or(10);
    match (p.text("starting_after"), p.text("ending_before")) {
        (Some(_), Some(_)) => {
            return Err(Failure::refused(None, "You may only specify one of these parameters: starting_after, ending_before."));
        }
        (Some(id), None) => query.before = place(tx, query.kind, id, "starting_after").await?,
        (None, Some(id)) => {
            query.after = place(tx, query.kind, id, "ending_before").await?;
            query.oldest_first = true;
        }
        (None, None) => {}
    }
    query.limit += 1;
    let mut items = tx.find(&query).await?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    if query.oldest_first {
        items.reverse();
    }
    let base = tx.base();
    let data: Vec<Json> = items.into_iter().map(|item| public(item, &base)).collect();
    Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
}

async fn place(tx: &Tx<'_>, kind: Kind, id: &str, param: &str) -> Api<i64> {
    tx.place(kind, id).await?.ok_or_else(|| Failure::no_such(kind.name(), id, param))
}

/// The lines of an invoice or credit note: they live inside it, oldest first.
pub(super) async fn lines(tx: &Tx<'_>, kind: Kind, id: &str, url: &str, p: Params<'_>) -> Api<Json> {
    allow(p, &[])?;
    let limit = usize::try_from(limit(p)?).unwrap_or(10);
    let body = tx.need(kind, id, "id").await?;
    let all = body["lines"]["data"].as_array().cloned().unwrap_or_default();
    let find = |id: &str, param: &str| all.iter().position(|l| l["id"] == id).ok_or_else(|| Failure::no_such("line_item", id, param));
    let (from, to) = match (p.text("starting_after"), p.text("ending_before")) {
        (Some(id), _) => (find(id, "starting_after")? + 1, all.len()),
        (None, Some(id)) => {
            let end = find(id, "ending_before")?;
            (end.saturating_sub(limit), end)
        }
        (None, None) => (0, all.len()),
    };
    let has_more = if p.has("ending_before") { from > 0 } else { to - from > limit };
    let data: Vec<Json> = all[from..to].iter().take(limit).cloned().collect();
    Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
}

/// Replaces ids by their objects along the paths of `expand`, e.g. `latest_charge.balance_transaction` or `data.source`.
pub(super) async fn expand(tx: &Tx<'_>, mut answer: Json, p: Params<'_>) -> Api<Json> {
    for path in p.list("expand") {
        let names: Vec<&str> = path.split('.').collect();
        if names.len() > 4 {
            return Err(Failure::parameter("parameter_invalid_string", "expand", "You cannot expand more than 4 levels of a property."));
        }
        let mut places = vec![String::new()];
        for name in names {
            let mut next = Vec::new();
            for place in places {
                step(tx, &mut answer, &place, name, path, &mut next).await?;
            }
            places = next;
        }
    }
    Ok(answer)
}

/// One name of an expand path at one place; pushes where the next name applies.
async fn step(tx: &Tx<'_>, answer: &mut Json, place: &str, name: &str, path: &str, next: &mut Vec<String>) -> Api<()> {
    let cannot = || Failure::parameter("parameter_invalid_string", "expand", format!("This property cannot be expanded ({path})."));
    let Some(node) = answer.pointer(place).filter(|n| n.is_object()) else { return Ok(()) };
    let here = format!("{place}/{name}");
    let found = if let Some(value) = node.get(name) {
        value.clone()
    } else {
        let included = included(tx, node, name).await?.ok_or_else(cannot)?;
        answer.pointer_mut(place).expect("it was there above")[name] = included.clone();
        included
    };
    match found {
        Json::Array(items) => next.extend((0..items.len()).map(|i| format!("{here}/{i}"))),
        Json::Object(_) => next.push(here),
        Json::String(id) => {
            let kind = Kind::of_id(&id).ok_or_else(cannot)?;
            if let Some(body) = tx.get(kind, &id).await? {
                *answer.pointer_mut(&here).expect("it was there above") = public(body, &tx.base());
                next.push(here);
            }
        }
        Json::Null => {}
        _ => return Err(cannot()),
    }
    Ok(())
}

/// Lists that an object has only when they are asked for.
async fn included(tx: &Tx<'_>, node: &Json, name: &str) -> Api<Option<Json>> {
    let id = id_of(node);
    let (kind, url) = match (node["object"].as_str(), name) {
        (Some("invoice"), "payments") => (Kind::InvoicePayment, format!("/v1/invoice_payments?invoice={id}")),
        (Some("charge"), "refunds") => (Kind::Refund, format!("/v1/charges/{id}/refunds")),
        _ => return Ok(None),
    };
    let query = Query { oldest_first: false, limit: 10, ..Query::linked(kind, id) };
    let none = json!({});
    page(tx, query, &url, Params::new(&none)).await.map(Some)
}
