//! weekly_audit: walks the journal's hash chains and compares them with what was written down of them earlier, here and at the second
//! target; re-reads archives and restores one; looks for days without one, and at the second target, the configuration, file modes and
//! ages. Every check comes with its evidence. Leaves `backups/audit/audit_YYYYMMDD.json`.

mod archives;
mod house;
mod journal;
mod reading;
mod second_target;

use serde_json::{Value as Json, json};

use crate::{
    alert,
    domain::alert_rule::{Check, Severity},
    env::rfc3339,
    error::Result,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "weekly_audit",
        "backup",
        super::cron("30 0 * * 1"),
        "Verifies the journal's chains, the archives here and at the second target, and names gaps in days.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("weekly_audit.json"), Some("weekly_audit.ndjson"))
    .timeout_s(4 * 3600)
}

/// One thing that was looked at: `{"check","ok","evidence"}`.
fn check(name: &str, ok: bool, evidence: Json) -> Json {
    json!({"check": name, "ok": ok, "evidence": evidence})
}

/// A check that could not be made has failed, and says why; the others go on.
fn made(name: &str, result: Result<Json>) -> Json {
    result.unwrap_or_else(|error| check(name, false, json!({"error": error.message})))
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let journal = env.store().verify_journal().await?;
    let day = run.slot.date_naive();
    let mut checks = vec![
        check("journal_chain", journal.ok, json!({"entries": journal.entries, "breaks": journal.breaks})),
        made("journal_matches_earlier_audit", journal::roots_still_there(env).await),
        made("journal_checkpoint", journal::checkpoints(env).await),
        made("archives_intact", archives::intact(env, day).await),
        made("no_day_without_archive", archives::no_gaps(env).await),
        made("sampled_restore", archives::sampled_restore(env, day).await),
        made("proof_age", archives::proof_age(env).await),
        made("second_target", second_target::compared(env, day).await),
        made("configuration", house::configuration(env).await),
        made("file_modes", house::modes(env).await),
    ];
    checks.push(made("key_ages", house::key_ages(env).await));
    let ok = checks.iter().all(|c| c["ok"] == true);
    let mut record = Record::new();
    record.insert("ok".into(), ok.into());
    record.insert("ts".into(), rfc3339(env.now()).into());
    record.insert("root_hash".into(), journal::root_hash(&journal).into());
    record.insert("entries".into(), journal.entries.into());
    record.insert("chains".into(), json!(journal.chains));
    record.insert("checks".into(), checks.clone().into());
    let mut file = record.clone();
    file.insert("run_id".into(), run.run_id.clone().into());
    let name = format!("audit/audit_{}.json", run.slot.format("%Y%m%d"));
    env.write_report(env.backup_path(&name), Json::Object(file)).await?;
    record.insert("file".into(), format!("backups/{name}").into());
    let failed: Vec<_> = checks.iter().filter(|c| c["ok"] != true).filter_map(|c| c["check"].as_str()).collect();
    alert::evaluate(env, vec![audit_check(&failed)]).await?;
    Ok(record)
}

fn audit_check(failed: &[&str]) -> Check {
    Check {
        name: "weekly_audit".into(),
        system: "backup",
        ok: Some(failed.is_empty()),
        severity: Severity::Critical,
        value: Some(format!("{} failed checks", failed.len())),
        threshold: "0 failed checks".into(),
        reason: if failed.is_empty() {
            "every check of the audit passed".into()
        } else {
            format!("the audit failed: {}", failed.join(", "))
        },
        ..Check::default()
    }
}

#[cfg(test)]
mod tests;
