//! Virtual time: what falls due (settlement, payouts, invoices that finalize themselves, retries) is done at its own moment
//! and in the order of time, whether real time passes or somebody advances the clock. Called by every request, by
//! `/_control/clock` and by a loop of its own.

use std::time::Duration;

use serde_json::json;

use super::{
    Inner, collection,
    documents::{Kind, Origin, Tx},
    failure::Api,
    payouts, refunds, renewals,
};
use crate::error::{Error, Result};

pub(super) const DAY: i64 = 86_400;
/// The furthest one call may go: ten years.
pub(super) const LONGEST_ADVANCE_S: i64 = 3_653 * DAY;
/// Webhooks wait so long for what falls due right after them while somebody advances the clock.
const TOGETHER_S: i64 = 60;
/// How long the loop sleeps when nothing is in sight: the real clock may have been set.
const LONGEST_SLEEP_S: i64 = 30;

/// The first midnight (UTC) after `time`.
pub(super) fn next_midnight(time: i64) -> i64 {
    (time.div_euclid(DAY) + 1) * DAY
}

impl Inner {
    /// When the next object wants something, if any does.
    async fn next_due(&self) -> Result<Option<i64>> {
        self.engine.read_here("SELECT MIN(due) FROM object WHERE due IS NOT NULL", Vec::new()).await?[0].opt_int(0)
    }

    /// The same, and when the next webhook wants to be sent.
    async fn next_due_and_delivery(&self) -> Result<(Option<i64>, Option<i64>)> {
        const NEXT: &str =
            "SELECT (SELECT MIN(due) FROM object WHERE due IS NOT NULL), (SELECT MIN(due) FROM delivery WHERE state = 'pending')";
        let rows = self.engine.read_here(NEXT, Vec::new()).await?;
        Ok((rows[0].opt_int(0)?, rows[0].opt_int(1)?))
    }

    /// Does everything that is due by now, each at its own time.
    pub(super) async fn catch_up(&self) -> Result<()> {
        loop {
            let mut state = self.state.lock().await;
            let now = self.virtual_now(&mut state);
            match self.next_due().await? {
                Some(due) if due <= now => self.fall_due(Tx::new(self, state, due, Origin::default())).await?,
                _ => return Ok(()),
            }
        }
    }

    /// One moment: everything due at `tx.now`, in one transaction.
    async fn fall_due(&self, mut tx: Tx<'_>) -> Result<()> {
        let now = tx.now;
        do_due(&mut tx).await.map_err(|f| Error::internal(format!("what was due at {now} could not be done: {}", f.message)))?;
        tx.commit().await
    }

    /// From one due moment to the next, each in one commit. The webhooks of moments that are close together are sent together.
    pub(super) async fn advance(&self, seconds: i64) -> Result<(i64, i64)> {
        let _advancing = self.advancing.lock().await;
        self.catch_up().await?;
        let target = self.state.lock().await.offset + seconds;
        loop {
            let (due, delivery) = self.next_due_and_delivery().await?;
            let mut state = self.state.lock().await;
            let (real, now) = (self.real_now(), self.virtual_now(&mut state));
            let first = match (due, delivery) {
                (Some(due), Some(delivery)) if due <= (real + target).min(delivery + TOGETHER_S) => Some(due),
                (due, delivery) => [due, delivery].into_iter().flatten().min(),
            };
            let at = first.filter(|at| *at <= real + target);
            let offset = at.map_or(target, |at| (at - real).min(target)).max(state.offset);
            let mut tx = Tx::new(self, state, at.unwrap_or(now), Origin::default());
            tx.set_offset(offset);
            if at.is_some() && at == due {
                self.fall_due(tx).await?;
                continue;
            }
            tx.commit().await?;
            self.deliver_due().await?;
            if at.is_none() {
                self.catch_up().await?;
                let mut state = self.state.lock().await;
                return Ok((self.virtual_now(&mut state), state.offset));
            }
        }
    }

    /// The loop of a serving sandbox: wakes for new events and for the next thing due.
    pub(super) async fn keep_time(&self) {
        loop {
            if let Err(error) = self.work().await {
                tracing::error!(target: "sandbox", error = %error, "the sandbox's clock could not do what is due");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn work(&self) -> Result<()> {
        let next = {
            // Whoever moves the clock does what is due, too.
            let _advancing = self.advancing.lock().await;
            self.catch_up().await?;
            self.deliver_due().await?;
            let (due, delivery) = self.next_due_and_delivery().await?;
            [due, delivery].into_iter().flatten().min()
        };
        let now = {
            let mut state = self.state.lock().await;
            self.virtual_now(&mut state)
        };
        let sleep = next.map_or(LONGEST_SLEEP_S, |at| (at - now).clamp(0, LONGEST_SLEEP_S)).unsigned_abs();
        // Whole seconds are compared, so a deadline can be up to a second away when its number is reached.
        let sleep = Duration::from_secs(sleep).max(Duration::from_millis(50));
        let _ = tokio::time::timeout(sleep, self.wake.notified()).await;
        Ok(())
    }
}

/// Everything due at `tx.now`.
async fn do_due(tx: &mut Tx<'_>) -> Api<()> {
    let rows = tx.read("SELECT body FROM object WHERE due <= ?1 ORDER BY due, seq", vec![tx.now.into()]).await?;
    let (mut settled, mut pays_out) = (Vec::new(), false);
    for row in rows {
        // What fell due before it in the same moment may have changed it.
        let Some(body) = tx.latest(row.json(0)?).filter(|body| body["_due"].as_i64().is_some_and(|due| due <= tx.now)) else {
            continue;
        };
        match Kind::of_id(super::documents::id_of(&body)) {
            Some(Kind::Payout) => payouts::proceed(tx, body),
            Some(Kind::BalanceTransaction) => {
                payouts::settle(tx, body.clone());
                pays_out = true;
                if body["status"] == "pending" {
                    settled.push(body);
                }
            }
            Some(Kind::Refund) => refunds::proceed(tx, body).await?,
            Some(Kind::Invoice) => collection::proceed(tx, body).await?,
            Some(Kind::Subscription) => renewals::proceed(tx, body).await?,
            _ => {}
        }
    }
    if pays_out {
        refunds::retry(tx).await?;
        payouts::pay_out(tx, &settled).await?;
        // The provider keeps events for 30 days; so do we, or the file would grow without end.
        tx.also("DELETE FROM object WHERE kind = 'event' AND created < ?1", vec![(tx.now - 31 * DAY).into()]);
        tx.also("DELETE FROM attempt WHERE at < ?1", vec![(tx.now - 31 * DAY).into()]);
        tx.also("DELETE FROM idempotency WHERE created < ?1", vec![(tx.now - DAY).into()]);
    }
    Ok(())
}

/// What `/_control/clock` answers.
pub(super) async fn answer(inner: &Inner) -> serde_json::Value {
    let mut state = inner.state.lock().await;
    json!({ "now": inner.virtual_now(&mut state), "offset_seconds": state.offset })
}
