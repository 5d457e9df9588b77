//! Brings one file after the other: decided by `domain/replica`, sent by `replica`, written down before, while and after.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    Problem, Synced,
    inventory::{Item, named_by_manifests},
};
use crate::{
    domain::replica::{Local, Recorded, Step, step},
    env::{Env, Pending},
    error::{Code, Error, Result},
    replica::{Source, Target, Upload, Watch},
    store::ReplicaRow,
};

/// So often one file is decided on before it is left for the next sync.
const ROUNDS: usize = 6;

/// Brings everything that is not there. An error means that the target does not answer; what is wrong with one file is in the report.
pub(super) async fn everything(env: &Env, target: &Target, local: &[Item], report: &mut Synced) -> Result<()> {
    let mut there: BTreeMap<String, u64> = target.list("").await?.into_iter().map(|o| (o.name, o.size)).collect();
    let rows = env.store().replica_objects(target.url()).await?;
    let rows = rows.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut bringing = Bringing { env, target, rows, there: &mut there, report };
    for item in local {
        if let Err(error) = bringing.bring(item).await {
            if error.reason == "file_not_found" && !item.path.exists() {
                continue; // removed meanwhile, by retention
            }
            let lost = error.code == Code::Unavailable && error.reason == "replica";
            bringing.report.problems.push(Problem { name: item.name.clone(), error: error.message.clone() });
            if lost || error.code == Code::Forbidden {
                return Err(error.context("the rest was not tried")); // every further file would wait as long for the same answer
            }
        }
    }
    report.objects = there.len();
    report.bytes = there.values().sum();
    Ok(())
}

struct Bringing<'a> {
    env: &'a Env,
    target: &'a Target,
    rows: BTreeMap<String, ReplicaRow>,
    there: &'a mut BTreeMap<String, u64>,
    report: &'a mut Synced,
}

impl Bringing<'_> {
    async fn bring(&mut self, item: &Item) -> Result<()> {
        let mut source = None;
        let sha256 = match &item.sha256 {
            Some(sha256) => sha256.clone(),
            None => source.insert(open(item).await?).sha256.clone(),
        };
        let mut local = Local { name: item.name.clone(), size: item.size, sha256 };
        let mut failed = None;
        for _ in 0..ROUNDS {
            // Other contents of this name have names that begin with it.
            let recorded = self.rows.range(local.name.clone()..).take_while(|(name, _)| name.starts_with(&local.name));
            let recorded = recorded.map(|(name, r)| (name.clone(), Recorded { sha256: r.sha256.clone(), state: r.state.clone() }));
            let next = step(&local, &recorded.collect(), self.there, self.target.is_append_only());
            let name = match (&next, failed.take()) {
                (Step::Done(_), _) => return Ok(()),
                (Step::Stuck, _) => return Err(Error::conflict("exists", "there is no free name for it at the second target")),
                // What was sent and came back as something else is left for the next sync: a target that does so may do it again.
                (Step::Put(_), Some(error)) => return Err(error),
                (Step::Check(name) | Step::Put(name), _) => name.clone(),
            };
            let source = match &mut source {
                Some(source) => source,
                none => none.insert(open(item).await?),
            };
            if source.sha256 != local.sha256 || source.size != local.size {
                not_damaged(item, &source.sha256)?;
                local = Local { size: source.size, sha256: source.sha256.clone(), ..local };
                continue;
            }
            let sent = if matches!(next, Step::Put(_)) { Some(self.put(&name, source).await) } else { None };
            match sent {
                Some(Err(error)) if error.reason == "exists" => {
                    self.there.insert(name, source.size); // somebody put it there, perhaps we did and the answer was lost: it is looked at
                    continue;
                }
                Some(sent) => {
                    self.report.moved.sent_bytes += sent?;
                    self.there.insert(name.clone(), source.size);
                }
                None => {}
            }
            let was_sent = matches!(next, Step::Put(_));
            match self.verify(&name, source).await {
                Ok(()) => {
                    if was_sent {
                        self.report.moved.files += 1;
                        self.report.moved.bytes += source.size;
                    }
                    self.report.verified.push(name);
                    return Ok(());
                }
                Err(error) if error.reason == "not_the_same" => failed = was_sent.then_some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::unavailable("replica_changed", "it kept changing while it was copied; the next sync has it")))
    }

    async fn put(&mut self, name: &str, source: &Source) -> Result<u64> {
        let before = self.rows.get(name);
        let unfinished = before.filter(|r| r.state == "uploading").and_then(|r| Some((r, r.upload.clone()?)));
        let unfinished =
            unfinished.and_then(|(r, upload)| Some((r.sha256 == source.sha256, serde_json::from_value::<Upload>(upload).ok()?)));
        let resume = match unfinished {
            Some((true, upload)) => Some(upload),
            Some((false, upload)) => {
                self.target.abandon(name, &upload).await?;
                None
            }
            None => None,
        };
        let row = ReplicaRow {
            upload: resume.as_ref().map(|u| json!(u)),
            attempts: before.map_or(0, |r| r.attempts) + 1,
            ..self.row(name, source)
        };
        self.write(row.clone()).await?;
        let keeper = Keeper { env: self.env, row };
        let sent = self.target.put(name, source, resume, &keeper).await;
        if let (Err(error), Some(mut row)) = (&sent, self.env.store().replica_object(self.target.url(), name).await?) {
            row.error = Some(error.message.clone());
            self.write(row).await?;
        }
        sent
    }

    /// Reads the object back. Errors: `unavailable` with reason `not_the_same` if it is another content.
    async fn verify(&mut self, name: &str, source: &Source) -> Result<()> {
        let error = match self.target.digest(name, source.size).await {
            Ok(sha256) if sha256 == source.sha256 => None,
            Ok(sha256) => Some(format!("{name} came back with SHA-256 {sha256}, it should have {}", source.sha256)),
            Err(error) if error.reason == "not_the_same" => Some(error.message),
            Err(error) => return Err(error),
        };
        let known = self.env.store().replica_object(self.target.url(), name).await?.filter(|row| row.sha256 == source.sha256);
        self.write(ReplicaRow {
            state: if error.is_none() { "verified" } else { "failed" }.into(),
            upload: None,
            verified_at: error.is_none().then(|| self.env.now()),
            error: error.clone(),
            ..known.unwrap_or_else(|| self.row(name, source))
        })
        .await?;
        error.map_or(Ok(()), |error| Err(Error::unavailable("not_the_same", error)))
    }

    /// The row of an object before anything was tried.
    fn row(&self, name: &str, source: &Source) -> ReplicaRow {
        ReplicaRow {
            target: self.target.url().to_owned(),
            name: name.to_owned(),
            sha256: source.sha256.clone(),
            size_bytes: i64::try_from(source.size).unwrap_or(i64::MAX),
            state: "uploading".into(),
            upload: None,
            attempts: 0,
            started_at: self.env.now(),
            verified_at: None,
            error: None,
        }
    }

    async fn write(&mut self, row: ReplicaRow) -> Result<()> {
        self.env.store().put_replica(&row, None).await?;
        self.rows.insert(row.name.clone(), row);
        Ok(())
    }
}

/// An archive that is not what its manifest says is either being replaced this moment, and then its next manifest lies there already, or
/// damaged: a damaged one never takes the place of a whole one.
fn not_damaged(item: &Item, sha256: &str) -> Result<()> {
    let named = named_by_manifests(&item.path)?;
    if item.is_archive() && !named.is_empty() && !named.iter().any(|n| n == sha256) {
        return Err(Error::invalid("archive", "its SHA-256 is not the one its manifest names: it is damaged, and was not copied"));
    }
    Ok(())
}

async fn open(item: &Item) -> Result<Source> {
    Source::open(&item.path).await
}

/// Writes down each finished part, so that a killed upload goes on after it.
struct Keeper<'a> {
    env: &'a Env,
    row: ReplicaRow,
}

impl Watch for Keeper<'_> {
    fn progress(&self, done: u64, total: u64) {
        tracing::debug!(name = self.row.name, done, total, "copying to the second target");
    }

    fn keep<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        let row = ReplicaRow { upload: Some(json!(upload)), ..self.row.clone() };
        Box::pin(async move { self.env.store().put_replica(&row, None).await })
    }
}
