//! What the archive format promises, shown from outside: restore equals source, the next archive is the one from scratch, damage is
//! found and costs only what it hit, hostile archives touch nothing.
#![allow(clippy::unwrap_used, reason = "all of it is tests, the functions between them too")]

mod child;
mod damage;
mod fuzz_smoke;
mod hostile;
mod kills;
mod memory;
mod other_archives;
mod properties;
mod races;
mod restore;
#[path = "../../fuzz/targets.rs"]
mod targets;
mod tree;
