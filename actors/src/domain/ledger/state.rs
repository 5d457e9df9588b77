//! How the states of the provider's objects follow each other, as a table. Asked by `ledger` for every object it reads; what is on a
//! lower level never replaces what is on a higher one, whatever the times of their events say.

/// Per kind of object its levels, lowest first. Words of one level may follow each other in either direction; a word of a higher level
/// may follow one of a lower, also by skipping what lies between, because an event may be missing; nothing goes down. Where two ends
/// exclude each other (void and paid) the later level wins, so that every order of arrival ends the same.
pub const STATES: &[(&str, &[&[&str]])] = &[
    ("customer", &[&["active"], &["deleted"]]),
    ("charge", &[&["pending"], &["failed"], &["succeeded"]]),
    (
        "payment_intent",
        // A failed attempt falls back to requires_payment_method.
        &[
            &["requires_payment_method", "requires_confirmation", "requires_action", "processing", "requires_capture"],
            &["canceled"],
            &["succeeded"],
        ],
    ),
    // uncollectible can still become paid or void.
    ("invoice", &[&["draft"], &["open"], &["uncollectible"], &["void"], &["paid"], &["deleted"]]),
    ("invoice_payment", &[&["open"], &["canceled"], &["paid"]]),
    // succeeded can still become failed, when the customer's bank returns the money.
    ("refund", &[&["pending", "requires_action"], &["succeeded"], &["canceled"], &["failed"]]),
    (
        "dispute",
        // An inquiry can become a dispute, even after it was closed; a lost one can be appealed, again and again.
        &[
            &["warning_needs_response"],
            &["warning_under_review"],
            &["warning_closed"],
            &["needs_response"],
            &["under_review"],
            &["lost", "appeal_needs_response", "appeal_under_review"],
            &["prevented"],
            &["won"],
        ],
    ),
    // paid can still become failed, within five business days.
    ("payout", &[&["pending"], &["in_transit"], &["paid"], &["canceled"], &["failed"]]),
];

/// The level of a status, from 1; 0 for a word that we do not know, which replaces no state that we do.
pub fn level(kind: &str, status: &str) -> i64 {
    let levels = STATES.iter().find(|(name, _)| *name == kind).map_or(&[] as &[&[&str]], |(_, levels)| levels);
    levels.iter().zip(1..).find(|(words, _)| words.contains(&status)).map_or(0, |(_, level)| level)
}

/// Whether an object in this state is on its way: somebody will still hear of it.
pub fn is_open(kind: &str, status: &str) -> bool {
    match kind {
        "invoice" => matches!(status, "draft" | "open"),
        "refund" => matches!(status, "pending" | "requires_action"),
        "payout" => matches!(status, "pending" | "in_transit"),
        "dispute" => status.ends_with("needs_response") || status.ends_with("under_review"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The provider's own transitions.
    const ALLOWED: &[(&str, &str, &[&str])] = &[
        ("invoice", "draft", &["open", "deleted"]),
        ("invoice", "open", &["paid", "void", "uncollectible"]),
        ("invoice", "uncollectible", &["paid", "void"]),
        ("refund", "pending", &["succeeded", "failed", "canceled", "requires_action"]),
        ("refund", "requires_action", &["succeeded", "failed", "canceled", "pending"]),
        ("refund", "succeeded", &["failed"]),
        ("payout", "pending", &["in_transit", "canceled", "failed", "paid"]),
        ("payout", "in_transit", &["paid", "failed", "canceled"]),
        ("payout", "paid", &["failed"]),
        ("dispute", "warning_needs_response", &["warning_under_review", "warning_closed", "needs_response"]),
        ("dispute", "warning_under_review", &["warning_closed", "needs_response"]),
        ("dispute", "needs_response", &["under_review", "won", "lost", "prevented"]),
        ("dispute", "under_review", &["won", "lost"]),
        ("dispute", "lost", &["appeal_needs_response", "won"]),
        ("dispute", "appeal_needs_response", &["appeal_under_review", "lost"]),
        ("dispute", "appeal_under_review", &["won", "lost"]),
        ("charge", "pending", &["succeeded", "failed"]),
        ("payment_intent", "requires_payment_method", &["requires_confirmation", "processing", "succeeded", "canceled"]),
        ("payment_intent", "processing", &["requires_payment_method", "succeeded", "canceled", "requires_capture"]),
        ("payment_intent", "requires_capture", &["succeeded", "canceled"]),
        ("invoice_payment", "open", &["paid", "canceled"]),
        ("customer", "active", &["deleted"]),
    ];

    #[test]
    fn every_transition_the_provider_makes_is_possible_and_its_way_back_is_not() {
        for (kind, from, to) in ALLOWED {
            for to in *to {
                assert!(level(kind, from) > 0 && level(kind, to) > 0, "{kind} {from} {to}");
                assert!(level(kind, to) >= level(kind, from), "{kind}: {from} -> {to}");
                let back = ALLOWED.iter().any(|(k, f, t)| k == kind && f == to && t.contains(from));
                let around = level(kind, to) == level(kind, from);
                assert!(!back || around, "{kind}: {to} -> {from} is possible, so both are of one level");
            }
        }
    }

    #[test]
    fn nothing_goes_back() {
        for (kind, from, to) in [
            ("invoice", "paid", "open"),
            ("invoice", "paid", "void"),
            ("invoice", "open", "draft"),
            ("refund", "succeeded", "pending"),
            ("refund", "failed", "succeeded"),
            ("payout", "paid", "in_transit"),
            ("payout", "failed", "paid"),
            ("dispute", "won", "under_review"),
            ("dispute", "needs_response", "warning_closed"),
            ("charge", "succeeded", "pending"),
            ("customer", "deleted", "active"),
            ("payment_intent", "succeeded", "processing"),
        ] {
            assert!(level(kind, to) < level(kind, from), "{kind}: {from} -> {to}");
        }
        assert_eq!((level("invoice", "new_word"), level("coupon", "open")), (0, 0));
    }

    #[test]
    fn what_is_open_has_a_state_above_it() {
        for (kind, levels) in STATES {
            for word in levels.iter().flat_map(|words| words.iter()).filter(|word| is_open(kind, word)) {
                assert!(level(kind, word) < i64::try_from(levels.len()).unwrap(), "{kind} {word}");
            }
        }
        assert!(is_open("dispute", "appeal_under_review") && !is_open("dispute", "lost") && !is_open("charge", "pending"));
    }
}
