//! How an objective stands: PASS, FAIL or NO_DATA with the clause that decided, over its whole window, the burn, the silence, and the times
//! that do not count. Used by the report, the guard, the page and the command line alike, so that they can never disagree.

use serde_json::{Value, json};

use super::{
    Absence, Counts, Level, Report, Status, absence, burn,
    judge::{decide, floored_share},
    wilson,
};

/// Minutes [from, until) that count neither for nor against.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Excluded {
    /// Of the entry that says so.
    pub id: String,
    /// `maintenance` (planned beforehand) or `correction` (found out afterwards).
    pub kind: String,
    /// Minutes since the epoch.
    pub from: i64,
    pub until: i64,
    pub reason: String,
    pub author: String,
}

impl Excluded {
    pub fn covers(&self, minute: i64) -> bool {
        (self.from..self.until).contains(&minute)
    }
}

/// The verdict on an objective.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Judgement {
    pub status: Status,
    /// What decided: `no_data`, `absence`, `success_rate`, `success_rate_small_sample`, `p95`, `p95_small_sample`, `burn`, `absolute` or
    /// `within_objective`.
    pub rule: &'static str,
    /// The same as a sentence with the numbers.
    pub clause: String,
    /// Events of the window.
    pub n: u64,
    pub bad: u64,
    pub slow: u64,
    pub success_rate: Option<f64>,
    /// The Wilson 95 % intervals of the shares of failed and of slow events.
    pub error_rate_interval: Option<(f64, f64)>,
    pub slow_rate_interval: Option<(f64, f64)>,
}

/// One objective at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub level: Level,
    pub verdict: Judgement,
    pub report: Report,
    pub absence: Absence,
    /// What of the window does not count, and how many events that leaves out.
    pub excluded: Vec<Excluded>,
    pub excluded_events: u64,
    pub excluded_bad: u64,
}

/// Judges the closed minutes before `now`. `excluded` is what concerns the level's service; `watched_since` is when counting began.
pub fn stand(level: &Level, minutes: impl IntoIterator<Item = Counts>, excluded: &[Excluded], watched_since: i64, now: i64) -> Standing {
    let (left_out, minutes): (Vec<Counts>, Vec<Counts>) = minutes.into_iter().partition(|m| excluded.iter().any(|e| e.covers(m.minute)));
    let (from, _) = level.window.at(now);
    let in_window = |m: &&Counts| m.minute >= from && m.minute < now;
    let mut sum = Counts::default();
    for minute in minutes.iter().filter(in_window) {
        sum.total = sum.total.saturating_add(minute.total);
        sum.bad = sum.bad.saturating_add(minute.bad);
        sum.slow = sum.slow.saturating_add(minute.slow);
    }
    let report = burn(level, minutes.iter().copied(), now);
    let now_excluded = excluded.iter().any(|e| e.covers(now));
    let mut absence = absence(level, &minutes, watched_since.max(excluded_until(excluded, now)), now);
    if now_excluded {
        (absence.severity, absence.clause) = (None, "the present time is excluded".to_owned());
    }
    let (status, rule, clause) = verdict(level, &sum, &report, &absence);
    let left_out: Vec<&Counts> = left_out.iter().filter(in_window).collect();
    Standing {
        level: level.clone(),
        verdict: Judgement {
            status,
            rule,
            clause,
            n: sum.total,
            bad: sum.bad,
            slow: sum.slow,
            success_rate: floored_share(sum.succeeded(), sum.total),
            error_rate_interval: wilson(sum.bad, sum.total),
            slow_rate_interval: level.latency.and_then(|_| wilson(sum.slow, sum.succeeded())),
        },
        report,
        absence,
        excluded: excluded.iter().filter(|e| e.until > from && e.from <= now).cloned().collect(),
        excluded_events: left_out.iter().map(|m| m.total).sum(),
        excluded_bad: left_out.iter().map(|m| m.bad).sum(),
    }
}

/// When the last excluded time before `now` ended: silence is counted from there.
fn excluded_until(excluded: &[Excluded], now: i64) -> i64 {
    excluded.iter().filter(|e| e.from <= now).map(|e| e.until.min(now)).max().unwrap_or(i64::MIN)
}

fn verdict(level: &Level, sum: &Counts, report: &Report, absence: &Absence) -> (Status, &'static str, String) {
    let (status, rule, clause) =
        if level.slices.is_some() { of_slices(report) } else { decide(level, sum, &format!("in the window ({})", level.window.name())) };
    if status == Status::Fail {
        return (status, rule, clause);
    }
    for objective in &report.objectives {
        if let Some(tier) = objective.tiers.iter().find(|tier| tier.firing && tier.severity == "page") {
            let clause = format!(
                "{}: {} of {} events of the last {} were bad, and the last {} burn as fast: above {} times the budget",
                objective.name, tier.bad, tier.n, tier.long, tier.short, tier.factor
            );
            return (Status::Fail, "burn", clause);
        }
        if objective.absolute.firing {
            let absolute = &objective.absolute;
            let clause =
                format!("{}: {} bad and only {} good events in the last {}", objective.name, absolute.bad, absolute.good, absolute.window);
            return (Status::Fail, "absolute", clause);
        }
    }
    if absence.severity.is_some() {
        return (Status::NoData, "absence", absence.clause.clone());
    }
    (status, rule, clause)
}

/// The verdict where the budget counts slices of time.
fn of_slices(report: &Report) -> (Status, &'static str, String) {
    let rule = |name: &str| if name == "latency" { "p95" } else { "success_rate" };
    if report.objectives.iter().all(|o| o.n == 0) {
        return (Status::NoData, "no_data", "no slice with events in the window".to_owned());
    }
    for objective in &report.objectives {
        let allowed_ppm = super::PPM - objective.target_ppm;
        if u128::from(objective.bad) * u128::from(super::PPM) > u128::from(allowed_ppm) * u128::from(objective.n) {
            let clause =
                format!("{} of {} slices were bad, more than the {} % allowed", objective.bad, objective.n, allowed_ppm as f64 / 1e4);
            return (Status::Fail, rule(objective.name), clause);
        }
    }
    let text: Vec<_> = report.objectives.iter().map(|o| format!("{} of {} slices were bad ({})", o.bad, o.n, o.name)).collect();
    (Status::Pass, "within_objective", format!("{}: within the objective", text.join(", ")))
}

impl Standing {
    /// What may be told of it: `page`, `ticket`, or nothing.
    pub fn severity(&self) -> Option<&'static str> {
        let page = self.report.page || self.report.budget_exhausted || self.absence.severity == Some("page");
        let ticket = self.report.ticket || self.absence.severity == Some("ticket");
        if page { Some("page") } else { ticket.then_some("ticket") }
    }

    /// As the API, the files and the command line show it.
    pub fn to_json(&self) -> Value {
        let level = &self.level;
        json!({
            "name": level.name,
            "service": level.service,
            "target_ppm": level.success_ppm,
            "latency_ms": level.latency.map(|l| l.ms),
            "latency_share_ppm": level.latency.map(|l| l.share_ppm),
            "window": level.window.name(),
            "budgeting": if level.slices.is_some() { "timeslices" } else { "occurrences" },
            "timeslice_minutes": level.slices.map(|s| s.minutes),
            "timeslice_target_ppm": level.slices.map(|s| s.share_ppm),
            "min_events": level.min_events,
            "status": self.verdict.status,
            "severity": self.severity(),
            "verdict": self.verdict,
            "breach": self.report.breach,
            "page": self.report.page,
            "ticket": self.report.ticket,
            "budget_exhausted": self.report.budget_exhausted,
            "worst": self.report.worst,
            "gate": self.report.gate,
            "coverage": self.report.coverage,
            "objectives": self.report.objectives,
            "absence": self.absence,
            "excluded": self.excluded.iter().map(excluded_json).collect::<Vec<_>>(),
            "excluded_events": self.excluded_events,
            "excluded_bad": self.excluded_bad,
        })
    }
}

fn excluded_json(excluded: &Excluded) -> Value {
    let at = |minute: i64| {
        let time = chrono::DateTime::from_timestamp(minute.saturating_mul(60), 0);
        time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    };
    json!({
        "id": excluded.id, "kind": excluded.kind, "from": at(excluded.from), "until": at(excluded.until),
        "minutes": excluded.until - excluded.from, "reason": excluded.reason, "author": excluded.author,
    })
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
