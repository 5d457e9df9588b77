//! Makes an invoice for a customer, finds or creates the customer, finalizes it and does not pay it. Called by the gateway and the
//! command line. Every step has an idempotency key derived from the caller's, so that a repetition after a crash finds the same
//! objects. Amounts are read from the request's text: a decimal never becomes a float.

use serde_json::{Value as Json, json};

use super::{book_answer, by_provider, fingerprint};
use crate::{
    domain::{money, portal},
    env::Env,
    error::{Error, Result},
    files,
};

const OPERATION: &str = "create_invoice";
const MAX_DESCRIPTION: usize = 500;

/// What a caller asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub amount_minor: i64,
    /// Lower case.
    pub currency: String,
    /// Canonical.
    pub email: String,
    pub description: String,
}

impl Asked {
    /// Reads a JSON object's text: `{"amount_minor" | "amount", "currency"?, "email", "description"?}`. `amount` is a decimal, as a
    /// text or a number. Errors: `invalid` naming the field.
    pub fn from_text(text: &str) -> Result<Self> {
        let body: Json = serde_json::from_str(text).map_err(|e| Error::invalid("body", format!("the body is not JSON: {e}")))?;
        let currency = string(&body, "currency")?.unwrap_or_else(|| "usd".to_owned()).to_lowercase();
        if !money::is_currency(&currency) {
            return Err(Error::field("currency", "currency must be a code such as usd"));
        }
        let email = string(&body, "email")?.ok_or_else(|| Error::field("email", "email is missing"))?;
        let email = portal::canonical_email(&email).map_err(|why| Error::field("email", why))?;
        let description = string(&body, "description")?.unwrap_or_else(|| "Invoice".to_owned());
        if description.chars().count() > MAX_DESCRIPTION {
            return Err(Error::field("description", format!("description has more than {MAX_DESCRIPTION} characters")));
        }
        let (field, amount_minor) = amount(text, &body, &currency)?;
        let step = money::step(&currency);
        let least = money::minimum_charge(&currency);
        if amount_minor < least {
            let least = money::display(least, &currency);
            return Err(Error::field(field, format!("the amount is below the smallest that can be charged, {least}")));
        }
        if amount_minor > money::MAXIMUM {
            return Err(Error::field(field, "the amount is too large"));
        }
        if amount_minor % step != 0 {
            return Err(Error::field(field, format!("an amount in {} is a multiple of {step}", currency.to_uppercase())));
        }
        Ok(Self { amount_minor, currency, email, description })
    }

    fn fingerprint(&self) -> String {
        fingerprint(&json!([self.amount_minor, self.currency, self.email, self.description]))
    }
}

fn string(body: &Json, name: &'static str) -> Result<Option<String>> {
    match &body[name] {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.clone())),
        _ => Err(Error::field(name, format!("{name} must be a text"))),
    }
}

/// The amount in minor units and the field it came from.
fn amount(text: &str, body: &Json, currency: &str) -> Result<(&'static str, i64)> {
    let minor = match &body["amount_minor"] {
        Json::Null => None,
        value => Some(value.as_i64().ok_or_else(|| Error::field("amount_minor", "amount_minor must be a whole number of minor units"))?),
    };
    let decimal = match &body["amount"] {
        Json::Null => None,
        Json::String(decimal) => Some(decimal.clone()),
        Json::Number(_) => member_text(text, "amount").map(str::to_owned),
        _ => return Err(Error::field("amount", "amount must be a decimal such as 12.50")),
    };
    let decimal = decimal.map(|d| money::parse_decimal(&d, currency).map_err(|why| Error::field("amount", why))).transpose()?;
    match (minor, decimal) {
        (Some(minor), Some(decimal)) if minor != decimal => Err(Error::field("amount", "amount and amount_minor disagree")),
        (Some(minor), _) => Ok(("amount_minor", minor)),
        (None, Some(decimal)) => Ok(("amount", decimal)),
        (None, None) => Err(Error::field("amount_minor", "amount_minor is missing")),
    }
}

/// The text of a top-level member's value as it was sent; the last one if it is there twice, as the parser has it. `text` must
/// be a valid JSON object.
fn member_text<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let bytes = text.as_bytes();
    let (mut depth, mut start, mut key, mut found) = (0_usize, 0, None::<String>, None);
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                let open = i;
                i += 1;
                while bytes[i] != b'"' {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                if depth == 1 && key.is_none() {
                    key = serde_json::from_str(&text[open..=i]).ok();
                }
            }
            b'{' | b'[' => depth += 1,
            b':' if depth == 1 => start = i + 1,
            end @ (b'}' | b']' | b',') => {
                if depth == 1 && key.take().as_deref() == Some(name) {
                    found = Some(text[start..i].trim());
                }
                depth -= usize::from(end != b',');
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Makes the invoice: `{"ok","invoice_id","number","status","amount_minor","currency","hosted_invoice_url","livemode","customer","replayed"}`.
/// Errors: `conflict` `idempotency_key_reused`, `unavailable` `provider_*`, after which the same request is safe to repeat.
pub async fn create_invoice(env: &Env, asked: &Asked, idempotency_key: Option<&str>, asked_by: &str) -> Result<Json> {
    let Some(key) = idempotency_key else {
        return make(env, asked, &format!("ep-invoice-{}", files::random_hex(16)), asked_by).await;
    };
    let store = env.store();
    if let Some(before) = store.take_key(OPERATION, key, &asked.fingerprint(), env.now()).await? {
        if before.request != asked.fingerprint() {
            return Err(Error::conflict("idempotency_key_reused", "this Idempotency-Key was used for another request"));
        }
        if let Some(mut answer) = before.answer {
            answer["replayed"] = true.into();
            return Ok(answer);
        }
        // Cut off, or still going on: the same keys lead to the same objects either way.
    }
    let base = format!("ep-invoice-{}", &fingerprint(&json!([key, asked.fingerprint()]))[..32]);
    let result = make(env, asked, &base, asked_by).await;
    match &result {
        Ok(answer) => store.keep_answer(OPERATION, key, answer).await?,
        Err(_) => store.free_key(OPERATION, key).await?,
    }
    result
}

/// Customer, draft, item on that draft, finalize: no item of another invoice can slip in.
async fn make(env: &Env, asked: &Asked, base: &str, asked_by: &str) -> Result<Json> {
    let provider = env.provider();
    let customer = customer(env, &asked.email, base).await?;
    let draft =
        provider.create_invoice(&customer, &asked.currency, &asked.description, &format!("{base}-invoice")).await.map_err(by_provider)?;
    let id = draft["id"].as_str().ok_or_else(|| Error::unavailable("provider_unavailable", "the provider's invoice has no id"))?;
    provider
        .create_invoice_item(id, &customer, asked.amount_minor, &asked.currency, &asked.description, &format!("{base}-item"))
        .await
        .map_err(by_provider)?;
    let (path, key) = (format!("/v1/invoices/{id}/finalize"), format!("{base}-finalize"));
    let finalized = provider.post(&path, &[("auto_advance", "false".into())], &key).await.map_err(by_provider)?;
    book_answer(env, &finalized).await?; // the customer's list has it before its webhook is here
    let invoice = finalized.body;
    let amount_minor = invoice["total"].as_i64().or(invoice["amount_due"].as_i64()).unwrap_or(asked.amount_minor);
    let data = json!({"customer": customer, "amount_minor": amount_minor, "currency": asked.currency, "asked_by": asked_by});
    env.store().journal(env.fact("invoice.created", id, data)).await?;
    Ok(json!({
        "ok": true, "invoice_id": id, "number": invoice["number"], "status": invoice["status"], "amount_minor": amount_minor,
        "currency": asked.currency, "hosted_invoice_url": invoice["hosted_invoice_url"],
        "livemode": invoice["livemode"].as_bool().unwrap_or(env.config().provider.mode.is_live()), "customer": customer, "replayed": false,
    }))
}

/// The provider's customer with this address: by its own list, else one we know under another spelling of it, else a new one.
async fn customer(env: &Env, email: &str, base: &str) -> Result<String> {
    let provider = env.provider();
    let listed = provider.customers_by_email(email).await.map_err(by_provider)?;
    let usable = |c: &Json| c["deleted"] != true;
    if let Some(id) = listed.iter().filter(|c| usable(c)).find_map(|c| c["id"].as_str()) {
        return Ok(id.to_owned());
    }
    for id in env.store().customers_by_email(email, env.config().provider.mode.is_live()).await? {
        match provider.get(&format!("/v1/customers/{id}"), &[]).await {
            Ok(answer) if usable(&answer.body) => return Ok(id),
            Ok(_) => {}
            Err(error) if error.code == crate::error::Code::NotFound => {} // the sandbox was reset
            Err(error) => return Err(by_provider(error)),
        }
    }
    let created = provider.create_customer(email, &format!("{base}-customer")).await.map_err(by_provider)?;
    created["id"].as_str().map(str::to_owned).ok_or_else(|| Error::unavailable("provider_unavailable", "the provider's customer has no id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minor(text: &str) -> std::result::Result<i64, String> {
        Asked::from_text(text).map(|a| a.amount_minor).map_err(|e| e.field.map_or_else(|| e.reason.to_string(), |f| f.to_string()))
    }

    #[test]
    fn an_amount_is_read_as_a_decimal_from_the_text() {
        for (amount, expected) in [("0.57", 57), ("1.15", 115), ("\"4.35\"", 435), ("5", 500), ("999999.99", 99_999_999)] {
            assert_eq!(minor(&format!(r#"{{"amount":{amount},"email":"a@b.c"}}"#)), Ok(expected), "{amount}");
        }
        for amount in ["1.005", "1e2", "\"\"", "-5", "0.1", "true", "[1]", "12345678901234567890", "0.50000000000000000001"] {
            assert_eq!(minor(&format!(r#"{{"amount":{amount},"email":"a@b.c"}}"#)), Err("amount".into()), "{amount}");
        }
        assert_eq!(minor(r#"{"amount":500,"currency":"JPY","email":"a@b.c"}"#), Ok(500));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, field) in [
            (r#"{"email":"a@b.c"}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":49}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":50.0}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":"50"}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":100000000}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":505,"currency":"kwd"}"#, "amount_minor"),
            (r#"{"email":"a@b.c","amount_minor":50,"amount":1}"#, "amount"),
            (r#"{"amount_minor":50}"#, "email"),
            (r#"{"amount_minor":50,"email":"nobody"}"#, "email"),
            (r#"{"amount_minor":50,"email":7}"#, "email"),
            (r#"{"amount_minor":50,"email":"a@b.c","currency":"zzz"}"#, "currency"),
            (r#"{"amount_minor":50,"email":"a@b.c","description":{}}"#, "description"),
        ] {
            assert_eq!(minor(body), Err(field.into()), "{body}");
        }
        let fine = Asked::from_text(r#"{"amount_minor":50,"email":" A@B.c "}"#).unwrap();
        assert_eq!((fine.currency.as_str(), fine.email.as_str(), fine.description.as_str()), ("usd", "a@b.c", "Invoice"));
    }

    #[test]
    fn a_members_text_is_found_among_others() {
        for (text, expected) in [
            (r#"{"amount": 1.10 }"#, Some("1.10")),
            (r#"{"a":{"amount":2},"b":["amount",{"amount":3}],"amount":1.10,"z":"}"}"#, Some("1.10")),
            (r#"{"x":"\"amount\":5,","amount":1,"amount":2}"#, Some("2")),
            (r#"{"\u0061mount":7}"#, Some("7")),
            (r#"{"x":"amount"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(member_text(text, "amount"), expected, "{text}");
        }
    }
}
