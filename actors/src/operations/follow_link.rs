//! What a signed link in a message does: acknowledging, snoozing for an hour, running a task now. `offer` says what would be done and
//! changes nothing, `follow` does it, once per link. Called by the page behind the links. Whoever is refused is never told why.

use chrono::TimeDelta;
use ring::digest;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    alert::{self, Response},
    domain::notify::{Action, Grant, read},
    env::{Env, rfc3339},
    error::{Code, Error, Result},
    files, timer,
};

/// Who did it, in the journal.
const BY: &str = "link in a message";
const SNOOZE: TimeDelta = TimeDelta::hours(1);

/// What the page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub title: String,
    pub text: String,
    /// What the button says; `None`: there is nothing to do.
    pub button: Option<&'static str>,
}

/// What following the link would do. Errors: `forbidden` with reason `link` for everything that does not verify.
pub async fn offer(env: &Env, query: &str) -> Result<Offer> {
    let grant = granted(env, query)?;
    if env.store().link_used(&name_of(&grant)).await? {
        return Ok(Offer {
            title: "Done already".into(),
            text: "This link was used before. The page of alerts shows how things are.".into(),
            button: None,
        });
    }
    if grant.action == Action::Run {
        let text = format!("The task {} runs now, whatever its schedule says.", grant.about);
        return Ok(Offer { title: format!("Run {}", grant.about), text, button: Some("Run it now") });
    }
    let known = match alert::get(env, &grant.about).await {
        Ok(known) => known["alert"].clone(),
        Err(error) if error.code == Code::NotFound => json!({"state": "resolved"}),
        Err(error) => return Err(error),
    };
    let word = |name: &str| known[name].as_str().unwrap_or_default();
    let title = if word("what").is_empty() { word("name") } else { word("what") };
    if word("state") != "firing" || known["episode"] != grant.about.as_str() {
        let text = "It is over, so there is nothing to do. If it began again since, the page of alerts shows it.";
        return Ok(Offer { title: format!("Over: {title}"), text: text.into(), button: None });
    }
    if let (Action::Acknowledge, Some(by)) = (grant.action, known["acknowledged"]["by"].as_str()) {
        return Ok(Offer { title: title.to_owned(), text: format!("It was acknowledged already, by {by}."), button: None });
    }
    let (text, button) = match grant.action {
        Action::Acknowledge => ("You say that you look after it: it is not told again until it is over or gets worse.", "Acknowledge"),
        _ => ("It is not told again for an hour, unless it gets worse.", "Snooze for an hour"),
    };
    Ok(Offer { title: format!("{title}: {}", word("reason")), text: text.into(), button: Some(button) })
}

/// Does it, and says what was done. A link that was followed before changes nothing.
pub async fn follow(env: &Env, form: &str) -> Result<Offer> {
    let grant = granted(env, form)?;
    let offered = offer(env, form).await?;
    if offered.button.is_none() {
        return Ok(offered);
    }
    let name = name_of(&grant);
    let data = json!({"does": grant.action.as_str(), "about": grant.about});
    if !env.store().use_link(&name, grant.expires, env.fact("link.followed", &grant.about, data)).await? {
        return offer(env, form).await;
    }
    match act(env, &grant).await {
        Ok(text) => Ok(Offer { title: "Done".into(), text, button: None }),
        Err(error) => {
            env.store().link_not_used(&name).await?;
            Err(error)
        }
    }
}

async fn act(env: &Env, grant: &Grant) -> Result<String> {
    match grant.action {
        Action::Acknowledge => {
            alert::respond(env, &grant.about, Response::Acknowledge { note: String::new() }, BY).await?;
            Ok("It is acknowledged.".into())
        }
        Action::Snooze => {
            let until = env.now() + SNOOZE;
            alert::respond(env, &grant.about, Response::Snooze { until }, BY).await?;
            Ok(format!("It is quiet until {}.", rfc3339(until)))
        }
        Action::Run => {
            let run = timer::run_now(env, &grant.about, BY).await?;
            Ok(format!("{} runs: {run}.", grant.about))
        }
    }
}

fn granted(env: &Env, query: &str) -> Result<Grant> {
    let refused = || Error::forbidden("link", "this link is not valid or has expired; the page of alerts shows how things are");
    read(query, env.secrets().links.expose_secret(), env.now().timestamp()).ok_or_else(refused)
}

/// By it a link is known again; it does not give the link away.
fn name_of(grant: &Grant) -> String {
    let text = format!("{}:{}:{}", grant.action.as_str(), grant.about, grant.expires);
    format!("link.{}", files::hex(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16]))
}
