//! Pings to a dead man's switch outside, after the ping API of healthchecks.io: start, success, fail. Called by the daemon at its start,
//! by the heartbeat and by `execution.rs` for tasks that have an address. A ping never holds up and never fails what it tells of.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::Url;
use tokio::{sync::oneshot, time::Instant};

use crate::{domain::backoff::Backoff, env::Env, files};

/// Of one try.
const LIMIT: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;
/// The other side takes so many in a minute.
const PER_MINUTE: usize = 5;
const MINUTE: Duration = Duration::from_mins(1);
const WAIT: Backoff = Backoff::new(1000, 2, 10_000);
/// Of a body this much is sent.
const BODY: usize = 10_000;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Start,
    Success,
    Fail,
}

/// Tells it in the background. `run` is a run's id, by which start and end are paired. What is answered is the outcome, for whoever wants
/// to wait for it: an error's text holds no address, which is a secret of sorts (it silences the switch).
pub fn tell(env: &Env, url: &str, signal: Signal, run: Option<&str>, body: String) -> oneshot::Receiver<Result<(), String>> {
    let (answer, outcome) = oneshot::channel();
    let (env, url, run) = (env.clone(), url.to_owned(), run.map(str::to_owned));
    tokio::spawn(async move {
        let told = match address(&url, signal, run.as_deref()) {
            Some(address) => ping(&env, &url, address, body).await,
            None => Err("the address is none".to_owned()),
        };
        if let Err(error) = &told {
            tracing::warn!(target: "ping", error, ?signal, "the dead man's switch did not take the ping");
        }
        let _ = answer.send(told); // nobody need wait for it
    });
    outcome
}

async fn ping(env: &Env, url: &str, address: Url, body: String) -> Result<(), String> {
    let body: String = body.chars().take(BODY).collect();
    let mut error = String::new();
    for attempt in 1..=TRIES {
        turn(url).await;
        let sent = env.http().post(address.clone()).timeout(LIMIT).body(body.clone()).send().await;
        error = match sent.map_err(reqwest::Error::without_url) {
            Ok(response) if response.status().is_success() => return Ok(()),
            // What is wrong with the address stays wrong.
            Ok(response) if response.status().is_client_error() && response.status() != 408 && response.status() != 429 => {
                return Err(response.status().to_string());
            }
            Ok(response) => response.status().to_string(),
            Err(error) => error.to_string(),
        };
        if attempt < TRIES {
            tokio::time::sleep(Duration::from_millis(WAIT.delay_ms(attempt, files::random_unit()))).await;
        }
    }
    Err(format!("{error}, after {TRIES} tries"))
}

/// `URL/start?rid=...`; what the address has as a query stays.
fn address(url: &str, signal: Signal, run: Option<&str>) -> Option<Url> {
    let mut address = Url::parse(url).ok()?;
    let word = match signal {
        Signal::Start => Some("start"),
        Signal::Success => None,
        Signal::Fail => Some("fail"),
    };
    if let Some(word) = word {
        address.path_segments_mut().ok()?.pop_if_empty().push(word);
    }
    // The API wants a UUID. Our runs' ids end in one.
    let uuid = run.and_then(|run| run.rsplit('_').next()).and_then(|text| uuid::Uuid::parse_str(text).ok());
    if let Some(uuid) = uuid {
        address.query_pairs_mut().append_pair("rid", &uuid.hyphenated().to_string());
    }
    Some(address)
}

/// Waits until another ping to this address fits into the minute.
async fn turn(url: &str) {
    static TOLD: Mutex<Option<HashMap<String, VecDeque<Instant>>>> = Mutex::new(None);
    loop {
        let now = Instant::now();
        let free = {
            let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
            let told = told.get_or_insert_default();
            told.retain(|_, times| times.back().is_some_and(|last| now.duration_since(*last) < MINUTE));
            let times = told.entry(url.to_owned()).or_default();
            while times.front().is_some_and(|first| now.duration_since(*first) >= MINUTE) {
                times.pop_front();
            }
            if times.len() < PER_MINUTE {
                times.push_back(now);
                return;
            }
            times.front().map_or(now, |first| *first + MINUTE)
        };
        tokio::time::sleep_until(free).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_ping_api() {
        let run = Some("run_0190b5f0c7d17b0a8f6e0123456789ab");
        for (url, signal, run, expected) in [
            ("https://hc.example/uuid", Signal::Success, None, "https://hc.example/uuid"),
            ("https://hc.example/uuid/", Signal::Start, None, "https://hc.example/uuid/start"),
            ("https://hc.example/key/slug?create=1", Signal::Fail, None, "https://hc.example/key/slug/fail?create=1"),
            ("https://hc.example/u", Signal::Success, run, "https://hc.example/u?rid=0190b5f0-c7d1-7b0a-8f6e-0123456789ab"),
            ("https://hc.example/u", Signal::Success, Some("odd"), "https://hc.example/u"),
        ] {
            assert_eq!(address(url, signal, run).unwrap().as_str(), expected);
        }
        assert!(address("nonsense", Signal::Success, None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn five_pings_a_minute_and_no_more() {
        let start = Instant::now();
        for _ in 0..11 {
            turn("https://hc.example/five").await;
        }
        assert_eq!(start.elapsed().as_secs(), 120);
    }
}
