//! No refund is made twice: not by double clicks, not by a new payment in between, not by a failure after the work was done, and not by a
//! crash at any point between the click and its answer. The crashes are made by a proxy between the daemon and its provider, which
//! ends the daemon at the chosen moment.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use integration_tests::{LONG, SHORT, Setup, TestDaemon, command, run_to_end, until};
use serde_json::{Value as Json, json};

use crate::setup;

const PATH: &str = "/api/payments/refund-last";

/// Where the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// It looks for the last payment: nothing is written yet.
    BeforeIntent,
    /// The intent is written, the provider has not been asked.
    BeforeCall,
    /// The provider has done it, the answer is on its way.
    BeforeAnswer,
    /// The answer is here, and is not stored.
    BeforeStore,
    /// It is stored and answered.
    AfterStore,
}

/// What the proxy and the test share.
#[derive(Debug)]
struct Fault {
    point: Mutex<Option<Point>>,
    pid: AtomicU32,
    database: std::path::PathBuf,
    ended: AtomicBool,
}

impl Fault {
    fn is(&self, point: Point) -> bool {
        *self.point.lock().expect("no thread panics with it") == Some(point)
    }

    /// SIGKILL to the daemon of this test and to no other.
    fn end(&self) {
        self.set(None);
        let mut kill = command("kill");
        kill.args(["-s", "KILL", &self.pid.load(Ordering::SeqCst).to_string()]);
        run_to_end(kill, SHORT).expect(0);
        self.ended.store(true, Ordering::SeqCst);
    }

    fn set(&self, point: Option<Point>) {
        *self.point.lock().expect("no thread panics with it") = point;
    }
}

/// Reads a request to its end; `None` if the other side has gone.
fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length:")).and_then(|l| l.trim().parse().ok()).unwrap_or(0_usize);
            if bytes.len() >= end + 4 + length {
                return Some(bytes);
            }
        }
        let mut chunk = [0; 8192];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

/// The provider's whole answer to a request, which is made the last of its connection.
fn forward(provider: &str, request: &[u8]) -> Vec<u8> {
    let line = request.windows(2).position(|w| w == b"\r\n").expect("a request line");
    let mut stream = TcpStream::connect(provider).expect("the provider listens");
    let parts: [&[u8]; 3] = [&request[..line], b"\r\nConnection: close", &request[line..]];
    stream.write_all(&parts.concat()).expect("the provider reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the provider answers");
    answer
}

fn serve(mut stream: TcpStream, provider: &str, fault: &Fault) {
    let Some(asked) = request(&mut stream) else { return };
    let is_refund = asked.starts_with(b"POST /v1/refunds");
    if fault.is(Point::BeforeIntent) && asked.starts_with(b"GET /v1/charges?") || fault.is(Point::BeforeCall) && is_refund {
        return fault.end();
    }
    let answer = forward(provider, &asked);
    if fault.is(Point::BeforeAnswer) && is_refund {
        return fault.end();
    }
    if fault.is(Point::BeforeStore) && is_refund {
        // Nothing can be stored while another holds the database; that the answer has arrived shows in the closed connection.
        let database = rusqlite::Connection::open(&fault.database).expect("the daemon's database");
        database.busy_timeout(SHORT).expect("a limit");
        database.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        stream.write_all(&answer).expect("the daemon reads");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 1]);
        fault.end();
        return database.execute_batch("ROLLBACK").expect("the lock is given back");
    }
    let _ = stream.write_all(&answer);
}

/// A proxy before the provider at `provider`; answers its URL.
fn proxy(provider: String, fault: Arc<Fault>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (provider, fault) = (provider.clone(), fault.clone());
            std::thread::spawn(move || serve(stream, &provider, &fault));
        }
    });
    url
}

/// A charge made by somebody else at the provider.
fn pay(provider: &TestDaemon, amount: i64) -> String {
    let amount = amount.to_string();
    let charge = provider.provider_post("charges", &[("amount", &amount), ("currency", "usd"), ("source", "tok_visa")]).expect(200);
    charge["id"].as_str().expect("a charge has an id").to_owned()
}

fn refunds_of(provider: &TestDaemon, charge: &str) -> Vec<Json> {
    provider.provider(&format!("refunds?charge={charge}&limit=100"))["data"].as_array().expect("a list").clone()
}

fn click(daemon: &TestDaemon, key: &str, body: &Json) -> Result<integration_tests::Answer, String> {
    let headers = [("x-dash-key", daemon.key.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
    daemon.try_request("POST", PATH, &headers, body.to_string().as_bytes())
}

/// A daemon in test mode whose provider is another daemon's sandbox, behind the proxy.
fn behind_a_proxy(provider: &TestDaemon, port: u16, secret: &str) -> (Setup, Arc<Fault>) {
    let setup = setup();
    let database = setup.data("echopilot.db");
    let fault = Arc::new(Fault { point: Mutex::default(), pid: AtomicU32::new(0), database, ended: AtomicBool::new(false) });
    let sandbox = provider.sandbox().trim_start_matches("http://").to_owned();
    let setup = setup
        .env("ECHOPILOT__SERVER__LISTEN", format!("127.0.0.1:{port}"))
        .env("STRIPE_MODE", "test")
        .env("STRIPE_SECRET_KEY", "sk_test_0123456789abcdef0123456789abcdef")
        .env("STRIPE_WEBHOOK_SECRET", secret)
        .env("ECHOPILOT__PROVIDER__BASE_URL", proxy(sandbox, fault.clone()));
    (setup, fault)
}

/// Ends the daemon at the point, starts it again, lets a new payment come in between and clicks again: one refund, of the first payment,
/// and all three books say so.
fn crash_at(point: Point) {
    let provider = setup().start();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let hook = format!("http://127.0.0.1:{port}/api/payments/webhook");
    let endpoint = provider.provider_post("webhook_endpoints", &[("url", &hook), ("enabled_events[]", "*")]).expect(200);
    let (setup, fault) = behind_a_proxy(&provider, port, endpoint["secret"].as_str().expect("it is shown once"));
    let payment = pay(&provider, 1000);
    let body = json!({"expected_payment_id": payment});

    let daemon = setup.start();
    fault.pid.store(daemon.pid(), Ordering::SeqCst);
    fault.set(Some(point));
    let first = click(&daemon, "the click", &body);
    if point == Point::AfterStore {
        assert_eq!(first.expect("it is answered").status, 200);
        fault.end();
    } else {
        assert!(first.is_err(), "{point:?}: no answer comes from a process that has ended");
    }
    until("the daemon was ended", SHORT, || fault.ended.load(Ordering::SeqCst).then_some(()));
    let setup = daemon.kill9();
    let intents = |setup: &Setup, what: &str| setup.count(&format!("SELECT COUNT(*) FROM refund_intent WHERE {what}"));
    let was_made = usize::from(!matches!(point, Point::BeforeIntent | Point::BeforeCall));
    assert_eq!(refunds_of(&provider, &payment).len(), was_made, "{point:?}");
    assert_eq!(intents(&setup, "1 = 1"), i64::from(point != Point::BeforeIntent), "{point:?}");
    let unanswered = setup.count("SELECT COUNT(*) FROM provider_call WHERE state = 'sent'") == 1;
    match point {
        Point::BeforeIntent | Point::AfterStore => assert!(!unanswered, "{point:?}"),
        Point::BeforeCall => assert!(unanswered, "{point:?}: the key outlives the process"),
        // Its webhook may have come before the end, and has told the answer then.
        Point::BeforeAnswer | Point::BeforeStore => {
            assert_eq!(setup.count("SELECT COUNT(*) FROM provider_call"), 1, "{point:?}: the key outlives the process");
        }
    }

    let newer = pay(&provider, 7000);
    let daemon = setup.start();
    fault.pid.store(daemon.pid(), Ordering::SeqCst);
    until("what was open is finished", LONG, || {
        (intents(daemon.setup(), "state = 'intended'") == 0
            && daemon.setup().count("SELECT COUNT(*) FROM provider_call WHERE state = 'sent'") == 0)
            .then_some(())
    });
    let reported = daemon.setup().count("SELECT COUNT(*) FROM journal WHERE kind = 'provider.unanswered'");
    assert_eq!(reported, i64::from(unanswered), "{point:?}: what was never answered is reported at the start");
    let again = click(&daemon, "the click", &body).expect("an answer");
    if point == Point::BeforeIntent {
        // Nothing had happened, and the payment that was meant is not the last one any more.
        assert_eq!(again.problem(409, "conflict")["reason"], "payment_changed");
        assert!(refunds_of(&provider, &payment).is_empty());
    } else {
        let again = again.ok();
        assert_eq!(
            (&again["payment_id"], &again["replayed"], &again["amount_minor"]),
            (&json!(payment), &json!(true), &json!(1000)),
            "{again}"
        );
        let refunds = refunds_of(&provider, &payment);
        assert_eq!((refunds.len(), &refunds[0]["id"]), (1, &again["refund_id"]), "{point:?}");
        // The deliveries that found nobody are tried again; the row is there already and stays one.
        provider.advance(4000);
        let row = format!(
            "SELECT COUNT(*) FROM ledger WHERE kind = 'refund' AND source = '{}' AND amount = -1000",
            refunds[0]["id"].as_str().unwrap_or_default()
        );
        until("the refund is booked", LONG, || (daemon.setup().count(&row) == 1).then_some(()));
        daemon.settle();
        assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM ledger WHERE kind = 'refund'"), 1, "{point:?}");
        assert_eq!(intents(daemon.setup(), "state = 'succeeded'"), 1, "{point:?}");
    }
    assert!(refunds_of(&provider, &newer).is_empty(), "{point:?}: the payment that came in between is nobody's refund");
}

#[test]
fn a_crash_before_the_intent_refunds_nothing() {
    crash_at(Point::BeforeIntent);
}

#[test]
fn a_crash_between_the_intent_and_the_call_refunds_once() {
    crash_at(Point::BeforeCall);
}

#[test]
fn a_crash_after_the_provider_has_done_it_refunds_once() {
    crash_at(Point::BeforeAnswer);
}

#[test]
fn a_crash_between_the_answer_and_the_store_refunds_once() {
    crash_at(Point::BeforeStore);
}

#[test]
fn a_crash_after_it_was_stored_refunds_once() {
    crash_at(Point::AfterStore);
}

#[test]
fn a_failure_after_the_work_was_done_is_looked_up_and_not_done_again() {
    let daemon = setup().start();
    let payment = pay(&daemon, 1000);
    daemon.chaos(&json!({"error_after_commit": 1}));
    // The provider keeps its 500 under the key and repeats it.
    let partial = json!({"expected_payment_id": payment, "amount_minor": 300});
    let answer = click(&daemon, "k1", &partial).expect("an answer").ok();
    assert_eq!((&answer["amount_minor"], &answer["status"]), (&json!(300), &json!("succeeded")), "{answer}");
    let again = click(&daemon, "k1", &partial).expect("an answer").ok();
    assert_eq!((&again["refund_id"], &again["replayed"]), (&answer["refund_id"], &json!(true)));
    assert_eq!(refunds_of(&daemon, &payment).len(), 1);
    // Of the same amount under another key it is another refund.
    let other = click(&daemon, "k2", &partial).expect("an answer").ok();
    assert_ne!(other["refund_id"], answer["refund_id"]);
    let refunds = refunds_of(&daemon, &payment);
    let mut intents: Vec<_> = refunds.iter().map(|r| r["metadata"]["echopilot_intent"].as_str().expect("each names its intent")).collect();
    intents.sort_unstable();
    assert_eq!(intents, [format!("ep-refund-{payment}-0-300"), format!("ep-refund-{payment}-300-300")]);
}

#[test]
fn twenty_clicks_at_once_are_one_refund() {
    let daemon = setup().start();
    let older = pay(&daemon, 5000);
    let payment = pay(&daemon, 1000);
    daemon.chaos(&json!({"slow_ms": 50}));
    let at_once = |body: &Json, key: &(dyn Fn(usize) -> String + Sync)| {
        std::thread::scope(|scope| {
            let clicks: Vec<_> = (0..20)
                .map(|n| {
                    let daemon = &daemon;
                    scope.spawn(move || click(daemon, &key(n), body).expect("an answer"))
                })
                .collect();
            clicks.into_iter().map(|c| c.join().expect("a click does not panic")).collect::<Vec<_>>()
        })
    };
    let partial = json!({"amount_minor": 100});
    let answers = at_once(&partial, &|_| "one key".to_owned());
    let mut made: Vec<_> =
        answers.iter().filter(|a| a.status == 200).map(|a| a.json()["refund_id"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(
        answers.iter().all(|a| matches!(a.status, 200 | 409)),
        "{:?}",
        answers.iter().map(integration_tests::Answer::text).collect::<Vec<_>>()
    );
    made.dedup();
    assert_eq!((made.len(), refunds_of(&daemon, &payment).len()), (1, 1), "one key is one refund");

    // The rest, each with a key of its own and the payment it means: one of them does it.
    let answers = at_once(&json!({"expected_payment_id": payment}), &|n| format!("key {n}"));
    assert!(answers.iter().any(|a| a.status == 200) && answers.iter().all(|a| matches!(a.status, 200 | 409)));
    daemon.chaos(&json!({"slow_ms": 0}));
    assert_eq!(daemon.provider(&format!("charges/{payment}"))["amount_refunded"], 1000);
    assert_eq!(refunds_of(&daemon, &payment).len(), 2);
    assert!(refunds_of(&daemon, &older).is_empty(), "never the next older one");
    until("both are booked", LONG, || (daemon.setup().count("SELECT COUNT(*) FROM ledger WHERE kind = 'refund'") == 2).then_some(()));
    daemon.settle();
    assert_eq!(daemon.setup().count("SELECT -SUM(amount) FROM ledger WHERE kind = 'refund'"), 1000);
    let origins = daemon.setup().column("SELECT DISTINCT origin FROM ledger WHERE kind = 'refund' ORDER BY 1");
    assert!(origins.iter().all(|o| o == "api" || o == "webhook"), "{origins:?}");
}

#[test]
fn a_trial_payment_is_never_the_last_payment() {
    let daemon = setup().start();
    let payment = pay(&daemon, 1000);
    for n in 0..3 {
        let form = [("amount", "100"), ("currency", "usd"), ("source", "tok_visa"), ("metadata[echopilot_canary]", "can_1")];
        let trial = daemon.provider_post("charges", &form).expect(200);
        assert_eq!(trial["metadata"]["echopilot_canary"], "can_1", "{n}");
    }
    let refund = daemon.post(PATH, &Json::Null).ok();
    assert_eq!(refund["payment_id"], json!(payment), "{refund}");
    let nothing = daemon.post(PATH, &Json::Null).problem(409, "conflict");
    assert_eq!(nothing["reason"], "nothing_to_refund");
}
