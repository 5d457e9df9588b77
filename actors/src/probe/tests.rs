//! Probes against listeners on loopback: what is counted, kept and alerted, and that nobody is blamed while we are offline.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    actor,
    supervisor::Supervisor,
    testing::{self, until},
};

/// Answers every request with this status and body while `up`, else hangs up.
async fn server(status: &'static str, body: &'static str, up: Arc<AtomicBool>) -> (String, tokio::task::AbortHandle) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if !up.load(Ordering::SeqCst) {
                continue;
            }
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, task.abort_handle())
}

async fn supervised(change: impl FnOnce(&mut crate::config::Config)) -> (testing::Fixture, Supervisor) {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T00:00:00Z", change);
    let supervisor = Supervisor::start(fixture.env.clone(), vec![actor::spec(alert::NOUN, false, || alert::Alerts)]).await.unwrap();
    (fixture, supervisor)
}

fn settings(kind: &str, target: String) -> ProbeSettings {
    ProbeSettings { kind: kind.into(), target, every_s: 1, timeout_s: 2, ..ProbeSettings::default() }
}

fn probe(env: &Env, name: &str) -> Probe {
    let settings = env.config().probes[name].clone();
    let expectation = settings.expectation().unwrap();
    Probe { env: env.clone(), name: name.into(), settings, expectation, connectivity: Arc::new(Connectivity::new(env)) }
}

#[tokio::test]
async fn each_result_is_counted_kept_and_alerted() {
    let up = Arc::new(AtomicBool::new(true));
    let (address, server) = server("200 OK", "{\"state\":\"fine\"}", up.clone()).await;
    let (fixture, supervisor) = supervised(|config| {
        let http = ProbeSettings { json: "/state".into(), equals: "fine".into(), ..settings("http", format!("http://{address}/health")) };
        config.probes.insert("shop".into(), http.clone());
        config.probes.insert("strict".into(), ProbeSettings { equals: "better".into(), ..http });
        config.probes.insert("port".into(), settings("tcp", address.clone()));
        config.probes.insert("store".into(), settings("database", String::new()));
        config.probes.insert("tls".into(), settings("tls", address.clone()));
    })
    .await;
    let env = &fixture.env;
    for name in ["shop", "strict", "port", "store"] {
        probe(env, name).once().await.unwrap();
    }
    let rows = env.store().probes().await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.state.as_str())).collect();
    assert_eq!(states, [("port", "up"), ("shop", "up"), ("store", "up"), ("strict", "down")]);
    assert!(rows[3].body["reason"].as_str().unwrap().contains("/state is \"fine\", not \"better\""), "{}", rows[3].body);
    assert_eq!((env.meter().peek("probe:shop")[0].bad, env.meter().peek("probe:strict")[0].bad), (0, 1));
    // A plain server speaks no TLS.
    probe(env, "tls").once().await.unwrap();
    assert_eq!(env.meter().peek("probe:tls")[0].bad, 1);
    // Two of three bad: it fires, as one alert with the probe's name.
    up.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        probe(env, "shop").once().await.unwrap();
    }
    let firing: Vec<_> =
        alert::list(env).await.unwrap().into_iter().filter(|a| a.state == crate::domain::alert_rule::State::Firing).collect();
    assert_eq!(firing.len(), 1);
    assert_eq!((firing[0].name.as_str(), firing[0].labels["probe"].as_str()), ("probe", "shop"));
    server.abort();
    supervisor.stop().await;
}

#[tokio::test]
async fn our_own_connection_is_watched_also_without_a_probe() {
    let (fixture, supervisor) = supervised(|config| config.connectivity.check = vec!["127.0.0.1:9".into()]).await;
    let mut tasks = JoinSet::new();
    start(&fixture.env, &mut tasks);
    let firing = |list: Vec<crate::domain::alert_rule::Alert>| list.iter().any(|alert| alert.name == "connectivity");
    until("it is told", || async { alert::list(&fixture.env).await.is_ok_and(firing) }).await;
    tasks.shutdown().await;
    supervisor.stop().await;
}

#[tokio::test]
async fn while_we_are_offline_nobody_is_blamed_and_nothing_is_counted() {
    // Nobody listens at either: neither the target nor what is always there.
    let (fixture, supervisor) = supervised(|config| {
        config.probes.insert("shop".into(), settings("http", "http://127.0.0.1:9/".into()));
        config.connectivity.check = vec!["127.0.0.1:9".into(), "127.0.0.1:9".into()];
    })
    .await;
    let env = &fixture.env;
    for _ in 0..3 {
        probe(env, "shop").once().await.unwrap();
    }
    let row = env.store().probes().await.unwrap().remove(0);
    assert_eq!(row.state, "unknown");
    assert!(row.body["reason"].as_str().unwrap().contains("this machine is offline"), "{}", row.body);
    assert!(env.meter().peek("probe:shop").is_empty());
    let watch = tokio::spawn(Arc::new(Connectivity::new(env)).watch());
    until("the one alert", || async { alert::list(env).await.is_ok_and(|list| list.len() == 1 && list[0].name == "connectivity") }).await;
    watch.abort();
    supervisor.stop().await;
}

#[tokio::test]
async fn a_hard_down_is_told_within_three_ticks_and_a_slow_probe_delays_no_other() {
    // Three ticks of the default are a minute.
    assert!(ProbeSettings::default().every_s * 3 <= 60);
    // One target takes connections and never answers; the other is not there.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    let (fixture, supervisor) = supervised(|config| {
        let down = settings("http", "http://127.0.0.1:9/".into());
        let slow = ProbeSettings { target: format!("http://{silent_address}/"), timeout_s: 300, ..down.clone() };
        config.probes.extend([("slow".to_owned(), slow), ("down".to_owned(), down)]);
    })
    .await;
    let env = &fixture.env;
    let began = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    start(env, &mut tasks);
    let is_firing = |a: &crate::domain::alert_rule::Alert| {
        a.labels.get("probe").is_some_and(|p| p == "down") && a.state == crate::domain::alert_rule::State::Firing
    };
    until("it fires", || async { alert::list(env).await.is_ok_and(|list| list.iter().any(is_firing)) }).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    tasks.shutdown().await;
    supervisor.stop().await;
}
