//! An HTTP answer, kept whole, with the assertions that every test makes.

use serde_json::Value as Json;

/// Status, headers (names in lowercase) and body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub what: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{}: {} is not JSON ({e}): {}", self.what, self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The JSON body of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Json {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text());
        self.json()
    }

    /// The body of a success: 200 and `ok: true`.
    #[track_caller]
    pub fn ok(&self) -> Json {
        let body = self.expect(200);
        assert_eq!(body["ok"], true, "{}: {body}", self.what);
        body
    }

    /// The body of a refusal in the shape of RFC 9457 with our two members.
    #[track_caller]
    pub fn problem(&self, status: u16, error: &str) -> Json {
        let body = self.expect(status);
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{}: content-type {kind}", self.what);
        assert_eq!(body["ok"], false, "{}: {body}", self.what);
        assert_eq!(body["error"], error, "{}: {body}", self.what);
        assert_eq!(body["status"], status, "{}: {body}", self.what);
        for member in ["type", "title"] {
            assert!(body[member].as_str().is_some_and(|t| !t.is_empty()), "{}: no {member} in {body}", self.what);
        }
        body
    }
}
