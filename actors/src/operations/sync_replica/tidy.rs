//! Retention at the second target: the policy of the local folder, applied to what lies there and is known to be whole there. What is
//! still here stays there, and so does that of which nothing is known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use chrono::{DateTime, NaiveDate, Utc};

use super::{Removed, Synced, checkpoint, inventory::Item};
use crate::{
    domain::{
        replica::{JOURNAL, PAYOUTS, checkpoint_time, day_of, manifest_name, payouts_day_of, plain_name},
        retention::{Archive, State, payouts_to_remove, plan, thinned},
    },
    env::{Env, blocking},
    error::{Context as _, Result},
    replica::{Object, Target},
    store::{KnownBackup, ReplicaRow},
};

pub(super) async fn target(env: &Env, target: &Target, local: &[Item], report: &mut Synced) -> Result<()> {
    local_checkpoints(env, local).await?;
    if target.is_append_only() {
        return Ok(());
    }
    let there = target.list("").await?;
    let rows = env.store().replica_objects(target.url()).await?;
    let known = env.store().known_backups().await?;
    let (policy, now) = (env.config().retention.policy(), env.now());
    let mut gone: Vec<(String, String)> = Vec::new();
    for decision in plan(&archives(&there, &rows, &known, local), &policy, now).into_iter().filter(|d| !d.keep) {
        for object in there.iter().filter(|o| day_of(&o.name) == Some(decision.archive.date)) {
            // The archive first: a manifest without one misleads nobody.
            gone.push((object.name.clone(), decision.reasons.join("; ")));
            let manifest = manifest_name(&object.name);
            gone.extend(
                there.iter().filter(|o| plain_name(&o.name) == manifest).map(|o| (o.name.clone(), "its archive was removed".to_owned())),
            );
        }
    }
    let payouts = there.iter().filter_map(|o| payouts_day_of(&o.name)).collect();
    let keep_days = env.config().retention.payouts_keep_days;
    for day in payouts_to_remove(&payouts, keep_days, now.date_naive(), policy.max_removed) {
        let of_it = there.iter().filter(|o| o.name.starts_with(PAYOUTS) && payouts_day_of(&o.name) == Some(day));
        gone.extend(of_it.map(|o| (o.name.clone(), format!("older than {keep_days} days"))));
    }
    let made: Vec<DateTime<Utc>> = there.iter().filter_map(|o| checkpoint_time(o.name.strip_prefix(JOURNAL)?)).collect();
    let thinned = thinned(&made, checkpoint::DAYS, now);
    let old = there.iter().filter(|o| o.name.strip_prefix(JOURNAL).and_then(checkpoint_time).is_some_and(|at| thinned.contains(&at)));
    gone.extend(old.map(|o| (o.name.clone(), "a newer checkpoint of its day stays".to_owned())));
    for (name, why) in gone {
        target.delete(&name).await?;
        if let Some(row) = rows.iter().find(|r| r.name == name) {
            env.store().put_replica(&ReplicaRow { state: "removed".into(), error: Some(why.clone()), ..row.clone() }, None).await?;
        }
        report.objects = report.objects.saturating_sub(1);
        report.bytes = report.bytes.saturating_sub(there.iter().find(|o| o.name == name).map_or(0, |o| o.size));
        report.removed.push(Removed { name, why });
    }
    Ok(())
}

/// The archives as they lie there, one of each day: of several the one that is worth most.
fn archives(there: &[Object], rows: &[ReplicaRow], known: &[KnownBackup], local: &[Item]) -> Vec<Archive> {
    let here: BTreeSet<NaiveDate> = local.iter().filter_map(|i| i.day).collect();
    let mut by_day: BTreeMap<NaiveDate, Archive> = BTreeMap::new();
    for object in there {
        let Some(date) = day_of(&object.name) else { continue };
        let known = known.iter().find(|k| k.date == date.to_string());
        let row = rows.iter().find(|r| r.name == object.name && r.state == "verified");
        let same = known.zip(row).is_some_and(|(k, r)| k.sha256 == r.sha256);
        let state = match known {
            Some(k) if same && k.proof == "failed" => State::Failed,
            Some(k) if same && k.partial => State::Partial,
            Some(k) if same && k.proof == "passed" => State::Proven,
            _ => State::Unproven,
        };
        let pinned = match known {
            None => Some("nothing is known of it here".to_owned()),
            Some(_) if here.contains(&date) => Some("it is still here".to_owned()),
            Some(_) => None,
        };
        let made_at = known.map_or(object.modified, |k| k.made_at);
        let archive = Archive { date, made_at, size_bytes: object.size, state, pinned };
        let best = by_day.entry(date).or_insert_with(|| archive.clone());
        if archive.state < best.state {
            *best = archive;
        }
    }
    by_day.into_values().collect()
}

/// Old checkpoints here thin out as those there.
async fn local_checkpoints(env: &Env, local: &[Item]) -> Result<()> {
    let made: Vec<(DateTime<Utc>, PathBuf)> =
        local.iter().filter_map(|i| Some((checkpoint_time(i.name.strip_prefix(JOURNAL)?)?, i.path.clone()))).collect();
    let times: Vec<_> = made.iter().map(|(at, _)| *at).collect();
    let old = thinned(&times, checkpoint::DAYS, env.now());
    blocking(move || {
        for (_, path) in made.iter().filter(|(at, _)| old.contains(at)) {
            std::fs::remove_file(path).context(format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    })
    .await
}
