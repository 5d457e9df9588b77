//! The parts of the daemon as checks, a check for each. Called where the supervisor's states are known. Every other rule is data: see
//! `configs/alerts.toml` and `figure.rs`.

use super::{Check, Severity};

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    /// Why it stays down; `None` while it runs, and during a restart.
    pub down: Option<String>,
}

/// The parts of the daemon, a check for each: each fires, is told and resolves on its own, also while another is down already.
pub fn parts(parts: &[Part]) -> Vec<Check> {
    let check = |part: &Part| Check {
        ok: Some(part.down.is_none()),
        severity: Severity::Critical,
        value: Some(if part.down.is_some() { "down" } else { "up" }.to_owned()),
        threshold: "up".into(),
        reason: part.down.as_ref().map_or_else(|| format!("{} is up", part.name), |why| format!("{} is {why}", part.name)),
        name: format!("part_{}", part.name),
        system: "parts",
        ..Check::default()
    };
    parts.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_check_of_its_own() {
        let up = Part { name: "slo", down: None };
        let checks = parts(&[up, Part { name: "recon", down: Some("put aside".into()) }]);
        let told: Vec<_> = checks.iter().map(|c| (c.name.as_str(), c.ok, c.severity)).collect();
        assert_eq!(told, [("part_slo", Some(true), Severity::Critical), ("part_recon", Some(false), Severity::Critical)]);
        assert_eq!((checks[1].system, checks[1].reason.as_str()), ("parts", "recon is put aside"));
    }
}
