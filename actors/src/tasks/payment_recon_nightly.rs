//! payment_recon_nightly: archives the latest payout reconciliation under the business day of its slot (seed phase 67). The bytes
//! are copied unchanged; the same bytes again change nothing, other bytes keep the old version and log both digests.

use ring::digest;
use serde_json::Value as Json;

use crate::{
    env::{Env, blocking},
    error::{Context as _, Error, Result},
    files,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("payment_recon_nightly", "recon", super::daily("23:50"), "Archives the payout reconciliation of the day.")
        .runs(|run| Box::pin(work(run)))
        .leaves(None, Some("payment_recon_nightly.log"))
        .timeout_s(60)
        .retries(2)
}

async fn work(run: Run) -> Result<Record> {
    let env = run.env.clone();
    let name = format!("payout_recon_{}.json", run.slot.format("%Y-%m-%d"));
    blocking(move || archive(&env, &name)).await
}

fn archive(env: &Env, name: &str) -> Result<Record> {
    let source = env.log_path("payout_recon.json");
    let bytes = std::fs::read(&source).context("logs/payout_recon.json has not been written yet; run payout_recon first")?;
    let report: Json =
        serde_json::from_slice(&bytes).map_err(|e| Error::invalid("source", format!("logs/payout_recon.json is not JSON: {e}")))?;
    if report["schema"].as_str().is_none() || !report["summary"].is_object() {
        return Err(Error::invalid("source", "logs/payout_recon.json is not a reconciliation report"));
    }
    let folder = env.backup_path("payouts");
    let target = folder.join(name);
    let sha256 = |bytes: &[u8]| files::hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let mut record = Record::new();
    record.insert("src".into(), "logs/payout_recon.json".into());
    record.insert("dst".into(), format!("backups/payouts/{name}").into());
    match std::fs::read(&target) {
        Ok(old) if old == bytes => drop(record.insert("unchanged".into(), true.into())),
        Ok(old) => {
            let kept = format!("{name}.{}", &sha256(&old)[..12]);
            files::replace(&folder.join(&kept), &old, files::MODE_PRIVATE)?;
            files::replace(&target, &bytes, files::MODE_PRIVATE)?;
            record.insert("replaced_sha256".into(), sha256(&old).into());
            record.insert("replaced_kept_as".into(), format!("backups/payouts/{kept}").into());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => files::replace(&target, &bytes, files::MODE_PRIVATE)?,
        Err(error) => return Err(Error::from(error).context(format!("cannot read {}", target.display()))),
    }
    let written = std::fs::read(&target).context("the archive cannot be read back")?;
    if written != bytes {
        return Err(Error::internal(format!("{} does not hold what was written", target.display())));
    }
    record.insert("exists".into(), true.into());
    record.insert("sha256".into(), sha256(&bytes).into());
    record.insert("source_ts".into(), report["ts"].clone());
    Ok(record)
}
