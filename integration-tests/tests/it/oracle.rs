//! Refunds and idempotency keys as another, independent server of the same wire format answers them: one script against both, and the
//! answers must be equal but for a list of differences, each with its reason. A difference that went away fails the test too.

use std::{collections::BTreeMap, time::Duration};

use integration_tests::{Peer, node, peer, python, run_to_end};
use serde_json::Value as Json;

use crate::setup;

/// Where the two differ, and why ours stays as it is.
const DIFFERENCES: &[(&str, &str)] = &[
    ("not a number", "the other accepts any text as an amount; the provider refuses what is not an integer"),
    ("an amount of letters", "the same for a charge"),
    ("not a reason", "the other accepts any reason; the provider has three"),
    ("no charge named", "the other looks up a charge without an id; the provider says which parameter is missing"),
    ("a charge that is not there", "the other looks it up as if it were in the URL (404, id); it is a parameter and is named"),
    ("a token that is not there", "the other fails with a 500 of its own"),
    ("more than the hold", "the other captures more than was authorised"),
    ("the key at another address", "the other keeps keys per address; the provider refuses the key there"),
    ("mended under the same key", "the other stores a refused parameter; the provider does not, so that the caller can mend it"),
];

fn answers(url: &str) -> BTreeMap<String, Json> {
    let mut script = python();
    script.arg(peer("refund_conformance.py")).arg(url);
    serde_json::from_value(run_to_end(script, Duration::from_mins(2)).json(0)).expect("an object of steps")
}

#[test]
fn refunds_and_idempotency_keys_are_answered_as_by_an_independent_server() {
    let daemon = setup().start();
    let other = Peer::start(node("stateful_mock.mjs"));
    let (ours, theirs) = (answers(&daemon.sandbox()), answers(&other.url()));
    assert!(ours.len() >= 40 && ours.keys().eq(theirs.keys()), "the same steps: {:?} {:?}", ours.keys(), theirs.keys());
    let mut wrong = Vec::new();
    for (step, our) in &ours {
        let known = DIFFERENCES.iter().find(|(name, _)| name == step);
        match (known, *our == theirs[step]) {
            (None, false) => wrong.push(format!("{step}: ours {our}, theirs {}", theirs[step])),
            (Some((_, why)), true) => wrong.push(format!("{step}: equal now, so the reason is gone: {why}")),
            _ => {}
        }
    }
    assert!(DIFFERENCES.iter().all(|(name, _)| ours.contains_key(*name)), "every difference is one of a step");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
