//! Webhook: any address gets the message as JSON, signed after the Standard Webhooks specification: id, time and body under HMAC-SHA256
//! with each of our secrets, so that a secret can be replaced. The id is the same at every attempt. Called by `send`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::json;

use super::{Channel, Context, Failure, Receipt, absent, http, secret};
use crate::domain::notify::Message;

const SECRET: &str = "ALERT_WEBHOOK_SECRET";

pub(super) const CHANNEL: Channel = Channel {
    name: "webhook",
    doc: "Any address of yours, as JSON, signed after the Standard Webhooks specification.",
    limit: "none of ours; what is not answered with 2xx is tried again or given up",
    tells_by: Some("webhook-id"),
    merges: true,
    missing: |config, secrets| {
        absent([("channels.webhook.url", !config.channels.webhook.url.is_empty()), (SECRET, secret(secrets, SECRET).is_some())])
    },
    settings: |config| (config.channels.webhook.min_severity, config.channels.webhook.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let secrets = secret(context.secrets, SECRET).ok_or_else(|| Failure::permanent(format!("{SECRET} is not set")))?;
    let body = body(message);
    let at = context.now.timestamp();
    let signature = signature(secrets, &message.id, at, &body).map_err(Failure::permanent)?;
    let request = context
        .http
        .post(&context.config.channels.webhook.url)
        .header("content-type", "application/json")
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", at)
        .header("webhook-signature", signature)
        .body(body);
    let answer = http::post(request, context.now).await?;
    Ok(Receipt { status: Some(answer.status), ..Receipt::default() })
}

/// The same bytes at every attempt.
fn body(message: &Message) -> String {
    json!({"type": format!("alert.{}", message.kind.as_str()), "timestamp": message.at, "data": message}).to_string()
}

/// One signature per secret, with spaces between them.
fn signature(secrets: &str, id: &str, at: i64, body: &str) -> Result<String, String> {
    let signed = format!("{id}.{at}.{body}");
    let one = |secret: &str| {
        let key = STANDARD.decode(secret.trim().strip_prefix("whsec_").unwrap_or(secret.trim()));
        let key = key.map_err(|_| format!("{SECRET} must be whsec_ and base64: make one with `echo whsec_$(openssl rand -base64 32)`"))?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        Ok(format!("v1,{}", STANDARD.encode(tag)))
    };
    Ok(secrets.split(',').map(one).collect::<Result<Vec<_>, String>>()?.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::{
        Kind,
        render::tests::{line, message},
    };

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the specification's own libraries.
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}").unwrap();
        assert_eq!(made, expected);
        let two =
            signature(&format!("{secret}, whsec_AAAA"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}").unwrap();
        assert!(two.starts_with(&format!("{expected} v1,")), "{two}");
        assert!(signature("whsec_not base64", "a", 1, "b").unwrap_err().contains("openssl rand"));
    }

    #[test]
    fn the_body_is_the_whole_message_and_the_same_every_time() {
        let message = message(Kind::Firing, vec![line("disk")]);
        let parsed: serde_json::Value = serde_json::from_str(&body(&message)).unwrap();
        assert_eq!((&parsed["type"], &parsed["data"]["id"]), (&json!("alert.firing"), &json!("ntf_0190")));
        assert_eq!(serde_json::from_value::<Message>(parsed["data"].clone()).unwrap(), message);
        assert_eq!(body(&message), body(&message));
    }
}
