//! payout_recon: every payout of the window against the business's own ledger, to the cent. Asks the recon actor.

use crate::{
    domain::schedule::Schedule,
    error::Result,
    recon,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "payout_recon",
        "recon",
        Schedule::every(6 * 3600),
        "Reconciles every payout with the ledger, to the cent, and names each difference.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("payout_recon.json"), Some("payout_recon.ndjson"))
    .timeout_s(recon::LIMIT.as_secs() + 10)
    .retries(3)
}

async fn work(run: Run) -> Result<Record> {
    recon::payouts(&run).await
}
