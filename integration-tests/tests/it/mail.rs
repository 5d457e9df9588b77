//! Real peers of the channels: an SMTP server that refuses for a while or for good, and an Alertmanager that receives and resolves our alerts.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
};

use integration_tests::{LONG, Peer, Serving, Setup, always, command, peer, python, until};
use serde_json::Value as Json;

use crate::setup;

/// A critical alert from the start on, whose title is not ASCII.
fn firing(setup: Setup) -> Setup {
    let setup = setup.watchful();
    setup.write_rules(&always("mine", "größer als gedacht"));
    setup
}

/// A daemon that mails to two people through a server whose next answers are `plan`, and the folder with the mails.
fn mailing(plan: &str) -> (Peer, Setup, PathBuf) {
    let setup = setup();
    let folder = setup.root().join("mail");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("plan"), plan).expect("written");
    let mut command = python();
    command.arg(peer("smtp_server.py")).arg(&folder);
    let server = Peer::start(command);
    let port = server.url().rsplit(':').next().expect("a port").to_owned();
    let setup = firing(setup)
        .env("SMTP_HOST", "127.0.0.1")
        .env("SMTP_PORT", port)
        .env("SMTP_USER", "ops")
        .env("SMTP_PASS", "right")
        .env("SMTP_FROM", "EchoPilot <pilot@example.com>")
        .env("REPORTS_TO", "a@example.com,b@example.com")
        .env("ECHOPILOT__CHANNELS__EMAIL__MIN_SEVERITY", "critical")
        .env("ECHOPILOT__CHANNELS__EMAIL__CA_FILE", folder.join("ca.pem").to_str().expect("a path"));
    (server, setup, folder)
}

#[test]
fn a_mail_that_was_put_off_arrives_with_text_and_html() {
    let (_server, setup, folder) = mailing("data 451 4.7.1 try again later");
    let daemon = setup.start();
    let mail = until("the mail", LONG, || std::fs::read_to_string(folder.join("1.eml")).ok());
    for part in [
        "multipart/alternative",
        "text/plain",
        "text/html",
        "Message-ID: <",
        "To: ",
        "X-Envelope-To: a@example.com",
        "X-Envelope-To: b@example.com",
    ] {
        assert!(mail.contains(part), "{part} in {mail}");
    }
    let subject = mail.lines().find(|line| line.starts_with("Subject: ")).expect("a subject");
    assert!(subject.is_ascii() && subject.contains("=?utf-8?"), "what is not ASCII is encoded: {subject}");
    let sent = until("it is written down", LONG, || {
        let list = daemon.get("/api/notifications?state=sent&channel=email").ok();
        list["notifications"][0].is_object().then(|| list["notifications"][0].clone())
    });
    let attempts = sent["attempts"].as_array().expect("every attempt");
    assert!(attempts.len() == 2 && attempts[0]["ok"] == false && attempts[1]["ok"] == true, "{sent}");
    assert!(attempts[0]["error"].as_str().is_some_and(|e| e.contains("451")), "the server's words are kept: {sent}");
}

#[test]
fn a_mail_that_is_refused_for_good_is_given_up_with_the_servers_words() {
    let (_server, setup, folder) = mailing("rcpt a@example.com 550 5.1.1 no such user\nrcpt b@example.com 550 5.1.1 no such user");
    let daemon = setup.start();
    let dead = until("it is given up", LONG, || {
        let list = daemon.get("/api/notifications?state=dead").ok();
        list["notifications"][0].is_object().then(|| list["notifications"][0].clone())
    });
    assert!(dead["error"].as_str().is_some_and(|e| e.contains("no such user")), "{dead}");
    assert_eq!(dead["attempts"].as_array().map(Vec::len), Some(1), "{dead}");
    assert!(!folder.join("1.eml").exists());
}

fn alerts_of(address: &str) -> Option<Json> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET /api/v2/alerts HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (start, end) = (text.find('[')?, text.rfind(']')?);
    serde_json::from_str(&text[start..=end]).ok()
}

#[test]
fn an_alertmanager_gets_our_alert_under_our_fingerprint_and_its_end() {
    let setup = firing(setup());
    let folder = setup.root().join("alertmanager");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("config.yml"), "route: {receiver: none, group_wait: 1s}\nreceivers: [{name: none}]\n").expect("written");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let program = match std::env::var_os("ECHOPILOT_TEST_PEERS") {
        Some(peers) => PathBuf::from(peers).join("usr/bin/prometheus-alertmanager"),
        None => "prometheus-alertmanager".into(),
    };
    let mut alertmanager = command(program);
    alertmanager
        .arg(format!("--config.file={}", folder.join("config.yml").display()))
        .arg(format!("--storage.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .args(["--cluster.listen-address=", "--web.external-url=http://127.0.0.1"]);
    let _serving = Serving::start(alertmanager);
    until("it serves", LONG, || alerts_of(&address));
    let setup = setup
        .env("ECHOPILOT__CHANNELS__ALERTMANAGER__URL", format!("http://{address}"))
        .env("ECHOPILOT__CHANNELS__ALERTMANAGER__MIN_SEVERITY", "critical");
    let daemon = setup.start();
    let mine = |all: &Json| all.as_array().into_iter().flatten().find(|a| a["labels"]["alertname"] == "mine").cloned();
    let theirs = until("it has the alert", LONG, || alerts_of(&address).as_ref().and_then(mine));
    let ours = daemon.get("/api/alerts?state=firing").ok()["alerts"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|a| a["name"] == "mine")
        .cloned()
        .expect("it fires");
    assert_eq!(theirs["fingerprint"], ours["id"], "{theirs}");
    assert_eq!(theirs["status"]["state"], "active");
    let setup = daemon.stop();
    setup.write_rules(&format!("{}off = true\n", always("mine", "größer als gedacht")));
    let _daemon = setup.start();
    until("it is over there too", LONG, || alerts_of(&address).is_some_and(|all| mine(&all).is_none()).then_some(()));
}
