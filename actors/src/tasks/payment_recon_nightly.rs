//! payment_recon_nightly: archives the latest payout reconciliation under the business day of its slot (seed phase 67). The bytes
//! are copied unchanged; recon makes the archive again when the provider's own report of the day is final.

use crate::{
    error::Result,
    recon,
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
    recon::archive::nightly(&run).await
}
