//! daily_backup: the archive of the day (seed phase 70), after the payouts of the day before have been archived. Asks the backup
//! actor, which holds the lock.

use std::time::Duration;

use chrono::TimeDelta;

use crate::{
    backup,
    error::Result,
    task::{After, Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "daily_backup",
        "backup",
        super::daily("00:30"),
        "Archives logs, configuration, payouts and database, and reads the archive back.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(None, Some("backup_daily.log"))
    .timeout_s(backup::LIMIT.as_secs() + 10)
    .retries(2)
    .after(After { task: "payment_recon_nightly", within: TimeDelta::hours(24), wait: Duration::from_mins(20) })
}

async fn work(run: Run) -> Result<Record> {
    backup::run(&run).await
}
