//! Removes archives that no rule keeps (`domain/retention.rs`), each with its reason in the journal. Only after a backup that was proven,
//! or when somebody asks; never the last proven one.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;

use super::{listing::file_name, lock};
use crate::{
    archive,
    domain::retention::{Archive, Decision, State, payouts_to_remove, plan},
    env::{Env, blocking},
    error::Result,
    files,
    store::BackupRow,
};

/// What the rules say of every archive that is recorded, newest first.
pub(super) async fn decisions(env: &Env, now: DateTime<Utc>) -> Result<Vec<(BackupRow, Decision)>> {
    let rows = env.store().backups(i64::MAX).await?;
    let archives: Vec<Archive> = rows.iter().filter_map(describe).collect();
    let decided = plan(&archives, &env.config().retention.policy(), now);
    let of = |date: &NaiveDate| rows.iter().find(|row| row.date == date.to_string()).cloned();
    Ok(decided.into_iter().filter_map(|decision| Some((of(&decision.archive.date)?, decision))).collect())
}

fn describe(row: &BackupRow) -> Option<Archive> {
    let state = match (row.proof["state"].as_str(), row.state.as_str()) {
        (Some("passed"), "partial") => State::Partial,
        (Some("passed"), _) => State::Proven,
        (Some("failed"), _) => State::Failed,
        _ => State::Unproven,
    };
    Some(Archive { date: row.date.parse().ok()?, made_at: row.made_at, size_bytes: row.size_bytes.unsigned_abs(), state, pinned: None })
}

/// Decides about every archive and, without `dry_run`, removes those that go. Errors: `conflict` `backup_running`.
pub async fn prune(env: &Env, dry_run: bool) -> Result<Vec<Decision>> {
    let now = env.now();
    let folder = env.backup_path("daily");
    let lock = blocking(move || lock(&folder, "prune")).await?;
    let decided = decisions(env, now).await?;
    if !dry_run {
        remove(env, &decided, now).await?;
    }
    drop(lock);
    Ok(decided.into_iter().map(|(_, decision)| decision).collect())
}

/// The same for a caller that has the lock; answers the names that went.
pub(super) async fn after_backup(env: &Env, now: DateTime<Utc>) -> Result<Vec<String>> {
    let decided = decisions(env, now).await?;
    let mut gone = remove(env, &decided, now).await?;
    gone.extend(remove_payouts(env, now).await?);
    Ok(gone)
}

async fn remove(env: &Env, decided: &[(BackupRow, Decision)], now: DateTime<Utc>) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for (row, decision) in decided.iter().filter(|(_, decision)| !decision.keep) {
        let why = decision.reasons.join("; ");
        let path = env.backup_path("daily").join(file_name(row));
        // The row first: cut off in between, a file without a row is left, which the audit names, and no row without its file.
        let fact = env.fact("backup.removed", &row.archive, json!({"date": row.date, "sha256": row.sha256, "why": why}));
        env.store().backup_gone(&row.date, now, &why, fact).await?;
        blocking(move || if path.exists() { archive::remove(&path) } else { Ok(()) }).await?;
        gone.push(row.archive.clone());
    }
    Ok(gone)
}

/// Archives of payouts that are older than their own rule allows.
async fn remove_payouts(env: &Env, now: DateTime<Utc>) -> Result<Vec<String>> {
    let (folder, settings) = (env.backup_path("payouts"), env.config().retention.clone());
    let gone: Vec<NaiveDate> = blocking(move || {
        let date = |name: &str| name.strip_prefix("payout_recon_")?.strip_suffix(".json")?.parse::<NaiveDate>().ok();
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let dates = entries.filter_map(|e| date(&e.file_name().to_string_lossy())).collect();
        let gone = payouts_to_remove(&dates, settings.payouts_keep_days, now.date_naive(), settings.max_removed);
        for date in &gone {
            std::fs::remove_file(payout(&folder, *date))?;
        }
        if !gone.is_empty() {
            files::sync_folder(&folder)?;
        }
        Ok(gone)
    })
    .await?;
    for date in &gone {
        let data = json!({"date": date.to_string(), "keep_days": env.config().retention.payouts_keep_days});
        env.store().journal(env.fact("payouts.removed", date.to_string(), data)).await?;
    }
    Ok(gone.iter().map(|date| format!("backups/payouts/payout_recon_{date}.json")).collect())
}

fn payout(folder: &std::path::Path, date: NaiveDate) -> PathBuf {
    folder.join(format!("payout_recon_{date}.json"))
}
