//! The journal against what was written down of it: by the last audit here, and by the signed checkpoints here and at the second target.

use serde_json::{Value as Json, json};

use super::check;
use crate::{
    domain::replica::{JOURNAL, checkpoint_time},
    env::{Env, blocking},
    error::Result,
    operations::sync_replica::{CHECKPOINTS, lost, read_checkpoint},
    replica::Target,
    store::{Chain, JournalReport},
};

/// One hash over the roots of all chains.
pub(super) fn root_hash(journal: &JournalReport) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for chain in &journal.chains {
        digest.update(format!("{}:{}:{}\n", chain.writer, chain.entries, chain.root).as_bytes());
    }
    crate::files::hex(digest.finish().as_ref())
}

/// The chains that the newest earlier audit wrote down.
async fn previous_roots(env: &Env) -> Result<Vec<Chain>> {
    let folder = env.backup_path("audit");
    blocking(move || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
        let newest = names.filter(|p| p.extension().is_some_and(|e| e == "json")).max();
        let text = newest.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let audit: Json = serde_json::from_slice(&text).unwrap_or_default();
        Ok(serde_json::from_value(audit["chains"].clone()).unwrap_or_default())
    })
    .await
}

/// A journal that was rewritten as a whole is intact in itself, but no longer holds the root that was written down before.
pub(super) async fn roots_still_there(env: &Env) -> Result<Json> {
    let earlier = previous_roots(env).await?;
    let mut lost = Vec::new();
    for chain in earlier.iter().filter(|c| c.entries > 0) {
        if env.store().journal_hash(&chain.writer, chain.entries).await?.as_deref() != Some(chain.root.as_str()) {
            lost.push(json!({"writer": chain.writer, "seq": chain.entries, "root": chain.root}));
        }
    }
    Ok(check("journal_matches_earlier_audit", lost.is_empty(), json!({"compared": earlier.len(), "lost": lost})))
}

/// Every checkpoint, here and at the second target, must be signed by a key of ours and contained in the journal. Those at the second
/// target are the ones that whoever shortens the journal here cannot reach.
pub(super) async fn checkpoints(env: &Env) -> Result<Json> {
    let (mut bad, mut compared, mut newest) = (Vec::new(), [0, 0], [None, None]);
    let folder = env.backup_path(CHECKPOINTS);
    let local = blocking(move || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let ours = entries.map(|e| e.path()).filter(|p| p.file_name().and_then(|n| n.to_str()).and_then(checkpoint_time).is_some());
        let mut read: Vec<_> = ours
            .map(|p| Ok((p.file_name().unwrap_or_default().to_string_lossy().into_owned(), std::fs::read(&p)?)))
            .collect::<Result<_>>()?;
        read.sort();
        Ok(read)
    })
    .await?;
    for (name, bytes) in local {
        let name = format!("backups/{CHECKPOINTS}/{name}");
        bad.extend(trouble(env, &bytes).await?.map(|error| json!({"checkpoint": name, "error": error})));
        compared[0] += 1;
        newest[0] = Some(name);
    }
    let target = Target::open(env.config(), env.secrets().bucket.as_ref())?;
    if let Some(target) = &target {
        for object in target.list(JOURNAL).await? {
            if object.name.strip_prefix(JOURNAL).and_then(checkpoint_time).is_none() {
                continue;
            }
            let bytes = target.read(&object.name, object.size).await?;
            bad.extend(trouble(env, &bytes).await?.map(|error| json!({"checkpoint": object.name, "at": target.url(), "error": error})));
            compared[1] += 1;
            newest[1] = Some(object.name);
        }
    }
    let evidence = json!({
        "second_target": target.as_ref().map(Target::url), "compared_here": compared[0], "compared_there": compared[1],
        "newest_here": newest[0], "newest_there": newest[1], "bad": bad,
    });
    Ok(check("journal_checkpoint", bad.is_empty(), evidence))
}

/// What is wrong with a checkpoint, or with the journal by it.
async fn trouble(env: &Env, bytes: &[u8]) -> Result<Option<String>> {
    let checkpoint = match read_checkpoint(env, bytes).await {
        Ok(checkpoint) => checkpoint,
        Err(error) => return Ok(Some(error.message)),
    };
    let lost = lost(env, &checkpoint).await?;
    Ok(lost.first().map(|chain| {
        let there =
            format!("the journal of {} had {} entries ending with {} at {}", chain.writer, chain.entries, chain.root, checkpoint.ts);
        format!("{there}, and no longer has this one: it was cut off or rewritten")
    }))
}
