//! Directories and an environment for the program under test. A `Setup` outlives its daemons, so that a test can kill one and start
//! the next on the same data. When it is dropped after a passing test it looks for what must not be left behind: temporary files,
//! scratch folders, panics nobody announced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    files, outside,
    outside::Output,
    wait::{LONG, SHORT},
};

/// The webhook secret every test daemon has, unless it is told another.
pub const WEBHOOK_SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";
/// The secret of portal links.
const PORTAL_SECRET: &str = "portal-0123456789abcdef0123456789abcdef";
/// Directories and environment of a daemon.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    root: tempfile::TempDir,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) arguments: Vec<String>,
    /// What a panic that the test causes on purpose says.
    expected_panics: Vec<String>,
    /// A process was ended in the middle of its work, so that temporary files may be there.
    pub(crate) killed: bool,
    pub(crate) starts: u32,
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
                path.extension().is_some_and(|extension| extension == "tmp") || name.starts_with(".work-") || name.starts_with(".restore-")
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
fn environment(root: &Path) -> BTreeMap<String, String> {
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
