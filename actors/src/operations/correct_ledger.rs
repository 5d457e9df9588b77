//! Corrects a row of the ledger by appending another one. Called by the gateway and the command line. The row that is corrected stays as
//! it is; its corrections count with it in every sum and in the reconciliation. It never books money of its own.

use serde_json::{Value as Json, json};

use super::fingerprint;
use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{LedgerRow, NewCorrection},
};

/// A reason is a sentence, not a file.
const LONGEST_REASON: usize = 1000;

/// In minor units. A slip of the keys stays in the ledger for ever: thousands of these do not make its sums overflow.
const LARGEST: u64 = 1_000_000_000_000_000;

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The id of the row, `le_...`.
    pub corrects: String,
    /// What is to be added to it, signed minor units of its currency.
    pub amount_minor: i64,
    pub reason: String,
    pub asked_by: String,
}

impl Asked {
    /// Reads `{"corrects","amount_minor","reason"}`; anything missing or of the wrong kind is named.
    pub fn from_json(body: &Json, asked_by: &str) -> Result<Self> {
        let text = |name: &'static str| {
            let given = body[name].as_str().map(str::trim).filter(|t| !t.is_empty() && t.len() <= LONGEST_REASON);
            given.map(str::to_owned).ok_or_else(|| Error::field(name, format!("{name} must be a text of up to {LONGEST_REASON} bytes")))
        };
        let amount = body["amount_minor"].as_i64().filter(|a| (1..=LARGEST).contains(&a.unsigned_abs()));
        let amount_minor = amount.ok_or_else(|| {
            let say = format!("amount_minor must be what is added to the row: a whole number other than 0, of at most {LARGEST}");
            Error::field("amount_minor", say)
        })?;
        Ok(Self { corrects: text("corrects")?, amount_minor, reason: text("reason")?, asked_by: asked_by.to_owned() })
    }
}

/// Appends the correction: `{"ok","entry","before_minor","after_minor","currency","dry_run","replayed"}`. The same key appends once; with
/// `dry_run` nothing is appended. Errors: `not_found`, `invalid` naming the field, `conflict` `idempotency_key_reused`.
pub async fn correct(env: &Env, asked: &Asked, key: &str, dry_run: bool) -> Result<Json> {
    let store = env.store();
    let id = format!("le_c{}", &fingerprint(&json!(["correct_ledger", key]))[..31]);
    if let Some(made) = store.ledger_row(&id).await? {
        return replayed(env, &made, asked).await;
    }
    let row = store.ledger_row(&asked.corrects).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("the ledger has no row {}", asked.corrects)))?;
    if let Some(original) = &row.corrects {
        return Err(Error::field("corrects", format!("{} is a correction itself: correct {original}", row.id)));
    }
    let before = row.amount + store.corrections_of(&row.id).await?.iter().map(|c| c.amount).sum::<i64>();
    let after = before.checked_add(asked.amount_minor);
    let after = after.ok_or_else(|| Error::field("amount_minor", "the corrected amount would be too large"))?;
    if dry_run {
        return Ok(answer(None, &row, before, after, true, false));
    }
    let data = json!({
        "corrects": row.id, "amount_minor": asked.amount_minor, "currency": row.currency, "before_minor": before, "after_minor": after,
        "reason": asked.reason, "by": asked.asked_by,
    });
    let new = NewCorrection { id: &id, corrects: &row.id, amount: asked.amount_minor, note: &asked.reason };
    let appended = store.insert_correction(&new, env.now(), env.fact("ledger.corrected", &id, data)).await?;
    let made = store.ledger_row(&id).await?;
    match made {
        Some(made) if appended => Ok(answer(Some(&made), &row, before, after, false, false)),
        Some(made) => replayed(env, &made, asked).await,
        // Another correction of this row took the same place in this instant.
        None => Err(Error::unavailable("try_again", "the row is being corrected by somebody else; ask again")),
    }
}

async fn replayed(env: &Env, made: &LedgerRow, asked: &Asked) -> Result<Json> {
    let same =
        made.corrects.as_ref() == Some(&asked.corrects) && made.amount == asked.amount_minor && made.note.as_ref() == Some(&asked.reason);
    if !same {
        return Err(Error::conflict("idempotency_key_reused", "this Idempotency-Key was used for another correction"));
    }
    let row = env.store().ledger_row(&asked.corrects).await?.ok_or_else(|| Error::internal("a corrected row is gone"))?;
    let corrections = env.store().corrections_of(&row.id).await?;
    let earlier: i64 = corrections.iter().filter(|c| c.n < made.n).map(|c| c.amount).sum();
    let before = row.amount + earlier;
    Ok(answer(Some(made), &row, before, before + made.amount, false, true))
}

fn answer(made: Option<&LedgerRow>, row: &LedgerRow, before: i64, after: i64, dry_run: bool, replayed: bool) -> Json {
    json!({
        "ok": true, "entry": made.map(view), "corrects": row.id, "before_minor": before, "after_minor": after, "currency": row.currency,
        "dry_run": dry_run, "replayed": replayed,
    })
}

/// A row of the ledger as the API and the command line show it.
pub fn view(row: &LedgerRow) -> Json {
    json!({
        "id": row.id, "kind": row.kind, "source": row.source, "seq": row.seq, "amount_minor": row.amount, "currency": row.currency,
        "at": row.at, "customer": row.customer, "invoice": row.invoice, "payment_intent": row.payment_intent, "event_id": row.event_id,
        "origin": row.origin, "recorded_at": rfc3339(row.recorded_at), "corrects": row.corrects, "note": row.note,
    })
}

/// What the ledger comes to, per currency and never over currencies: `{"balances":[{"currency","total_minor","kinds":{...}}]}`. `as_of` are
/// Unix seconds of the provider's clock; without it everything counts.
pub async fn balances(env: &Env, as_of: Option<i64>) -> Result<Json> {
    let livemode = env.config().provider.mode.is_live();
    let mut balances: Vec<Json> = Vec::new();
    for total in env.store().ledger_balances(livemode, as_of.unwrap_or(i64::MAX)).await? {
        if balances.last().is_none_or(|b| b["currency"] != total.currency.as_str()) {
            balances.push(json!({"currency": total.currency, "total_minor": 0, "count": 0, "kinds": {}}));
        }
        let Some(balance) = balances.last_mut() else { continue };
        let add = |member: &Json, more: i64| member.as_i64().unwrap_or_default() + more;
        balance["total_minor"] = add(&balance["total_minor"], total.amount_minor).into();
        balance["count"] = add(&balance["count"], total.count).into();
        balance["kinds"][&total.kind] = json!({"amount_minor": total.amount_minor, "count": total.count});
    }
    Ok(json!({"ok": true, "as_of": as_of, "livemode": livemode, "count": balances.len(), "balances": balances}))
}
