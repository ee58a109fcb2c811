//! Errors as runtimes read them.

use serde_json::{Value, json};
use trunkline_control::{Error, ErrorKind};

use super::config::Version;

/// SPEC.md, "Error"; 100 and more are this plugin's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    /// The version of the configuration is not spoken.
    Version,
    /// A field of the configuration is not supported.
    Field,
    /// A variable of the environment is missing or wrong.
    Environment,
    /// Reading or writing failed.
    Io,
    /// Something is not the JSON it should be.
    Decode,
    /// The configuration makes no sense.
    Config,
    /// It may work later: the daemon does not run.
    Later,
    /// ADD cannot be served.
    Unavailable,
    /// The same, and containers that are there may not reach everything.
    Limited,
    /// A name, address or port is taken.
    Taken,
    /// The switch or the kernel refused.
    Refused,
    /// CHECK found something else than ADD made.
    Changed,
    /// Another plugin's.
    Other(u64),
}

impl Code {
    pub(super) fn number(self) -> u64 {
        match self {
            Code::Version => 1,
            Code::Field => 2,
            Code::Environment => 4,
            Code::Io => 5,
            Code::Decode => 6,
            Code::Config => 7,
            Code::Later => 11,
            Code::Unavailable => 50,
            Code::Limited => 51,
            Code::Taken => 100,
            Code::Refused => 101,
            Code::Changed => 102,
            Code::Other(n) => n,
        }
    }
}

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) msg: String,
    /// What to do about it; may be empty.
    pub(super) details: String,
}

impl Failure {
    pub(super) fn new(code: Code, msg: impl Into<String>) -> Failure {
        Failure { code, msg: msg.into(), details: String::new() }
    }

    pub(super) fn details(mut self, details: impl Into<String>) -> Failure {
        self.details = details.into();
        self
    }

    /// What the daemon said, while it ran.
    pub(super) fn of_daemon(error: &Error) -> Failure {
        let code = match error.kind {
            ErrorKind::Invalid | ErrorKind::NotFound => Code::Config,
            ErrorKind::Conflict => Code::Taken,
            ErrorKind::Permission => Code::Io,
            ErrorKind::Failed | ErrorKind::Internal => Code::Refused,
        };
        Failure::new(code, error.message.clone()).details(error.hint.clone())
    }

    pub(super) fn json(&self, version: Version) -> Value {
        let mut json =
            json!({ "cniVersion": version.to_string(), "code": self.code.number(), "msg": self.msg });
        if !self.details.is_empty() {
            json["details"] = self.details.clone().into();
        }
        json
    }
}
