//! finance_reconcile: every invoice and payment of the window, and everything open, against the business's own ledger; the balance of
//! each currency against the provider's. Asks the recon actor.

use crate::{
    domain::schedule::Schedule,
    error::Result,
    recon,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "finance_reconcile",
        "recon",
        Schedule::every(6 * 3600),
        "Every invoice and payment against the provider and the ledger, each balance to the cent, money at risk.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("finance_reconcile.json"), Some("finance_reconcile.ndjson"))
    .timeout_s(recon::LIMIT.as_secs() + 10)
    .retries(3)
}

async fn work(run: Run) -> Result<Record> {
    recon::finance(&run).await
}
