//! Trial payments over real HTTP against the sandbox: what one leaves behind when it fails, and a customer that was made halfway.

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::Running;
use crate::operations::canary;

async fn drop_webhooks(it: &Running) {
    let url = format!("http://{}/_control/chaos", it.daemon.env.sandbox_address().unwrap());
    it.http.request(Method::PUT, url).body(json!({"drop_webhook": 1.0}).to_string()).send().await.unwrap();
}

async fn is_refunded(it: &Running, trial: &Json) -> bool {
    it.daemon.env.provider().charge(trial["charge_id"].as_str().unwrap()).await.unwrap()["refunded"] == true
}

#[tokio::test]
async fn a_trial_that_fails_gives_back_what_it_took_at_once() {
    let it = Running::start(&[("CANARY__TIMEOUT_S", "1")]).await;
    drop_webhooks(&it).await;
    let trial = canary::run(&it.daemon.env).await.unwrap();
    assert_eq!((&trial["state"], &trial["step"]), (&json!("failed"), &json!("paid_webhook")), "{trial}");
    assert!(is_refunded(&it, &trial).await);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_customer_that_was_made_without_a_card_gets_one() {
    let it = Running::start(&[]).await;
    let env = &it.daemon.env;
    let bare = env.provider().create_customer("canary@echopilot.invalid", "bare").await.unwrap();
    env.store().set_meta("canary.customer", bare["id"].as_str().unwrap()).await.unwrap();
    let trial = canary::run(env).await.unwrap();
    assert_eq!((&trial["state"], &trial["error"]), (&json!("passed"), &Json::Null), "{trial}");
    assert_eq!(canary::customer_id(env).await.unwrap().as_deref(), bare["id"].as_str());
    it.daemon.stop().await.unwrap();
}
