//! Errors as users see them: one line that says what is wrong, and what to do about it.

use serde::{Deserialize, Serialize};

/// What kind of failure; decides the HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request makes no sense (400).
    Invalid,
    /// The daemon lacks the right to do it (403).
    Permission,
    /// The named object does not exist (404).
    NotFound,
    /// The name is taken, or the object is in use (409).
    Conflict,
    /// The kernel or another program refused (422).
    Failed,
    /// The daemon is broken or stopping (500).
    Internal,
}

/// An error with its advice. Displayed as `message; hint`, one line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What kind.
    pub kind: ErrorKind,
    /// What is wrong, in lower case, without a full stop.
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without advice.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: String::new() }
    }

    /// Adds the advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = hint.into();
        self
    }

    /// Says in front where it went wrong: `place: message`.
    pub fn within(mut self, place: impl std::fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// A name that is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    /// A name that is taken.
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }

    /// The kernel said no.
    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Failed, message)
    }
}

/// What every command says of a bridge that is not there.
pub(crate) fn no_bridge(name: &str) -> Error {
    Error::not_found(format!("there is no bridge {name}")).hint("see: trunkline bridge list")
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        one_line(&self.message, f)?;
        if !self.hint.is_empty() {
            f.write_str("; ")?;
            one_line(&self.hint, f)?;
        }
        Ok(())
    }
}

/// Names and paths from users may contain line ends and what terminals take for commands.
fn one_line(text: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    for part in text.split_inclusive(char::is_control) {
        match part.char_indices().next_back() {
            Some((at, c)) if c.is_control() => write!(f, "{}{}", &part[..at], c.escape_default())?,
            _ => f.write_str(part)?,
        }
    }
    Ok(())
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_is_in_it() {
        let error = Error::not_found("there is no web\nfile \u{1b}[31mröd").hint("try\tthat");
        assert_eq!(error.to_string(), "there is no web\\nfile \\u{1b}[31mröd; try\\tthat");
    }
}
