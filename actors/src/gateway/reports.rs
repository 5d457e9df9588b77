//! The latest record of a task, as it lies in `logs/`. Names are those of the task table and nothing else, so no path is ever built
//! from what a client sent.

use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
    tasks,
};
use crate::error::{Code, Error, Result};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // What the task left behind last.
        api(shell, Method::GET, "/api/reports/{name}/latest", Scope::Read, latest),
    ])
}

async fn latest(call: Call) -> Result<Response> {
    let env = call.env();
    let task = tasks::find(env, call.request.param(0)?).await?;
    let file = task.report.ok_or_else(|| Error::not_found(format!("{} leaves no report", task.name)))?;
    match env.read_report(env.log_path(file)).await {
        Ok(report) => Ok(respond::json(&report)),
        Err(error) if error.code == Code::NotFound => Err(Error::not_found(format!("{} has left no report yet", task.name))),
        Err(error) => Err(Error::internal(error)),
    }
}
