//! The finance reconciliation and the payout watch against the real sandbox: a whole daemon in this process, invoices that are paid, refunded and
//! disputed through the provider's API, webhooks on their way, payouts that fail, the provider's clock moved by weeks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    alert,
    config::{Config, Environment},
    daemon::{Daemon, Mode},
    env::Clock,
    providers::sandbox::{Sandbox, Settings},
    store::ExceptionFilter,
    testing::until,
};

const DAY: i64 = 86_400;

struct Shop {
    daemon: Daemon,
    http: reqwest::Client,
    folder: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap()).await
    }

    async fn open_in(folder: tempfile::TempDir) -> Self {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let environment: Environment = [
            ("PATHS__DATA", path("data")),
            ("PATHS__LOGS", path("logs")),
            ("PATHS__BACKUPS", path("backups")),
            ("PATHS__CONFIGS", path("configs")),
            ("SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("TIMER__ENABLED", "false".to_owned()),
        ]
        .map(|(name, value)| (format!("ECHOPILOT__{name}"), value))
        .into();
        let config = Config::load(None, &environment).unwrap();
        let daemon = Daemon::start(config, &environment, Mode::Serve, Clock::default()).await.unwrap();
        Self { daemon, http: reqwest::Client::builder().no_proxy().build().unwrap(), folder }
    }

    fn env(&self) -> &Env {
        &self.daemon.env
    }

    async fn control(&self, method: reqwest::Method, what: &str, body: Json) -> Json {
        let url = format!("http://{}/_control/{what}", self.env().sandbox_address().unwrap());
        let answer = self.http.request(method, url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{what}: {}", answer.status());
        answer.json().await.unwrap()
    }

    async fn chaos(&self, switches: Json) {
        self.control(reqwest::Method::PUT, "chaos", switches).await;
    }

    async fn days(&self, days: i64) {
        self.env().sandbox().unwrap().advance(days * DAY).await.unwrap();
    }

    /// An open invoice; its id.
    async fn invoice(&self, customer: &str, amount: i64, currency: &str) -> String {
        let (provider, key) = (self.env().provider(), uuid::Uuid::now_v7().to_string());
        let id = provider.create_invoice(customer, currency, "Plan", &format!("{key}-1")).await.unwrap()["id"].as_str().unwrap().to_owned();
        provider.create_invoice_item(&id, customer, amount, currency, "Plan", &format!("{key}-2")).await.unwrap();
        provider.finalize_invoice(&id, &format!("{key}-3")).await.unwrap();
        id
    }

    async fn customer(&self, email: &str) -> String {
        let provider = self.env().provider();
        let id = provider.create_customer(email, email).await.unwrap()["id"].as_str().unwrap().to_owned();
        provider.attach_payment_method(&id, "pm_card_visa", &format!("{id}-card")).await.unwrap();
        id
    }

    /// A paid invoice and its charge.
    async fn sale(&self, customer: &str, amount: i64, currency: &str) -> (String, String) {
        let (invoice, provider) = (self.invoice(customer, amount, currency).await, self.env().provider());
        provider.pay_invoice(&invoice, &[], &format!("{invoice}-pay")).await.unwrap();
        (invoice, provider.charges(1).await.unwrap()[0]["id"].as_str().unwrap().to_owned())
    }

    async fn refund(&self, charge: &str, amount: Option<i64>) {
        self.env().provider().create_refund(charge, amount, None, &format!("{charge}-{amount:?}")).await.unwrap();
    }

    async fn dispute(&self, charge: &str, outcome: &str) {
        self.control(reqwest::Method::POST, "dispute", json!({"charge": charge, "outcome": outcome})).await;
    }

    /// Waits until every webhook was delivered and applied.
    async fn settle(&self) {
        self.env().sandbox().unwrap().advance(1).await.unwrap();
        until("every event is applied", || async { self.env().store().open_event_count().await.unwrap().0 == 0 }).await;
    }

    fn run(&self) -> Run {
        Run {
            env: self.env().clone(),
            run_id: format!("run_{}", uuid::Uuid::now_v7().simple()),
            slot: self.env().now(),
            cause: "manual",
            asked_by: None,
            attempt: 1,
        }
    }

    async fn finance(&self) -> Json {
        Json::Object(super::finance(&self.run()).await.unwrap())
    }

    async fn close(self) -> tempfile::TempDir {
        self.daemon.stop().await.unwrap();
        self.folder
    }
}

/// (kind, invoice) of every exception.
fn found(report: &Json) -> BTreeSet<(String, String)> {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    report["exceptions"].as_array().unwrap().iter().map(|e| (text(&e["kind"]), text(&e["invoice_id"]))).collect()
}

fn drifts(report: &Json) -> BTreeMap<String, i64> {
    let row = |b: &Json| (b["currency"].as_str().unwrap().to_owned(), b["drift"].as_i64().unwrap());
    report["balances"].as_array().unwrap().iter().map(row).collect()
}

fn item(report: &Json, currency: &str, name: &str) -> i64 {
    let balance = report["balances"].as_array().unwrap().iter().find(|b| b["currency"] == currency).unwrap();
    balance["items"].as_array().unwrap().iter().find(|i| i["name"] == name).map_or(0, |i| i["amount"].as_i64().unwrap())
}

fn named(kinds: &[(&str, &String)]) -> BTreeSet<(String, String)> {
    kinds.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).clone())).collect()
}

#[tokio::test]
async fn a_fresh_sandbox_has_no_drift_through_everything_that_moves_money() {
    let shop = Shop::open().await;
    let nothing = shop.finance().await;
    assert_eq!((&nothing["ok"], &nothing["complete"], found(&nothing)), (&json!(true), &json!(true), BTreeSet::new()), "{nothing}");
    let mut sales = Vec::new();
    for (n, currency) in ["usd", "eur", "jpy"].iter().enumerate() {
        let customer = shop.customer(&format!("c{n}@example.com")).await;
        for amount in [4900, 1900, 12_900, 700] {
            sales.push(shop.sale(&customer, amount, currency).await);
        }
    }
    shop.refund(&sales[0].1, None).await;
    shop.refund(&sales[4].1, Some(500)).await;
    for (n, outcome) in [(1, "open"), (5, "won"), (9, "lost")] {
        shop.dispute(&sales[n].1, outcome).await;
    }
    shop.chaos(json!({"payout_fail": 2})).await;
    let open = shop.invoice(&shop.customer("late@example.com").await, 3300, "usd").await;
    shop.settle().await;
    let expected = [
        ("refunded_but_paid", &sales[0].0),
        ("refunded_but_paid", &sales[4].0),
        ("disputed_paid", &sales[1].0),
        ("disputed_paid", &sales[9].0),
    ];
    let report = shop.finance().await;
    assert_eq!(found(&report), named(&expected), "{report}");
    let zero: BTreeMap<String, i64> = ["eur", "jpy", "usd"].map(|c| (c.to_owned(), 0)).into();
    assert_eq!(drifts(&report), zero, "{report}");
    assert!(item(&report, "usd", "fees") < 0 && item(&report, "usd", "opening") == 0);
    // Day by day through settlement, payouts, returned payouts and the next ones; then beyond the window, where the anchor moves.
    for _ in 0..5 {
        shop.days(1).await;
        shop.settle().await;
        let report = shop.finance().await;
        assert_eq!((found(&report), drifts(&report)), (named(&expected), zero.clone()), "{report}");
    }
    let failed = shop.env().provider().payouts(0, i64::MAX).await.unwrap().iter().filter(|p| p["status"] == "failed").count();
    assert_eq!(failed, 2);
    // Not 40: then the window would end among the seconds in which all this was sold.
    shop.days(41).await;
    let customer = shop.customer("new@example.com").await;
    shop.sale(&customer, 2500, "usd").await;
    shop.settle().await;
    let report = shop.finance().await;
    assert_eq!((found(&report), drifts(&report)), (named(&[("open_past_due", &open)]), zero.clone()), "{report}");
    let anchor: Json = serde_json::from_str(&shop.env().store().meta("finance.anchor.sandbox").await.unwrap().unwrap()).unwrap();
    assert!(anchor["through"].as_i64() > anchor["since"].as_i64(), "{anchor}");
    let report = shop.finance().await;
    assert_eq!(drifts(&report), zero, "measured from the moved anchor: {report}");
    let again = shop.finance().await;
    assert_eq!(
        (&again["recon_id"], &again["input_digest"]),
        (&report["recon_id"], &report["input_digest"]),
        "the same data is the same input"
    );
    // What is older than the window was not looked at, so a person still sees it; what was paid late is over.
    shop.env().provider().attach_payment_method(&shop.customer("x@example.com").await, "pm_card_visa", "x").await.unwrap();
    shop.env().provider().pay_invoice(&open, &[], "late").await.unwrap();
    shop.settle().await;
    let report = shop.finance().await;
    assert_eq!((found(&report), drifts(&report)), (BTreeSet::new(), zero.clone()), "{report}");
    // What happens now to what was sold long ago is seen.
    shop.refund(&sales[2].1, Some(100)).await;
    shop.dispute(&sales[6].1, "open").await;
    shop.settle().await;
    let report = shop.finance().await;
    let expected = named(&[("refunded_but_paid", &sales[2].0), ("disputed_paid", &sales[6].0)]);
    assert_eq!((found(&report), drifts(&report)), (expected, zero), "{report}");
    let filter = |status: &str| ExceptionFilter { scope: "finance".into(), status: status.into(), ..ExceptionFilter::default() };
    let kinds = |rows: Vec<crate::store::ExceptionRow>| rows.into_iter().map(|e| e.kind).collect::<BTreeSet<_>>();
    let resolved = kinds(shop.env().store().exceptions(&filter("auto_resolved")).await.unwrap());
    assert_eq!(resolved, ["open_past_due".to_owned()].into());
    let still = kinds(shop.env().store().exceptions(&filter("open")).await.unwrap());
    assert_eq!(still, ["disputed_paid".to_owned(), "refunded_but_paid".to_owned()].into());
    shop.close().await;
}

#[tokio::test]
async fn an_account_that_was_there_before_opens_with_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test did
    let settings = Settings::new(folder.path().join("data/sandbox.db"));
    let sandbox = Sandbox::open(settings, std::sync::Arc::new(|| Clock::default().now())).await.unwrap();
    let listener = std::sync::Arc::new(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = sandbox.clone();
    let serving = tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await });
    let client =
        crate::providers::stripe::Client::new(&base, "sk_test_1", crate::providers::stripe::Client::loopback_http_client().unwrap());
    let params = [("amount", "9900".to_owned()), ("currency", "usd".into()), ("source", "tok_visa".into())];
    client.post("/v1/charges", &params, "old").await.unwrap();
    drop(stop);
    serving.await.unwrap().unwrap();
    // An hour passes before we come: what is older than our first row is not ours.
    sandbox.advance(2 * 3600).await.unwrap();
    sandbox.close().await.unwrap();
    // Nor does the provider list its event any more: else the gap finder would fill it in, and there would be nothing to open with.
    rusqlite::Connection::open(folder.path().join("data/sandbox.db"))
        .unwrap()
        .execute("DELETE FROM object WHERE kind = 'event'", [])
        .unwrap();

    let shop = Shop::open_in(folder).await;
    let customer = shop.customer("a@example.com").await;
    shop.sale(&customer, 1000, "usd").await;
    shop.settle().await;
    let report = shop.finance().await;
    assert_eq!((drifts(&report)["usd"], item(&report, "usd", "opening")), (0, 9900 - 317), "{report}");
    let kinds: Vec<_> = found(&report).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["missing_in_ledger"], "{report}");
    // Later money that nobody booked is no opening any more.
    shop.chaos(json!({"skew_amount": 1})).await;
    shop.sale(&customer, 2000, "usd").await;
    shop.settle().await;
    let report = shop.finance().await;
    assert_eq!((drifts(&report)["usd"], item(&report, "usd", "opening")), (-1, 9900 - 317), "{report}");
    shop.close().await;
}

#[tokio::test]
async fn a_lost_webhook_is_named_and_no_drift_and_a_skewed_amount_is_the_drift() {
    let shop = Shop::open().await;
    let customer = shop.customer("a@example.com").await;
    let (first, _) = shop.sale(&customer, 1000, "usd").await;
    shop.settle().await;
    shop.chaos(json!({"drop_webhook": 1.0})).await;
    let (lost, charge) = shop.sale(&customer, 2000, "usd").await;
    shop.chaos(json!({"drop_webhook": 0.0, "skew_amount": 1})).await;
    shop.sale(&customer, 3000, "usd").await;
    shop.settle().await;
    // Just now the webhooks may still be on their way.
    let young = shop.finance().await;
    assert_eq!(found(&young), named(&[("balance_drift", &String::new())]), "{young}");
    assert_eq!((&young["summary"]["payments"]["pending_ledger"], item(&young, "usd", "missing_in_ledger")), (&json!(1), 2000));
    shop.env().sandbox().unwrap().advance(1000).await.unwrap();
    let report = shop.finance().await;
    let expected = named(&[("balance_drift", &String::new()), ("missing_in_ledger", &lost), ("status_mismatch", &lost)]);
    assert_eq!(found(&report), expected, "{report}");
    assert_eq!((drifts(&report)["usd"], item(&report, "usd", "missing_in_ledger")), (-1, 2000), "{report}");
    assert_eq!((&report["ok"], &report["summary"]["exceptions"]["by_severity"]["high"]), (&json!(false), &json!(1)));
    let drift = report["exceptions"].as_array().unwrap().iter().find(|e| e["kind"] == "balance_drift").unwrap();
    let text = drift["explanation"].as_str().unwrap();
    assert!(text.contains("off by -0.01 USD") && text.contains("is 30.00 USD in our ledger and 29.99 USD at the provider"), "{text}");
    assert!(shop.env().store().exception(drift["id"].as_str().unwrap()).await.unwrap().is_some());
    let alerts = alert::list(shop.env()).await.unwrap();
    assert!(alerts.iter().any(|a| a.name == "finance_exceptions" && a.severity.as_str() == "critical"), "{alerts:?}");

    // A run that could not read the invoices resolves nothing and calls nothing missing.
    let now = shop.env().provider().now().await.unwrap();
    shop.chaos(json!({"status_429": 3})).await;
    let partial = Json::Object(finance::as_of(&shop.run(), now).await.unwrap());
    assert_eq!((&partial["complete"], &partial["ok"]), (&json!(false), &json!(false)), "{partial}");
    assert!(partial["errors"][0].as_str().unwrap().starts_with("invoices: "), "{partial}");
    assert_eq!(shop.env().store().open_exceptions("finance").await.unwrap().len(), 3);
    assert!(!found(&partial).iter().any(|(kind, _)| kind == "balance_drift"));
    let whole = shop.finance().await;
    assert_eq!(found(&whole), expected);
    assert!(charge.starts_with("ch_") && first != lost);

    // The inputs that were kept give the same report again.
    let (kept, inputs) = shop.env().store().latest_recon_inputs("finance").await.unwrap().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&inputs[..]), &mut text).unwrap();
    let (again, _) = crate::domain::finance::reconcile(&serde_json::from_str(&text).unwrap());
    assert_eq!((again.recon_id.as_str(), json!(again.exceptions)), (kept["recon_id"].as_str().unwrap(), kept["exceptions"].clone()));
    shop.close().await;
}

#[tokio::test]
async fn both_reconciliations_may_go_on_at_once_and_one_of_each_only() {
    let shop = Shop::open().await;
    shop.sale(&shop.customer("a@example.com").await, 1000, "usd").await;
    shop.settle().await;
    shop.chaos(json!({"slow_ms": 150})).await;
    let (one, two, three) = (shop.run(), shop.run(), shop.run());
    let (one, two, three) = tokio::join!(super::finance(&one), super::payouts(&two), super::finance(&three));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    assert_eq!(three.unwrap_err().reason, "recon_running");
    shop.close().await;
}

#[tokio::test]
async fn the_watch_foresees_payouts_and_follows_one_that_failed_and_one_that_is_short() {
    let shop = Shop::open().await;
    let env = shop.env();
    let customer = shop.customer("a@example.com").await;
    shop.sale(&customer, 10_000, "usd").await;
    shop.settle().await;
    assert!(watched(env).await.unwrap().is_none());
    watch::look(env).await;
    let seen = watched(env).await.unwrap().unwrap();
    assert_eq!((&seen["ok"], &seen["complete"], seen.get("memory")), (&json!(true), &json!(true), None), "{seen}");
    assert_eq!((&seen["expected"][0]["amount"], &seen["expected"][0]["payout"]), (&json!(10_000 - 320), &Json::Null), "{seen}");
    shop.chaos(json!({"payout_fail": 1, "payout_residual": 1})).await;
    let firing = || async {
        let alerts = alert::list(env).await.unwrap();
        alerts.into_iter().filter(|a| a.system == "payouts").map(|a| (a.name, a.reason)).collect::<BTreeMap<_, _>>()
    };
    shop.days(2).await;
    let payout = env.provider().payouts(0, i64::MAX).await.unwrap()[0].clone();
    let id = payout["id"].as_str().unwrap();
    assert_eq!(payout["amount"], 10_000 - 320 - 1, "{payout}");
    watch::look(env).await;
    let alerts = firing().await;
    let short = &alerts[&format!("payout_short_{id}")];
    // The provider lists what is in a payout once it is reconciled, which is when it has arrived.
    assert!(short.contains("is 0.01 USD less than the 96.80 USD") && short.contains("its rows cannot be listed"), "{short}");
    let seen = watched(env).await.unwrap().unwrap();
    assert_eq!((&seen["expected"][0]["payout"], &seen["problems"][0]["short_by"]), (&json!(id), &json!(1)), "{seen}");

    shop.days(1).await;
    watch::look(env).await;
    let alerts = firing().await;
    let failed = &alerts[&format!("payout_failed_{id}")];
    assert!(
        failed.ends_with("failed: The bank account has been closed (account_closed); its money will be in a later payout."),
        "{failed}"
    );
    // The money comes back at midnight and is paid out again.
    shop.days(1).await;
    watch::look(env).await;
    let seen = watched(env).await.unwrap().unwrap();
    let next = seen["problems"].as_array().unwrap().iter().find(|p| p["kind"] == "failed").unwrap()["rolled_into"].clone();
    assert!(next.is_null(), "in which payout is known when that is reconciled: {seen}");
    shop.days(2).await;
    for _ in 0..=env.config().alert.resolve_after {
        watch::look(env).await;
    }
    assert_eq!(firing().await, BTreeMap::new(), "{:?}", watched(env).await);
    assert_eq!(watched(env).await.unwrap().unwrap()["ok"], true);

    // A look that sees nothing changes nothing but that it says so.
    let before = watched(env).await.unwrap().unwrap();
    shop.chaos(json!({"status_429": 3})).await;
    watch::look(env).await;
    let after = watched(env).await.unwrap().unwrap();
    assert_eq!((&after["complete"], &after["ok"], &after["expected"]), (&json!(false), &json!(false), &before["expected"]), "{after}");
    assert!(after["errors"][0].as_str().is_some_and(|e| !e.is_empty()));
    shop.close().await;
}
