//! The daemon under measurement: its real program in directories of its own, on free loopback ports.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use echopilot_actors::domain::signature;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::process;

/// Long enough for any start; a daemon that is not ready by then never will be.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: SocketAddr,
    key: String,
    secret: String,
    folder: TempDir,
}

impl Daemon {
    /// Answers as soon as the ready file is there.
    pub(crate) async fn start(program: &str) -> Self {
        Self::start_with(program, &[]).await
    }

    /// With settings of its own (`ECHOPILOT__SECTION__KEY`).
    pub(crate) async fn start_with(program: &str, settings: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let ready = path("ready.json");
        let child = Command::new(program)
            .args(["run", "--ready-file"])
            .arg(&ready)
            .env("ECHOPILOT__SERVER__LISTEN", "127.0.0.1:0")
            .env("ECHOPILOT__SANDBOX__LISTEN", "127.0.0.1:0")
            .env("ECHOPILOT__PATHS__DATA", path("data"))
            .env("ECHOPILOT__PATHS__LOGS", path("logs"))
            .env("ECHOPILOT__PATHS__BACKUPS", path("backups"))
            .env("ECHOPILOT__PATHS__CONFIGS", path("configs"))
            .env("ECHOPILOT__SUPERVISOR__DRILLS", "true")
            .env("ECHOPILOT__SUPERVISOR__MAX_RESTARTS", "1000")
            .env("ECHOPILOT__SUPERVISOR__BACKOFF_BASE_MS", "0")
            .env("ECHOPILOT__SUPERVISOR__BACKOFF_CAP_MS", "0")
            .env("ECHOPILOT__LOG__LEVEL", "error")
            .envs(settings.iter().cloned())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let text = loop {
            if let Ok(text) = tokio::fs::read_to_string(&ready).await {
                break text;
            }
            assert!(tokio::time::Instant::now() < deadline, "the daemon did not become ready");
            tokio::time::sleep(Duration::from_micros(500)).await;
        };
        let line: serde_json::Value = serde_json::from_str(&text).expect("the ready file is JSON");
        let address = line["address"].as_str().and_then(|a| a.parse().ok()).expect("the ready file has an address");
        let secret = |name: &str| std::fs::read_to_string(path("data").join(name)).expect("the daemon made it").trim().to_owned();
        Self { child, address, key: secret("dash_key"), secret: secret("webhook_secret"), folder }
    }

    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-dash-key: {}\r\n\r\n", self.key).into_bytes()
    }

    fn post(&self, path: &str) -> Vec<u8> {
        format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-dash-key: {}\r\ncontent-length: 0\r\n\r\n", self.key).into_bytes()
    }

    /// Distinct signed events of about two kilobytes.
    pub(crate) fn signed_webhooks(&self, round: usize, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| self.signed_webhook(round, n)).collect()
    }

    pub(crate) fn signed_webhook(&self, round: usize, n: usize) -> Vec<u8> {
        #[expect(clippy::disallowed_methods, reason = "a signature carries the real time")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let t = i64::try_from(now).expect("fits");
        let padding = "x".repeat(1700);
        let body = format!(
            "{{\"id\":\"evt_{round}_{n}\",\"object\":\"event\",\"type\":\"customer.updated\",\"created\":{t},\"livemode\":false,\"data\":{{\"object\":\
             {{\"id\":\"cus_{round}_{n}\",\"object\":\"customer\",\"created\":{t},\"email\":\"c{n}@example.com\",\"livemode\":false,\"description\":\"{padding}\"}}}}}}"
        );
        let header = signature::header(&[&self.secret], t, body.as_bytes());
        format!(
            "POST /api/payments/webhook HTTP/1.1\r\nhost: 127.0.0.1\r\nstripe-signature: {header}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// Crashes a part and answers how long its replacement took to answer, in microseconds.
    pub(crate) async fn crash_and_recover(&self, part: &str) -> f64 {
        let before = self.child_status(part).await["restarts"].as_u64().unwrap_or(0);
        crate::Load::run(self.address, 1, &[self.post(&format!("/api/supervisor/{part}/drill"))]).await;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let status = self.child_status(part).await;
            if status["restarts"].as_u64() > Some(before)
                && status["state"] == "running"
                && let Some(us) = status["last_recovery_us"].as_f64()
            {
                return us;
            }
            assert!(tokio::time::Instant::now() < deadline, "{part} did not come back");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn child_status(&self, part: &str) -> serde_json::Value {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let request =
            format!("GET /api/supervisor/status HTTP/1.1\r\nhost: 127.0.0.1\r\nx-dash-key: {}\r\nconnection: close\r\n\r\n", self.key);
        let mut stream = tokio::net::TcpStream::connect(self.address).await.expect("the daemon accepts");
        stream.write_all(request.as_bytes()).await.expect("the request is taken");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer comes");
        let body: serde_json::Value = text.split_once("\r\n\r\n").and_then(|(_, b)| serde_json::from_str(b).ok()).unwrap_or_default();
        body["tree"].as_array().into_iter().flatten().find(|c| c["name"] == part).cloned().unwrap_or_default()
    }

    fn pid(&self) -> String {
        self.child.id().expect("the daemon runs").to_string()
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        process::resident_mib(&self.pid())
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&self.pid())
    }

    /// Answers its directories, which go when the value does.
    pub(crate) async fn stop(mut self) -> TempDir {
        let pid = self.pid();
        let _ = Command::new("kill").args(["-TERM", &pid]).status().await; // kill_on_drop is behind it
        let _ = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        self.folder
    }
}
