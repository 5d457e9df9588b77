//! EchoPilot's archive: a standard `tar.gz` that every tool reads, written incrementally, read by seeking, checked in every byte
//! (docs/archive-format.md). Used by the backup actor, the command line and the benches; knows nothing of the daemon.
//!
//! From the bottom up: what stands in the file, how it is written, how it is read.

/// An entry and its tar header.
pub mod entry;
/// Where the tar is cut into members.
pub mod layout;
/// The gzip members it is made of.
pub mod member;
/// The table of contents.
pub mod toc;

/// What can go wrong.
pub mod error;
/// Digests as text.
pub mod hex;
/// How much may come out of an archive.
pub mod limits;
/// Which names and links are safe.
pub mod name;
/// What is left out.
pub mod pattern;

mod buffers;
mod digests;
mod gather;
mod order;
mod output;
/// The archive before.
pub mod previous;
/// Walks the folders.
pub mod scan;
/// Writes an archive.
pub mod write;

/// Compares a folder with an archive.
pub mod compare;
/// Compares two.
pub mod diff;
/// Opens an archive, lists it, takes one file out.
pub mod read;
/// Puts its files back.
pub mod restore;
/// Gets out what can be got out when the table of contents is gone.
pub mod salvage;
/// Reads a `tar.gz` that has no table of contents.
pub mod stream;
/// Checks it.
pub mod verify;
mod walk;
mod writer;

pub use error::{Error, Result};
pub use read::{Archive, ReadAt};
