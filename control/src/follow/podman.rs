//! Podman, by its command: it has no daemon to ask.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;

use crate::{Error, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often containers are looked at where `podman events` does not work.
const PERIOD: Duration = Duration::from_secs(5);

/// The container's first process.
///
/// # Errors
/// `NotFound` when there is no such container or it is stopped.
pub(super) async fn pid(container: &str) -> Result<u32> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("cannot ask podman: {e}"));
    let mut command = Command::new("podman");
    let format = "{{.State.Pid}} {{.State.Status}}";
    command.args(["inspect", "--type", "container", "--format", format, "--", container]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Err(failed(&"it is not installed")),
        Ok(Err(e)) => return Err(failed(&e)),
        Err(_) => return Err(failed(&"it does not answer")),
    };
    read(container, output.status.success(), &output.stdout, &output.stderr)
}

fn read(container: &str, ok: bool, stdout: &[u8], stderr: &[u8]) -> Result<u32> {
    if !ok {
        let said = String::from_utf8_lossy(stderr).trim().replace('\n', " ");
        return Err(match said.to_lowercase().contains("no such") {
            true => Error::not_found(format!("podman knows no container {container}")),
            false => Error::failed(format!("podman does not say where container {container} is: {said}")),
        });
    }
    let text = String::from_utf8_lossy(stdout);
    let (pid, state) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match pid.parse() {
        Ok(0) => Err(super::stopped(container, state)),
        Ok(pid) => Ok(pid),
        Err(_) => Err(Error::failed(format!("podman gave no pid for container {container}"))),
    }
}

/// Wakes `told` at every event; every few seconds where events cannot be had.
pub(super) async fn watch(told: &Notify) {
    loop {
        let mut command = Command::new("podman");
        command.args(["events", "--filter", "type=container", "--format", "{{.Status}}"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        if let Ok(mut child) = command.spawn()
            && let Some(stdout) = child.stdout.take()
        {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                told.notify_one();
            }
            let _ = child.wait().await;
        }
        tokio::time::sleep(PERIOD).await;
        told.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_says_is_understood() {
        let error = |r: Result<u32>| r.unwrap_err().to_string();
        assert_eq!(read("web", true, b"4711 running\n", b""), Ok(4711));
        assert_eq!(error(read("web", true, b"0 exited\n", b"")), "container web is not running (exited)");
        let unknown = b"Error: inspecting object: no such container web\n";
        assert_eq!(error(read("web", false, b"[]", unknown)), "podman knows no container web");
        assert!(
            error(read("web", false, b"", b"Error: database is locked\n")).contains("database is locked")
        );
        assert!(error(read("web", true, b"?", b"")).contains("gave no pid"));
    }
}
