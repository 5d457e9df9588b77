//! What the alerts are told about backups: each a check of its own, so that each fires and resolves by itself.

use chrono::{DateTime, Utc};
use echopilot_archive::write::Written;

use super::proof::Proof;
use crate::{
    domain::alert_rule::{Check, Severity},
    env::Env,
    error::{Error, Result},
};

fn check(name: &str, severity: Severity, ok: Option<bool>, threshold: &str, reason: String) -> Check {
    Check { name: name.into(), system: "backup", ok, severity, value: None, threshold: threshold.into(), reason, ..Check::default() }
}

/// `ok`, or `partial`: something is not in the archive as it was on the disk.
pub(super) fn state(written: &Written) -> &'static str {
    if written.problems.is_empty() { "ok" } else { "partial" }
}

pub(super) fn proof(proof: &Proof) -> Check {
    let reason = match &proof.error {
        Some(error) => format!("the last backup failed its proof: {error}"),
        None => "the last backup restores".to_owned(),
    };
    Check {
        value: Some(proof.state().into()),
        ..check("backup_proof", Severity::Critical, Some(proof.passed()), "an archive that restores", reason)
    }
}

/// Whether an archive was made at all, and with everything in it.
pub(super) fn made(result: &Result<&Written, Error>) -> Check {
    let (ok, reason) = match result {
        Err(error) => (false, format!("no archive was made: {}", error.message)),
        Ok(written) => match written.problems.first() {
            Some(first) => {
                let others = written.problems.len() - 1;
                let more = if others > 0 { format!(", and {others} more") } else { String::new() };
                (false, format!("{}: {}{more}", first.path, first.what))
            }
            None => (true, "the last archive is complete".into()),
        },
    };
    check("backup_complete", Severity::Critical, Some(ok), "an archive with everything in it", reason)
}

/// Whether what was taken over from the archive before was undamaged there.
pub(super) fn before(written: &Written) -> Check {
    let reason = match (&written.previous_refused, written.damaged_before.first()) {
        (Some(why), _) => format!("nothing was taken over from the archive before: {why}"),
        (None, Some(first)) => {
            format!("the archive before is damaged ({} members, {first}); they were made anew", written.damaged_before.len())
        }
        (None, None) => "the archive before is undamaged where it was read".into(),
    };
    let ok = written.previous_refused.is_none() && written.damaged_before.is_empty();
    check("backup_before", Severity::Critical, Some(ok), "an undamaged archive before", reason)
}

pub(super) fn size(unusual: bool, bytes: i64) -> Check {
    let reason = if unusual {
        format!("the content of the last archive ({bytes} bytes) is less than half or more than twice of what is usual")
    } else {
        "the content is about as large as usual".into()
    };
    check("backup_size", Severity::Warning, Some(!unusual), "half to twice the median of the last seven", reason)
}

pub(super) fn retention(error: Option<&str>) -> Check {
    let reason = error.map_or_else(|| "old archives were looked through".to_owned(), |e| format!("old archives could not be removed: {e}"));
    check("backup_retention", Severity::Warning, Some(error.is_none()), "old archives go", reason)
}

/// Whether the newest proof that passed is young enough; also for a schedule that stopped without a word. Before the first it counts
/// from when the daemon's first run was due.
pub async fn age(env: &Env, now: DateTime<Utc>) -> Result<Check> {
    let limit_h = env.config().backup.proof_max_age_h;
    let last = env.store().last_passed_proof().await?.map(|proof| proof.at);
    let since = match last {
        Some(at) => Some(at),
        None => env.store().first_slot().await?,
    };
    let age_h = since.map(|at| (now - at).num_seconds() as f64 / 3600.0);
    let ok = age_h.map(|age| age <= limit_h as f64);
    let reason = match (last, age_h) {
        (Some(_), Some(age)) => format!("the last proof that a backup restores is {age:.1} h old"),
        (None, Some(age)) => format!("for {age:.1} h no backup was proven to restore"),
        (_, None) => "no backup was due yet".into(),
    };
    let value = age_h.map(|age| format!("{age:.1} h"));
    Ok(Check { value, ..check("backup_age", Severity::Critical, ok, &format!("a proof younger than {limit_h} h"), reason) })
}
