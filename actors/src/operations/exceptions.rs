//! Exceptions of the reconciliations: listing them, and what a person decides about one. Called by the gateway and the command line. A
//! decision needs a reason, is in the journal with who made it, and holds until either side says something else.

use serde_json::{Value as Json, json};

use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{ExceptionFilter, ExceptionRow},
};

pub const SCOPES: [&str; 2] = ["payouts", "finance"];
pub const STATUSES: [&str; 4] = ["open", "acknowledged", "resolved", "auto_resolved"];
/// A reason is a sentence, not a file; bytes.
const LONGEST_REASON: usize = 1000;

/// What somebody does about an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody is looking into it.
    Acknowledge,
    /// It is settled as it is.
    Resolve,
    /// It was decided too early.
    Reopen,
}

impl Decision {
    fn from(self) -> &'static [&'static str] {
        match self {
            Self::Acknowledge => &["open"],
            Self::Resolve => &["open", "acknowledged"],
            Self::Reopen => &["acknowledged", "resolved"],
        }
    }

    fn to(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledged",
            Self::Resolve => "resolved",
            Self::Reopen => "open",
        }
    }
}

/// Errors: `invalid` naming the field `scope` or `status`.
pub async fn list(env: &Env, filter: &ExceptionFilter) -> Result<Vec<Json>> {
    for (field, word, words) in [("scope", &filter.scope, &SCOPES[..]), ("status", &filter.status, &STATUSES[..])] {
        if !word.is_empty() && !words.contains(&word.as_str()) {
            return Err(Error::field(field, format!("{field} is one of {}", words.join(", "))));
        }
    }
    Ok(env.store().exceptions(filter).await?.into_iter().map(view).collect())
}

/// Errors: `not_found`.
pub async fn one(env: &Env, id: &str) -> Result<Json> {
    find(env, id).await.map(view)
}

/// The exception as it is then. Errors: `not_found`; `invalid` naming `reason`; `conflict` with reason `exception_state`.
pub async fn decide(env: &Env, id: &str, decision: Decision, reason: &str, by: &str) -> Result<Json> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return Err(Error::field("reason", format!("reason is missing: a text of up to {LONGEST_REASON} bytes that says why")));
    }
    let row = find(env, id).await?;
    let to = decision.to();
    let fact = env.fact("recon.decided", id, json!({"from": row.status, "to": to, "by": by, "reason": reason, "kind": row.kind}));
    if !env.store().decide_exception(id, decision.from(), to, by, reason, fact).await? {
        let now = find(env, id).await?.status;
        return Err(Error::conflict("exception_state", format!("the exception is {now}, so it cannot become {to}")).with("status", now));
    }
    one(env, id).await
}

async fn find(env: &Env, id: &str) -> Result<ExceptionRow> {
    env.store().exception(id).await?.ok_or_else(|| Error::not_found(format!("there is no exception {id}")))
}

/// The report's record with what only the store knows.
fn view(e: ExceptionRow) -> Json {
    let mut body = if e.body.is_object() { e.body } else { json!({}) };
    let own = json!({
        "id": e.id, "scope": e.scope, "kind": e.kind, "severity": e.severity, "status": e.status, "first_seen": rfc3339(e.first_seen),
        "last_seen": rfc3339(e.last_seen), "occurrences": e.occurrences, "at_risk_minor": e.risk, "currency": e.currency,
        "decided_at": e.decided_at.map(rfc3339), "decided_by": e.decided_by, "decision": e.decision,
    });
    if let (Json::Object(body), Json::Object(own)) = (&mut body, own) {
        body.extend(own);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Finding, NewRecon},
        testing::{self, Fixture},
    };

    /// A run that found these: (id, what both sides say).
    async fn found(fixture: &Fixture, run_id: &str, findings: &[(&str, &str)], gone: &[&str]) -> (usize, usize) {
        let finding = |(id, sides): &(&str, &str)| Finding {
            id: (*id).into(),
            kind: "amount_mismatch",
            severity: "high",
            currency: "usd".into(),
            risk: 100,
            sides: (*sides).into(),
            body: json!({"explanation": sides}),
        };
        let recon = NewRecon {
            scope: "payouts",
            run_id,
            recon_id: "prun_1",
            at: fixture.env.now(),
            complete: true,
            ok: false,
            inputs: Vec::new(),
            report: &json!({}),
            findings: findings.iter().map(finding).collect(),
            gone: gone.iter().map(|id| (*id).to_owned()).collect(),
        };
        fixture.env.store().record_recon(recon, fixture.env.fact("recon.done", run_id, json!({}))).await.unwrap()
    }

    async fn status(fixture: &Fixture, id: &str) -> String {
        one(&fixture.env, id).await.unwrap()["status"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_decision_holds_until_either_side_says_something_else() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let env = &fixture.env;
        assert_eq!(found(&fixture, "run_1", &[("exc_a", "9900|9800|usd"), ("exc_b", "1|2|usd")], &[]).await, (2, 0));
        decide(env, "exc_a", Decision::Acknowledge, "the provider was asked", "ana").await.unwrap();
        decide(env, "exc_b", Decision::Resolve, "written off", "ana").await.unwrap();
        assert_eq!(found(&fixture, "run_2", &[("exc_a", "9900|9800|usd"), ("exc_b", "1|2|usd")], &[]).await, (0, 0));
        assert_eq!((status(&fixture, "exc_a").await.as_str(), status(&fixture, "exc_b").await.as_str()), ("acknowledged", "resolved"));
        let shown = one(env, "exc_b").await.unwrap();
        assert_eq!((&shown["decided_by"], &shown["decision"], &shown["occurrences"]), (&json!("ana"), &json!("written off"), &json!(2)));
        found(&fixture, "run_3", &[("exc_a", "9900|9700|usd"), ("exc_b", "1|3|usd")], &[]).await;
        assert_eq!((status(&fixture, "exc_a").await.as_str(), status(&fixture, "exc_b").await.as_str()), ("open", "open"));
        assert_eq!(one(env, "exc_b").await.unwrap()["decided_by"], Json::Null, "nobody decided anything about what it is now");
        // What is not there any more is resolved by itself, and open again when it is back, whoever had decided what.
        decide(env, "exc_a", Decision::Acknowledge, "again", "ana").await.unwrap();
        assert_eq!(found(&fixture, "run_4", &[], &["exc_a", "exc_b"]).await, (0, 2));
        assert_eq!(status(&fixture, "exc_a").await, "auto_resolved");
        assert_eq!(found(&fixture, "run_5", &[("exc_a", "9900|9700|usd")], &[]).await, (1, 0));
        assert_eq!(status(&fixture, "exc_a").await, "open");
    }

    #[tokio::test]
    async fn runs_are_forgotten_after_half_a_year_and_what_they_found_is_not() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        found(&fixture, "run_1", &[("exc_a", "1|2|usd")], &[]).await;
        fixture.clock.set("2026-09-01T10:00:00Z".parse().unwrap());
        found(&fixture, "run_2", &[], &[]).await;
        let kept = rusqlite::Connection::open(fixture.env.config().database_path()).unwrap();
        let runs: String = kept.query_row("SELECT group_concat(run_id) FROM recon_run", [], |row| row.get(0)).unwrap();
        assert_eq!((runs.as_str(), status(&fixture, "exc_a").await.as_str()), ("run_2", "open"));
    }

    #[tokio::test]
    async fn a_decision_needs_a_reason_an_exception_and_a_state_that_allows_it() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let env = &fixture.env;
        found(&fixture, "run_1", &[("exc_a", "1|2|usd")], &[]).await;
        let long = "x".repeat(LONGEST_REASON + 1);
        for reason in ["", "  ", long.as_str()] {
            assert_eq!(decide(env, "exc_a", Decision::Resolve, reason, "ana").await.unwrap_err().field.as_deref(), Some("reason"));
        }
        assert_eq!(decide(env, "exc_none", Decision::Resolve, "why", "ana").await.unwrap_err().code.as_str(), "not_found");
        let refused = decide(env, "exc_a", Decision::Reopen, "why", "ana").await.unwrap_err();
        assert_eq!((refused.reason.as_ref(), &refused.extra["status"]), ("exception_state", &json!("open")));
        decide(env, "exc_a", Decision::Resolve, "why", "ana").await.unwrap();
        assert_eq!(decide(env, "exc_a", Decision::Acknowledge, "why", "ana").await.unwrap_err().reason, "exception_state");
        let wrong = ExceptionFilter { status: "closed".into(), ..ExceptionFilter::default() };
        assert_eq!(list(env, &wrong).await.unwrap_err().field.as_deref(), Some("status"));
    }
}
