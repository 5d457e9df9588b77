//! An S3-compatible server on loopback, and the proxy before it that does to requests what a test tells it.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{Peer, SHORT, outside::python, peer, until};

/// The bucket that the server has.
pub const BUCKET: &str = "backups";

/// A server with one bucket, reached through the proxy.
#[derive(Debug)]
pub struct Bucket {
    proxy: Peer,
    server: Peer,
    http: reqwest::blocking::Client,
}

impl Default for Bucket {
    fn default() -> Self {
        Self::start()
    }
}

impl Bucket {
    #[track_caller]
    pub fn start() -> Self {
        let start = |script: &str, argument: &str| {
            let mut command = python();
            command.arg(peer(script)).arg(argument);
            Peer::start(command)
        };
        let server = start("s3_server.py", BUCKET);
        let port = server.url().rsplit(':').next().unwrap_or_default().to_owned();
        let proxy = start("fault_proxy.py", &port);
        let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have installed it
        let http = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("an HTTP client");
        Self { proxy, server, http }
    }

    /// What a daemon is given to use it.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("ECHOPILOT__REPLICA__URL", format!("s3://{BUCKET}/node")),
            ("ECHOPILOT__REPLICA__ENDPOINT", self.proxy.url()),
            ("ECHOPILOT__REPLICA__PART_MB", "5".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIATEST".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// Replaces the proxy's rules, and lets go what an earlier one holds.
    #[track_caller]
    pub fn faults(&self, rules: &Json) {
        let answer = self.http.put(format!("{}/_faults", self.proxy.url())).body(rules.to_string()).send().expect("the proxy answers");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Requests so far, in their order: `{"method","path","query","fault","status"}`.
    #[track_caller]
    pub fn log(&self) -> Vec<Json> {
        let answer = self.http.get(format!("{}/_log", self.proxy.url())).send().and_then(reqwest::blocking::Response::bytes);
        serde_json::from_slice(&answer.expect("the proxy answers")).expect("a list")
    }

    /// Requests of a method whose path and query hold these texts.
    #[track_caller]
    pub fn requests(&self, method: &str, path: &str, query: &str) -> Vec<Json> {
        let has = |entry: &Json, member: &str, part: &str| entry[member].as_str().is_some_and(|text| text.contains(part));
        self.log().into_iter().filter(|e| e["method"] == method && has(e, "path", path) && has(e, "query", query)).collect()
    }

    /// Waits for a request that is held or was answered.
    #[track_caller]
    pub fn wait_for(&self, what: &str, found: impl Fn(&Json) -> bool) {
        until(what, SHORT, || self.log().iter().any(&found).then_some(()));
    }

    /// The names in the bucket, asked past the proxy.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let text = self.http.get(format!("{}/{BUCKET}?list-type=2", self.server.url())).header("authorization", AUTHORIZATION).send();
        let text = text.and_then(reqwest::blocking::Response::text).expect("the server answers");
        let mut names: Vec<String> =
            text.split("<Key>node/").skip(1).filter_map(|rest| rest.split("</Key>").next().map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// An object's bytes, asked past the proxy.
    #[track_caller]
    pub fn object(&self, name: &str) -> Vec<u8> {
        let url = format!("{}/{BUCKET}/node/{name}", self.server.url());
        let answer = self.http.get(url).header("authorization", AUTHORIZATION).send().expect("the server answers");
        assert!(answer.status().is_success(), "{name}: {answer:?}");
        answer.bytes().expect("its bytes").to_vec()
    }

    /// Replaces an object past the proxy, as somebody with other keys would.
    #[track_caller]
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let url = format!("{}/{BUCKET}/node/{name}", self.server.url());
        let answer = self.http.put(url).header("authorization", AUTHORIZATION).body(bytes.to_vec()).send().expect("the server answers");
        assert!(answer.status().is_success(), "{name}: {answer:?}");
    }
}

/// Any will do; it must appear nowhere.
pub const SECRET: &str = "a-secret-of-the-bucket-that-no-file-may-hold";
/// Enough for the server to know which service is meant.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
