//! Reads one line of a file: a balance transaction or a ledger row, as JSON. The quick way lends every text from the line and makes no
//! tree of values; whatever it does not take (an expanded source, a number out of range, a field twice) is read the long way, which
//! also says what is wrong. Both ways mean the same. Used by the command line.

use super::input::{LedgerLine, LedgerView, Transaction, TransactionView, is_money, is_time};
use serde::{Deserialize, Deserializer, de};
use std::{borrow::Cow, fmt};

/// A balance transaction. Errors: one sentence that names the field.
pub fn transaction_line(line: &[u8]) -> Result<TransactionView<'_>, String> {
    match std::str::from_utf8(line).ok().and_then(quick_transaction) {
        Some(view) => Ok(view),
        None => Ok(Transaction::from_json(&json(line)?, None)?.into()),
    }
}

/// A ledger row. Errors: one sentence that names the field.
pub fn ledger_line(line: &[u8]) -> Result<LedgerView<'_>, String> {
    match std::str::from_utf8(line).ok().and_then(quick_ledger_line) {
        Some(view) => Ok(view),
        None => Ok(LedgerLine::from_json(&json(line)?)?.into()),
    }
}

fn json(line: &[u8]) -> Result<serde_json::Value, String> {
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|e| format!("this is not JSON: {e}"))?;
    if value.is_object() { Ok(value) } else { Err("this is not a JSON object".to_owned()) }
}

/// A text of the line; `None` inside for null.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or null")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'a> Text<'a> {
    /// What is not empty.
    fn filled(self) -> Option<Cow<'a, str>> {
        self.0.filter(|text| !text.is_empty())
    }

    fn currency(self) -> Option<Cow<'a, str>> {
        self.filled().filter(|text| text.bytes().all(|b| b.is_ascii_lowercase()))
    }
}

#[derive(Deserialize)]
struct Fee {
    amount: i64,
}

#[derive(Deserialize)]
struct QuickTransaction<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    amount: i64,
    #[serde(default)]
    fee: Option<i64>,
    #[serde(default)]
    net: Option<i64>,
    #[serde(borrow)]
    currency: Text<'a>,
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    reporting_category: Text<'a>,
    #[serde(borrow, default)]
    source: Text<'a>,
    created: i64,
    #[serde(default)]
    available_on: Option<i64>,
    #[serde(default)]
    fee_details: Option<Vec<Fee>>,
    #[serde(borrow, default)]
    payout: Text<'a>,
}

fn quick_transaction(line: &str) -> Option<TransactionView<'_>> {
    let t: QuickTransaction<'_> = serde_json::from_str(line).ok()?;
    let fee = t.fee.unwrap_or(0);
    let net = t.net.unwrap_or(t.amount.checked_sub(fee)?);
    let available_on = t.available_on.unwrap_or(t.created);
    let details = t.fee_details.filter(|list| !list.is_empty());
    let sound = [t.amount, fee, net].into_iter().all(is_money)
        && is_time(t.created)
        && is_time(available_on)
        && details.iter().flatten().all(|detail| is_money(detail.amount));
    let view = TransactionView {
        id: t.id.filled()?,
        amount: t.amount,
        fee,
        net,
        currency: t.currency.currency()?,
        category: t.reporting_category.filled().or_else(|| t.kind.filled()).unwrap_or_default(),
        // A text has no amount in it: only an expanded source says what the customer saw, and that is not read here.
        source: t.source.filled(),
        created: t.created,
        available_on,
        fee_details: details.map(|list| list.iter().map(|detail| detail.amount).sum()),
        presentment: None,
        payout: t.payout.filled(),
    };
    sound.then_some(view)
}

#[derive(Deserialize)]
struct QuickLedgerLine<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(default)]
    seq: Option<i64>,
    amount: i64,
    #[serde(borrow)]
    currency: Text<'a>,
    at: i64,
    #[serde(borrow, default)]
    payment_method_type: Text<'a>,
}

fn quick_ledger_line(line: &str) -> Option<LedgerView<'_>> {
    let l: QuickLedgerLine<'_> = serde_json::from_str(line).ok()?;
    let seq = l.seq.unwrap_or(0);
    let sound = is_money(l.amount) && is_time(l.at) && is_time(seq);
    let view = LedgerView {
        id: l.id.filled()?,
        kind: l.kind.filled()?,
        source: l.source.filled()?,
        seq,
        amount: l.amount,
        currency: l.currency.currency()?,
        at: l.at,
        method: l.payment_method_type.0,
    };
    sound.then_some(view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Values of every type, the right one most often.
    fn odd(right: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
        prop_oneof![
            8 => right,
            1 => prop_oneof![Just(Value::Null), Just(json!("")), Just(json!(1.5)), Just(json!(i64::MAX)), Just(json!(true)), Just(json!([])),
                Just(json!({"id": "ch_9", "amount": 7, "currency": "EUR"})), Just(json!([{"amount": 3}, {"amount": 4}])), Just(json!("a\"b\\ü"))],
        ]
    }

    fn line(names: &'static [(&'static str, bool)]) -> impl Strategy<Value = String> {
        let fields: Vec<_> = names
            .iter()
            .map(|(name, text)| {
                let right = if *text { "[a-z]{3}".prop_map(Value::from).boxed() } else { (-9999i64..9999).prop_map(Value::from).boxed() };
                (Just(*name), odd(right), 0..12u8)
            })
            .collect();
        fields.prop_map(|fields| {
            let present = fields.into_iter().filter(|(_, _, dice)| *dice > 0);
            Value::Object(present.map(|(name, value, _)| (name.to_owned(), value)).collect()).to_string()
        })
    }

    proptest! {
        #[test]
        fn the_quick_way_and_the_long_way_read_the_same_transaction(text in line(&[("id", true), ("amount", false), ("fee", false), ("net", false), ("currency", true),
            ("type", true), ("reporting_category", true), ("source", true), ("created", false), ("available_on", false), ("fee_details", false),
            ("payout", true), ("exchange_rate", false), ("description", true)])) {
            let long = Transaction::from_json(&serde_json::from_str(&text).unwrap(), None).map(TransactionView::from);
            if let Some(quick) = quick_transaction(&text) {
                prop_assert_eq!(Ok(quick), long.clone());
            }
            prop_assert_eq!(transaction_line(text.as_bytes()), long);
        }

        #[test]
        fn the_quick_way_and_the_long_way_read_the_same_ledger_row(text in line(&[("id", true), ("kind", true), ("source", true), ("seq", false), ("amount", false),
            ("currency", true), ("at", false), ("payment_method_type", true), ("note", true)])) {
            let long = LedgerLine::from_json(&serde_json::from_str(&text).unwrap()).map(LedgerView::from);
            if let Some(quick) = quick_ledger_line(&text) {
                prop_assert_eq!(Ok(quick), long.clone());
            }
            prop_assert_eq!(ledger_line(text.as_bytes()), long);
        }
    }

    #[test]
    fn a_line_as_the_provider_writes_it_is_read_the_quick_way_and_lends_its_texts() {
        let text = r#"{"id":"txn_1","object":"balance_transaction","amount":1000,"available_on":9,"created":5,"currency":"usd","exchange_rate":null,
            "fee":59,"fee_details":[{"amount":59,"application":null,"currency":"usd","type":"stripe_fee"}],"net":941,"reporting_category":"charge",
            "source":"ch_1","status":"available","type":"charge","payout":"po_1"}"#;
        let view = quick_transaction(text).unwrap();
        assert!(matches!((&view.id, &view.source), (Cow::Borrowed("txn_1"), Some(Cow::Borrowed("ch_1")))));
        assert_eq!((view.fee_details, view.available_on, view.category.as_ref()), (Some(59), 9, "charge"));
        for (wrong, why) in
            [("", "not JSON"), ("[1]", "not a JSON object"), ("{\"id\":\"a\"} x", "not JSON"), ("{\"id\":\"a\"}", "missing")]
        {
            assert!(transaction_line(wrong.as_bytes()).unwrap_err().contains(why), "{wrong}");
        }
        assert!(transaction_line(b"\xff").unwrap_err().contains("not JSON"));
    }
}
