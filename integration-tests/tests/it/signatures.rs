//! Webhook signatures across implementations: what the official Python and Node clients sign we accept, what they would refuse we
//! refuse, and what the sandbox sends they verify. Where they disagree with each other or are laxer, our stricter choice is written
//! down here. (A third implementation signs in `third_party.rs`.)

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::TcpListener,
};

use integration_tests::{TestDaemon, WEBHOOK_SECRET, fed, node, now_unix, peer, python};
use serde_json::json;

use crate::{ingest::charge_event, setup};

const OLD_SECRET: &str = "whsec_the_one_before_0123456789abcdef";

/// The clients, by what they are called in a failure.
const CLIENTS: [&str; 2] = ["Python", "Node"];

fn client(name: &str, arguments: &[&str], body: &[u8]) -> String {
    let mut command = if name == "Node" { node("signature.mjs") } else { python() };
    if name != "Node" {
        command.arg(peer("signature.py"));
    }
    command.args(arguments);
    fed(command, body)
}

fn sign(name: &str, secret: &str, at: i64, body: &[u8]) -> String {
    client(name, &["sign", secret, &at.to_string()], body)
}

fn deliver(daemon: &TestDaemon, header: &str, body: &[u8]) -> u16 {
    daemon.request("POST", "/webhook/stripe", &[("stripe-signature", header)], body).status
}

/// The hexadecimal part of a header of one signature.
fn v1_of(header: &str) -> &str {
    header.split_once("v1=").expect("a header has a v1").1
}

#[test]
fn what_the_official_clients_sign_is_accepted_and_what_was_tampered_with_is_not() {
    let daemon = setup().env("STRIPE_WEBHOOK_SECRET", format!("{WEBHOOK_SECRET},{OLD_SECRET}")).start();
    for name in CLIENTS {
        let mut n = 0;
        let mut body = || {
            n += 1;
            charge_event(&format!("evt_{name}_{n}"), &format!("ch_{name}_{n}"), 100).to_string().into_bytes()
        };
        let mut case = |what: &str, status: u16, header: &dyn Fn(&[u8], i64) -> String| {
            let body = body();
            let header = header(&body, now_unix());
            assert_eq!(deliver(&daemon, &header, &body), status, "{name}: {what}: {header}");
        };
        let right = |b: &[u8], now: i64| sign(name, WEBHOOK_SECRET, now, b);
        case("signed now", 200, &right);
        case("signed with the secret before", 200, &|b, now| sign(name, OLD_SECRET, now, b));
        case("both, as while a secret is rolled", 200, &|b, now| {
            format!("{},v1={}", right(b, now), v1_of(&sign(name, OLD_SECRET, now, b)))
        });
        case("another secret first", 200, &|b, now| {
            format!("t={now},v1={},v1={}", v1_of(&sign(name, "whsec_other", now, b)), v1_of(&right(b, now)))
        });
        case("another secret only", 400, &|b, now| sign(name, "whsec_other", now, b));
        case("a newline after the secret", 400, &|b, now| sign(name, &format!("{WEBHOOK_SECRET}\n"), now, b));
        case("almost too old", 200, &|b, now| sign(name, WEBHOOK_SECRET, now - 280, b));
        case("too old", 400, &|b, now| sign(name, WEBHOOK_SECRET, now - 400, b));
        case("an hour from the future, which both clients accept", 400, &|b, now| sign(name, WEBHOOK_SECRET, now + 3600, b));
        case("t twice, of which they choose different ones", 400, &|b, now| format!("t={now},{}", right(b, now)));
        case("letters after the time, which one of them reads over", 400, &|b, now| right(b, now).replacen(',', "abc,", 1));
        case("uppercase", 400, &|b, now| right(b, now).to_uppercase().replace("T=", "t=").replace("V1=", "v1="));
        case("half of it", 400, &|b, now| right(b, now)[..right(b, now).len() - 32].to_owned());
        case("a space after the comma", 400, &|b, now| right(b, now).replacen(',', ", ", 1));
        case("of a body with a newline more", 400, &|b, now| right(&[b, b"\n"].concat(), now));
        case("the fake scheme only", 400, &|b, now| right(b, now).replace("v1=", "v0="));
        case("the items the other way round", 200, &|b, now| format!("v1={},t={now}", v1_of(&right(b, now))));
    }
}

#[test]
fn the_known_vector_comes_out_of_both_clients() {
    let body = br#"{"id":"evt_test_1","object":"event","type":"charge.refunded","data":{"object":{}}}"#;
    let expected = "t=1700000000,v1=db66fe2e22a0c66bdc8955105d6ee4affd8073ca464ebed77d1b55366bcc2780";
    for name in CLIENTS {
        assert_eq!(sign(name, "whsec_test_secret", 1_700_000_000, body), expected, "{name}");
    }
    assert_eq!(integration_tests::v1("whsec_test_secret", 1_700_000_000, body), v1_of(expected), "and of ours");
}

/// One request to a listener of our own: the signature header and the body. Answers 200.
fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().expect("the sandbox connects");
    let mut reader = std::io::BufReader::new(stream.try_clone().expect("a second handle"));
    let (mut header, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line of the request");
        let line = line.trim_end();
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            Some((name, value)) if name == "stripe-signature" => value.clone_into(&mut header),
            Some((name, value)) if name == "content-length" => length = value.parse().expect("a length"),
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").expect("an answer");
    (header, body)
}

#[test]
fn what_the_sandbox_sends_is_verified_by_both_clients_also_while_a_secret_is_rolled() {
    let daemon = setup().start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("its address"));
    let endpoint = daemon.provider_post("webhook_endpoints", &[("url", &url), ("enabled_events[0]", "customer.created")]).expect(200);
    let (id, old) = (endpoint["id"].as_str().expect("an id"), endpoint["secret"].as_str().expect("the secret, shown once"));
    let next = |email: &str| {
        daemon.provider_post("customers", &[("email", email)]).expect(200);
        receive(&listener)
    };
    let verdict = |name: &str, (header, body): &(String, Vec<u8>), secret: &str| client(name, &["verify", header, secret], body);
    let sent = next("first@example.com");
    for name in CLIENTS {
        assert_eq!(verdict(name, &sent, old), "valid", "{name}");
        assert_ne!(verdict(name, &sent, "whsec_other"), "valid", "{name}");
        let tampered = (sent.0.clone(), [&sent.1[..], b" "].concat());
        assert_ne!(verdict(name, &tampered, old), "valid", "{name}");
    }
    let roll = format!("{}/_control/endpoints/{id}/roll", daemon.sandbox());
    let new = daemon.request("POST", &roll, &[], b"").expect(200)["secret"].as_str().expect("the new secret").to_owned();
    let both = next("rolled@example.com");
    for name in CLIENTS {
        assert_eq!((verdict(name, &both, old), verdict(name, &both, &new)), ("valid".into(), "valid".into()), "{name}");
    }
    daemon.advance(86_400);
    let after = next("after@example.com");
    for name in CLIENTS {
        assert_ne!(verdict(name, &after, old), "valid", "{name}: a day later the old one is dead");
        assert_eq!(verdict(name, &after, &new), "valid", "{name}");
    }
    assert_eq!(daemon.provider(&format!("webhook_endpoints/{id}"))["secret"], json!(null), "nobody is told it again");
}
