//! The sandbox speaks the provider's wire format well enough for the provider's own client: every call of
//! `peers/sdk_conformance.py` against the sandbox of a running daemon, clock and webhooks included.

use std::time::Duration;

use integration_tests::{peer, python, run_to_end};

use crate::setup;

#[test]
fn the_official_client_finds_nothing_to_object_to_in_the_sandbox() {
    let daemon = setup().start();
    let mut client = python();
    client.arg(peer("sdk_conformance.py")).arg(daemon.sandbox());
    let output = run_to_end(client, Duration::from_mins(5));
    let said = output.expect(0);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.ends_with(" passed, 0 failed"), "{said}\n{}", output.stderr);
    let passed: u32 = last.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    assert!(passed > 100, "the whole story was told: {last}");
}
