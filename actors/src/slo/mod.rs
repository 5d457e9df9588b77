//! Slo owns the minutes of the service levels: it writes down what the meter counted and judges it. When it dies, the meter goes
//! on counting and the replacement reads the minutes back from the store, so neither a count nor a verdict is lost. It also has trial
//! payments and probes made, in tasks of their own: their outcomes are service levels too.

mod money;
mod seed;
mod stand;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::Value as Json;
use tokio::task::JoinSet;

pub use self::{
    money::at_risk,
    seed::judged_from,
    stand::{Sample, detail, fired, push, report, report_of, standings},
};
use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::slo::{Minute, Report, Track, Verdict},
    env::Env,
    error::{Error, Result},
    operations::canary,
    probe,
};

pub const NOUN: &str = "slo";
/// The service whose requests the gateway counts.
pub const API: &str = "api";
/// The first trial payment after a start comes no later than this.
const FIRST_TRIAL: Duration = Duration::from_mins(1);
const FLUSH: Duration = Duration::from_secs(5);
/// Minutes keep latencies of their own for so long; then they are folded into hours.
const FOLD_AFTER: i64 = 72 * 60;
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
    Tracks(Reply<Tracks>),
    Probe(Probe, Reply<()>),
}

/// The minutes of every service, as they are at this instant.
pub type Tracks = BTreeMap<Arc<str>, Arc<Track>>;

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
    actor::call(env, NOUN, timeout(env), |reply| Message::Judge { evaluator, reply }).await
}

/// Makes a trial payment now; its record. Errors: `forbidden` `canary_off`, `conflict` `canary_running`.
pub async fn trial(env: &Env) -> Result<Json> {
    let limit = Duration::from_secs(3 * env.config().canary.timeout_s);
    actor::call(env, NOUN, limit, |reply| Message::Trial { reply }).await
}

/// The minutes of every service, those counted a moment ago included.
async fn tracks(env: &Env) -> Result<Tracks> {
    actor::call(env, NOUN, timeout(env), Message::Tracks).await
}

fn timeout(env: &Env) -> Duration {
    Duration::from_millis(env.config().server.actor_timeout_ms)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Slo;

pub struct State {
    env: Env,
    /// Of each service; `None` until the store has been read.
    tracks: Option<Tracks>,
    trial: JoinSet<()>,
    /// End with the state.
    _probes: JoinSet<()>,
    last: Option<(tokio::time::Instant, &'static str, Arc<Judged>)>,
    complained: bool,
}

impl Actor for Slo {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Flush)?;
        let mut probes = JoinSet::new();
        if env.config().timer.enabled {
            let every = Duration::from_secs(env.config().canary.every_s);
            myself.send_after(every.min(FIRST_TRIAL), || Message::TrialDue);
            probe::start(&env, &mut probes);
        }
        Ok(State { env, tracks: None, trial: JoinSet::new(), _probes: probes, last: None, complained: false })
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
            Message::Tracks(reply) => actor::respond(reply, state.present().await),
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

    /// Since when latencies are in memory: the verdict's window, and the minute that is just being written.
    fn latency_from(&self) -> i64 {
        Minute::of(self.env.now()) - self.env.config().slo.window_minutes - 5
    }

    async fn load(&mut self) -> Result<&mut Tracks> {
        if self.tracks.is_none() {
            let from = Minute::of(self.env.now()) - self.env.config().keep_days() * 1440;
            let latency_from = self.latency_from();
            let mut all = Tracks::new();
            for service in self.env.store().services().await? {
                let track = self.env.store().track(&service, from, latency_from).await?;
                all.insert(service.into(), Arc::new(track));
            }
            self.tracks = Some(all);
        }
        Ok(self.tracks.get_or_insert_default())
    }

    /// What is known, with what is counted but not yet written.
    async fn present(&mut self) -> Result<Tracks> {
        let env = self.env.clone();
        let mut tracks = self.load().await?.clone();
        for (service, minutes) in &env.meter().snapshot() {
            let track = Arc::make_mut(tracks.entry(service.clone()).or_default());
            for minute in minutes.values() {
                track.add(minute);
            }
        }
        Ok(tracks)
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
        let latency_from = self.latency_from();
        let tracks = self.load().await?;
        let taken = env.meter().take();
        if taken.is_empty() {
            return Ok(());
        }
        let sums = match sums(&env, tracks, &taken, latency_from).await {
            Ok(sums) => env.store().put_minutes(&sums).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sums {
            env.meter().put_back(taken);
            return Err(error);
        }
        let mut new_hour = false;
        for (service, minutes) in taken {
            let track = Arc::make_mut(tracks.entry(service).or_default());
            for minute in minutes.values() {
                new_hour |= minute.minute % 60 == 0 && track.minute(minute.minute).is_none();
                track.add(minute);
            }
        }
        if new_hour {
            let now = Minute::of(env.now());
            let oldest = now - env.config().keep_days() * 1440;
            for track in tracks.values_mut() {
                Arc::make_mut(track).forget(oldest, latency_from);
            }
            env.store().prune_minutes(oldest).await?;
            env.store().fold_minutes(now - FOLD_AFTER).await?;
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
        let env = self.env.clone();
        let tracks = self.present().await?;
        let now = env.now();
        let excluded = stand::excluded(env.store(), env.config(), now).await?;
        let (verdict, report, status) = seed::judge_all(env.config(), &tracks, &excluded, now, evaluator);
        let text = status.to_string().into();
        let judged = Arc::new(Judged { at: now, verdict, report, status, text });
        self.last = Some((tokio::time::Instant::now(), evaluator, judged.clone()));
        Ok(judged)
    }
}

/// The rows as they will be: what the store has of each minute, and what was counted. Of an old minute that is not in memory with its
/// latencies, only the store knows what its row has.
async fn sums(env: &Env, tracks: &Tracks, taken: &crate::meter::Counted, latency_from: i64) -> Result<Vec<(Arc<str>, Minute)>> {
    let mut sums = Vec::new();
    for (service, minutes) in taken {
        for (at, counted) in minutes {
            let known = if *at >= latency_from {
                tracks.get(service).and_then(|track| track.minute(*at))
            } else {
                env.store().minute(service, *at).await?
            };
            let mut sum = known.unwrap_or_else(|| Minute::new(*at));
            sum.merge(counted);
            sums.push((service.clone(), sum));
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests;
