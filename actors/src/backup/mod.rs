//! Backup owns the lock on the archives: one backup, proof or removal at a time. The work runs in a task of its own, so that how far it
//! is can be asked; when this actor dies the work ends with it, the archive under its final name is still the old one, and the litter is
//! swept by the next run. `make.rs` makes an archive, `proof.rs` proves that it restores, `keep.rs` removes old ones, `listing.rs` tells of
//! them, `room.rs` knows what they take on the disk.

mod checks;
mod keep;
mod listing;
mod make;
mod progress;
mod proof;
mod room;
#[cfg(test)]
mod tests;

use std::{fs::File, path::Path, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::Value as Json;

pub use self::{
    checks::age as proof_age_check,
    keep::prune,
    listing::{Outlook, add_progress, file_name, last_proof, listing, outlook, preview, proof_view},
    progress::Progress,
};
use crate::{
    actor::{self, Probe, Probed, Reply},
    env::Env,
    error::{Context as _, Error, Result},
    task::{OneRun, Record, Run},
};

pub const NOUN: &str = "backup";
/// A backup ends within this, or it is given up.
pub const LIMIT: Duration = Duration::from_hours(6);

pub enum Message {
    Run { run: Run, reply: Reply<Record> },
    Progress(Reply<Option<Json>>),
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// Makes and proves the archive of the run's day; the record is seed phase 70's. Errors: `conflict` with reason `backup_running`
/// and the `run_id` in the way, `unavailable` `disk_low` before anything is written, `unavailable` if the disk does not take it.
pub async fn run(run: &Run) -> Result<Record> {
    actor::call(&run.env, NOUN, LIMIT, |reply| Message::Run { run: run.clone(), reply }).await
}

/// How far the backup is that is being made: `{"run_id","phase","done_bytes","total_bytes"}`; `None` if none is.
pub async fn progress(env: &Env) -> Result<Option<Json>> {
    actor::call(env, NOUN, Duration::from_millis(env.config().server.actor_timeout_ms), Message::Progress).await
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Backup;

#[derive(Debug, Default)]
pub struct State {
    work: OneRun,
    progress: Progress,
}

impl Actor for Backup {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Message>, _: Env) -> Result<State, ActorProcessingErr> {
        Ok(State::default())
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Run { run, reply } => {
                let busy = Error::conflict("backup_running", "a backup is running");
                let progress = state.progress.clone();
                state.work.start(&run.clone(), reply, busy, async move { make::back_up(&run, &progress).await });
            }
            Message::Progress(reply) => actor::respond(reply, Ok(state.progress.view())),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

/// The kernel's lock on the folder of archives: held as long as the file is open, so that a process that dies leaves none behind. The
/// file says who has it. Errors: `conflict` with reason `backup_running`, naming the process.
pub fn lock(folder: &Path, what: &str) -> Result<File> {
    use std::io::{Read as _, Write as _};
    std::fs::create_dir_all(folder).context(format!("cannot create {}", folder.display()))?;
    let open = File::options().read(true).write(true).create(true).truncate(false).open(folder.join(".lock"));
    let mut file = open.context("cannot open the lock on the archives")?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder); // only for the message
        return Err(Error::conflict("backup_running", format!("the archives are in use by {}", holder.trim())));
    }
    file.set_len(0)?;
    write!(file, "process {} ({what})", std::process::id())?;
    Ok(file)
}
