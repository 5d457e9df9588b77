//! The running program, from outside: a `Setup` is a set of directories and an environment, a `TestDaemon` is the program started
//! on them. A `Setup` outlives its daemons, so that a test can kill one and start the next on the same data. When it is dropped
//! after a passing test it looks for what must not be left behind: temporary files, scratch folders, panics nobody announced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use crate::{
    Answer, files, outside,
    outside::Output,
    signed,
    wait::{LONG, SHORT, until},
};

/// The webhook secret every test daemon has, unless it is told another.
pub const WEBHOOK_SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";
/// The secret of portal links.
const PORTAL_SECRET: &str = "portal-0123456789abcdef0123456789abcdef";
/// A stop may take this long.
const STOP: Duration = Duration::from_secs(40);

/// Directories and environment of a daemon.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    root: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// What a panic that the test causes on purpose says.
    expected_panics: Vec<String>,
    /// A process was ended in the middle of its work, so that temporary files may be there.
    killed: bool,
    starts: u32,
}

impl Setup {
    /// `program` is the binary under test; only the test crate knows its path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let root = tempfile::Builder::new().prefix("echopilot-it-").tempdir().expect("a temporary directory");
        std::fs::create_dir(root.path().join("configs")).expect("a directory in it");
        let environment = environment(root.path());
        Self { program: program.into(), root, environment, arguments: Vec::new(), expected_panics: Vec::new(), killed: false, starts: 0 }
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// A further argument of `run`, e.g. `--demo`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Lets the test crash parts on purpose.
    #[must_use]
    pub fn drills(mut self) -> Self {
        self.expected_panics.push("drill: ".to_owned());
        self.env("ECHOPILOT__SUPERVISOR__DRILLS", "true")
    }

    /// Scheduled runs as in production; off otherwise, so that a test says what runs.
    #[must_use]
    pub fn schedule(self) -> Self {
        self.env("ECHOPILOT__TIMER__ENABLED", "true")
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.root().join("data").join(name)
    }

    pub fn logs(&self, name: &str) -> PathBuf {
        self.root().join("logs").join(name)
    }

    pub fn backups(&self, name: &str) -> PathBuf {
        self.root().join("backups").join(name)
    }

    pub fn configs(&self, name: &str) -> PathBuf {
        self.root().join("configs").join(name)
    }

    /// The program with this set-up's environment, in its directory.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = outside::command(&self.program);
        command.args(arguments).envs(&self.environment).current_dir(self.root());
        command
    }

    /// Runs a command of the program until it ends.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        outside::run_to_end(self.program(arguments), LONG)
    }

    /// A start that must fail: what it said and its exit code.
    #[track_caller]
    pub fn start_refused(&self) -> Output {
        outside::run_to_end(self.program(&["run"]), SHORT)
    }

    /// Reads the database beside the daemon.
    pub fn sql(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(self.data("echopilot.db"), flags).expect("the database opens");
        connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
        connection
    }

    /// One integer from the database.
    pub fn count(&self, sql: &str) -> i64 {
        self.sql().query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// One column of text from the database.
    pub fn column(&self, sql: &str) -> Vec<String> {
        let connection = self.sql();
        let mut statement = connection.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let rows = statement.query_map([], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"));
        rows.map(|row| row.expect("a row of text")).collect()
    }

    /// Starts the program and waits until everything serves.
    #[track_caller]
    pub fn start(mut self) -> TestDaemon {
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
        let ready = until("the ready file", LONG, || {
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
}

impl Drop for Setup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let litter: Vec<_> = files::names(self.root())
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Path::new(&name).extension().is_some_and(|e| e == "tmp") || name.starts_with(".work-") || name.starts_with(".restore-")
            })
            .collect();
        assert!(self.killed || litter.is_empty(), "left behind: {litter:?}");
        let log = std::fs::read_to_string(self.logs("echopilot.ndjson")).unwrap_or_default();
        let panics: Vec<_> = log
            .lines()
            .filter(|line| line.contains("panicked") && !self.expected_panics.iter().any(|expected| line.contains(expected)))
            .collect();
        assert!(panics.is_empty(), "the daemon panicked: {panics:#?}");
    }
}

/// The environment that keeps a daemon in `root`, on free ports, with nothing scheduled.
pub fn environment(root: &Path) -> BTreeMap<String, String> {
    let folder = |name: &str| root.join(name).to_string_lossy().into_owned();
    [
        ("ECHOPILOT__SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("ECHOPILOT__SANDBOX__LISTEN", "127.0.0.1:0".to_owned()),
        ("ECHOPILOT__PATHS__DATA", folder("data")),
        ("ECHOPILOT__PATHS__LOGS", folder("logs")),
        ("ECHOPILOT__PATHS__BACKUPS", folder("backups")),
        ("ECHOPILOT__PATHS__CONFIGS", folder("configs")),
        ("ECHOPILOT__TIMER__ENABLED", "false".to_owned()),
        ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
        ("SESSION_SECRET", PORTAL_SECRET.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
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
