//! The daemon's own house: the configuration still parses and holds no secret, what is secret is readable by its owner alone, keys are not
//! older than a year.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use super::check;
use crate::{
    config::{Config, Environment},
    env::{Env, blocking},
    error::Result,
};

/// A key older than this wants rotating.
const KEY_DAYS: i64 = 365;

/// The configuration file as it lies there now: what the next start would say of it. An unknown key and a secret are named.
pub(super) async fn configuration(env: &Env) -> Result<Json> {
    let (configs, mode) = (env.config().paths.configs.clone(), env.config().provider.mode);
    blocking(move || {
        let file = configs.join("echopilot.toml");
        let environment: Environment = [("ECHOPILOT__PATHS__CONFIGS".to_owned(), configs.to_string_lossy().into_owned())].into();
        let problem = Config::load(None, &environment).err().map(|e| e.message);
        let bits = std::fs::metadata(&file).map(|m| m.permissions().mode() & 0o777).ok();
        let writable = bits.is_some_and(|b| b & 0o022 != 0);
        let evidence = json!({
            "file": file.exists().then_some(&file), "mode": mode.as_str(), "file_mode": bits.map(|b| format!("{b:04o}")),
            "writable_by_others": writable, "problem": problem,
        });
        Ok(check("configuration", problem.is_none() && !writable, evidence))
    })
    .await
}

/// What holds secrets or customers' data is readable by its owner alone.
pub(super) async fn modes(env: &Env) -> Result<Json> {
    let (data, payouts) = (env.config().paths.data.clone(), env.backup_path("payouts"));
    blocking(move || {
        let open = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter(|e| e.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o077 != 0))
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .filter(|name| name != "lock" && !name.ends_with("-shm") && !name.ends_with("-wal"))
                .collect()
        };
        let wrong = [open(&data), open(&payouts)].concat();
        Ok(check("file_modes", wrong.is_empty(), json!({"readable_by_others": wrong})))
    })
    .await
}

pub(super) async fn key_ages(env: &Env) -> Result<Json> {
    let oldest = env.now() - TimeDelta::days(KEY_DAYS);
    let keys = env.store().keys().await?;
    let old: Vec<_> = keys.iter().filter(|k| k.revoked_at.is_none() && k.created_at < oldest).map(|k| k.name.clone()).collect();
    Ok(check(
        "key_ages",
        old.is_empty(),
        json!({"active": keys.iter().filter(|k| k.revoked_at.is_none()).count(), "older_than_a_year": old}),
    ))
}
