//! Slo owns the minutes of the service level: it writes down what the meter counted and judges it. When it dies, the meter goes
//! on counting and the replacement reads the minutes back from the store, so neither a count nor a verdict is lost. It also has trial
//! payments made, one at a time in a task of their own: their outcomes stand in for customers while there are few.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use crate::{
    actor::{self, Probe, Probed, Reply},
    config,
    domain::slo::{Minute, Objective, Report, Verdict, burn, details, judge},
    env::{Env, rfc3339},
    error::{Error, Result},
    operations::canary,
    store::Store,
};

pub const NOUN: &str = "slo";
/// The service whose requests the gateway counts.
pub const API: &str = "api";
/// Whose minutes are kept.
const SERVICES: [&str; 2] = [API, canary::SERVICE];
/// The first trial payment after a start comes no later than this.
const FIRST_TRIAL: Duration = Duration::from_mins(1);
const FLUSH: Duration = Duration::from_secs(5);
/// Minutes kept in the store and in memory.
const KEEP_DAYS: i64 = 35;
/// A verdict is computed at most this often; in between the last one is answered.
const FRESH: Duration = Duration::from_millis(250);

pub enum Message {
    Flush,
    /// A trial payment is due.
    TrialDue,
    Trial {
        reply: Reply<Json>,
    },
    Judge {
        evaluator: &'static str,
        reply: Reply<Arc<Judged>>,
    },
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// The verdict on the evaluation window and the error budget, as of `at`.
#[derive(Clone, Debug)]
pub struct Judged {
    pub at: chrono::DateTime<chrono::Utc>,
    pub verdict: Verdict,
    pub report: Report,
    /// The body of `GET /api/slo/status`, seed phase 68.
    pub status: Json,
    /// The same as text: many may ask for one verdict.
    pub text: Bytes,
}

/// Judges the recorded requests. `evaluator` is named in the details: `api`, `guard`, `monitor`.
pub async fn judged(env: &Env, evaluator: &'static str) -> Result<Arc<Judged>> {
    actor::call(env, NOUN, Duration::from_millis(env.config().server.actor_timeout_ms), |reply| Message::Judge { evaluator, reply }).await
}

/// Makes a trial payment now; its record. Errors: `forbidden` `canary_off`, `conflict` `canary_running`.
pub async fn trial(env: &Env) -> Result<Json> {
    let limit = Duration::from_secs(3 * env.config().canary.timeout_s);
    actor::call(env, NOUN, limit, |reply| Message::Trial { reply }).await
}

/// The objective that the configuration describes.
pub fn objective(settings: &config::Slo) -> Objective {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=1_000_000 by validation")]
    let success_ppm = (settings.success_rate * 1e6).round() as u64;
    Objective {
        p95_ms: settings.p95_ms,
        success_ppm,
        latency_share_ppm: 950_000,
        window_minutes: settings.window_minutes,
        min_events: settings.min_events,
        period_days: settings.period_days,
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Slo;

pub struct State {
    env: Env,
    objective: Objective,
    /// Of each service; `None` until the store has been read.
    minutes: Option<BTreeMap<&'static str, BTreeMap<i64, Minute>>>,
    trial: JoinSet<()>,
    last: Option<(tokio::time::Instant, &'static str, Arc<Judged>)>,
    complained: bool,
}

impl Actor for Slo {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Flush)?;
        if env.config().timer.enabled {
            let every = Duration::from_secs(env.config().canary.every_s);
            myself.send_after(every.min(FIRST_TRIAL), || Message::TrialDue);
        }
        let objective = objective(&env.config().slo);
        Ok(State { env, objective, minutes: None, trial: JoinSet::new(), last: None, complained: false })
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        Ok(state.flush().await?)
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Flush => {
                state.flush_or_complain().await;
                myself.send_after(FLUSH, || Message::Flush);
            }
            Message::TrialDue => {
                state.trial(None);
                myself.send_after(Duration::from_secs(state.env.config().canary.every_s), || Message::TrialDue);
            }
            Message::Trial { reply } => state.trial(Some(reply)),
            Message::Judge { evaluator, reply } => actor::respond(reply, state.judge(evaluator).await),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

impl State {
    async fn flush_or_complain(&mut self) {
        match self.flush().await {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::error!(actor = NOUN, %error, "minutes cannot be written; they are kept in memory");
            }
            Err(_) => {}
        }
    }

    async fn load(&mut self) -> Result<&mut BTreeMap<&'static str, BTreeMap<i64, Minute>>> {
        if self.minutes.is_none() {
            let from = Minute::of(self.env.now()) - KEEP_DAYS * 1440;
            let mut all = BTreeMap::new();
            for service in SERVICES {
                let stored = self.env.store().minutes(service, from).await?;
                all.insert(service, stored.into_iter().map(|m| (m.minute, m)).collect());
            }
            self.minutes = Some(all);
        }
        Ok(self.minutes.get_or_insert_default())
    }

    /// Has a trial payment made, unless one is under way.
    fn trial(&mut self, reply: Option<Reply<Json>>) {
        while self.trial.try_join_next().is_some() {}
        if !self.trial.is_empty() {
            if let Some(reply) = reply {
                actor::respond(reply, Err(Error::conflict("canary_running", "a trial payment is being made")));
            }
            return;
        }
        let env = self.env.clone();
        self.trial.spawn(async move {
            let result = if reply.is_some() || canary::is_on(&env) {
                canary::run(&env).await
            } else {
                canary::take_back_all(&env).await.map(|()| Json::Null) // of the time when it was on
            };
            if let Err(error) = &result {
                tracing::warn!(actor = NOUN, %error, "a trial payment could not be made");
            }
            if let Some(reply) = reply {
                actor::respond(reply, result);
            }
        });
    }

    /// Writes what was counted since the last time; what cannot be written goes back to the meter.
    async fn flush(&mut self) -> Result<()> {
        let env = self.env.clone();
        let minutes = self.load().await?;
        let taken = env.meter().take();
        if taken.is_empty() {
            return Ok(());
        }
        let merged: Vec<(&'static str, Minute)> = taken
            .iter()
            .map(|((service, minute), counted)| {
                let known = minutes.get(service).and_then(|of| of.get(minute));
                let mut sum = known.cloned().unwrap_or_else(|| Minute::new(*minute));
                sum.merge(counted);
                (*service, sum)
            })
            .collect();
        if let Err(error) = env.store().put_minutes(&merged).await {
            env.meter().put_back(taken);
            return Err(error);
        }
        let mut new_hour = false;
        for (service, minute) in merged {
            let full_hour = minute.minute % 60 == 0;
            let is_new = minutes.entry(service).or_default().insert(minute.minute, minute).is_none();
            new_hour |= full_hour && is_new;
        }
        if new_hour {
            let oldest = Minute::of(env.now()) - KEEP_DAYS * 1440;
            for of in minutes.values_mut() {
                *of = of.split_off(&oldest);
            }
            env.store().prune_minutes(oldest).await?;
        }
        Ok(())
    }

    async fn judge(&mut self, evaluator: &'static str) -> Result<Arc<Judged>> {
        if let Some((at, who, judged)) = &self.last
            && *who == evaluator
            && at.elapsed() < FRESH
        {
            return Ok(judged.clone());
        }
        let (objective, env) = (self.objective, self.env.clone());
        let (pending, pending_trials) = (env.meter().peek(API), env.meter().peek(canary::SERVICE));
        let minutes = self.load().await?;
        let now = env.now();
        let of = |service| minutes.get(service).into_iter().flat_map(BTreeMap::values);
        let requests: Vec<&Minute> = of(API).chain(&pending).collect();
        let trials: Vec<&Minute> = of(canary::SERVICE).chain(&pending_trials).collect();
        let (verdict, report, status) = judge_all(&objective, &requests, &trials, now, evaluator);
        let text = status.to_string().into();
        let judged = Arc::new(Judged { at: now, verdict, report, status, text });
        self.last = Some((tokio::time::Instant::now(), evaluator, judged.clone()));
        Ok(judged)
    }
}

/// Judges requests, and trials where there are few requests; the last is the body of `GET /api/slo/status`.
fn judge_all(
    objective: &Objective,
    requests: &[&Minute],
    trials: &[&Minute],
    now: chrono::DateTime<chrono::Utc>,
    evaluator: &str,
) -> (Verdict, Report, Json) {
    let minute = Minute::of(now);
    let tried = judge(objective, trials.iter().copied(), minute);
    let few = judge(objective, requests.iter().copied(), minute).n < objective.min_events;
    // Their latency is that of another thing, so only whether they failed counts with the requests'.
    let stand_ins: Vec<Minute> = if few { trials.iter().map(|m| outcomes(m)).collect() } else { Vec::new() };
    let all = || requests.iter().copied().chain(&stand_ins);
    let verdict = judge(objective, all(), minute);
    let report = burn(objective, all(), minute);
    let at = rfc3339(now);
    let mut explained = details(objective, &verdict, &report, &at, evaluator);
    explained["canary"] = json!({
        "n": tried.n, "bad": tried.bad, "slow": tried.slow, "p50_ms": tried.p50_ms, "p95_ms": tried.p95_ms,
        "counted": !stand_ins.is_empty(),
    });
    let status = json!({
        "ok": true,
        "ts_iso": at,
        "status": verdict.status.as_str(),
        "breach": verdict.breach,
        "p95_ms": verdict.p95_ms,
        "success_rate": verdict.success_rate,
        "details": explained,
    });
    (verdict, report, status)
}

/// The body of `GET /api/slo/status` as of `at`, from what a store has written down: the proof of restore asks two of them.
pub async fn judged_from(store: &Store, config: &config::Config, at: chrono::DateTime<chrono::Utc>) -> Result<Json> {
    let objective = objective(&config.slo);
    let (from, until) = (Minute::of(at) - objective.period_days * 1440, Minute::of(at));
    let mut of = Vec::new();
    for service in SERVICES {
        let minutes = store.minutes(service, from).await?;
        of.push(minutes.into_iter().filter(|m| m.minute < until).collect::<Vec<_>>());
    }
    let [requests, trials] = [&of[0], &of[1]].map(|minutes| minutes.iter().collect::<Vec<_>>());
    Ok(judge_all(&objective, &requests, &trials, at, "proof").2)
}

/// How the trials of a minute ended, without their latencies.
fn outcomes(minute: &Minute) -> Minute {
    Minute { total: minute.total, bad: minute.bad, ..Minute::new(minute.minute) }
}
