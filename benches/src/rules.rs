//! One evaluation of 1,000 rules over 10,000 series: our engine, every series stepped through its state as the alert actor does, beside
//! Prometheus with the same rules on the same series in the same run, by what it says of itself. The rules are of both kinds: nothing
//! wrong, and every series firing. Then who is told what: with all of them firing, and with all of them just over.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::domain::{
    alert_rule::{Alert, Catalogue, Patience, Sample, Severity, fingerprint, judge, step},
    notify::{Channel, Group, Look, Settings, decide},
};

const RULES: usize = 1_000;
const SERIES: usize = 10;
const ROUNDS: usize = 9;

pub(crate) fn figures(quick: bool) {
    let catalogue = Catalogue::read(&our_rules(), None).expect("the rules are valid");
    for (name, value) in [("nothing wrong", 10.0), ("every series beyond its limit", 90.0)] {
        let samples = our_samples(value);
        let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let at = DateTime::<Utc>::from_timestamp(1_700_000_000 + 15 * i64::try_from(round).unwrap_or(0), 0).expect("a time");
            let start = Instant::now();
            evaluate(&catalogue, &samples, &mut alerts, at);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        println!(
            "rules, {name:<31}{:>9.1} ms   ({RULES} rules, {} series, {} alerts; {:.2} % of a core at every 15 s)",
            crate::median(times.clone()),
            RULES * SERIES,
            alerts.len(),
            crate::median(times) / 150.0
        );
    }
    tellings(&catalogue);
    let Some(program) = std::env::var_os("ECHOPILOT_BENCH_PROMETHEUS") else {
        println!("  Prometheus is not here: no ratio");
        return;
    };
    for (name, value) in [("nothing wrong", 10.0), ("every series beyond its limit", 90.0)] {
        let theirs = prometheus(Path::new(&program), value, if quick { 6 } else { 15 });
        println!("  Prometheus, {name:<26}{theirs:>9.1} ms   (its own prometheus_rule_group_last_duration_seconds, median)");
    }
}

fn evaluate(catalogue: &Catalogue, samples: &[Sample], alerts: &mut BTreeMap<String, Alert>, at: DateTime<Utc>) {
    for check in judge(catalogue.rules(), samples) {
        let id = fingerprint(&check.labels());
        if let (Some(alert), _) = step(alerts.get(&id), &check, at, Patience::new(1, 2)) {
            alerts.insert(id, alert);
        }
    }
}

/// The decision who is told what, over ten thousand alerts: when they fire, at every look after it, and when they are over.
fn tellings(catalogue: &Catalogue) {
    let at = |seconds: i64| DateTime::<Utc>::from_timestamp(1_700_000_000 + seconds, 0).expect("a time");
    let (mut alerts, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let settings = Settings {
        group_by: vec!["system".into()],
        wait: TimeDelta::seconds(30),
        interval: TimeDelta::seconds(300),
        repeat: TimeDelta::hours(4),
        send_resolved: true,
        storm_per_name: 20,
        channels: vec![Channel { name: "email", min_severity: Severity::Warning, lists_all: false }],
    };
    let mut look = |what: &str, value: f64, seconds: i64, wanted: usize| {
        for check in [value, value] {
            evaluate(catalogue, &our_samples(check), &mut alerts, at(seconds));
        }
        for now in [at(seconds), at(seconds + 301)] {
            let start = Instant::now();
            let decision =
                decide(&Look { now, alerts: &alerts, groups: &groups, silences: &[], maintenance: &[], catalogue, settings: &settings });
            let took = start.elapsed().as_secs_f64() * 1e3;
            groups = decision.groups.into_iter().collect::<BTreeMap<String, Group>>();
            let told = decision.messages.len();
            println!("rules, who is told: {what:<18}{took:>9.1} ms   ({} alerts, {told} messages)", alerts.len());
            assert_eq!(told, if now == at(seconds) { 0 } else { wanted }, "{what}");
        }
    };
    look("all fire", 90.0, 0, 1);
    look("all are over", 10.0, 1_000, 1);
}

fn our_rules() -> String {
    let mut text = String::new();
    for n in 0..RULES {
        let _ = writeln!(
            text,
            "[rules.r{n}]\nsystem = \"own\"\nfigure = \"figure_{n}\"\nunit = \"%\"\nabove = 85\nwhat = \"w\"\nowner = \"o\"\nrunbook = \"r\""
        );
    }
    text
}

fn our_samples(value: f64) -> Vec<Sample> {
    let series = |n: usize| (0..SERIES).map(move |s| Sample::new(&format!("figure_{n}"), Some(value)).label("shop", &format!("s{s}")));
    (0..RULES).flat_map(series).collect()
}

/// The median of `evaluations` durations in milliseconds that a Prometheus of its own reports.
fn prometheus(program: &Path, value: f64, evaluations: usize) -> f64 {
    let mut page = String::new();
    for n in 0..RULES {
        let _ = writeln!(page, "# TYPE figure_{n} gauge");
        for s in 0..SERIES {
            let _ = writeln!(page, "figure_{n}{{shop=\"s{s}\"}} {value}");
        }
    }
    let target = serve(page);
    let folder = tempfile::tempdir().expect("a folder");
    let mut rules = "groups:\n- name: bench\n  interval: 1s\n  rules:\n".to_owned();
    for n in 0..RULES {
        let _ = writeln!(rules, "  - alert: r{n}\n    expr: figure_{n} > 85");
    }
    std::fs::write(folder.path().join("rules.yml"), rules).expect("the rules are written");
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [rules.yml]\nscrape_configs:\n- job_name: bench\n  static_configs:\n  - targets: ['{target}']\n"
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).expect("the settings are written");
    let port = free_port();
    let child = Command::new(program)
        .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Prometheus starts");
    let _child = Ended(child);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut times = Vec::new();
    let mut seen = 0.0;
    while times.len() < evaluations {
        assert!(Instant::now() < deadline, "Prometheus evaluated {} times within a minute", times.len());
        std::thread::sleep(Duration::from_millis(300));
        let Some(text) = get(address, "/metrics") else { continue };
        let metric = |name: &str| {
            text.lines().find(|l| l.starts_with(name) && l.contains("rules.yml")).and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        };
        let (Some(at), Some(took)) =
            (metric("prometheus_rule_group_last_evaluation_timestamp_seconds{"), metric("prometheus_rule_group_last_duration_seconds{"))
        else {
            continue;
        };
        // The first evaluations find nothing scraped.
        if at > seen
            && text.lines().any(|l| {
                l.starts_with("prometheus_tsdb_head_series ")
                    && l.rsplit(' ').next().is_some_and(|n| n.parse::<f64>().is_ok_and(|n| n >= 10_000.0))
            })
        {
            seen = at;
            times.push(took * 1e3);
        }
    }
    crate::median(times)
}

/// Ends the process it holds when it goes.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port is free").port()
}

/// Serves one page to everybody until the process ends.
fn serve(page: String) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
        }
    });
    address
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
