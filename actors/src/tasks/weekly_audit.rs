//! weekly_audit: walks the journal's hash chains, compares their roots with those of earlier audits, re-reads the archives and
//! looks for days without one, checks file modes and key ages. Leaves `backups/audit/audit_YYYYMMDD.json`.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::Path};

use chrono::{NaiveDate, TimeDelta};
use serde_json::{Value as Json, json};

use crate::{
    alert, archive,
    domain::{
        alert_rule::{Check, Severity},
        archive::date_of_archive,
    },
    env::{Env, blocking, rfc3339},
    error::Result,
    store::{Chain, JournalReport},
    task::{Record, Run, TaskSpec},
};

/// A key older than this wants rotating.
const KEY_DAYS: i64 = 365;

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "weekly_audit",
        "backup",
        super::cron("30 0 * * 1"),
        "Verifies the journal's chains and every archive, and names gaps in days.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("weekly_audit.json"), Some("weekly_audit.ndjson"))
    .timeout_s(3600)
}

/// One thing that was looked at: `{"check","ok","evidence"}`.
fn check(name: &str, ok: bool, evidence: Json) -> Json {
    json!({"check": name, "ok": ok, "evidence": evidence})
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let journal = env.store().verify_journal().await?;
    let earlier = previous_roots(env).await?;
    let mut checks = vec![check("journal_chain", journal.ok, json!({"entries": journal.entries, "breaks": journal.breaks}))];
    checks.push(roots_still_there(env, &earlier).await?);
    checks.extend(archives(env).await?);
    checks.push(modes(env).await?);
    checks.push(key_ages(env).await?);
    let ok = checks.iter().all(|c| c["ok"] == true);
    let mut record = Record::new();
    record.insert("ok".into(), ok.into());
    record.insert("ts".into(), rfc3339(env.now()).into());
    record.insert("root_hash".into(), root_hash(&journal).into());
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

/// One hash over the roots of all chains.
fn root_hash(journal: &JournalReport) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for chain in &journal.chains {
        digest.update(format!("{}:{}:{}\n", chain.writer, chain.entries, chain.root).as_bytes());
    }
    crate::files::hex(digest.finish().as_ref())
}

/// The chains that the newest earlier audit wrote down.
async fn previous_roots(env: &Env) -> Result<Vec<Chain>> {
    let folder = env.backup_path("audit");
    blocking(move || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
        let newest = names.filter(|p| p.extension().is_some_and(|e| e == "json")).max();
        let text = newest.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let audit: Json = serde_json::from_slice(&text).unwrap_or_default();
        Ok(serde_json::from_value(audit["chains"].clone()).unwrap_or_default())
    })
    .await
}

/// A journal that was rewritten as a whole is intact in itself, but no longer holds the root that was written down before.
async fn roots_still_there(env: &Env, earlier: &[Chain]) -> Result<Json> {
    let mut lost = Vec::new();
    for chain in earlier.iter().filter(|c| c.entries > 0) {
        if env.store().journal_hash(&chain.writer, chain.entries).await?.as_deref() != Some(chain.root.as_str()) {
            lost.push(json!({"writer": chain.writer, "seq": chain.entries, "root": chain.root}));
        }
    }
    Ok(check("journal_matches_earlier_audit", lost.is_empty(), json!({"compared": earlier.len(), "lost": lost})))
}

async fn archives(env: &Env) -> Result<Vec<Json>> {
    let folder = env.backup_path("daily");
    let recorded = env.store().backups(10_000).await?;
    let (today, identity) = (env.now().date_naive(), env.config().backup.identity_file.clone());
    blocking(move || {
        let (mut bad, mut dates) = (Vec::new(), BTreeSet::new());
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(date) = date_of_archive(&name) else { continue };
            dates.insert(date);
            let opened = archive::open(&entry.path(), &identity);
            let result = opened.and_then(|opened| opened.verify(&archive::VerifyOptions::default()));
            if let Err(error) = result {
                bad.push(json!({"archive": name, "error": error.message}));
            }
        }
        for row in &recorded {
            let path = folder.join(row.archive.rsplit('/').next().unwrap_or_default());
            match archive::file_sha256(&path) {
                Ok(sha256) if sha256 == row.sha256 => {}
                Ok(_) => bad.push(json!({"archive": row.archive, "error": "its SHA-256 is not the recorded one"})),
                Err(error) => bad.push(json!({"archive": row.archive, "error": error.message})),
            }
        }
        let gaps = gaps(&dates, today);
        Ok(vec![
            check("archives_intact", bad.is_empty(), json!({"verified": dates.len(), "bad": bad})),
            check("no_day_without_archive", gaps.is_empty(), json!({"first": dates.first(), "last": dates.last(), "missing": gaps})),
        ])
    })
    .await
}

/// Days between the first archive and yesterday that have none.
fn gaps(dates: &BTreeSet<NaiveDate>, today: NaiveDate) -> Vec<NaiveDate> {
    let Some(first) = dates.first() else { return Vec::new() };
    first.iter_days().take_while(|day| *day < today).filter(|day| !dates.contains(day)).collect()
}

/// What holds secrets or customers' data is readable by its owner alone.
async fn modes(env: &Env) -> Result<Json> {
    let (data, payouts) = (env.config().paths.data.clone(), env.backup_path("payouts"));
    blocking(move || {
        let open = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter(|e| e.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o077 != 0))
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .filter(|name| name != "lock" && !name.ends_with("-shm") && !name.ends_with("-wal"))
                .collect()
        };
        let wrong = [open(&data), open(&payouts)].concat();
        Ok(check("file_modes", wrong.is_empty(), json!({"readable_by_others": wrong})))
    })
    .await
}

async fn key_ages(env: &Env) -> Result<Json> {
    let oldest = env.now() - TimeDelta::days(KEY_DAYS);
    let keys = env.store().keys().await?;
    let old: Vec<_> = keys.iter().filter(|k| k.revoked_at.is_none() && k.created_at < oldest).map(|k| k.name.clone()).collect();
    Ok(check(
        "key_ages",
        old.is_empty(),
        json!({"active": keys.iter().filter(|k| k.revoked_at.is_none()).count(), "older_than_a_year": old}),
    ))
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_without_an_archive_is_named_but_today_may_still_come() {
        let day = |d| NaiveDate::from_ymd_opt(2026, 3, d).unwrap();
        let dates = BTreeSet::from([day(1), day(2), day(4)]);
        assert_eq!(gaps(&dates, day(5)), [day(3)]);
        assert_eq!(gaps(&dates, day(6)), [day(3), day(5)]);
        assert_eq!(gaps(&BTreeSet::new(), day(6)), []);
    }
}
