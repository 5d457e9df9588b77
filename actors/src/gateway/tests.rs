//! The gateway over real HTTP: a whole daemon in this process on a free port, with the sandbox as provider. What a client may send
//! that is wrong, late, too much or not allowed, and what it is told.

mod access_tests;
mod canary_tests;
mod gaps_tests;
mod ledger_tests;
mod levels_tests;
mod limits_tests;
mod story_tests;
mod webhooks_tests;

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Method, Response};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use warp::filters::BoxedFilter;

use super::{
    Shell,
    route::{any_of, open},
};
use crate::{
    config::{Config, Environment},
    daemon::{Daemon, Mode},
    env::Clock,
};

const KEY: &str = "ep_test_key";
const SECRET: &str = "whsec_test_secret";

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(warp::reply::Response,)> {
    any_of([
        open(shell, Method::GET, "/test/panic", |_, _| async { panic!("a handler panics") }),
        open(shell, Method::GET, "/test/slow", |shell, _| async move {
            shell.env.store().set_meta("slow", "begun").await?;
            tokio::time::sleep(Duration::from_millis(600)).await;
            Ok(super::respond::json(&json!({"ok": true})))
        }),
    ])
}

struct Running {
    daemon: Daemon,
    clock: Clock,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut environment: Environment = BTreeMap::from([
            ("ECHOPILOT__PATHS__DATA".to_owned(), path("data")),
            ("ECHOPILOT__PATHS__LOGS".to_owned(), path("logs")),
            ("ECHOPILOT__PATHS__BACKUPS".to_owned(), path("backups")),
            ("ECHOPILOT__PATHS__CONFIGS".to_owned(), path("configs")),
            ("DASHBOARD_KEY".to_owned(), KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), SECRET.to_owned()),
        ]);
        for (name, value) in
            [("SERVER__LISTEN", "127.0.0.1:0"), ("TIMER__ENABLED", "false"), ("SUPERVISOR__DRILLS", "true")].iter().chain(settings)
        {
            environment.insert(format!("ECHOPILOT__{name}"), (*value).to_owned());
        }
        let config = Config::load(None, &environment).unwrap();
        let clock = Clock::default();
        let daemon = Daemon::start(config, &environment, Mode::Serve, clock.clone()).await.unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { daemon, clock, http, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.daemon.env.server_address())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path)).header("x-dash-key", KEY)
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        read(self.request(Method::GET, path).send().await.unwrap()).await
    }

    async fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        let request = self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string());
        read(request.send().await.unwrap()).await
    }

    /// Starts a request that takes a while; it is being answered when this returns.
    async fn slow(&self) -> tokio::task::JoinHandle<reqwest::Result<Response>> {
        let slow = tokio::spawn(self.http.get(self.url("/test/slow")).send());
        while self.daemon.env.store().meta("slow").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        slow
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.daemon.env.server_address()).await.unwrap()
    }
}

async fn read(response: Response) -> (u16, Json) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}
