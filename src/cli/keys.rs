//! `echopilot keys`: API keys by name and scope. A new key is printed this once; only its hash is kept.

use echopilot_actors::error::Result;

use super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{table, text},
    task::members,
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key and print it; it cannot be shown again.
    Create {
        /// What it is for, as lists and the journal name it.
        name: String,
        /// What it may do.
        #[arg(long, value_parser = ["read", "operate", "refund", "admin"])]
        scope: String,
    },
    /// List the keys, without the keys themselves.
    List,
    /// End a key at once.
    Revoke {
        /// Its id, as in `keys list`.
        id: String,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = through(&door, invocation, command).await;
    door.close(result).await
}

async fn through(door: &Door, invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::Create { name, scope } => {
            let key = door.create_key(&name, &scope).await?;
            invocation.print(&key, || {
                format!(
                    "{}\n  id {}, scope {}. It is shown this once: keep it now.",
                    text(&key, "key"),
                    text(&key, "id"),
                    text(&key, "scope")
                )
            });
        }
        Command::List => {
            let answer = door.keys().await?;
            invocation.print(&answer, || {
                let row = |k| ["id", "name", "scope", "created_at", "revoked_at"].map(|member| text(k, member)).to_vec();
                let rows: Vec<Vec<String>> = members(&answer, "keys").map(row).collect();
                if rows.is_empty() {
                    "no keys but the one in the data directory or DASHBOARD_KEY".to_owned()
                } else {
                    table(&["ID", "NAME", "SCOPE", "CREATED", "REVOKED"], &rows)
                }
            });
        }
        Command::Revoke { id } => {
            let answer = door.revoke_key(&id).await?;
            invocation.print(&answer, || format!("{id} is revoked"));
        }
    }
    Ok(Outcome::Fine)
}
