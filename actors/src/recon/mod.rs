//! Recon owns the reconciliation runs and the open exceptions. A run works in a task of its own, so questions are answered
//! meanwhile; it is the actor's, so a crash ends it and the timer records the failure. The decisions are pure (`domain/reconcile`,
//! `domain/finance`, `domain/payout_watch`); what is here fetches both sides, keeps them, and writes the result down.

pub mod archive;
mod finance;
mod payouts;
mod prompt;
mod watch;

pub use payouts::{latest_rows, recompute};
pub use watch::watched;

use std::{collections::HashSet, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::alert_rule::{Check, Severity},
    env::Env,
    error::{Error, Result},
    operations::demo,
    providers::stripe::Client,
    store::{Finding, NewRecon},
    task::{OneRun, Record, Run},
};

pub const NOUN: &str = "recon";
/// A run ends within this, or it is given up.
pub const LIMIT: Duration = Duration::from_mins(10);

/// How soon after the start the payouts are looked at.
const FIRST_LOOK: Duration = Duration::from_secs(3);

pub enum Message {
    Payouts {
        run: Run,
        reply: Reply<Record>,
    },
    Finance {
        run: Run,
        reply: Reply<Record>,
    },
    /// Look at the coming payouts, at what is new to reconcile, and at archives whose day is final.
    Look,
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// Reconciles the payouts of the window; the record is that of `logs/payout_recon.json`. Errors: `conflict` if one is running,
/// `unavailable` if the provider does not answer.
pub async fn payouts(run: &Run) -> Result<Record> {
    actor::call(&run.env, NOUN, LIMIT, |reply| Message::Payouts { run: run.clone(), reply }).await
}

/// Reconciles invoices, payments and the balance; the record is that of `logs/finance_reconcile.json`. Errors: `conflict` if one is
/// running, `unavailable` if the provider does not answer.
pub async fn finance(run: &Run) -> Result<Record> {
    actor::call(&run.env, NOUN, LIMIT, |reply| Message::Finance { run: run.clone(), reply }).await
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Recon;

/// One of each may go on at a time.
#[derive(Debug)]
pub struct State {
    env: Env,
    payouts: OneRun,
    finance: OneRun,
    look: JoinSet<()>,
}

impl Actor for Recon {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        // A command that works without a running daemon does nothing of its own accord.
        if env.config().timer.enabled {
            myself.send_after(FIRST_LOOK.min(watch::every(&env)), || Message::Look);
        }
        Ok(State { env, payouts: OneRun::default(), finance: OneRun::default(), look: JoinSet::new() })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        let busy = || Error::conflict("recon_running", "a reconciliation is running");
        match message {
            Message::Payouts { run, reply } => {
                state.payouts.start(&run.clone(), reply, busy(), async move { payouts::run(&run).await });
            }
            Message::Finance { run, reply } => {
                state.finance.start(&run.clone(), reply, busy(), async move { finance::run(&run).await });
            }
            Message::Look => {
                // The demo is made in the past: what is to come there is nobody's future.
                let later = demo::is_being_made(&state.env).await.unwrap_or_default();
                myself.send_after(if later { FIRST_LOOK } else { watch::every(&state.env) }, || Message::Look);
                while state.look.try_join_next().is_some() {}
                if state.look.is_empty() && !later {
                    let env = state.env.clone();
                    state.look.spawn(async move {
                        watch::look(&env).await;
                        prompt::look(&env).await;
                        archive::finish_due(&env).await;
                    });
                }
            }
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

/// The provider at our own pace: a run has time, a person who waits has not.
fn provider(env: &Env) -> Client {
    env.provider().background()
}

/// What a reconciliation came to, to be kept.
struct Outcome<'a> {
    /// `payouts` or `finance`.
    scope: &'static str,
    recon_id: &'a str,
    input_digest: &'a str,
    complete: bool,
    ok: bool,
    /// Both sides, compressed.
    inputs: Vec<u8>,
    report: &'a Json,
    findings: Vec<Finding>,
}

/// Keeps a run: its inputs, its report, its exceptions. One that is not found again is resolved by itself if `looked_at` says that this run
/// would have found it, and never by an incomplete run. Answers the ids of those about which nobody has decided anything.
async fn keep(run: &Run, outcome: Outcome<'_>, looked_at: impl Fn(&Json) -> bool) -> Result<HashSet<String>> {
    let (store, scope, count) = (run.env.store(), outcome.scope, outcome.findings.len());
    let mut gone = Vec::new();
    if outcome.complete {
        let open = store.open_exceptions(outcome.scope).await?;
        let found = |id: &str| outcome.findings.iter().any(|f| f.id == id);
        gone.extend(open.into_iter().filter(|e| !found(&e.id) && looked_at(&e.body)).map(|e| e.id));
    }
    let data =
        json!({"recon_id": outcome.recon_id, "input_digest": outcome.input_digest, "ok": outcome.ok, "summary": outcome.report["summary"]});
    let recon = NewRecon {
        scope: outcome.scope,
        run_id: &run.run_id,
        recon_id: outcome.recon_id,
        at: run.env.now(),
        complete: outcome.complete,
        ok: outcome.ok,
        inputs: outcome.inputs,
        report: outcome.report,
        findings: outcome.findings,
        gone,
    };
    let (new, resolved) = store.record_recon(recon, run.env.fact("recon.done", &run.run_id, data)).await?;
    tracing::info!(actor = NOUN, scope, run_id = run.run_id, ok = outcome.ok, exceptions = count, new, resolved, "reconciled");
    let open = store.open_exceptions(scope).await?;
    Ok(open.into_iter().filter(|e| e.status == "open").map(|e| e.id).collect())
}

/// The check of a run: `serious` are the explanations of what it found above low and nobody has decided about. What a run that did not see
/// everything found is there all the same; only that nothing is wrong is not for it to say.
fn exceptions_check(name: &str, serious: &[&str], complete: bool, severity: Severity, fine: &str) -> Check {
    Check {
        name: name.into(),
        system: "recon",
        ok: if serious.is_empty() { complete.then_some(true) } else { Some(false) },
        severity,
        value: Some(format!("{} exception{}", serious.len(), if serious.len() == 1 { "" } else { "s" })),
        threshold: "0 exceptions".into(),
        reason: (*serious.first().unwrap_or(&fine)).to_owned(),
        ..Check::default()
    }
}

#[cfg(test)]
mod tests;
