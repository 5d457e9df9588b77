//! self_heal: every six hours, repairs what is left over when something went wrong: a part that was put aside, runs that do not end or
//! have no process, webhook events that failed or were overlooked, temporary files. Every repair is bounded, safe to do twice, and
//! written down with its reason. It never touches money, and it never asks the provider for anything.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::{
    domain::schedule::Schedule,
    env::{Env, SELF_HEAL, blocking, rfc3339},
    error::{Code, Error, Result},
    ingest,
    store::RunRow,
    task::{Record, Run, TaskSpec},
    timer,
};

/// Repairs of one kind in one run at most; the rest waits for the next.
const MAX_PARTS: usize = 20;
const MAX_RUNS: usize = 100;
const MAX_EVENTS: usize = 100;
const MAX_FILES: usize = 100;
/// Entries of folders looked at in one run at most, and how deep.
const MAX_ENTRIES: usize = 100_000;
const MAX_DEPTH: usize = 8;
/// An event is put back at most once in this time: one that cannot be understood is not tried all day.
const EVENT_REST: TimeDelta = TimeDelta::days(1);
/// An event that could have been processed for this long was overlooked.
const OVERDUE: TimeDelta = TimeDelta::hours(1);
/// What is younger may belong to something that is going on.
const LITTER_AGE: TimeDelta = TimeDelta::hours(1);
/// Beyond the limit of all attempts together, a run may take this long to end: it waits for a thread, or for the store.
const STUCK_MARGIN: Duration = Duration::from_mins(15);
/// A lease that was not renewed for so many times its length is stale.
const STALE_LEASES: i64 = 3;

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        SELF_HEAL,
        "supervisor",
        Schedule::every(6 * super::HOUR),
        "Bounded repairs of parts, stuck runs, events and files; never of money.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("self_heal.json"), Some("self_heal.ndjson"))
    .timeout_s(600)
}

/// One thing that was repaired, left or could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Repair {
    /// `part`, `run`, `lease`, `event`, `ingest` or `file`.
    kind: &'static str,
    /// Which: a part's name, a run's, a process's or an event's id, a path.
    subject: String,
    why: String,
    /// What was done (`released`, `cancelled`, `cancelling`, `looked_after`, `put_back`, `woken`, `removed`), or `left`, or `failed`.
    result: &'static str,
    /// Why it was left or failed.
    error: Option<String>,
}

impl Repair {
    fn new(kind: &'static str, subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), why: why.into(), result: "left", error: None }
    }

    fn done(self, result: &'static str) -> Self {
        Self { result, ..self }
    }

    fn left(self, reason: impl Into<String>) -> Self {
        Self { result: "left", error: Some(reason.into()), ..self }
    }

    fn failed(self, error: &Error) -> Self {
        Self { result: "failed", error: Some(error.message.clone()), ..self }
    }

    /// For the journal.
    fn data(&self, run_id: &str) -> Json {
        json!({"kind": self.kind, "why": self.why, "result": self.result, "error": self.error, "run_id": run_id})
    }
}

/// What this run did, in order.
struct Book<'a> {
    run: &'a Run,
    repairs: Vec<Repair>,
    /// Kinds with more to repair than one run may.
    more: Vec<&'static str>,
    /// A repair, or the look for something to repair, failed.
    failed: bool,
}

impl Book<'_> {
    /// Writes a repair down, also in the journal unless it was `left`.
    async fn note(&mut self, repair: Repair) {
        let kind = match repair.result {
            "left" => None,
            "failed" => Some("self_heal.failed"),
            _ => Some("self_heal.repaired"),
        };
        let env = &self.run.env;
        let written = match kind {
            Some(kind) => env.store().journal(env.fact(kind, &repair.subject, repair.data(&self.run.run_id))).await,
            None => Ok(()),
        };
        self.enter(repair, written);
    }

    /// Enters a repair whose fact is in the journal, or could not be `written`.
    fn enter(&mut self, mut repair: Repair, written: Result<()>) {
        if let Err(error) = written {
            self.failed = true;
            repair.error.get_or_insert(format!("it could not be written to the journal: {error}"));
        }
        self.failed |= repair.result == "failed";
        let Repair { kind, subject, why, result, error } = &repair;
        tracing::warn!(task = SELF_HEAL, kind, subject, why, result, error, "a repair");
        self.repairs.push(repair);
    }

    /// A kind that could not even be looked at does not stop the others.
    fn looked(&mut self, kind: &'static str, result: Result<()>) {
        if let Err(error) = result {
            self.enter(Repair::new(kind, "all", "whether there is something to repair could not be found out").failed(&error), Ok(()));
        }
    }
}

async fn work(run: Run) -> Result<Record> {
    let mut book = Book { run: &run, repairs: Vec::new(), more: Vec::new(), failed: false };
    let result = parts(&mut book).await;
    book.looked("part", result);
    let result = stuck_runs(&mut book).await;
    book.looked("run", result);
    let result = leases(&mut book).await;
    book.looked("lease", result);
    let result = events(&mut book).await;
    book.looked("event", result);
    let result = litter(&mut book).await;
    book.looked("file", result);
    let count = |results: &[&str]| book.repairs.iter().filter(|r| results.contains(&r.result)).count();
    let (left, failed) = (count(&["left"]), count(&["failed"]));
    let mut record = Record::new();
    record.insert("ok".into(), (!book.failed).into());
    record.insert("repaired".into(), (book.repairs.len() - left - failed).into());
    record.insert("left".into(), left.into());
    record.insert("failed".into(), failed.into());
    record.insert("more".into(), json!(book.more));
    record.insert("repairs".into(), json!(book.repairs));
    Ok(record)
}

/// A part that was put aside is tried again before its cool-down ends, once; after that a person has to look.
async fn parts(book: &mut Book<'_>) -> Result<()> {
    let tree = book.run.env.tree()?;
    let down: Vec<_> = tree.status().await?.into_iter().filter(|child| child.state == "quarantined").collect();
    for child in down.into_iter().take(MAX_PARTS) {
        let repair = Repair::new("part", child.name, format!("it was put aside: {}", child.down.unwrap_or_default()));
        let repair = match tree.release(child.name.to_owned(), SELF_HEAL.to_owned()).await {
            Ok(()) => repair.done("released"),
            // `released_before`, or it came back meanwhile.
            Err(error) if error.code == Code::Conflict => repair.left(format!("{}: {}", error.reason, error.message)),
            Err(error) => repair.failed(&error),
        };
        book.note(repair).await;
    }
    Ok(())
}

/// A run that goes on for longer than all its attempts may together is told to end.
async fn stuck_runs(book: &mut Book<'_>) -> Result<()> {
    let env = &book.run.env;
    let limits: BTreeMap<&str, u64> = timer::list(env).await?.into_iter().map(|t| (t.name, t.policy.total_timeout_s)).collect();
    let mut stuck = Vec::new();
    for open in env.store().open_runs().await? {
        if let Some(limit_s) = limits.get(open.task.as_str())
            && open.run_id != book.run.run_id
            && let Some(ran) = running_for(env, &open).filter(|ran| *ran > Duration::from_secs(*limit_s) + STUCK_MARGIN)
        {
            let why = format!("{} has been running for {} s and may for {limit_s} s", open.task, ran.as_secs());
            stuck.push(Repair::new("run", open.run_id, why));
        }
    }
    if stuck.len() > MAX_RUNS {
        book.more.push("run");
    }
    for repair in stuck.into_iter().take(MAX_RUNS) {
        let repair = match timer::cancel(env, &repair.subject, SELF_HEAL).await {
            Ok(state) => repair.done(if state == "cancelled" { "cancelled" } else { "cancelling" }),
            Err(error) if error.reason == "ended" => repair.left(error.message),
            Err(error) => repair.failed(&error),
        };
        book.note(repair).await;
    }
    Ok(())
}

/// How long a run has been going on. One of this process cannot be older than the process: a wall clock that jumps ends nobody's run.
fn running_for(env: &Env, run: &RunRow) -> Option<Duration> {
    let started_at = run.started_at.filter(|_| run.state == "running")?;
    let ran = (env.now() - started_at).to_std().ok()?;
    Some(if run.incarnation == env.incarnation() { ran.min(env.uptime()) } else { ran })
}

/// The timer looks after processes that are gone, here at once. Whom it does not take for gone (by its own monotonic clock) is only named.
async fn leases(book: &mut Book<'_>) -> Result<()> {
    let env = &book.run.env;
    let looked_after = timer::look_after(env).await?;
    for incarnation in looked_after.leases {
        book.note(Repair::new("lease", incarnation, "the process that held it is gone").done("released")).await;
    }
    for run in looked_after.runs {
        let why = format!("{} of {} was {} and no process carries it out", run.task, rfc3339(run.slot), run.state);
        book.note(Repair::new("run", run.run_id, why).done("looked_after")).await;
    }
    let lease = TimeDelta::seconds(i64::try_from(env.config().timer.lease_s).unwrap_or(i64::MAX / 1000).min(86_400));
    let stale_before = env.now() - lease * i32::try_from(STALE_LEASES).unwrap_or(3);
    let nodes = env.store().nodes().await?;
    for node in nodes.into_iter().filter(|n| n.incarnation != env.incarnation() && n.seen_at < stale_before) {
        let repair = Repair::new("lease", node.incarnation, format!("it was last renewed at {}", rfc3339(node.seen_at)));
        book.note(repair.left("not long enough under our eyes: the timer ends it when it has stood still for a whole lease")).await;
    }
    Ok(())
}

/// Failed events are processed again: what they mean is booked once, however often that is tried. Overlooked ones are looked for.
async fn events(book: &mut Book<'_>) -> Result<()> {
    let (env, now) = (&book.run.env, book.run.env.now());
    let limit = i64::try_from(MAX_EVENTS).unwrap_or(i64::MAX - 1) + 1;
    let (overdue, oldest) = env.store().overdue_events(now - OVERDUE, now).await?; // before old ones are put back
    let failed = env.store().failed_events(now - EVENT_REST, limit).await?;
    if failed.len() > MAX_EVENTS {
        book.more.push("event");
    }
    let mut put_back = false;
    for event in failed.into_iter().take(MAX_EVENTS) {
        let why = format!("{} failed after {} attempts: {}", event.event_type, event.attempts, event.error.unwrap_or_default());
        let repair = Repair::new("event", event.event_id, why).done("put_back");
        let fact = env.fact("self_heal.repaired", &repair.subject, repair.data(&book.run.run_id));
        match env.store().put_back_event(event.n, now, fact).await {
            Ok(true) => {
                put_back = true;
                book.enter(repair, Ok(()));
            }
            Ok(false) => {} // somebody else did
            Err(error) => book.note(repair.failed(&error)).await,
        }
    }
    if put_back || overdue > 0 {
        ingest::wake(env);
    }
    if let (1.., Some(oldest)) = (overdue, oldest) {
        let why = format!("{overdue} events wait although their time has come, the oldest since {}", rfc3339(oldest));
        book.note(Repair::new("ingest", ingest::NOUN, why).done("woken")).await;
    }
    Ok(())
}

/// Temporary files and scratch folders that a process left when it was killed.
async fn litter(book: &mut Book<'_>) -> Result<()> {
    let (env, now) = (&book.run.env, book.run.env.now());
    let backing_up = env.store().open_runs().await?.iter().any(|r| r.task == "daily_backup" && r.state == "running");
    let paths = env.config().paths.clone();
    let (removed, more) = blocking(move || {
        let mut search = Search { old: SystemTime::from(now - LITTER_AGE), folders: !backing_up, entries: 0, ..Search::default() };
        search.folder(&paths.logs, "logs", 0);
        search.folder(&paths.backups, "backups", MAX_DEPTH);
        search.folder(&paths.data, "data", 0);
        let more = search.found.len() > MAX_FILES || search.entries > MAX_ENTRIES;
        let mut repairs = search.unreadable;
        repairs.extend(search.found.into_iter().take(MAX_FILES).filter_map(|(path, litter)| litter.remove(&path, now)));
        Ok((repairs, more))
    })
    .await?;
    if more {
        book.more.push("file");
    }
    for repair in removed {
        book.note(repair).await;
    }
    Ok(())
}

/// Something of ours that a process left behind.
struct Litter {
    /// Its path as the reports spell it.
    subject: String,
    is_folder: bool,
    modified: SystemTime,
}

impl Litter {
    /// `None` if somebody else removed it meanwhile.
    fn remove(self, path: &Path, now: DateTime<Utc>) -> Option<Repair> {
        let age_s = (now - DateTime::<Utc>::from(self.modified)).num_seconds();
        let repair = Repair::new("file", self.subject, format!("temporary, and nobody has written to it for {age_s} s"));
        match if self.is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
            Ok(()) => Some(repair.done("removed")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(repair.failed(&error.into())),
        }
    }
}

/// Looks for litter. It follows no symbolic link, and a link is no litter.
struct Search {
    /// Only what was last written before is old enough.
    old: SystemTime,
    /// Whether scratch folders may be litter: not while a backup runs.
    folders: bool,
    entries: usize,
    found: BTreeMap<PathBuf, Litter>,
    unreadable: Vec<Repair>,
}

impl Default for Search {
    fn default() -> Self {
        Self { old: SystemTime::UNIX_EPOCH, folders: true, entries: 0, found: BTreeMap::new(), unreadable: Vec::new() }
    }
}

impl Search {
    /// Looks in a folder, and in those below it to the given depth. `name` is how the reports spell its path.
    fn folder(&mut self, path: &Path, name: &str, depth: usize) {
        match fs::read_dir(path) {
            Ok(entries) => entries.flatten().for_each(|entry| self.entry(&entry, name, depth)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable.push(Repair::new("file", name, "the folder cannot be read").failed(&error.into())),
        }
    }

    fn entry(&mut self, entry: &fs::DirEntry, folder: &str, depth: usize) {
        self.entries += 1;
        // Of the entry itself: neither call follows a link.
        let (Ok(kind), Ok(metadata)) = (entry.file_type(), entry.metadata()) else { return };
        if self.entries > MAX_ENTRIES {
            return;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let subject = format!("{folder}/{name}");
        let is_scratch = name.starts_with(".work-") || name.starts_with(".restore-");
        let modified = match kind {
            _ if kind.is_file() && Path::new(&name).extension().is_some_and(|extension| extension == "tmp") => metadata.modified(),
            _ if kind.is_dir() && is_scratch && self.folders => newest(&entry.path()),
            _ if kind.is_dir() && !is_scratch && depth > 0 => return self.folder(&entry.path(), &subject, depth - 1),
            _ => return,
        };
        // What cannot be dated is left alone.
        if let Some(modified) = modified.ok().filter(|modified| *modified < self.old) {
            self.found.insert(entry.path(), Litter { subject, is_folder: kind.is_dir(), modified });
        }
    }
}

/// When something was last written in a folder, however deep.
fn newest(folder: &Path) -> io::Result<SystemTime> {
    let mut newest = fs::symlink_metadata(folder)?.modified()?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let modified = if entry.file_type()?.is_dir() { self::newest(&entry.path())? } else { entry.metadata()?.modified()? };
        newest = newest.max(modified);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actor::{self, ChildSpec},
        domain::schedule::Overlap,
        insight,
        store::{EventFilter, NewEvent, NewRun, Place, RunEnd},
        supervisor::Supervisor,
        testing::{self, Fixture, until},
    };

    /// So late that whatever a test writes is old, unless it is dated.
    const NOW: &str = "2099-03-01T10:00:00Z";

    fn fixture() -> Fixture {
        testing::reopen(tempfile::tempdir().unwrap(), NOW, |config| {
            (config.timer.enabled, config.timer.lease_s) = (false, 3600);
            (config.supervisor.max_restarts, config.supervisor.backoff_base_ms) = (0, 1);
        })
    }

    async fn start(fixture: &Fixture) -> Supervisor {
        let timer = timer::Timer::new(super::super::table(), crate::execution::Workshop::new(8).unwrap());
        let children: Vec<ChildSpec> = vec![
            actor::spec(insight::NOUN, false, || insight::Insight),
            actor::spec(ingest::NOUN, true, ingest::Ingest::default),
            actor::spec(timer::NOUN, true, move || timer.clone()),
        ];
        let supervisor = Supervisor::start(fixture.env.clone(), children).await.unwrap();
        until("the timer holds its lease", || async { !fixture.env.store().nodes().await.unwrap().is_empty() }).await;
        supervisor
    }

    async fn heal(fixture: &Fixture) -> Record {
        let env = fixture.env.clone();
        let slot = env.now();
        work(Run { env, run_id: "run_heal".into(), slot, cause: "manual", asked_by: None, attempt: 1 }).await.unwrap()
    }

    /// (kind, subject, result) of every repair.
    fn repairs(record: &Record) -> Vec<(&str, &str, &str)> {
        let text = |repair: &'_ Json, name: &str| repair[name].as_str().map(str::len).unwrap_or_default();
        record["repairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| {
                assert!(text(r, "why") > 0, "{r}");
                (r["kind"].as_str().unwrap(), r["subject"].as_str().unwrap(), r["result"].as_str().unwrap())
            })
            .collect()
    }

    async fn journal_holds(fixture: &Fixture, entries: i64) {
        let report = fixture.env.store().verify_journal().await.unwrap();
        assert!(report.ok && report.entries == entries, "{report:?}");
    }

    #[tokio::test]
    async fn with_nothing_to_repair_it_says_so_also_twice() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        for _ in 0..2 {
            let record = heal(&fixture).await;
            assert_eq!((&record["ok"], &record["repairs"], &record["more"]), (&json!(true), &json!([]), &json!([])));
        }
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_part_that_was_put_aside_is_released_once_and_then_left_to_a_person() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        let env = &fixture.env;
        let state = || async {
            let parts = env.tree().unwrap().status().await.unwrap();
            parts.into_iter().find(|part| part.name == insight::NOUN).unwrap().state
        };
        for result in ["released", "left", "left"] {
            if state().await == "running" {
                env.tree().unwrap().drill(insight::NOUN.into()).await.unwrap();
            }
            until("it is put aside", || async { state().await == "quarantined" }).await;
            let record = heal(&fixture).await;
            assert_eq!((repairs(&record), &record["ok"]), (vec![("part", insight::NOUN, result)], &json!(true)));
            let error = record["repairs"][0]["error"].as_str().unwrap_or_default();
            assert_eq!(error.starts_with("released_before: "), result == "left", "{error}");
            if result == "released" {
                until("it is back", || async { state().await == "running" }).await;
            }
        }
        supervisor.stop().await;
    }

    async fn event(fixture: &Fixture, id: &str, charge: &Json) {
        let body =
            json!({"id": id, "object": "event", "type": "charge.succeeded", "created": 5, "livemode": false, "data": {"object": charge}});
        let event = NewEvent {
            event_id: id.into(),
            event_type: "charge.succeeded".into(),
            object_id: None,
            object_state: None,
            created: 5,
            livemode: false,
            received_at: fixture.env.now(),
            origin: "webhook",
            body: body.to_string(),
        };
        assert!(fixture.env.store().insert_event(event, fixture.env.fact("test", id, json!({}))).await.unwrap());
    }

    fn charge() -> Json {
        json!({"id": "ch_1", "object": "charge", "amount": 1200, "amount_captured": 1200, "amount_refunded": 0, "currency": "usd", "created": 5,
            "captured": true, "paid": true, "refunded": false, "status": "succeeded", "customer": "cus_1"})
    }

    async fn fail(fixture: &Fixture, n: i64) {
        fixture.env.store().fail_event(n, "not understood", None, fixture.env.fact("test", "x", json!({}))).await.unwrap();
    }

    async fn statuses(fixture: &Fixture) -> Vec<(String, i64)> {
        let filter = EventFilter { limit: 200, ..EventFilter::default() };
        let mut rows = fixture.env.store().events(&filter).await.unwrap();
        rows.reverse();
        rows.into_iter().map(|r| (r.status, r.attempts)).collect()
    }

    #[tokio::test]
    async fn failed_events_are_put_back_once_a_day_and_booked_once() {
        let fixture = fixture();
        event(&fixture, "evt_good", &charge()).await;
        event(&fixture, "evt_bad", &json!({"id": "ch_2"})).await;
        fail(&fixture, 1).await;
        fail(&fixture, 2).await;
        let supervisor = start(&fixture).await;
        let both = [("event", "evt_bad", "put_back"), ("event", "evt_good", "put_back")];
        assert_eq!(repairs(&heal(&fixture).await), both);
        until("both are processed", || async { statuses(&fixture).await == [("processed".into(), 1), ("failed".into(), 1)] }).await;
        assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
        assert_eq!(repairs(&heal(&fixture).await), [], "once a day");
        fixture.clock.set(fixture.env.now() + TimeDelta::hours(25));
        assert_eq!(repairs(&heal(&fixture).await), both[..1]);
        until("it failed again", || async { statuses(&fixture).await[1].0 == "failed" }).await;
        assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn more_failed_events_than_one_run_may_put_back_wait_for_the_next() {
        let fixture = fixture();
        for n in 1..=103 {
            event(&fixture, &format!("evt_{n}"), &json!({})).await;
            fail(&fixture, n).await;
        }
        let supervisor = start(&fixture).await;
        let record = heal(&fixture).await;
        assert_eq!((&record["repaired"], &record["more"]), (&json!(MAX_EVENTS), &json!(["event"])));
        assert_eq!(record["repairs"][0]["subject"], "evt_103", "the newest first");
        let record = heal(&fixture).await;
        assert_eq!((&record["repaired"], &record["more"]), (&json!(3), &json!([])));
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn events_that_were_overlooked_for_an_hour_wake_ingest() {
        let fixture = fixture();
        event(&fixture, "evt_1", &charge()).await;
        event(&fixture, "evt_later", &charge()).await;
        let retry_at = Some(fixture.env.now() + TimeDelta::hours(9));
        fixture.env.store().fail_event(2, "not yet", retry_at, fixture.env.fact("test", "x", json!({}))).await.unwrap();
        let run = Run {
            env: fixture.env.clone(),
            run_id: "run_heal".into(),
            slot: fixture.env.now(),
            cause: "manual",
            asked_by: None,
            attempt: 1,
        };
        // Nobody processes them.
        for (hours, expected) in [(0, 0), (2, 1)] {
            fixture.clock.set(fixture.env.now() + TimeDelta::hours(hours));
            let mut book = Book { run: &run, repairs: Vec::new(), more: Vec::new(), failed: false };
            events(&mut book).await.unwrap();
            assert_eq!(book.repairs.len(), expected, "{:?}", book.repairs);
            assert!(book.repairs.iter().all(|r| r.kind == "ingest" && r.result == "woken" && r.why.starts_with("1 events wait")));
        }
    }

    /// A run of `task` that a process carries out since `started_at`.
    async fn running(fixture: &Fixture, task: &str, incarnation: &str, started_at: DateTime<Utc>) -> String {
        let run_id = format!("run_{task}");
        let row = NewRun {
            run_id: run_id.clone(),
            task: task.into(),
            slot: started_at,
            cause: "schedule",
            state: "running",
            reason: None,
            asked_by: None,
            incarnation: incarnation.into(),
            at: started_at,
            lag_ms: None,
        };
        let fact = fixture.env.fact("test", &run_id, json!({}));
        fixture.env.store().claim_run(&row, Place::Now(Overlap::Skip), fact).await.unwrap();
        run_id
    }

    #[tokio::test]
    async fn a_run_beyond_its_limit_is_cancelled_and_others_go_on() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        let (store, now) = (fixture.env.store(), fixture.env.now());
        store.renew_lease("inc_other", "other", 3, now, true).await.unwrap();
        let stuck = running(&fixture, "heartbeat", "inc_other", now - TimeDelta::hours(5)).await;
        let fine = running(&fixture, "slo_guard", "inc_other", now - TimeDelta::minutes(1)).await;
        let record = heal(&fixture).await;
        assert_eq!(repairs(&record), [("run", stuck.as_str(), "cancelling")]);
        assert!(store.is_cancel_asked(&stuck).await.unwrap() && !store.is_cancel_asked(&fine).await.unwrap());
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn leases_and_runs_without_a_process_are_looked_after() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        let (store, now) = (fixture.env.store(), fixture.env.now());
        // The timer looks by itself once after its start, and then not for a third of an hour: it may be first the first time.
        until("self_heal is the first to see it", || async {
            store.renew_lease("inc_gone", fixture.env.node(), 3, now, true).await.unwrap();
            repairs(&heal(&fixture).await) == [("lease", "inc_gone", "released")]
        })
        .await;
        store.renew_lease("inc_dead", fixture.env.node(), 3, now, true).await.unwrap();
        store.renew_lease("inc_far", "far", 3, now - TimeDelta::hours(4), true).await.unwrap();
        let dead = running(&fixture, "slo_guard", "inc_dead", now - TimeDelta::minutes(1)).await;
        // Ours, but nobody carries it out: its end could not be written.
        let lost = running(&fixture, "slo_monitor", fixture.env.incarnation(), now - TimeDelta::minutes(1)).await;
        let far = running(&fixture, "heartbeat", "inc_far", now - TimeDelta::minutes(1)).await;
        let record = heal(&fixture).await;
        let expected = [
            ("lease", "inc_dead", "released"),
            ("run", dead.as_str(), "looked_after"),
            ("run", lost.as_str(), "looked_after"),
            ("lease", "inc_far", "left"),
        ];
        assert_eq!((repairs(&record), &record["ok"]), (expected.to_vec(), &json!(true)));
        for (run_id, looked_after) in [(&dead, true), (&lost, true), (&far, false)] {
            let cut_off = store.attempts(run_id).await.unwrap().first().map(|a| a.state.clone());
            assert_eq!(cut_off.as_deref(), looked_after.then_some("failed"), "{run_id}: a process of another node may live");
        }
        assert_eq!(repairs(&heal(&fixture).await), expected[3..]);
        supervisor.stop().await;
    }

    /// Writes a file that is old.
    fn old(fixture: &Fixture, name: &str) -> PathBuf {
        let path = fixture.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "half").unwrap();
        path
    }

    /// Makes a path as young as `age` before now.
    fn date(fixture: &Fixture, path: &Path, age: TimeDelta) {
        fs::File::open(path).unwrap().set_modified(SystemTime::from(fixture.env.now() - age)).unwrap();
    }

    #[tokio::test]
    async fn old_temporary_files_are_removed_and_nothing_else() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        for name in ["logs/.a.tmp", "backups/payouts/.b.tmp", "backups/daily/.work-x/restored/c", "data/.d.tmp", "backups/.restore-y.tmp/e"]
        {
            old(&fixture, name);
        }
        let kept = ["logs/slo.json", "logs/deep/.a.tmp", "backups/daily/backup.tar.gz", "configs/x.tmp", "data/tmp", "backups/work-x/e"];
        let mut kept: Vec<PathBuf> = kept.iter().map(|name| old(&fixture, name)).collect();
        // Young ones may be in use: a file, and a folder in which something was written.
        let young = old(&fixture, "logs/.young.tmp");
        date(&fixture, &young, TimeDelta::minutes(59));
        let busy = old(&fixture, "backups/daily/.work-busy/deep/f");
        date(&fixture, &busy, TimeDelta::minutes(1));
        // Links lead out, and are no litter either.
        let outside = old(&fixture, "outside/.o.tmp");
        for (to, link) in [("outside", "backups/link"), ("outside/.o.tmp", "logs/.l.tmp"), ("outside", "backups/daily/.work-link")] {
            let link = fixture.folder.path().join(link);
            std::os::unix::fs::symlink(fixture.folder.path().join(to), &link).unwrap();
            kept.push(link);
        }
        kept.extend([young, busy, outside]);
        let record = heal(&fixture).await;
        let removed = ["backups/.restore-y.tmp", "backups/daily/.work-x", "backups/payouts/.b.tmp", "data/.d.tmp", "logs/.a.tmp"];
        assert_eq!(repairs(&record), removed.map(|name| ("file", name, "removed")));
        for name in removed {
            assert!(!fixture.folder.path().join(name).exists(), "{name}");
        }
        for path in &kept {
            assert!(fs::symlink_metadata(path).is_ok() && path.exists(), "{}", path.display());
        }
        assert_eq!(repairs(&heal(&fixture).await), []);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn scratch_folders_are_left_while_a_backup_runs() {
        let fixture = fixture();
        let supervisor = start(&fixture).await;
        let (store, now) = (fixture.env.store(), fixture.env.now());
        old(&fixture, "backups/daily/.work-x/f");
        store.renew_lease("inc_other", "other", 3, now, true).await.unwrap();
        let run_id = running(&fixture, "daily_backup", "inc_other", now).await;
        assert_eq!(repairs(&heal(&fixture).await), []);
        let end = RunEnd {
            state: "failed",
            reason: None,
            attempts: 1,
            began: None,
            ended_at: now,
            error: None,
            result: None,
            last_attempt: None,
        };
        assert!(store.end_run(&run_id, "inc_other", &end, fixture.env.fact("test", "x", json!({}))).await.unwrap());
        assert_eq!(repairs(&heal(&fixture).await), [("file", "backups/daily/.work-x", "removed")]);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn more_files_than_one_run_may_remove_wait_for_the_next_and_each_is_in_the_journal() {
        let fixture = fixture();
        for n in 0..MAX_FILES + 2 {
            old(&fixture, &format!("backups/.{n}.tmp"));
        }
        // Without a supervisor the others cannot be looked at: that stops nothing, and is said.
        let record = heal(&fixture).await;
        let failed = [("part", "all", "failed"), ("run", "all", "failed"), ("lease", "all", "failed")];
        assert_eq!(repairs(&record)[..3], failed);
        assert_eq!(record["repairs"][0]["error"], "the supervisor is not running yet");
        assert_eq!((&record["ok"], &record["failed"], &record["repaired"]), (&json!(false), &json!(3), &json!(MAX_FILES)));
        assert_eq!(record["more"], json!(["file"]));
        journal_holds(&fixture, 100).await;
        assert_eq!(heal(&fixture).await["repaired"], 2);
        journal_holds(&fixture, 102).await;
    }
}
