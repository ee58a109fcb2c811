//! What a port follows: a container that may be stopped and started, a namespace that may be made anew.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where docker listens.
pub const ENGINE_SOCKET: &str = "/run/docker.sock";

/// Whose namespace a TAP port is in, wherever that is at the moment. Written `docker:NAME`,
/// `docker:NAME@SOCKET`, `podman:NAME`, `netns:NAME` or `netns:PATH`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Follow {
    /// A container of docker, by name or id.
    Docker {
        /// As docker knows it.
        container: String,
        /// Where its engine listens; absent: [`ENGINE_SOCKET`].
        socket: Option<String>,
    },
    /// A container of root's podman, by name or id.
    Podman(String),
    /// A namespace by its name or absolute path.
    Netns(String),
}

impl Follow {
    /// What it is, for a sentence.
    pub fn what(&self) -> String {
        match self {
            Follow::Docker { container, .. } | Follow::Podman(container) => format!("container {container}"),
            Follow::Netns(netns) => format!("network namespace {netns}"),
        }
    }
}

impl fmt::Display for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Follow::Docker { container, socket: None } => write!(f, "docker:{container}"),
            Follow::Docker { container, socket: Some(socket) } => write!(f, "docker:{container}@{socket}"),
            Follow::Podman(container) => write!(f, "podman:{container}"),
            Follow::Netns(netns) => write!(f, "netns:{netns}"),
        }
    }
}

impl FromStr for Follow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Follow> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            Error::invalid(format!("'{}' is nothing to follow", shown.escape_debug()))
                .hint("write docker:NAME, docker:NAME@SOCKET, podman:NAME, netns:NAME or netns:PATH")
        };
        // As docker and podman restrict names.
        let container = |name: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
            (starts && name.len() <= 255 && name.bytes().all(fits)).then(|| name.to_owned()).ok_or_else(wrong)
        };
        match text.split_once(':').ok_or_else(wrong)? {
            ("docker", name) => match name.split_once('@') {
                None => Ok(Follow::Docker { container: container(name)?, socket: None }),
                Some((name, socket)) if Path::new(socket).is_absolute() && !socket.contains('\0') => {
                    Ok(Follow::Docker { container: container(name)?, socket: Some(socket.to_owned()) })
                }
                Some(_) => Err(wrong()),
            },
            ("podman", name) => Ok(Follow::Podman(container(name)?)),
            // A pid does not come back.
            ("netns", netns)
                if (netns.starts_with('/') || !netns.contains('/'))
                    && !netns.contains('\0')
                    && !matches!(netns, "" | "." | "..")
                    && !netns.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Ok(Follow::Netns(netns.to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Follow {
    type Error = Error;

    fn try_from(text: String) -> Result<Follow> {
        text.parse()
    }
}

impl From<Follow> for String {
    fn from(follow: Follow) -> String {
        follow.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_is_written_as_it_is_read() {
        for text in
            ["docker:web", "docker:web_1.x-y@/tmp/d.sock", "podman:db", "netns:blue", "netns:/run/x/net"]
        {
            assert_eq!(text.parse::<Follow>().unwrap().to_string(), text);
        }
        for text in [
            "web",
            "docker:",
            "docker:-x",
            "docker:a b",
            "docker:web@sock",
            "podman:a@/b",
            "netns:",
            "netns:..",
            "netns:4711",
            "netns:a/b",
            "pid:4711",
            "docker:web/../x",
        ] {
            let error = text.parse::<Follow>().unwrap_err().to_string();
            assert!(error.contains("is nothing to follow; write docker:NAME"), "{error}");
        }
    }
}
