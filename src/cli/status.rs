//! `echopilot status`: the parts and the tasks of the running daemon as tables. Exit code 1 if none runs or something is down.

use echopilot_actors::error::Result;
use serde_json::json;

use super::{
    Invocation, door,
    exit::Outcome,
    output::{state, table, text},
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
    let up = members(&tree, "tree").all(|child| child["state"] == "running");
    let answer = json!({"ok": up, "running": true, "tree": tree["tree"], "tasks": tasks["tasks"]});
    invocation.print(&answer, || {
        let rows: Vec<Vec<String>> = members(&tree, "tree")
            .map(|c| {
                vec![
                    text(c, "name"),
                    state(&text(c, "state")),
                    text(c, "restarts"),
                    text(c, "uptime_s"),
                    first_line(&text(c, "last_failure")),
                ]
            })
            .collect();
        format!("{}\n\n{}", table(&["PART", "STATE", "RESTARTS", "UP (S)", "LAST FAILURE"], &rows), task::list(&tasks))
    });
    Ok(Outcome::of(up))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(80).collect()
}
