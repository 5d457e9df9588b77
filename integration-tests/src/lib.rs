//! What every test of the running program needs: `TestDaemon` starts the very same program in directories of its own on ports the
//! kernel chose, talks to it over HTTP as anybody would, and ends it by its process id. Its `Drop` fails the test on leftovers.
//! It uses nothing of the program's inside but the path of the binary: signatures and paths are computed here again.

mod alerting;
mod answer;
mod bucket;
mod daemon;
mod files;
mod outside;
mod recorder;
mod setup;
mod small_disk;
mod wait;

pub use alerting::{ALERT_SECRET, always};
pub use answer::Answer;
pub use bucket::{BUCKET, Bucket, SECRET};
pub use daemon::{Ended, TestDaemon};
pub use files::{files_hold, json_file, json_lines, modes, names, tree};
pub use outside::{Output, Peer, Serving, command, faketime, fed, node, peer, python, run_to_end};
pub use recorder::{Came, Recorder, Reply};
pub use setup::{Setup, WEBHOOK_SECRET};
pub use small_disk::SmallDisk;
pub use wait::{LONG, SHORT, until};

use std::fmt::Write as _;

use ring::hmac;

/// Bytes as lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Lowercase hex HMAC-SHA256, the primitive of webhook signatures and portal links.
pub fn hmac_hex(secret: &str, message: &[u8]) -> String {
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message).as_ref())
}

/// SHA-256 as lowercase hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// A full hour of yesterday and `seconds` after it, as RFC 3339: slots of the past that are not forgotten yet.
pub fn yesterday(seconds: i64) -> String {
    let at = (now_unix() - 86_400) / 3600 * 3600 + seconds;
    chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Unix seconds, the machine's clock.
pub fn now_unix() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `v1` of a webhook signature at time `t`.
pub fn v1(secret: &str, t: i64, body: &[u8]) -> String {
    hmac_hex(secret, &[format!("{t}.").as_bytes(), body].concat())
}

/// A whole `Stripe-Signature` header for now.
pub fn signed(secret: &str, body: &[u8]) -> String {
    let t = now_unix();
    format!("t={t},v1={}", v1(secret, t, body))
}
