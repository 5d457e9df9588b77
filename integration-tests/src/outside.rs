//! Other programs: the command line under test, the provider's official client, GNU tar. Each is waited for with a deadline and
//! ended by its own process id. A program that is missing fails the test with a sentence; nothing is skipped.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::wait::until;

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub what: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts the exit code and answers standard output.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.stdout, self.stderr);
        &self.stdout
    }

    /// Standard output as one JSON value, after exit code `code`.
    #[track_caller]
    pub fn json(&self, code: i32) -> serde_json::Value {
        let text = self.expect(code);
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{}: standard output is not JSON ({e}): {text}", self.what))
    }
}

/// A command with an environment of nothing but what every program needs.
pub fn command(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(program.into());
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command until it ends; ends it and fails the test when the limit has passed.
#[track_caller]
pub fn run_to_end(mut command: Command, limit: Duration) -> Output {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let what = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "); // without the environment
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{what} cannot be started ({e}); integration-tests/run installs what the tests need"));
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let start = Instant::now();
    let status = until_ended(&mut child, start, limit);
    let output = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (output(stdout), output(stderr));
    let Some(status) = status else { panic!("{what} did not end within {} s\n{stdout}\n{stderr}", limit.as_secs()) };
    Output { what, code: status.code(), stdout, stderr }
}

fn until_ended(child: &mut Child, start: Instant, limit: Duration) -> Option<std::process::ExitStatus> {
    let mut status = None;
    until("a program to end", limit + Duration::from_secs(5), || {
        status = child.try_wait().ok().flatten();
        if status.is_none() && start.elapsed() > limit {
            let _ = child.kill(); // ours, by its own id
            let _ = child.wait();
            return Some(());
        }
        status.map(drop)
    });
    status
}

/// Reads a pipe to its end beside the test, so that a full pipe stops nobody.
pub(crate) fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes); // what was read before an error is still worth showing
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A script in `integration-tests/peers`.
pub fn peer(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// A peer that serves on a loopback port until it is dropped. Its first line of standard output is the port.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Peer {
    /// Starts it with a temporary folder of its own.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let what = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{what} cannot be started ({e}); integration-tests/run installs what the tests need"));
        let stderr = drain(child.stderr.take());
        let (sender, receiver) = std::sync::mpsc::channel();
        let stdout = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
            let _ = sender.send(lines.next().and_then(Result::ok)); // nobody waits any more
            lines.for_each(drop);
        });
        let line = receiver.recv_timeout(crate::LONG).ok().flatten().unwrap_or_default();
        let Ok(port) = line.trim().parse() else {
            let _ = child.kill(); // ours, by its own id
            let _ = child.wait();
            panic!("{what} did not say its port but '{line}'\n{}", stderr.join().unwrap_or_default());
        };
        Self { child, port, _folder: folder }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ours, by its own id
        let _ = self.child.wait();
    }
}

/// The library that shows a program another time: preloaded, it reads `FAKETIME` or the file in `FAKETIME_TIMESTAMP_FILE`.
#[track_caller]
pub fn faketime() -> String {
    let found = std::fs::read_dir("/usr/lib").expect("it is there").flatten();
    let library = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    library.expect("libfaketime is not there; integration-tests/run installs it").to_string_lossy().into_owned()
}

/// A program that runs silently until it is dropped.
#[derive(Debug)]
pub struct Serving(Child);

impl Serving {
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let what = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{what} cannot be started ({e}); integration-tests/run installs what the tests need")))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ours, by its own id
        let _ = self.0.wait();
    }
}

/// Runs a command with a text on its standard input until it ends, and answers its standard output.
#[track_caller]
pub fn fed(mut command: Command, input: &[u8]) -> String {
    let what = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    std::io::Write::write_all(&mut child.stdin.take().expect("it is piped"), input).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = until_ended(&mut child, Instant::now(), crate::LONG);
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    assert!(status.is_some_and(|s| s.success()), "{what}: {status:?}\n{stdout}\n{stderr}");
    stdout.trim_end().to_owned()
}

/// The Node.js with the provider's official client beside the scripts. It is a failure, not a skip, when nobody made it.
#[track_caller]
pub fn node(script: &str) -> Command {
    let path = std::env::var("ECHOPILOT_TEST_NODE").unwrap_or_default();
    assert!(!path.is_empty(), "ECHOPILOT_TEST_NODE names no Node.js: run integration-tests/run, which installs one and its modules");
    let mut command = command(path);
    command.arg(peer("node").join(script));
    command
}

/// The Python with the provider's official client. It is a failure, not a skip, when nobody made it.
#[track_caller]
pub fn python() -> Command {
    let path = std::env::var("ECHOPILOT_TEST_PYTHON").unwrap_or_default();
    assert!(
        !path.is_empty(),
        "ECHOPILOT_TEST_PYTHON names no Python with the provider's official client: run integration-tests/run, which makes one"
    );
    command(path)
}
