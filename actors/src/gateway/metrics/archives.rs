//! The figures about archives and their proofs. Without any archive or proof theirs are absent, so that a rule can tell.

use super::{Board, whole};
use crate::{env::Env, error::Result};

pub(super) async fn archives(board: &Board, env: &Env) -> Result<()> {
    let rows = env.store().backups(i64::MAX).await?;
    board.integer("echopilot_backup_archives", "Archives that are kept.")?.set(whole(rows.len()));
    let help = "A proof of restore older than this is an alert.";
    board.gauge("echopilot_backup_proof_max_age_seconds", help)?.set(env.config().backup.proof_max_age_h as f64 * 3600.0);
    if let Some(newest) = rows.iter().max_by_key(|row| row.made_at) {
        let set = |name: &str, help: &str, value: f64| board.gauge(name, help).map(|gauge| gauge.set(value));
        set("echopilot_backup_last_timestamp_seconds", "When the newest archive was made, Unix time.", newest.made_at.timestamp() as f64)?;
        set("echopilot_backup_last_size_bytes", "Size of the newest archive.", newest.size_bytes as f64)?;
        set("echopilot_backup_last_content_bytes", "Size of the files in the newest archive.", newest.content_bytes as f64)?;
        let help = "Bytes of the newest archive that were taken over from the one before.";
        set("echopilot_backup_last_reused_bytes", help, newest.reused_bytes as f64)?;
        set("echopilot_backup_last_duration_seconds", "How long the newest archive and its proof took.", newest.took_ms as f64 / 1e3)?;
        let help = "1 if something is not in the newest archive as it was on the disk, else 0.";
        set("echopilot_backup_last_partial", help, f64::from(u8::from(newest.state == "partial")))?;
    }
    if let Some(proof) = env.store().last_passed_proof().await? {
        let help = "When an archive was last proven to restore, Unix time.";
        board.gauge("echopilot_backup_last_proof_timestamp_seconds", help)?.set(proof.at.timestamp() as f64);
        let help = "How long the restore of the newest proof that passed took.";
        board.gauge("echopilot_backup_restore_duration_seconds", help)?.set(proof.restore_ms as f64 / 1e3);
    }
    Ok(())
}
