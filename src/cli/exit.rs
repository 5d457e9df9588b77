//! The exit codes: one table from an error's code and reason to a number. 0 fine, 1 the check or task failed, 2 usage (clap),
//! the rest as in sysexits.h. Called by the dispatch only.

use echopilot_actors::error::{Code, Error};

/// How a command that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// What was checked or run is not well: exit code 1.
    Failed,
    /// A critical part of the daemon could not be kept running.
    Fatal,
    /// What is wrong was printed; this is its exit code.
    Error(u8),
}

impl Outcome {
    pub(crate) fn of(fine: bool) -> Self {
        if fine { Self::Fine } else { Self::Failed }
    }

    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Fatal => SOFTWARE,
            Self::Error(code) => code,
        }
    }
}

/// As clap has it.
const BAD_USAGE: u8 = 2;
const USAGE: u8 = 64;
pub(crate) const DATA: u8 = 65;
const NO_INPUT: u8 = 66;
const UNAVAILABLE: u8 = 69;
const SOFTWARE: u8 = 70;
const CANNOT_CREATE: u8 = 73;
const IO: u8 = 74;
const TRY_LATER: u8 = 75;
const NO_PERMISSION: u8 = 77;
pub(crate) const CONFIGURATION: u8 = 78;

/// Reasons that say more than their code.
const BY_REASON: &[(&str, u8)] = &[
    ("configuration", CONFIGURATION),
    ("missing_input", BAD_USAGE),
    ("archive", DATA),
    ("archive_refused", DATA),
    ("encrypted", NO_PERMISSION),
    ("not_in_archive", NO_INPUT),
    ("stopped", 1),
    ("not_a_database", DATA),
    ("database_damaged", DATA),
    ("schema_too_new", DATA),
    ("not_json", DATA),
    ("file_not_found", NO_INPUT),
    ("path", CANNOT_CREATE),
    ("target_not_empty", CANNOT_CREATE),
    ("io", IO),
    ("data_directory_in_use", TRY_LATER),
    ("backup_running", TRY_LATER),
    ("already_running", TRY_LATER),
    ("permission", NO_PERMISSION),
];

/// The exit code of an error that ended a command.
pub(crate) fn code_of(error: &Error) -> u8 {
    if let Some((_, code)) = BY_REASON.iter().find(|(reason, _)| *reason == error.reason) {
        return *code;
    }
    match error.code {
        Code::Invalid | Code::NotFound => USAGE,
        Code::Unauthorized | Code::Forbidden => NO_PERMISSION,
        Code::Conflict => 1,
        Code::Limited => TRY_LATER,
        Code::Unavailable => UNAVAILABLE,
        Code::Internal => SOFTWARE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        for (error, expected) in [
            (Error::invalid("configuration", ""), 78),
            (Error::invalid("archive", ""), 65),
            (Error::invalid("archive_refused", ""), 65),
            (Error::invalid("encrypted", ""), 77),
            (Error::new(Code::NotFound, "not_in_archive", ""), 66),
            (Error::invalid("not_a_database", ""), 65),
            (Error::invalid("something_else", ""), 64),
            (Error::field("amount_minor", ""), 64),
            (Error::not_found(""), 64),
            (Error::from(std::io::Error::from(std::io::ErrorKind::NotFound)), 66),
            (Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied)), 77),
            (Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)), 74),
            (Error::from(std::io::Error::from(std::io::ErrorKind::NotADirectory)), 73),
            (Error::conflict("target_not_empty", ""), 73),
            (Error::conflict("data_directory_in_use", ""), 75),
            (Error::conflict("already_running", ""), 75),
            (Error::conflict("planned", ""), 1),
            (Error::unavailable("address_in_use", ""), 69),
            (Error::unavailable("provider_unavailable", ""), 69),
            (Error::limited("", 1), 75),
            (Error::unauthorized(""), 77),
            (Error::forbidden("live_mode", ""), 77),
            (Error::internal(""), 70),
        ] {
            assert_eq!(code_of(&error), expected, "{error:?}");
        }
        assert_eq!([Outcome::Fine, Outcome::Failed, Outcome::Fatal].map(Outcome::exit_code), [0, 1, 70]);
    }
}
