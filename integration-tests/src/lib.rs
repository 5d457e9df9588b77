//! What every test of the running program needs: `TestDaemon` starts the very same program in directories of its own on ports the
//! kernel chose, talks to it over HTTP as anybody would, and ends it by its process id. Its `Drop` fails the test on leftovers.
//! It uses nothing of the program's inside but the path of the binary: signatures and paths are computed here again.

mod answer;
mod daemon;
mod files;
mod outside;
mod wait;

pub use answer::Answer;
pub use daemon::{Ended, Setup, TestDaemon, WEBHOOK_SECRET, environment};
pub use files::{json_file, json_lines, modes, names, tree};
pub use outside::{Output, command, peer, python, run_to_end};
pub use wait::{LONG, SHORT, until};

use ring::hmac;

/// Bytes as lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    echopilot_actors::files::hex(bytes)
}

/// Lowercase hex HMAC-SHA256, the primitive of webhook signatures and portal links.
pub fn hmac_hex(secret: &str, message: &[u8]) -> String {
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message).as_ref())
}

/// SHA-256 as lowercase hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
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
