//! Structured log lines: for a person on standard error, as NDJSON in `logs/echopilot.ndjson`, rotated by size. Set up once by
//! the program; a log that cannot be written is said once on standard error and never stops the daemon.

use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, Layer as _, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    config::Config,
    error::{Context as _, Error, Result},
    files,
};

/// Sends every log line to both places from now on. Errors: the filter does not parse, the file cannot be opened.
pub fn start(config: &Config) -> Result<()> {
    start_with(config, &config.log.level)
}

/// As `start`, but a person sees only warnings and errors: for commands, whose output is their result.
pub fn start_quiet(config: &Config) -> Result<()> {
    start_with(config, "warn")
}

fn start_with(config: &Config, level_for_person: &str) -> Result<()> {
    // The actor library's own spans repeat what our `actor` field says.
    let filter = |level: &str| {
        EnvFilter::try_new(format!("{level},ractor=warn")).map_err(|e| Error::invalid("configuration", format!("log.level {level:?}: {e}")))
    };
    let person = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .compact()
        .with_filter(filter(level_for_person)?);
    let machine = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(Rotating::open(config)?)
        .with_filter(filter(&config.log.level)?);
    tracing_subscriber::registry().with(person).with(machine).try_init().map_err(|e| Error::internal(format!("logging: {e}")))
}

/// A log file that is renamed away when it has grown too large.
#[derive(Clone)]
struct Rotating(Arc<Mutex<Open>>);

struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    keep: u32,
}

impl Rotating {
    fn open(config: &Config) -> Result<Self> {
        let logs = &config.paths.logs;
        std::fs::create_dir_all(logs).context(format!("the directory {} cannot be used", logs.display()))?;
        let path = logs.join("echopilot.ndjson");
        let file = open(&path).context(format!("cannot open {}", path.display()))?;
        let bytes = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Open { path, file, bytes, max_bytes: config.log.max_bytes, keep: config.log.keep }))))
    }
}

fn open(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(files::MODE_REPORT).open(path)
}

impl<'a> MakeWriter<'a> for Rotating {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Rotating {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut open_file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open_file.bytes >= open_file.max_bytes && files::rotate(&open_file.path, open_file.keep).is_ok() {
            open_file.file = open(&open_file.path)?;
            open_file.bytes = 0;
        }
        open_file.file.write_all(line)?;
        open_file.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).file.flush()
    }
}
