//! The slo actor and the guard: minutes survive a restart, late events reach folded hours, bursts between two looks are found, and alerts are
//! raised per objective.

use chrono::TimeDelta;

use super::*;
use crate::{
    actor, alert,
    domain::alert_rule::State as AlertState,
    supervisor::Supervisor,
    task::Run,
    testing::{self, until},
};

async fn supervised(fixture: &testing::Fixture) -> Supervisor {
    let specs = vec![actor::spec(NOUN, false, || Slo), actor::spec(alert::NOUN, false, || alert::Alerts)];
    Supervisor::start(fixture.env.clone(), specs).await.unwrap()
}

fn with_shop(config: &mut crate::config::Config) {
    config.timer.enabled = false;
    let shop =
        crate::config::ObjectiveSettings { service: "push:shop".into(), target: 0.999, ..crate::config::ObjectiveSettings::default() };
    config.objectives.insert("shop".into(), shop);
}

async fn guard(env: &Env) -> serde_json::Map<String, Json> {
    let table = crate::tasks::configured(env.config()).unwrap();
    let spec = table.iter().find(|spec| spec.name == "slo_guard").unwrap();
    let run = Run { env: env.clone(), run_id: "run_1".into(), slot: env.now(), cause: "manual", asked_by: None, attempt: 1 };
    (spec.work.unwrap())(run).await.unwrap()
}

async fn firing(env: &Env) -> Vec<(String, String)> {
    let all = alert::list(env).await.unwrap();
    let name = |a: crate::domain::alert_rule::Alert| (a.name.clone(), a.labels.get("objective").cloned().unwrap_or_default());
    let mut firing: Vec<_> = all.into_iter().filter(|a| a.state == AlertState::Firing).map(name).collect();
    firing.sort();
    firing
}

#[tokio::test]
async fn a_burst_between_two_looks_of_the_guard_is_told_and_resolves() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-02T00:00:00Z", with_shop);
    let supervisor = supervised(&fixture).await;
    let env = &fixture.env;
    let start = Minute::of(env.now());
    for minute in start - 2000..start {
        env.meter().record_many("push:shop", minute, 1000, false, 100);
    }
    guard(env).await;
    assert!(firing(env).await.is_empty(), "{:?}", firing(env).await);
    // Six minutes of errors, over by the time of the next look.
    for minute in start..start + 20 {
        env.meter().record_many("push:shop", minute, 1000, (4..10).contains(&(minute - start)), 100);
    }
    fixture.clock.set(env.now() + TimeDelta::minutes(20));
    let record = guard(env).await;
    assert_eq!(record["fired"]["shop"][0]["severity"], "page", "{:?}", record["fired"]);
    assert!(firing(env).await.contains(&("slo_burn".to_owned(), "shop".to_owned())), "{:?}", firing(env).await);
    let budget = record["error_budgets"].as_array().unwrap().iter().find(|b| b["objective"] == "shop").unwrap();
    assert_eq!((&budget["used"], &budget["n"]), (&serde_json::json!(600), &serde_json::json!(202_000)));
    // The budget of a young history is used up: that stays; the burn resolves after good looks.
    for step in 1..=8 {
        for minute in 0..60 {
            env.meter().record_many("push:shop", start + 20 + (step - 1) * 60 + minute, 1000, false, 100);
        }
        fixture.clock.set(env.now() + TimeDelta::minutes(60));
        guard(env).await;
    }
    let left = firing(env).await;
    assert!(
        !left.contains(&("slo_burn".to_owned(), "shop".to_owned())) && left.contains(&("slo_budget".to_owned(), "shop".to_owned())),
        "{left:?}"
    );
    supervisor.stop().await;
}

#[tokio::test]
async fn a_maintenance_that_comes_back_costs_nothing_and_is_seen() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-02T01:30:00Z", |config| {
        with_shop(config);
        config.notify.maintenance = vec!["daily 01:00-01:10".into()];
    });
    let supervisor = supervised(&fixture).await;
    let env = &fixture.env;
    let (now, begin) = (Minute::of(env.now()), Minute::of("2026-03-02T01:00:00Z".parse().unwrap()));
    for minute in now - 2000..now {
        env.meter().record_many("push:shop", minute, 1000, (begin..begin + 10).contains(&minute), 100);
    }
    let record = guard(env).await;
    assert!(firing(env).await.is_empty(), "{:?}", firing(env).await);
    let budget = record["error_budgets"].as_array().unwrap().iter().find(|b| b["objective"] == "shop").unwrap();
    assert_eq!(budget["used"], 0, "{budget}");
    let report = report(env).await.unwrap();
    assert!(report.to_string().contains("daily 01:00-01:10"), "it stays visible: {report}");
    supervisor.stop().await;
}

#[tokio::test]
async fn silence_is_told_as_no_data_and_a_restart_does_not_resolve_it() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-05T00:00:00Z", with_shop);
    let supervisor = supervised(&fixture).await;
    let start = Minute::of(fixture.env.now());
    for minute in start..start + 3000 {
        fixture.env.meter().record_many("push:shop", minute, 1000, false, 10);
    }
    fixture.clock.set(fixture.env.now() + TimeDelta::minutes(3100));
    let record = guard(&fixture.env).await;
    let shop = record["objectives"].as_array().unwrap().iter().find(|o| o["name"] == "shop").unwrap();
    assert_eq!((&shop["status"], &shop["verdict"]["rule"]), (&serde_json::json!("NO_DATA"), &serde_json::json!("absence")), "{shop}");
    let silent = ("slo_no_data".to_owned(), "shop".to_owned());
    assert_eq!(firing(&fixture.env).await, std::slice::from_ref(&silent));
    supervisor.stop().await;
    fixture.env.store().close().await.unwrap();
    let again = testing::reopen(fixture.folder, "2026-03-07T03:45:00Z", with_shop);
    let supervisor = supervised(&again).await;
    for _ in 0..3 {
        guard(&again.env).await;
    }
    assert_eq!(firing(&again.env).await, [silent]);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_late_event_is_added_to_its_folded_hour_and_everything_survives_a_restart() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-20T00:00:00Z", with_shop);
    let supervisor = supervised(&fixture).await;
    let env = &fixture.env;
    let now = Minute::of(env.now());
    let old = now - 10 * 1440 + 7;
    let total =
        |env: Env| async move { env.store().track("push:shop", 0, 0).await.unwrap().counts(0, i64::MAX / 2).map(|c| c.total).sum::<u64>() };
    env.meter().record_many("push:shop", old, 2000, false, 10);
    env.meter().record_many("push:shop", now - now % 60, 2000, false, 1); // the first of an hour: the old one is folded
    until("both are written", || async { total(env.clone()).await == 11 }).await;
    until("it is folded", || async { env.store().minute("push:shop", old).await.unwrap().is_none() }).await;
    env.meter().record_many("push:shop", old, 2000, true, 5);
    until("the late ones too", || async { total(env.clone()).await == 16 }).await;
    let shop = |report: Json| report["objectives"].as_array().unwrap().iter().find(|o| o["name"] == "shop").unwrap()["verdict"].clone();
    let before = shop(report(env).await.unwrap());
    assert_eq!((&before["n"], &before["bad"]), (&serde_json::json!(15 + u64::from(now % 60 != 0)), &serde_json::json!(5)), "{before}");
    supervisor.stop().await;
    env.store().close().await.unwrap();
    let again = testing::reopen(fixture.folder, "2026-03-20T00:00:00Z", with_shop);
    let supervisor = supervised(&again).await;
    assert_eq!(shop(report(&again.env).await.unwrap()), before);
    supervisor.stop().await;
}
