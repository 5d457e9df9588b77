//! What can go wrong with an archive, in five kinds. The caller turns them into its own errors; the sentences name the file or the
//! member and what is wrong with it.

use std::{fmt::Display, io};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system did not do what was asked.
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    /// The bytes are not an archive, or no longer the ones that were written.
    #[error("{0}")]
    Damaged(String),
    /// It is whole, but what it asks for is not done: names and links that leave the folder, duplicates, more than the limits.
    #[error("{0}")]
    Refused(String),
    /// Something is in the way at the target.
    #[error("{0}")]
    InTheWay(String),
    #[error("{0}")]
    NotFound(String),
    /// The caller's flag was raised.
    #[error("stopped on request")]
    Stopped,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// Puts the archive's name before what is wrong with it.
    #[must_use]
    pub fn about(self, what: impl Display) -> Self {
        match self {
            Self::Damaged(text) => Self::Damaged(format!("{what}: {text}")),
            Self::Refused(text) => Self::Refused(format!("{what}: {text}")),
            other => other,
        }
    }
}

/// Says what was being attempted when the file system failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Error::Io { doing: what.to_string(), source: error.into() })
    }
}
