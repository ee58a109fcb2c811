//! The docker plugin.

use rustix::net::SocketAddrUnix;

use crate::model::docker::DockerSpec;
use crate::{Error, Result};

/// Checks where the plugin is served.
///
/// # Errors
/// When that cannot be a socket.
pub fn docker(spec: &DockerSpec) -> Result<()> {
    let socket = spec.socket();
    let bad = |why: &str| {
        Err(Error::invalid(format!("docker: the socket '{}' {why}", super::shorten(socket)))
            .hint("docker looks in /run/docker/plugins: leave it out, or give an absolute path"))
    };
    if !socket.starts_with('/') || socket.ends_with('/') || socket.contains(char::is_control) {
        return bad("is not an absolute path");
    }
    if SocketAddrUnix::new(socket).is_err() {
        return bad("has too long a path");
    }
    Ok(())
}
