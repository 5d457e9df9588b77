//! Checkpoints of the journal: how long each chain is and which hash it ends with, signed, kept here and at the second target. A journal
//! that is cut off afterwards is intact in itself; it is told by a checkpoint that it no longer contains.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value as Json, json};

use super::{Problem, Synced};
use crate::{
    domain::replica::{checkpoint_file, checkpoint_time},
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    files,
    signing::{MEMBER, PublicKey, Signer, known_key, verify_object},
    store::Chain,
};

/// Below `backups/`.
pub const FOLDER: &str = "journal";
/// All checkpoints of so many days stay, and of each day before them the newest.
pub(super) const DAYS: i64 = 35;

/// What a checkpoint says.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Checkpoint {
    pub ts: DateTime<Utc>,
    /// The node whose journal it is.
    pub node: String,
    pub chains: Vec<Chain>,
}

/// Reads a checkpoint and verifies its signature by the key of this data directory, or one that it replaced. Errors: `invalid` with reason
/// `signature` or `checkpoint`.
pub async fn read_checkpoint(env: &Env, bytes: &[u8]) -> Result<Checkpoint> {
    let broken = |e: serde_json::Error| Error::invalid("checkpoint", format!("it is not a checkpoint: {e}"));
    let object: Map<String, Json> = serde_json::from_slice(bytes).map_err(broken)?;
    let key_id = object.get(MEMBER).and_then(|s| s["key_id"].as_str()).unwrap_or_default().to_owned();
    let key = key(env, key_id).await?;
    verify_object(&key, &object)?;
    serde_json::from_value(Json::Object(object)).map_err(broken)
}

async fn key(env: &Env, key_id: String) -> Result<PublicKey> {
    let (data, backups) = (env.config().paths.data.clone(), env.config().paths.backups.clone());
    blocking(move || {
        let own = Signer::open(&data, &backups)?.public_key();
        if key_id.is_empty() || own.id() == key_id {
            return Ok(own);
        }
        let unknown = || Error::invalid("signature", format!("it is signed by key {key_id}, which is not known here"));
        known_key(&backups, &key_id)?.ok_or_else(unknown)
    })
    .await
}

/// The chains of a checkpoint that the journal no longer contains as they were then.
pub async fn lost(env: &Env, checkpoint: &Checkpoint) -> Result<Vec<Chain>> {
    let mut lost = Vec::new();
    for chain in checkpoint.chains.iter().filter(|c| c.entries > 0) {
        if env.store().journal_hash(&chain.writer, chain.entries).await?.as_deref() != Some(chain.root.as_str()) {
            lost.push(chain.clone());
        }
    }
    Ok(lost)
}

/// Makes a checkpoint of now, unless the last one is no longer contained in the journal: then that is the news, and the last one stays
/// the newest.
pub(super) async fn make(env: &Env, report: &mut Synced) -> Result<()> {
    let folder = env.backup_path(FOLDER);
    let newest = blocking({
        let folder = folder.clone();
        move || {
            let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
            let newest = names.filter(|name| checkpoint_time(name).is_some()).max();
            newest.map(|name| Ok((std::fs::read(folder.join(&name))?, name))).transpose()
        }
    })
    .await?;
    if let Some((bytes, name)) = newest {
        let trouble = match read_checkpoint(env, &bytes).await {
            Ok(last) if last.node != env.node() => None, // this data directory was begun anew
            Ok(last) => lost(env, &last)
                .await?
                .first()
                .map(|c| format!("entry {} of {} that it recorded is not in the journal any more", c.entries, c.writer)),
            Err(error) => Some(error.message),
        };
        if let Some(error) = trouble {
            report.problems.push(Problem { name: format!("{FOLDER}/{name}"), error });
            return Ok(());
        }
    }
    let now = env.now();
    let chains = env.store().journal_heads().await?;
    let (data, backups, node) = (env.config().paths.data.clone(), env.config().paths.backups.clone(), env.node().to_owned());
    let file = checkpoint_file(now);
    report.checkpoint = Some(format!("{FOLDER}/{file}"));
    blocking(move || {
        let mut object = Map::new();
        object.insert("ts".into(), rfc3339(now).into());
        object.insert("node".into(), node.into());
        object.insert("chains".into(), json!(chains));
        Signer::open(&data, &backups)?.sign_object(&mut object);
        files::replace_json(&folder.join(file), &Json::Object(object))
    })
    .await
}
