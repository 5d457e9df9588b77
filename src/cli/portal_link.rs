//! `echopilot portal-link`: a signed link to a customer's page.

use echopilot_actors::error::Result;

use super::{Invocation, door::Door, exit::Outcome, output::text};

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Arguments {
    /// The customer's e-mail address.
    pub(crate) email: String,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &Arguments) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = door.portal_link(&arguments.email).await;
    let link = door.close(result).await?;
    invocation
        .print(&link, || format!("{}\n  for {}, until {}", text(&link, "signed_url"), text(&link, "email"), text(&link, "expires_iso")));
    Ok(Outcome::Fine)
}
