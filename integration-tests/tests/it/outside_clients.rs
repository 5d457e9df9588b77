//! The provider's official clients, unmodified, against the sandbox of a running daemon: the whole story in Node, and in Python the
//! corners that `sdk.rs` does not reach. Each verifies the webhooks it gets with its own code.

use std::{process::Command, time::Duration};

use integration_tests::{node, peer, python, run_to_end};

use crate::setup;

/// Runs a client against the sandbox of a daemon of its own; everything must pass, and there must be enough of it.
#[track_caller]
fn satisfied(mut client: Command, at_least: u32) {
    let daemon = setup().start();
    client.arg(daemon.sandbox());
    let output = run_to_end(client, Duration::from_mins(5));
    let said = output.expect(0);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.ends_with(" passed, 0 failed"), "{said}\n{}", output.stderr);
    let passed: u32 = last.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    assert!(passed >= at_least, "the whole story was told: {last}");
}

#[test]
fn the_official_node_client_can_tell_the_whole_story_of_a_business() {
    satisfied(node("story.mjs"), 35);
}

#[test]
fn the_official_python_client_finds_every_corner_of_the_sandbox_as_annotated() {
    let mut client = python();
    client.arg(peer("sandbox_features.py"));
    satisfied(client, 450);
}
