//! Templates of lines whose kinds are known.

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
}

fn miner() -> Miner {
    Miner::new("echopilot", Settings::default(), Vec::new())
}

#[test]
fn lines_of_one_kind_are_one_template_and_others_are_others() {
    let mut miner = miner();
    for n in 0..50 {
        miner.learn(&format!("webhook evt_{n:012x}7 was refused by 10.0.0.{n}: signature does not match"), at(n));
        miner.learn(&format!("cannot reach https://api.stripe.com/v1/payouts?page={n}: timed out after {n}ms"), at(n));
        miner.learn(
            &format!("task {} failed after {n} attempts", ["heartbeat", "daily_backup", "payout_recon"][usize::try_from(n).unwrap() % 3]),
            at(n),
        );
    }
    let texts: Vec<_> = miner.templates().map(|t| (t.text.as_str(), t.count)).collect();
    assert_eq!(
        texts,
        [
            ("webhook <id> was refused by <ip>: signature does not match", 50),
            ("cannot reach <url> timed out after <num>ms", 50),
            ("task <*> failed after <num> attempts", 50),
        ]
    );
}

#[test]
fn what_was_learned_is_known_again_after_a_restart_and_keeps_its_id() {
    let mut first = miner();
    first.learn("disk of shop one is nearly full now", at(0));
    first.learn("disk of shop two is nearly full again", at(1));
    let known: Vec<Template> = first.templates().cloned().collect();
    assert_eq!(known.len(), 1);
    let mut second = Miner::new("echopilot", Settings::default(), serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap());
    let seen = second.learn("disk of shop six is nearly full today", at(2));
    assert!(!seen.is_new);
    assert_eq!((second.template(0).id.as_str(), second.template(0).count), (known[0].id.as_str(), 3));
}

#[test]
fn the_number_of_templates_is_bounded_and_the_longest_unseen_goes() {
    let mut miner = Miner::new("x", Settings { max_templates: 10, ..Settings::default() }, Vec::new());
    let letter = |n: u32| char::from_u32(97 + n).unwrap();
    let word = |n: u32| format!("{}{}", letter(n / 26), letter(n % 26));
    for n in 0..200 {
        miner.learn(&format!("{} {} {}", word(n), word(n + 1), word(n + 2)), at(i64::from(n)));
        miner.learn("the one that is always there", at(i64::from(n)));
    }
    assert_eq!(miner.templates().count(), 10);
    assert!(miner.templates().any(|t| t.text == "the one that is always there" && t.count == 200));
}

#[test]
fn the_same_lines_give_the_same_templates() {
    let lines: Vec<String> =
        (0..300).map(|n: u64| format!("kind{} of {} at {}", n.wrapping_mul(7919) % 5, n % 3, n.wrapping_mul(31) % 11)).collect();
    let run = || {
        let mut miner = miner();
        lines.iter().map(|line| miner.learn(line, at(0)).template).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_rate_is_what_came_lately() {
    let mut rate = Rate::default();
    assert_eq!(rate.expected(at(0), 300.0), None);
    for n in 0..288 {
        rate.add(2, at(n * 300));
    }
    let expected = rate.expected(at(288 * 300), 300.0).unwrap();
    assert!((1.9..2.1).contains(&expected), "{expected}");
    // Three days of silence later, hardly any are expected.
    assert!(rate.expected(at(288 * 300 + 3 * 86_400), 300.0).unwrap() < 0.2);
}
