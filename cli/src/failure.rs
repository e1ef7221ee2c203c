//! How a command ends that doesn't do what it was asked for.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use mhc_node::home::HomeError;

/// Exit codes besides 0, done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It didn't work.
    Failed = 1,
    /// It was asked for wrongly.
    Usage = 2,
    /// Something is in its way, such as a node that runs already.
    Conflict = 3,
    /// There is no such thing.
    NotFound = 4,
    /// It isn't allowed, for want of the right or by policy.
    Refused = 5,
    /// No node runs, or no peer has it.
    Unavailable = 6,
    /// Data isn't what it should be.
    BadData = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// From an exit code another crate decided on.
    pub(crate) fn from_code(code: u8) -> Self {
        let all = [Self::Usage, Self::Conflict, Self::NotFound, Self::Refused, Self::Unavailable, Self::BadData];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }

    /// From the stable code of a problem the API answers with.
    pub(crate) fn from_problem(code: &str) -> Self {
        match code {
            "bad_request" | "range_not_satisfiable" => Self::Usage,
            "conflict" => Self::Conflict,
            "not_found" => Self::NotFound,
            "unauthorized" | "forbidden" | "tier_required" | "rate_limited" | "too_large" | "unsupported_media" => {
                Self::Refused
            }
            "no_source" | "unavailable" => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

/// Why a command didn't do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What happened and what to do about it; nothing is printed when it is empty.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Nobody reads what this program writes (`mhc ls | head -1`): it ends without a word.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::failed(""),
            _ => Self::failed(format!("can't write to stdout: {error}")),
        }
    }

    /// Says on stderr what went wrong.
    pub(crate) fn report(&self) {
        if !self.message.is_empty() {
            // There is nowhere left to say that stderr is closed.
            let _ = writeln!(io::stderr(), "mhc: {}", self.message);
        }
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        Self::new(Exit::from_code(error.exit_code()), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_end_as_the_contract_says() {
        let cases = [
            ("not_found", Exit::NotFound),
            ("no_source", Exit::Unavailable),
            ("bad_request", Exit::Usage),
            ("unauthorized", Exit::Refused),
            ("forbidden", Exit::Refused),
            ("tier_required", Exit::Refused),
            ("rate_limited", Exit::Refused),
            ("conflict", Exit::Conflict),
            ("too_large", Exit::Refused),
            ("unsupported_media", Exit::Refused),
            ("storage_full", Exit::Failed),
            ("unavailable", Exit::Unavailable),
            ("internal", Exit::Failed),
            ("one_of_a_later_version", Exit::Failed),
        ];
        for (code, exit) in cases {
            assert_eq!(Exit::from_problem(code), exit, "{code}");
        }
        for code in 0..=255 {
            let exit = Exit::from_code(code) as u8;
            assert_eq!(exit, if (2..=7).contains(&code) { code } else { 1 });
        }
    }
}
