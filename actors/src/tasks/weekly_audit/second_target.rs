//! The second target against what was recorded of it: every object that was verified there still is, in its size; archives of this week's
//! quarter are read back and compared by digest. Objects of which nothing is recorded are named.

use chrono::NaiveDate;
use serde_json::{Value as Json, json};

use super::{archives::is_due, check};
use crate::{
    domain::replica::day_of,
    env::Env,
    error::Result,
    replica::{Object, Target},
    store::ReplicaRow,
};

pub(super) async fn compared(env: &Env, day: NaiveDate) -> Result<Json> {
    let Some(target) = Target::open(env.config(), env.secrets().bucket.as_ref())? else {
        return Ok(check("second_target", true, json!({"status": "not_configured"})));
    };
    let there = target.list("").await?;
    let rows = env.store().replica_objects(target.url()).await?;
    let (mut bad, mut read_back) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|r| r.state == "verified") {
        let object = there.iter().find(|o| o.name == row.name);
        let due = day_of(&row.name).is_some_and(|date| is_due(date, day));
        if let Some(error) = trouble(&target, row, object, due).await? {
            bad.push(json!({"name": row.name, "error": error}));
        } else if due {
            read_back.push(row.name.clone());
        }
    }
    for row in rows.iter().filter(|r| r.state == "failed") {
        bad.push(json!({"name": row.name, "error": row.error}));
    }
    let unknown: Vec<_> =
        there.iter().filter(|o| !rows.iter().any(|r| r.name == o.name && r.state != "removed")).map(|o| o.name.clone()).collect();
    let evidence = json!({"target": target.url(), "objects": there.len(), "read_back": read_back, "unknown": unknown, "bad": bad});
    Ok(check("second_target", bad.is_empty(), evidence))
}

async fn trouble(target: &Target, row: &ReplicaRow, object: Option<&Object>, due: bool) -> Result<Option<String>> {
    let Some(object) = object else { return Ok(Some("it was verified there and is gone".into())) };
    if i64::try_from(object.size).ok() != Some(row.size_bytes) {
        return Ok(Some(format!("it has {} bytes there, {} were verified", object.size, row.size_bytes)));
    }
    if due && target.digest(&row.name, object.size).await? != row.sha256 {
        return Ok(Some("its SHA-256 there is not the one that was verified".into()));
    }
    Ok(None)
}
