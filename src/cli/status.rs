//! `echopilot status`: the parts and the tasks of the running daemon as tables. Exit code 1 if none runs or something is down.

use echopilot_actors::error::Result;
use serde_json::json;

use super::{
    Invocation, actor, door,
    exit::Outcome,
    task::{self, members},
};

pub(crate) async fn run(invocation: &Invocation) -> Result<Outcome> {
    let config = invocation.config()?;
    let Some(client) = door::running(&config, &invocation.environment)? else {
        let answer = json!({"ok": false, "running": false, "data": config.paths.data});
        invocation.print(&answer, || format!("No daemon runs on {}. Start one with `echopilot run`.", config.paths.data.display()));
        return Ok(Outcome::Failed);
    };
    let tree = client.get("/api/supervisor/status").await?;
    let tasks = client.get("/api/tasks").await?;
    let up = members(&tree, "tree").all(|child| child["state"] == "running" || child["state"] == "finished");
    let answer = json!({"ok": up, "running": true, "tree": tree["tree"], "tasks": tasks["tasks"]});
    invocation.print(&answer, || format!("{}\n\n{}", actor::tree(&tree), task::list(&tasks)));
    Ok(Outcome::of(up))
}
