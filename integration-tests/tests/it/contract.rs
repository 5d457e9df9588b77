//! The HTTP contract: every endpoint that the seed fixes with its exact fields and types, who may call it, and the shape of every
//! refusal. What another program relies on is asserted here, nothing else.

use integration_tests::{SHORT, TestDaemon, until};
use serde_json::{Value as Json, json};

use crate::{ingest::charge_event, setup};

/// A payment made through the sandbox's own API: (payment intent, charge).
fn payment(daemon: &TestDaemon, amount: i64) -> (String, String) {
    let form = [("amount", &*amount.to_string()), ("currency", "usd"), ("payment_method", "pm_card_visa"), ("confirm", "true")];
    let intent = daemon.provider_post("payment_intents", &form).expect(200);
    assert_eq!(intent["status"], "succeeded", "{intent}");
    let charge = intent["latest_charge"].as_str().expect("a charge").to_owned();
    until("the charge to be in the ledger", SHORT, || {
        (daemon.setup().count(&format!("SELECT COUNT(*) FROM ledger WHERE source = '{charge}'")) == 1).then_some(())
    });
    (intent["id"].as_str().expect("an id").to_owned(), charge)
}

/// Asserts that `value` has the members in `types`, each of its type: s text, i integer, n number, b boolean, o object, a array, 0 null.
/// Two letters allow either.
#[track_caller]
pub(crate) fn typed(value: &Json, types: &[(&str, &str)]) {
    for (member, letters) in types {
        let actual = value.get(*member).unwrap_or_else(|| panic!("{member} is missing in {value}"));
        let fits = letters.chars().any(|letter| match letter {
            's' => actual.is_string(),
            'i' => actual.is_i64() || actual.is_u64(),
            'n' => actual.is_number(),
            'b' => actual.is_boolean(),
            'o' => actual.is_object(),
            'a' => actual.is_array(),
            '0' => actual.is_null(),
            other => panic!("no such type: {other}"),
        });
        assert!(fits, "{member} should be {letters}: {actual}");
    }
}

#[test]
fn every_endpoint_of_the_seeds_table_answers_with_its_fields() {
    let daemon = setup().start();
    let created = daemon
        .post(
            "/api/payments/create-invoice",
            &json!({"amount_minor": 50, "currency": "usd", "email": "seed@example.com", "description": "Test"}),
        )
        .ok();
    typed(
        &created,
        &[
            ("invoice_id", "s"),
            ("number", "s"),
            ("status", "s"),
            ("amount_minor", "i"),
            ("currency", "s"),
            ("hosted_invoice_url", "s"),
            ("livemode", "b"),
        ],
    );
    assert_eq!((&created["status"], &created["amount_minor"], &created["livemode"]), (&json!("open"), &json!(50), &json!(false)));
    let hosted = daemon.request("GET", created["hosted_invoice_url"].as_str().expect("text"), &[], b"");
    assert_eq!(hosted.status, 200, "the hosted page is real");
    let decimal = daemon.post("/api/payments/create-invoice", &json!({"amount": "19.99", "email": "seed@example.com"})).ok();
    assert_eq!((&decimal["amount_minor"], &decimal["currency"]), (&json!(1999), &json!("usd")), "a decimal is never a float");

    daemon.settle();
    let invoices = until("the invoices to be known", SHORT, || {
        let list = daemon.get("/api/customer/invoices/seed@example.com").ok();
        (list["invoices"].as_array()?.len() == 2).then_some(list)
    });
    assert_eq!(invoices["email"], "seed@example.com");
    for invoice in invoices["invoices"].as_array().expect("a list") {
        typed(
            invoice,
            &[
                ("id", "s"),
                ("number", "s"),
                ("date", "s"),
                ("status", "s"),
                ("currency", "s"),
                ("amount_minor", "i"),
                ("amount", "s"),
                ("amount_paid_minor", "i"),
                ("amount_remaining_minor", "i"),
                ("refunded_minor", "i"),
                ("hosted_invoice_url", "s0"),
                ("description", "s0"),
            ],
        );
    }
    let nobody = daemon.get("/api/customer/invoices/nobody@example.com").ok();
    assert_eq!(
        (&nobody["email"], &nobody["invoices"]),
        (&json!("nobody@example.com"), &json!([])),
        "the same shape for an unknown address"
    );

    payment(&daemon, 5000);
    let webhooks = daemon.get("/api/payments/webhooks").ok();
    typed(&webhooks, &[("count", "i"), ("webhooks", "a"), ("next", "s0")]);
    let rows = webhooks["webhooks"].as_array().expect("a list");
    assert_eq!(webhooks["count"].as_u64(), Some(rows.len() as u64));
    for row in rows {
        typed(
            row,
            &[
                ("event_id", "s"),
                ("event_type", "s"),
                ("created", "i"),
                ("received_at", "s"),
                ("livemode", "b"),
                ("status", "s"),
                ("attempts", "i"),
                ("error", "s0"),
                ("object_id", "s0"),
                ("duplicates", "i"),
            ],
        );
    }
    let refund = daemon.post("/api/payments/refund-last", &Json::Null).ok();
    typed(
        &refund,
        &[("refund_id", "s"), ("payment_id", "s"), ("amount_minor", "i"), ("currency", "s"), ("status", "s"), ("replayed", "b")],
    );

    let slo = daemon.get("/api/slo/status").ok();
    typed(&slo, &[("ts_iso", "s"), ("status", "s"), ("breach", "b"), ("p95_ms", "n0"), ("success_rate", "n0"), ("details", "o")]);
    let backup = daemon.post("/api/backup/run", &Json::Null).ok();
    typed(
        &backup,
        &[
            ("ts", "s"),
            ("archive", "s"),
            ("size_bytes", "i"),
            ("size_mb", "n"),
            ("run_id", "s"),
            ("files", "i"),
            ("reused_bytes", "i"),
            ("sha256", "s"),
            ("proof", "o"),
        ],
    );
    typed(&backup["proof"], &[("state", "s"), ("at", "s"), ("error", "s0"), ("restore_ms", "i")]);
    let link = daemon.get("/api/customer/signed-url/seed@example.com").ok();
    typed(&link, &[("email", "s"), ("signed_url", "s"), ("expires", "i"), ("expires_iso", "s")]);
}

#[test]
fn the_product_endpoints_of_this_issue_answer() {
    let daemon = setup().start();
    assert_eq!(daemon.request("GET", "/healthz", &[], b"").status, 200);
    assert_eq!(daemon.request("GET", "/readyz", &[], b"").status, 200);
    let tasks = daemon.get("/api/tasks").ok();
    let list = tasks["tasks"].as_array().expect("a list");
    assert_eq!(list.len(), 23, "all 23 tasks are listed");
    for task in list {
        typed(task, &[("name", "s")]);
        assert!(task.to_string().contains("planned") || task.to_string().contains("schedule"), "{task}");
    }
    let status = daemon.get("/api/supervisor/status").ok();
    let children = status["tree"].as_array().expect("a list");
    for name in ["timer", "ingest", "recon", "slo", "alert", "backup", "insight", "gateway", "sandbox"] {
        let child = children.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("{name} is a part: {status}"));
        assert_eq!(child["state"], "running", "{child}");
        typed(child, &[("generation", "i"), ("restarts", "i"), ("last_failure", "s0"), ("uptime_s", "i"), ("mailbox_depth", "i")]);
        typed(child, &[("handled", "i"), ("handler_longest_ms", "i"), ("handler_total_ms", "i"), ("restart", "s"), ("down", "s0")]);
    }
    let run = daemon.run_task("heartbeat");
    typed(
        &run,
        &[
            ("run_id", "s"),
            ("task", "s"),
            ("slot", "s"),
            ("state", "s"),
            ("trigger", "s"),
            ("attempts", "i"),
            ("started_at", "s"),
            ("ended_at", "s"),
        ],
    );
    assert_eq!((&run["trigger"], &run["state"]), (&json!("manual"), &json!("succeeded")), "{run}");
    let runs = daemon.get("/api/tasks/heartbeat/runs").ok();
    assert_eq!((&runs["count"], &runs["runs"][0]["run_id"]), (&json!(1), &run["run_id"]), "{runs}");
}

#[test]
fn without_a_key_or_with_a_wrong_one_everything_below_api_is_401() {
    let daemon = setup().start();
    for (method, path) in ENDPOINTS {
        daemon.request(method, path, &[], b"").problem(401, "unauthorized");
    }
    let wrong: Vec<_> = ENDPOINTS.iter().map(|(method, path)| daemon.request(method, path, &[("x-dash-key", "wrong")], b"")).collect();
    let refused = wrong.iter().take_while(|answer| answer.status == 401).count();
    assert!(refused >= 5, "a typing error or two is not punished");
    for (n, answer) in wrong.iter().enumerate() {
        if n < refused {
            answer.problem(401, "unauthorized");
        } else {
            answer.problem(429, "limited");
            assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{:?}", answer.headers);
        }
    }
    assert!(refused < wrong.len(), "guessing is throttled");
    assert_eq!(daemon.deliver(&charge_event("evt_throttled", "ch_throttled", 1)).status, 200, "webhooks have no key and go on");
    assert_eq!(daemon.request("GET", "/healthz", &[], b"").status, 200);
}

const ENDPOINTS: [(&str, &str); 22] = [
    ("GET", "/api/payments/webhooks"),
    ("POST", "/api/payments/create-invoice"),
    ("POST", "/api/payments/refund-last"),
    ("GET", "/api/slo/status"),
    ("POST", "/api/backup/run"),
    ("GET", "/api/customer/invoices/a@example.com"),
    ("GET", "/api/customer/signed-url/a@example.com"),
    ("GET", "/api/tasks"),
    ("POST", "/api/tasks/heartbeat/run"),
    ("GET", "/api/tasks/heartbeat/runs"),
    ("GET", "/api/runs/run_none"),
    ("GET", "/api/supervisor/status"),
    ("POST", "/api/supervisor/slo/drill"),
    ("POST", "/api/supervisor/slo/release"),
    ("GET", "/api/backups"),
    ("GET", "/api/recon/payouts"),
    ("GET", "/api/recon/finance"),
    ("GET", "/api/recon/watch"),
    ("GET", "/api/recon/exceptions"),
    ("GET", "/api/incidents"),
    ("POST", "/api/incidents/inc_none/close"),
    ("GET", "/api/keys"),
];

/// Makes a key of a scope; answers (id, secret).
pub(crate) fn key(daemon: &TestDaemon, scope: &str) -> (String, String) {
    let made = daemon.post("/api/keys", &json!({"name": format!("test {scope}"), "scope": scope}));
    assert!(matches!(made.status, 200 | 201), "{} {}", made.status, made.text());
    let made = made.json();
    let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{name} in {made}")).to_owned();
    (text("id"), text("key"))
}

#[test]
fn a_key_may_do_what_its_scope_says_until_it_is_revoked() {
    let daemon = setup().start();
    payment(&daemon, 900);
    let (read_id, read) = key(&daemon, "read");
    let (_, operate) = key(&daemon, "operate");
    let (_, refund) = key(&daemon, "refund");
    let (_, admin) = key(&daemon, "admin");
    let call = |key: &str, method: &str, path: &str, body: Json| daemon.send(method, path, key, &body);

    for key in [&read, &operate, &refund, &admin] {
        call(key, "GET", "/api/slo/status", Json::Null).ok();
        call(key, "GET", "/api/payments/webhooks", Json::Null).ok();
    }
    call(&read, "POST", "/api/tasks/heartbeat/run", Json::Null).problem(403, "forbidden");
    call(&read, "POST", "/api/backup/run", Json::Null).problem(403, "forbidden");
    call(&read, "POST", "/api/payments/refund-last", Json::Null).problem(403, "forbidden");
    call(&operate, "POST", "/api/payments/refund-last", Json::Null).problem(403, "forbidden");
    for key in [&read, &operate, &refund] {
        call(key, "POST", "/api/keys", json!({"name": "x", "scope": "admin"})).problem(403, "forbidden");
    }
    let run = call(&operate, "POST", "/api/tasks/heartbeat/run", Json::Null);
    assert!(matches!(run.status, 200 | 202), "{}", run.text());
    call(&refund, "POST", "/api/payments/refund-last", Json::Null).ok();
    call(&admin, "GET", "/api/keys", Json::Null).ok();

    let revoked = daemon.request("DELETE", &format!("/api/keys/{read_id}"), &[("x-dash-key", &daemon.key)], b"");
    assert!(matches!(revoked.status, 200 | 204), "{} {}", revoked.status, revoked.text());
    call(&read, "GET", "/api/slo/status", Json::Null).problem(401, "unauthorized");
    let list = daemon.get("/api/keys");
    for secret in [&read, &operate, &refund, &admin, &daemon.key] {
        assert!(!list.text().contains(secret.as_str()), "no secret is listed");
    }
    let database = std::fs::read(daemon.setup().data("echopilot.db")).unwrap_or_default();
    let wal = std::fs::read(daemon.setup().data("echopilot.db-wal")).unwrap_or_default();
    for bytes in [database, wal] {
        assert!(!bytes.windows(read.len()).any(|window| window == read.as_bytes()), "keys are stored as hashes");
    }
}

#[test]
fn refusals_have_one_shape() {
    let daemon = setup().start();
    daemon.get("/api/nothing/here").problem(404, "not_found");
    daemon.get("/api/runs/run_none").problem(404, "not_found");
    daemon.post("/api/tasks/no_such_task/run", &Json::Null).problem(404, "not_found");
    let method = daemon.request("DELETE", "/api/slo/status", &[("x-dash-key", &daemon.key)], b"");
    method.problem(405, "invalid");
    assert!(method.header("allow").is_some_and(|allow| allow.contains("GET")), "{:?}", method.headers);
    let planned = daemon.post("/api/tasks/ceo_brief/run", &Json::Null);
    planned.problem(409, "conflict");
    for (body, field) in [
        (json!({"email": "a@example.com"}), "amount"),
        (json!({"amount_minor": -5, "email": "a@example.com"}), "amount_minor"),
        (json!({"amount_minor": 10.5, "email": "a@example.com"}), "amount_minor"),
        (json!({"amount_minor": 500, "currency": "zzz", "email": "a@example.com"}), "currency"),
        (json!({"amount_minor": 500, "email": "not an address"}), "email"),
    ] {
        let problem = daemon.post("/api/payments/create-invoice", &body).problem(422, "invalid");
        assert!(problem["field"].as_str().is_some_and(|f| f.starts_with(field)), "{body} -> {problem}");
    }
    let broken = daemon.request(
        "POST",
        "/api/payments/create-invoice",
        &[("x-dash-key", &daemon.key), ("content-type", "application/json")],
        b"{\"amount_minor\":",
    );
    assert!(matches!(broken.status, 400 | 422), "{} {}", broken.status, broken.text());
    let limit = daemon.get("/api/payments/webhooks?limit=1000");
    limit.problem(422, "invalid");
}

#[test]
fn the_list_of_webhooks_is_paged_and_filtered() {
    let daemon = setup().start();
    for n in 0..7 {
        daemon.deliver(&charge_event(&format!("evt_page_{n}"), &format!("ch_page_{n}"), 100)).ok();
    }
    daemon.settle();
    let mut seen = Vec::new();
    let mut path = "/api/payments/webhooks?limit=3".to_owned();
    for _ in 0..4 {
        let page = daemon.get(&path).ok();
        let rows = page["webhooks"].as_array().expect("a list");
        seen.extend(rows.iter().map(|row| row["event_id"].as_str().expect("an id").to_owned()));
        match &page["next"] {
            Json::Null => break,
            Json::String(next) => path = format!("/api/payments/webhooks?limit=3&after={next}"),
            other => panic!("next is text or null: {other}"),
        }
    }
    let newest_first: Vec<_> = (0..7).rev().map(|n| format!("evt_page_{n}")).collect();
    assert_eq!(seen, newest_first);
    assert_eq!(daemon.get("/api/payments/webhooks?type=invoice.paid").ok()["count"], 0);
}

#[test]
fn refund_last_refunds_the_last_payment_and_only_that_one() {
    let daemon = setup().start();
    let nothing = daemon.post("/api/payments/refund-last", &Json::Null).problem(409, "conflict");
    assert_eq!(nothing["reason"], "nothing_to_refund", "{nothing}");
    let (first_intent, first) = payment(&daemon, 1000);
    daemon.advance(10);
    let (second_intent, second) = payment(&daemon, 2000);

    let changed = daemon.post("/api/payments/refund-last", &json!({"expected_payment_id": first})).problem(409, "conflict");
    assert_eq!(changed["reason"], "payment_changed", "{changed}");
    let changed = daemon.post("/api/payments/refund-last", &json!({"expected_payment_id": first_intent})).problem(409, "conflict");
    assert_eq!(changed["reason"], "payment_changed", "{changed}");

    let partial = json!({"amount_minor": 500, "expected_payment_id": second_intent});
    let without_key = daemon.post("/api/payments/refund-last", &partial);
    assert!(matches!(without_key.status, 400 | 409 | 422), "a partial refund needs a key: {} {}", without_key.status, without_key.text());
    let with = |key: &str, body: &Json| {
        let headers = [("x-dash-key", &*daemon.key), ("content-type", "application/json"), ("idempotency-key", key)];
        daemon.request("POST", "/api/payments/refund-last", &headers, body.to_string().as_bytes())
    };
    let once = with("partial-1", &partial).ok();
    assert_eq!((&once["payment_id"], &once["amount_minor"], &once["replayed"]), (&json!(second), &json!(500), &json!(false)), "{once}");
    let again = with("partial-1", &partial).ok();
    assert_eq!((&again["refund_id"], &again["replayed"]), (&once["refund_id"], &json!(true)), "{again}");
    assert_eq!(daemon.provider(&format!("charges/{second}"))["amount_refunded"], 500, "it was refunded once");
    let other = with("partial-1", &json!({"amount_minor": 600, "expected_payment_id": second_intent}));
    assert!(matches!(other.status, 409 | 422), "the same key for something else: {} {}", other.status, other.text());

    let too_much = with("too-much", &json!({"amount_minor": 99_999, "expected_payment_id": second}));
    assert!(matches!(too_much.status, 409 | 422), "{} {}", too_much.status, too_much.text());
    let rest = daemon.post("/api/payments/refund-last", &json!({"expected_payment_id": second})).ok();
    assert_eq!(rest["amount_minor"], 1500, "{rest}");
    let done = daemon.post("/api/payments/refund-last", &Json::Null);
    done.problem(409, "conflict");
    assert_eq!(daemon.provider(&format!("charges/{first}"))["amount_refunded"], 0, "never the next older one");
}

#[test]
fn the_first_start_makes_a_key_once_and_keeps_it_to_itself() {
    let setup = setup().without("SESSION_SECRET").without("STRIPE_WEBHOOK_SECRET");
    let daemon = setup.start();
    let file = daemon.root().join(daemon.ready["dash_key_file"].as_str().expect("the ready file names the key's file"));
    assert_eq!(integration_tests::modes(&file), 0o600);
    let key = daemon.key.clone();
    daemon.get("/api/slo/status").ok();
    let mut daemon = daemon;
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert!(!ended.said.contains(&key), "the key itself is not printed:\n{}", ended.said);
    assert!(ended.said.contains("dash_key"), "but where it is:\n{}", ended.said);
    for (name, bytes) in integration_tests::tree(&ended.setup.logs("")) {
        assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "the key is in {name}");
    }
    let daemon = ended.setup.start();
    assert_eq!(daemon.key, key, "the second start keeps it");
    let given = self::setup().env("DASHBOARD_KEY", "a-key-from-the-environment-0123456789").start();
    assert_eq!(given.ready["dash_key_file"], Json::Null);
    given.get("/api/slo/status").ok();
}
