//! Slo owns the minutes of the service level: it writes down what the meter counted and judges it. When it dies, the meter goes
//! on counting and the replacement reads the minutes back from the store, so neither a count nor a verdict is lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};

use crate::{
    actor::{self, Probe, Probed, Reply},
    config,
    domain::slo::{Minute, Objective, Report, Verdict, burn, details, judge},
    env::{Env, rfc3339},
    error::Result,
};

pub const NOUN: &str = "slo";
/// The service whose requests the gateway counts.
pub const API: &str = "api";
const FLUSH: Duration = Duration::from_secs(5);
/// Minutes kept in the store and in memory.
const KEEP_DAYS: i64 = 35;
/// A verdict is computed at most this often; in between the last one is answered.
const FRESH: Duration = Duration::from_millis(250);

pub enum Message {
    Flush,
    Judge { evaluator: &'static str, reply: Reply<Arc<Judged>> },
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
    /// `None` until the store has been read.
    minutes: Option<BTreeMap<i64, Minute>>,
    last: Option<(tokio::time::Instant, &'static str, Arc<Judged>)>,
    complained: bool,
}

impl Actor for Slo {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Flush)?;
        let objective = objective(&env.config().slo);
        Ok(State { env, objective, minutes: None, last: None, complained: false })
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

    async fn load(&mut self) -> Result<&mut BTreeMap<i64, Minute>> {
        if self.minutes.is_none() {
            let from = Minute::of(self.env.now()) - KEEP_DAYS * 1440;
            let stored = self.env.store().minutes(API, from).await?;
            self.minutes = Some(stored.into_iter().map(|m| (m.minute, m)).collect());
        }
        Ok(self.minutes.get_or_insert_default())
    }

    /// Writes what was counted since the last time; what cannot be written goes back to the meter.
    async fn flush(&mut self) -> Result<()> {
        let env = self.env.clone();
        let minutes = self.load().await?;
        let taken = env.meter().take();
        if taken.is_empty() {
            return Ok(());
        }
        let merged: Vec<Minute> = taken
            .iter()
            .map(|((_, minute), counted)| {
                let mut sum = minutes.get(minute).cloned().unwrap_or_else(|| Minute::new(*minute));
                sum.merge(counted);
                sum
            })
            .collect();
        if let Err(error) = env.store().put_minutes(API, &merged).await {
            env.meter().put_back(taken);
            return Err(error);
        }
        let new_hour = merged.iter().any(|m| m.minute % 60 == 0 && !minutes.contains_key(&m.minute));
        minutes.extend(merged.into_iter().map(|m| (m.minute, m)));
        if new_hour {
            let oldest = Minute::of(env.now()) - KEEP_DAYS * 1440;
            *minutes = minutes.split_off(&oldest);
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
        let pending = env.meter().peek(API);
        let minutes = self.load().await?;
        let now = env.now();
        let minute = Minute::of(now);
        let all = || minutes.values().chain(&pending);
        let verdict = judge(&objective, all(), minute);
        let report = burn(&objective, all(), minute);
        let at = rfc3339(now);
        let status = json!({
            "ok": true,
            "ts_iso": at,
            "status": verdict.status.as_str(),
            "breach": verdict.breach,
            "p95_ms": verdict.p95_ms,
            "success_rate": verdict.success_rate,
            "details": details(&objective, &verdict, &report, &at, evaluator),
        });
        let text = status.to_string().into();
        let judged = Arc::new(Judged { at: now, verdict, report, status, text });
        self.last = Some((tokio::time::Instant::now(), evaluator, judged.clone()));
        Ok(judged)
    }
}
