//! The running program, from outside: started on a `Setup`, talked to over HTTP as anybody would, ended by its process id.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use crate::{
    Answer, outside,
    outside::Output,
    setup::{Setup, WEBHOOK_SECRET},
    signed,
    wait::{LONG, SHORT, until},
};

/// A stop may take this long.
const STOP: Duration = Duration::from_secs(40);

impl Setup {
    /// Starts the program and waits until everything serves.
    #[track_caller]
    pub fn start(self) -> TestDaemon {
        self.start_within(LONG)
    }

    /// The same for a start that has much to do first.
    #[track_caller]
    pub fn start_within(mut self, limit: Duration) -> TestDaemon {
        self.starts += 1;
        let ready_file = self.root().join(format!("ready-{}.json", self.starts));
        let ready_text = ready_file.to_string_lossy().into_owned();
        let mut arguments = vec!["run", "--ready-file", &ready_text];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let mut child = self
            .program(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program under test starts");
        let started = Instant::now();
        let output = [outside::drain(child.stdout.take()), outside::drain(child.stderr.take())];
        let mut daemon = TestDaemon {
            setup: Some(self),
            child: Some(child),
            output: Some(output),
            http: client(),
            ready: Json::Null,
            ready_after: Duration::ZERO,
            key: String::new(),
        };
        let ready = until("the ready file", limit, || {
            if let Some(status) = daemon.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                let said = daemon.said();
                panic!("the program ended with {status} before it was ready\n{said}");
            }
            let text = std::fs::read_to_string(&ready_file).ok()?;
            Some(serde_json::from_str::<Json>(&text).unwrap_or_else(|e| panic!("the ready file is not JSON ({e}): {text}")))
        });
        daemon.ready_after = started.elapsed();
        daemon.key = match ready["dash_key_file"].as_str() {
            Some(path) => std::fs::read_to_string(daemon.root().join(path)).expect("the key file").trim().to_owned(),
            None => daemon.setup().environment.get("DASHBOARD_KEY").cloned().unwrap_or_default(),
        };
        daemon.ready = ready;
        daemon
    }

    /// Starts the program and kills it when `condition` holds, before it is ready or after it.
    #[track_caller]
    #[must_use]
    pub fn start_and_kill_when(mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Self {
        let arguments: Vec<&str> = std::iter::once("run").chain(self.arguments.iter().map(String::as_str)).collect();
        let mut child =
            self.program(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        until(what, LONG, || {
            assert!(child.try_wait().ok().flatten().is_none(), "the program ended by itself");
            condition(&self).then_some(())
        });
        child.kill().expect("it is ours and lives");
        child.wait().expect("it ends");
        self.killed = true;
        self
    }
}

fn client() -> reqwest::blocking::Client {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have installed it
    reqwest::blocking::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_mins(1))
        .build()
        .expect("an HTTP client")
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    pub setup: Setup,
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub took: Duration,
    /// Everything it wrote to standard output and error.
    pub said: String,
}

/// A daemon that serves.
#[derive(Debug)]
pub struct TestDaemon {
    setup: Option<Setup>,
    child: Option<Child>,
    output: Option<[std::thread::JoinHandle<String>; 2]>,
    http: reqwest::blocking::Client,
    /// The ready file's content.
    pub ready: Json,
    pub ready_after: Duration,
    /// The `admin` key.
    pub key: String,
}

impl TestDaemon {
    pub fn setup(&self) -> &Setup {
        self.setup.as_ref().expect("a daemon that was not stopped has its set-up")
    }

    pub fn root(&self) -> &Path {
        self.setup().root()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// `127.0.0.1:PORT` of the daemon.
    pub fn address(&self) -> &str {
        self.ready["address"].as_str().expect("the ready file names the address")
    }

    /// `http://127.0.0.1:PORT` of the daemon.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `http://127.0.0.1:PORT` of the sandbox.
    pub fn sandbox(&self) -> String {
        format!("http://{}", self.ready["sandbox_address"].as_str().expect("the ready file names the sandbox's address"))
    }

    /// Any request. `path` may be a whole URL. An error of the connection is the `Err`.
    pub fn try_request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        let url = if path.starts_with("http://") { path.to_owned() } else { format!("{}{path}", self.url()) };
        let method_name = reqwest::Method::from_bytes(method.as_bytes()).map_err(|e| e.to_string())?;
        let mut request = self.http.request(method_name, &url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() || method != "GET" {
            request = request.body(body.to_vec());
        }
        let response = request.send().map_err(|e| format!("{method} {path}: {e:?}"))?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = response.bytes().map_err(|e| format!("{method} {path}: {e:?}"))?.to_vec();
        Ok(Answer { what: format!("{method} {path}"), status, headers, body })
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body).unwrap_or_else(|e| panic!("{e}"))
    }

    /// GET with the admin key.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[("x-dash-key", &self.key)], b"")
    }

    /// POST with the admin key and a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Json) -> Answer {
        self.send("POST", path, &self.key, body)
    }

    /// A request with any key and a JSON body.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, key: &str, body: &Json) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.request(method, path, &[("x-dash-key", key), ("content-type", "application/json")], &bytes)
    }

    /// Delivers a webhook with a right signature.
    #[track_caller]
    pub fn deliver(&self, event: &Json) -> Answer {
        let body = event.to_string().into_bytes();
        self.request("POST", "/api/payments/webhook", &[("stripe-signature", &signed(WEBHOOK_SECRET, &body))], &body)
    }

    /// Sets switches of the sandbox's chaos.
    #[track_caller]
    pub fn chaos(&self, switches: &Json) -> Json {
        let url = format!("{}/_control/chaos", self.sandbox());
        self.request("PUT", &url, &[("content-type", "application/json")], switches.to_string().as_bytes()).expect(200)
    }

    /// Moves the sandbox's clock forward; what fell due has been delivered when this returns.
    #[track_caller]
    pub fn advance(&self, seconds: i64) -> Json {
        let url = format!("{}/_control/clock", self.sandbox());
        let body = json!({"advance_seconds": seconds}).to_string();
        self.request("POST", &url, &[("content-type", "application/json")], body.as_bytes()).expect(200)
    }

    /// An object or list of the sandbox, as its own API answers it.
    #[track_caller]
    pub fn provider(&self, path: &str) -> Json {
        let url = format!("{}/v1/{path}", self.sandbox());
        self.request("GET", &url, &[("authorization", "Bearer sk_test_from_a_test")], b"").expect(200)
    }

    /// A form-encoded call of the sandbox's API.
    #[track_caller]
    pub fn provider_post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let url = format!("{}/v1/{path}", self.sandbox());
        let body: Vec<_> = form.iter().map(|(k, v)| format!("{}={}", percent(k), percent(v))).collect();
        let headers = [("authorization", "Bearer sk_test_from_a_test"), ("content-type", "application/x-www-form-urlencoded")];
        self.request("POST", &url, &headers, body.join("&").as_bytes())
    }

    /// Asks for a run of a task and waits for its end; answers the run.
    #[track_caller]
    pub fn run_task(&self, name: &str) -> Json {
        let asked = self.post(&format!("/api/tasks/{name}/run"), &Json::Null);
        assert!(matches!(asked.status, 200 | 202), "{}: {} {}", asked.what, asked.status, asked.text());
        let run_id = asked.json()["run_id"].as_str().unwrap_or_else(|| panic!("no run_id: {}", asked.text())).to_owned();
        self.wait_for_run(&run_id)
    }

    /// Waits until a run has ended.
    #[track_caller]
    pub fn wait_for_run(&self, run_id: &str) -> Json {
        until(&format!("the end of run {run_id}"), LONG, || {
            let run = self.get(&format!("/api/runs/{run_id}")).ok();
            let open = matches!(run["state"].as_str(), Some("pending" | "running"));
            assert!(run["state"].is_string(), "a run has a state: {run}");
            (!open).then_some(run)
        })
    }

    /// A run that must have succeeded; answers its result.
    #[track_caller]
    pub fn task_result(&self, name: &str) -> Json {
        let run = self.run_task(name);
        assert_eq!(run["state"], "succeeded", "{run}");
        assert!(run["result"].is_object(), "a run that succeeded has a result: {run}");
        run["result"].clone()
    }

    /// The state of an event in `GET /api/payments/webhooks`, if it is there.
    pub fn webhook(&self, event_id: &str) -> Option<Json> {
        let list = self.get("/api/payments/webhooks?limit=100").ok();
        list["webhooks"].as_array()?.iter().find(|w| w["event_id"] == event_id).cloned()
    }

    /// Waits until no stored event is unprocessed.
    pub fn settle(&self) {
        until("every event to be processed", LONG, || {
            (self.setup().count("SELECT COUNT(*) FROM webhook_event WHERE status = 'received'") == 0).then_some(())
        });
    }

    /// Runs a command of the program beside this daemon.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.setup().cli(arguments)
    }

    /// The state of one part.
    #[track_caller]
    pub fn part(&self, name: &str) -> Json {
        let status = self.get("/api/supervisor/status").ok();
        let parts = status["tree"].as_array().unwrap_or_else(|| panic!("no tree in {status}"));
        parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// Asks the program to stop and waits for its end, whatever it is.
    #[track_caller]
    pub fn terminate(mut self) -> Ended {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for the end of a process that was told to end, or ends by itself.
    #[track_caller]
    pub fn ended(&mut self) -> Ended {
        let start = Instant::now();
        let mut child = self.child.take().expect("a daemon ends once");
        let status = until("the daemon to end", STOP, || child.try_wait().ok().flatten());
        Ended { code: status.code(), took: start.elapsed(), said: self.said(), setup: self.setup.take().expect("a daemon has its set-up") }
    }

    /// A graceful stop, which must end with exit code 0.
    #[track_caller]
    pub fn stop(self) -> Setup {
        let ended = self.terminate();
        assert_eq!(ended.code, Some(0), "a stop ends with exit code 0\n{}", ended.said);
        ended.setup
    }

    /// SIGKILL: no last words.
    #[track_caller]
    pub fn kill9(mut self) -> Setup {
        self.signal("KILL");
        let Ended { mut setup, .. } = self.ended();
        setup.killed = true;
        setup
    }

    /// Sends a signal to this daemon's process and to no other.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        assert!(pid > 1, "the daemon runs");
        let mut command = outside::command("kill");
        command.args(["-s", name, &pid.to_string()]);
        outside::run_to_end(command, SHORT).expect(0);
    }

    fn said(&mut self) -> String {
        let output = self.output.take().map(|threads| threads.map(|t| t.join().unwrap_or_default()));
        output.map(|[stdout, stderr]| format!("--- stdout\n{stdout}\n--- stderr\n{stderr}")).unwrap_or_default()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if std::thread::panicking() {
            let _ = child.kill(); // ours, by its own id
            let _ = child.wait();
            let said = self.said();
            let from = said.char_indices().rev().nth(6000).map_or(0, |(i, _)| i);
            eprintln!("{}", &said[from..]);
        } else {
            self.child = Some(child);
            self.signal("TERM");
            let ended = self.ended();
            assert_eq!(ended.code, Some(0), "a stop ends with exit code 0\n{}", ended.said);
        }
    }
}

/// Form encoding of everything that is not a letter or digit.
fn percent(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
