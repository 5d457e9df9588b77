//! The archive of each business day: `backups/payouts/payout_recon_YYYY-MM-DD.json`. Called at night with the latest report, and again when
//! the provider's own report of that day is final. The same bytes change nothing; other bytes keep the old version and both digests are
//! told. A source that is no report is refused: an archive is never empty.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use ring::digest;
use serde_json::Value as Json;

use super::{payouts, provider};
use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        reconcile::SCHEMA,
    },
    env::{Env, blocking, rfc3339},
    error::{Context as _, Error, Result},
    files,
    store::ArchiveRow,
    task::{Record, Run},
};

/// The provider's own report of a day is final at noon (UTC) of the next.
const FINAL_AT: NaiveTime = NaiveTime::from_hms_opt(12, 0, 0).expect("noon exists");
/// Archives older than this stay as they are: the provider's lists of that time are not read any more.
const FINISH_DAYS: u64 = 35;
/// A report this much older than the moment it is archived at is told as stale: payouts are reconciled every six hours.
const STALE: TimeDelta = TimeDelta::hours(24);

/// Archives `logs/payout_recon.json` under the date of the run's slot. Errors: `not_found` or `invalid` `source` if there is no report, with
/// an alert.
pub async fn nightly(run: &Run) -> Result<Record> {
    let (env, date) = (&run.env, run.slot.date_naive());
    let result = async {
        let (bytes, report) = source(env).await?;
        let mut record = keep(env, date, bytes, &report, Stage::Provisional, &run.run_id).await?;
        let at = report["ts"].as_str().and_then(|ts| chrono::DateTime::parse_from_rfc3339(ts).ok());
        let stale = at.is_none_or(|at| run.slot.signed_duration_since(at) > STALE);
        if stale {
            record.insert("stale".into(), true.into());
        }
        Ok((record, stale))
    }
    .await;
    let problem = match &result {
        Ok((_, false)) => None,
        Ok((record, true)) => {
            Some(format!("the archive of {date} holds a report of {}: payout_recon has not run since", record["source_ts"]))
        }
        Err(error) => Some(format!("the reconciliation of {date} could not be archived: {error}")),
    };
    tell(env, problem).await?;
    result.map(|(record, _)| record)
}

async fn tell(env: &Env, problem: Option<String>) -> Result<()> {
    let check = check("recon_archive", "the day's reconciliation is archived", problem);
    alert::evaluate(env, vec![check]).await.map(|_| ())
}

fn check(name: &str, fine: &str, problem: Option<String>) -> Check {
    Check {
        name: name.into(),
        system: "recon",
        ok: Some(problem.is_none()),
        severity: Severity::Critical,
        value: None,
        threshold: "one report a day".into(),
        reason: problem.unwrap_or_else(|| fine.to_owned()),
        ..Check::default()
    }
}

/// Makes the archive of each day again whose own report the provider has closed, once: as of the end of that day, by what both sides say
/// now. What cannot be read yet is tried again at the next look; what does not go away is an alert until the archive is made.
pub(super) async fn finish_due(env: &Env) {
    let told = match try_finish(env).await {
        Ok(problem) => {
            let check = check("recon_archive_final", "the archives of closed days are final", problem);
            alert::evaluate(env, vec![check]).await.map(|_| ())
        }
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::warn!(actor = super::NOUN, %error, "the archives of closed days could not be looked after");
    }
}

/// The first problem that does not go away by itself. A day that cannot be made final does not keep the others.
async fn try_finish(env: &Env) -> Result<Option<String>> {
    let (now, mut problem) = (env.now(), None);
    let from = now.date_naive() - Days::new(FINISH_DAYS);
    for row in env.store().provisional_archives(&from.to_string()).await? {
        let date: NaiveDate = row.date.parse().map_err(|_| Error::internal(format!("{} is the date of an archive", row.date)))?;
        let next_day = date + Days::new(1);
        let due = next_day.and_time(FINAL_AT).and_utc();
        if now < due {
            continue;
        }
        if let Err(error) = finish(env, date, next_day.and_time(NaiveTime::MIN).and_utc()).await {
            tracing::warn!(actor = super::NOUN, %date, %error, "the archive of a closed day could not be made final");
            if !error.is_retryable() || now - due > STALE {
                problem.get_or_insert(format!("the archive of {date} could not be made final: {error}"));
            }
        }
    }
    Ok(problem)
}

async fn finish(env: &Env, date: NaiveDate, end: DateTime<Utc>) -> Result<()> {
    // The day is ours; what belongs to it is judged by the provider's clock, which may be another one.
    let ahead = provider(env).now().await? - env.now();
    let mut report = payouts::as_of(env, end + ahead - TimeDelta::seconds(1)).await?;
    let (ts, run_id) = (rfc3339(env.now()), format!("final_{date}"));
    (report.ts, report.generated_at, report.run_id) = (Some(ts.clone()), Some(ts.clone()), Some(run_id.clone()));
    let json = serde_json::to_value(&report)?;
    let mut bytes = serde_json::to_vec_pretty(&json)?;
    bytes.push(b'\n');
    let mut line = keep(env, date, bytes, &json, Stage::Final, &run_id).await?;
    line.insert("src".into(), "the provider's report of the day, final".into());
    for (name, value) in [("ok", Json::from(true)), ("ts", ts.into()), ("run_id", run_id.into())] {
        line.insert(name.into(), value);
    }
    env.append(env.log_path("payment_recon_nightly.log"), Json::Object(line)).await
}

/// The latest report as its bytes and as JSON.
async fn source(env: &Env) -> Result<(Vec<u8>, Json)> {
    let path = env.log_path("payout_recon.json");
    blocking(move || {
        let bytes = std::fs::read(&path).context("logs/payout_recon.json has not been written yet; run payout_recon first")?;
        let report =
            serde_json::from_slice(&bytes).map_err(|e| Error::invalid("source", format!("logs/payout_recon.json is not JSON: {e}")))?;
        validate(&report)
            .map_err(|what| Error::invalid("source", format!("logs/payout_recon.json is not a reconciliation report: {what}")))?;
        Ok((bytes, report))
    })
    .await
}

/// What the schema demands of a report.
fn validate(report: &Json) -> Result<(), String> {
    if report["schema"] != SCHEMA {
        return Err(format!("its schema is {}, not {SCHEMA}", report["schema"]));
    }
    for member in ["matched", "amount_mismatch", "missing_in_ledger", "total"] {
        if !report["summary"][member].is_u64() {
            return Err(format!("summary.{member} is not a count"));
        }
    }
    for list in ["totals", "payouts", "unsettled", "exceptions"] {
        if !report[list].is_array() {
            return Err(format!("{list} is not a list"));
        }
    }
    Ok(())
}

/// Which of its two versions an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Provisional,
    Final,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::Final => "final",
        }
    }
}

/// Writes the archive of a day, reads it back and notes its digest. A provisional version never replaces a final one.
async fn keep(env: &Env, date: NaiveDate, bytes: Vec<u8>, report: &Json, stage: Stage, run_id: &str) -> Result<Record> {
    let name = format!("payout_recon_{date}.json");
    let known = env.store().archive(&date.to_string()).await?;
    let mut record = Record::new();
    record.insert("src".into(), "logs/payout_recon.json".into());
    record.insert("dst".into(), format!("backups/payouts/{name}").into());
    record.insert("state".into(), stage.as_str().into());
    record.insert("source_ts".into(), report["ts"].clone());
    let target = env.backup_path("payouts").join(&name);
    if stage == Stage::Provisional && known.as_ref().is_some_and(|row| row.state == Stage::Final.as_str()) && target.exists() {
        record.insert("state".into(), Stage::Final.as_str().into());
        record.insert("unchanged".into(), true.into());
        record.insert("exists".into(), true.into());
        record.insert("sha256".into(), known.map(|row| row.sha256).into());
        return Ok(record);
    }
    let new = sha256(&bytes);
    let folder = env.backup_path("payouts");
    let replaced = blocking(move || write(&folder, &name, &bytes)).await?;
    record.insert("exists".into(), true.into());
    record.insert("sha256".into(), new.clone().into());
    match &replaced {
        Replaced::Nothing => {}
        Replaced::Same => drop(record.insert("unchanged".into(), true.into())),
        Replaced::Old { sha256, kept_as } => {
            record.insert("replaced_sha256".into(), sha256.clone().into());
            record.insert("replaced_kept_as".into(), format!("backups/payouts/{kept_as}").into());
            tracing::warn!(actor = super::NOUN, %date, old = sha256, %new, kept_as, "the archive of a day has changed");
        }
    }
    let previous_sha256 = match replaced {
        Replaced::Old { sha256, .. } => Some(sha256),
        _ => known.and_then(|row| row.previous_sha256),
    };
    let row = ArchiveRow {
        date: date.to_string(),
        state: stage.as_str().into(),
        sha256: new,
        previous_sha256,
        made_at: env.now(),
        run_id: run_id.to_owned(),
    };
    let fact = env.fact(
        "recon.archived",
        &row.date,
        serde_json::json!({"state": row.state, "sha256": row.sha256, "previous_sha256": row.previous_sha256}),
    );
    env.store().put_archive(&row, fact).await?;
    Ok(record)
}

enum Replaced {
    Nothing,
    Same,
    Old { sha256: String, kept_as: String },
}

fn write(folder: &std::path::Path, name: &str, bytes: &[u8]) -> Result<Replaced> {
    let target = folder.join(name);
    let replaced = match std::fs::read(&target) {
        Ok(old) if old == bytes => return Ok(Replaced::Same),
        Ok(old) => {
            let sha256 = sha256(&old);
            let kept_as = format!("{name}.{}", &sha256[..12]);
            files::replace(&folder.join(&kept_as), &old, files::MODE_PRIVATE)?;
            Replaced::Old { sha256, kept_as }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Replaced::Nothing,
        Err(error) => return Err(Error::from(error).context(format!("cannot read {}", target.display()))),
    };
    files::replace(&target, bytes, files::MODE_PRIVATE)?;
    let written = std::fs::read(&target).context("the archive cannot be read back")?;
    if written != bytes {
        return Err(Error::internal(format!("{} does not hold what was written", target.display())));
    }
    Ok(replaced)
}

fn sha256(bytes: &[u8]) -> String {
    files::hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests;
