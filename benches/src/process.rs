//! What the kernel says about a process: time on the CPU and memory (proc_pid_stat(5), proc_pid_status(5)).

/// User and system time so far, in seconds; 100 ticks a second. `who`: a process id, or `self`.
pub(crate) fn cpu_seconds(who: &str) -> f64 {
    let stat = read(who, "stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

pub(crate) fn resident_mib(who: &str) -> f64 {
    let status = read(who, "status");
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn read(who: &str, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{who}/{file}")).expect("the kernel tells")
}
