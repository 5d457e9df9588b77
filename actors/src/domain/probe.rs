//! What is asked from outside and whether an answer is as it should be. Read from the settings when the daemon starts; the probes themselves
//! (`probe/`) only fetch what is judged here. A probe that could not be made because we are offline says nothing about its target.

use serde_json::Value;

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Tcp,
    Tls,
    /// This program's own.
    Database,
}

impl Kind {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "tcp" => Some(Self::Tcp),
            "tls" => Some(Self::Tls),
            "database" => Some(Self::Database),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Database => "database",
        }
    }
}

/// What a good answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    pub kind: Kind,
    /// Status codes that are fine, as closed ranges.
    pub status: Vec<(u16, u16)>,
    /// What the body must contain; empty: anything.
    pub contains: String,
    /// A JSON pointer into the body, and the text its value must have; empty: not looked at.
    pub json: String,
    pub equals: String,
    /// A slower answer is bad; 0: any will do.
    pub max_ms: u64,
    /// A certificate that ends within so many days is told.
    pub cert_days: i64,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Why nothing came back.
    pub failed: Option<String>,
    pub status: Option<u16>,
    pub body: Option<String>,
    pub took_ms: u64,
    /// When the certificate ends, Unix seconds.
    pub cert_ends: Option<i64>,
}

/// `200-299, 301`: closed ranges of status codes. The error says what is wrong.
pub fn status_ranges(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let ranges = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let range = number(low).zip(number(high)).filter(|(low, high)| low <= high);
        range.ok_or_else(|| format!("\"{part}\" is no status code or range of them (100 to 599)"))
    });
    let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
    if ranges.is_empty() { Err("must name a status code at least, e.g. \"200-299\"".to_owned()) } else { Ok(ranges) }
}

impl Expectation {
    /// `Ok` is a sentence about what is well, `Err` one about what is not.
    pub fn judge(&self, seen: &Seen) -> Result<String, String> {
        if let Some(failed) = &seen.failed {
            return Err(failed.clone());
        }
        if self.kind == Kind::Http {
            self.answer(seen)?;
        }
        if self.max_ms > 0 && seen.took_ms > self.max_ms {
            return Err(format!("it took {} ms, more than {} ms", seen.took_ms, self.max_ms));
        }
        let what = seen.status.map_or_else(|| "it answered".to_owned(), |status| format!("status {status}"));
        Ok(format!("{what} after {} ms", seen.took_ms))
    }

    fn answer(&self, seen: &Seen) -> Result<(), String> {
        let status = seen.status.unwrap_or_default();
        if !self.status.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
            return Err(format!("status {status}"));
        }
        let body = seen.body.as_deref().unwrap_or_default();
        if !self.contains.is_empty() && !body.contains(&self.contains) {
            return Err(format!("status {status}, but the body does not contain \"{}\"", self.contains));
        }
        if !self.json.is_empty() {
            let value: Value = serde_json::from_str(body).map_err(|_| format!("status {status}, but the body is not JSON"))?;
            let found = value.pointer(&self.json).ok_or_else(|| format!("status {status}, but the body has no {}", self.json))?;
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            if text != self.equals {
                return Err(format!("status {status}, but {} is \"{text}\", not \"{}\"", self.json, self.equals));
            }
        }
        Ok(())
    }

    /// Whether the certificate lasts: `None` if none was seen. `Err` is a sentence for a person.
    pub fn certificate(&self, seen: &Seen, now: i64) -> Option<Result<String, String>> {
        let left = seen.cert_ends? - now;
        let days = left.div_euclid(86_400);
        Some(if left < 0 {
            Err(format!("the certificate ended {} days ago", (-left).div_euclid(86_400)))
        } else if days < self.cert_days {
            Err(format!("the certificate ends in {days} days"))
        } else {
            Ok(format!("the certificate lasts {days} days"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation() -> Expectation {
        Expectation {
            kind: Kind::Http,
            status: vec![(200, 299)],
            contains: String::new(),
            json: String::new(),
            equals: String::new(),
            max_ms: 500,
            cert_days: 14,
        }
    }

    fn seen(status: u16, body: &str, took_ms: u64) -> Seen {
        Seen { status: Some(status), body: Some(body.into()), took_ms, ..Seen::default() }
    }

    #[test]
    fn an_answer_is_judged_by_status_body_and_time_in_this_order() {
        let plain = expectation();
        let contains = Expectation { contains: "fine".into(), ..expectation() };
        let json = Expectation { json: "/state/db".into(), equals: "ok".into(), ..expectation() };
        let number = Expectation { json: "/n".into(), equals: "3".into(), ..expectation() };
        let cases = [
            (&plain, seen(204, "", 20), Ok("status 204 after 20 ms")),
            (&plain, seen(301, "", 20), Err("status 301")),
            (&plain, seen(200, "", 501), Err("it took 501 ms, more than 500 ms")),
            (&contains, seen(200, "all is fine", 1), Ok("status 200 after 1 ms")),
            (&contains, seen(200, "no", 1), Err("status 200, but the body does not contain \"fine\"")),
            (&json, seen(200, "{\"state\":{\"db\":\"ok\"}}", 1), Ok("status 200 after 1 ms")),
            (&json, seen(200, "{\"state\":{\"db\":\"down\"}}", 1), Err("status 200, but /state/db is \"down\", not \"ok\"")),
            (&json, seen(200, "{}", 1), Err("status 200, but the body has no /state/db")),
            (&json, seen(200, "<html>", 1), Err("status 200, but the body is not JSON")),
            (&number, seen(200, "{\"n\":3}", 1), Ok("status 200 after 1 ms")),
        ];
        for (expectation, seen, expected) in cases {
            let judged = expectation.judge(&seen);
            assert_eq!(judged.as_deref().map_err(String::as_str), expected, "{seen:?}");
        }
        let lost = Seen { failed: Some("connection refused".into()), ..Seen::default() };
        assert_eq!(plain.judge(&lost), Err("connection refused".into()));
        let tcp = Expectation { kind: Kind::Tcp, ..expectation() };
        assert_eq!(tcp.judge(&Seen { took_ms: 3, ..Seen::default() }), Ok("it answered after 3 ms".into()));
    }

    #[test]
    fn a_certificate_is_told_before_it_ends() {
        let now = 1_800_000_000;
        let at = |days: i64| expectation().certificate(&Seen { cert_ends: Some(now + days * 86_400), ..Seen::default() }, now);
        assert_eq!(at(30), Some(Ok("the certificate lasts 30 days".into())));
        assert_eq!(at(13), Some(Err("the certificate ends in 13 days".into())));
        assert_eq!(at(-2), Some(Err("the certificate ended 2 days ago".into())));
        assert_eq!(expectation().certificate(&Seen::default(), now), None);
    }

    #[test]
    fn status_codes_are_read_as_they_are_written() {
        assert_eq!(status_ranges("200-299, 301"), Ok(vec![(200, 299), (301, 301)]));
        for wrong in ["", "2xx", "299-200", "99", "600", "200-"] {
            assert!(status_ranges(wrong).is_err(), "{wrong}");
        }
    }
}
