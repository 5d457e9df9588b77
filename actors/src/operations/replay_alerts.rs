//! Says when alert rules would have fired on recorded history. Called by the gateway and the command line. It reads observations and
//! changes nothing; the same rules on the same history give the same answer.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use crate::{
    config::DEFAULT_RULES,
    domain::alert_rule::{Catalogue, Patience, Replay, Sample, replay},
    env::{Env, rfc3339},
    error::{Error, Result},
};

/// Observations read at a time.
const PAGE: i64 = 500;

/// Replays `rules` (a text like `configs/alerts.toml`, laid over the defaults; `None`: the rules in force) from `since` to `until`:
/// `{"ok","since","until","observations","episodes":[...],"rules":[...],"not_replayed":[...]}`. Errors: `invalid` naming what is wrong in
/// the rules or that the time is backwards; `not_found` if nothing was recorded in it.
pub async fn run(env: &Env, rules: Option<&str>, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<Json> {
    if since >= until {
        return Err(Error::field("since", format!("since ({}) must be before until ({})", rfc3339(since), rfc3339(until))));
    }
    let catalogue = match rules {
        Some(text) => {
            let mut catalogue = Catalogue::read(DEFAULT_RULES, Some(text)).map_err(|e| Error::field("rules", e))?;
            catalogue.settle(|path| env.config().number(path)).map_err(|e| Error::field("rules", e))?;
            catalogue
        }
        None => env.config().rules.clone(),
    };
    let observations = read(env, since, until).await?;
    let patience = Patience::new(env.config().alert.fire_after, env.config().alert.resolve_after);
    let replayed: Replay = replay(&catalogue, patience, observations.into_iter().map(Ok::<_, Error>))?;
    if replayed.observations == 0 {
        return Err(Error::not_found(format!("nothing was recorded from {} to {}", rfc3339(since), rfc3339(until))));
    }
    let mut answer = json!({"ok": true, "since": rfc3339(since), "until": rfc3339(until)});
    let members = serde_json::to_value(replayed)?;
    if let (Json::Object(answer), Json::Object(members)) = (&mut answer, members) {
        answer.extend(members);
    }
    Ok(answer)
}

async fn read(env: &Env, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<(DateTime<Utc>, Vec<Sample>)>> {
    let (mut all, mut from) = (Vec::new(), since);
    loop {
        let page = env.store().observations(from, until, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        from = *last + chrono::TimeDelta::microseconds(1);
        all.extend(page);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn rules_are_replayed_on_what_was_recorded_and_nothing_is_changed() {
        let fixture = testing::fixture("2026-03-01T12:00:00Z");
        let (env, start) = (&fixture.env, fixture.env.now());
        for n in 0..1200_i32 {
            let busy = if (600..650).contains(&n) { 97.0 } else { 40.0 };
            let samples = [Sample::new("disk_percent", Some(busy)), Sample::new("cpu_percent", Some(30.0))];
            env.store().put_observation(start + TimeDelta::minutes(5) * n, &samples, start).await.unwrap();
        }
        let until = start + TimeDelta::days(30);
        let answer = run(env, None, start, until).await.unwrap();
        assert_eq!(answer["observations"], 1200);
        let episodes = answer["episodes"].as_array().unwrap();
        assert_eq!(episodes.len(), 1);
        assert_eq!((&episodes[0]["name"], &episodes[0]["severity"]), (&json!("disk"), &json!("critical")));
        assert_eq!(run(env, None, start, until).await.unwrap(), answer, "the same again");
        let lower = run(env, Some("[rules.cpu]\nabove = 20\n"), start, until).await.unwrap();
        assert_eq!(lower["episodes"].as_array().unwrap().len(), 2, "{lower}");
        assert!(env.store().alerts(0).await.unwrap().is_empty(), "nothing was raised");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_replay_is_named() {
        let fixture = testing::fixture("2026-03-01T12:00:00Z");
        let (env, now) = (&fixture.env, fixture.env.now());
        let day = TimeDelta::days(1);
        let error = run(env, None, now, now - day).await.unwrap_err();
        assert_eq!(error.field.as_deref(), Some("since"));
        let error = run(env, Some("[rules.cpu]\nabvoe = 3\n"), now - day, now).await.unwrap_err();
        assert!(error.field.as_deref() == Some("rules") && error.message.contains("abvoe"), "{}", error.message);
        let error = run(env, Some("[rules.cpu]\nabove = \"alert.nonsense\"\n"), now - day, now).await.unwrap_err();
        assert!(error.message.contains("alert.nonsense"), "{}", error.message);
        assert!(run(env, None, now - day, now).await.unwrap_err().message.contains("nothing was recorded"));
    }
}
