//! The probes as the settings describe them. Asked when the settings are read, which refuses what cannot be asked with its key, and by the
//! probes when they start.

use super::{Config, ProbeSettings};
use crate::domain::probe::{Expectation, Kind, status_ranges};

impl ProbeSettings {
    /// What a good answer is; the error is the key and what is wrong with it.
    pub fn expectation(&self) -> Result<Expectation, (&'static str, String)> {
        let kind = Kind::named(&self.kind).ok_or_else(|| ("kind", format!("must be http, tcp, tls or database, not \"{}\"", self.kind)))?;
        let is_url = self.target.starts_with("http://") || self.target.starts_with("https://");
        match kind {
            Kind::Http if !is_url => return Err(("target", "must start with http:// or https://".to_owned())),
            Kind::Tcp | Kind::Tls if host_and_port(&self.target).is_none() => {
                return Err(("target", format!("must be host:port, not \"{}\"", self.target)));
            }
            _ => {}
        }
        if !(1..=86_400).contains(&self.every_s) {
            return Err(("every_s", "must be 1 to 86400".to_owned()));
        }
        if !(1..=300).contains(&self.timeout_s) {
            return Err(("timeout_s", "must be 1 to 300".to_owned()));
        }
        if !self.json.is_empty() && !self.json.starts_with('/') {
            return Err(("json", "must be a JSON pointer: it starts with /".to_owned()));
        }
        Ok(Expectation {
            kind,
            status: status_ranges(&self.status).map_err(|what| ("status", what))?,
            contains: self.contains.clone(),
            json: self.json.clone(),
            equals: self.equals.clone(),
            max_ms: self.max_ms,
            cert_days: self.cert_days,
        })
    }
}

/// `example.com:443` or `[::1]:443`.
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
    port.parse().ok().filter(|port| *port > 0 && is_host).map(|port| (host, port))
}

impl Config {
    /// What of the probes and of the own connectivity is wrong, each a sentence with its key.
    pub(super) fn probe_problems(&self) -> Vec<String> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let mut problems = Vec::new();
        for (name, settings) in &self.probes {
            if name.is_empty() || name.len() > 64 || !name.chars().all(is_word) {
                problems.push(format!("probes.{name}: the name must be up to 64 letters, digits, \"_\", \"-\" and \".\""));
            }
            problems.extend(settings.expectation().err().map(|(key, what)| format!("probes.{name}.{key} {what}")));
        }
        let wrong = self.connectivity.check.iter().filter(|target| host_and_port(target).is_none());
        problems.extend(wrong.map(|target| format!("connectivity.check must be host:port, not \"{target}\"")));
        if !(1..=60).contains(&self.connectivity.timeout_s) {
            problems.push("connectivity.timeout_s must be 1 to 60".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn a_probe_that_cannot_be_made_is_refused_with_its_key() {
        let load = |key: &str, value: &str| {
            let pairs = [("ECHOPILOT__PATHS__CONFIGS", "none"), ("ECHOPILOT__PROBES__SHOP__TARGET", "https://shop.example/"), (key, value)];
            let environment: Environment = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            Config::load(None, &environment).map(drop).map_err(|e| e.message)
        };
        assert_eq!(load("ECHOPILOT__PROBES__SHOP__MAX_MS", "1"), Ok(()));
        let cases = [
            ("PROBES__SHOP__KIND", "icmp", "probes.shop.kind must be http, tcp, tls or database, not \"icmp\""),
            ("PROBES__SHOP__TARGET", "shop", "probes.shop.target must start with http"),
            ("PROBES__SHOP__KIND", "tls", "probes.shop.target must be host:port"),
            ("PROBES__SHOP__EVERY_S", "0", "probes.shop.every_s must be 1 to 86400"),
            ("PROBES__SHOP__STATUS", "ok", "probes.shop.status \"ok\" is no status code"),
            ("PROBES__SHOP__JSON", "status", "probes.shop.json must be a JSON pointer"),
            ("CONNECTIVITY__CHECK", "example", "connectivity.check must be host:port, not \"example\""),
        ];
        for (key, value, says) in cases {
            let message = load(&format!("ECHOPILOT__{key}"), value).unwrap_err();
            assert!(message.contains(says), "{key}: {message}");
        }
        assert_eq!((host_and_port("[::1]:443"), host_and_port("a:0"), host_and_port(":80")), (Some(("::1", 443)), None, None));
    }
}
