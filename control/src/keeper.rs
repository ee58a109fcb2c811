//! The keeper: a small process that holds duplicates of the daemon's descriptors, so that a container's
//! interface outlives the daemon, be it killed, upgraded or crashed.
//!
//! The daemon starts it when nobody answers on `RUNDIR/keeper.sock`. It ends by itself when it holds
//! nothing and no daemon is connected for some seconds. Requests and answers are JSON, one each per
//! message of a SOCK_SEQPACKET socket, with descriptors beside them (SCM_RIGHTS).
//!
//! A TAP's device goes with its namespace whatever the keeper holds (the descriptor was opened outside it);
//! while no daemon runs, the keeper looks for such ends and closes the descriptors.

mod client;
mod message;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use client::{Keeper, Kept, Launch};

use crate::rundir::{DAEMON_LOCK, Lock};
use crate::{Error, Result};

/// Version of the protocol. A daemon and a keeper of different ones do not talk.
const VERSION: u32 = 1;

/// How long letting go of everything may take: the kernel needs some 20 ms for each interface.
const RELEASE: Duration = Duration::from_secs(120);

/// The body of the keeper process; returns when it is of no more use.
///
/// # Errors
/// When another keeper has the run directory, or its socket cannot be made.
pub fn run(run_dir: &Path) -> Result<()> {
    let run_dir = std::path::absolute(run_dir).map_err(|e| failed(run_dir, &e))?;
    // Fails for the leader of a group, as which systemd starts it: nothing to leave then.
    let _ = rustix::process::setsid();
    // The daemon's working directory is none of its business.
    let _ = std::env::set_current_dir("/");
    raise_descriptor_limit();
    serve(&run_dir)
}

/// The same within this process.
pub(crate) fn serve(run_dir: &Path) -> Result<()> {
    server::Server::bind(run_dir)?.serve().map_err(|e| failed(run_dir, &e))
}

/// Has the keeper of a run directory without a daemon let go of everything and end, whatever its version;
/// false when there is none.
///
/// # Errors
/// When a daemon is there after all, or the keeper does not answer.
pub(crate) fn release(run_dir: &Path) -> Result<bool> {
    if !run_dir.is_dir() {
        return Ok(false);
    }
    // A daemon that starts now would take over what is about to go.
    let lock = Lock::take(&run_dir.join(DAEMON_LOCK)).map_err(|e| failed(run_dir, &e))?;
    let _lock = lock.map_err(|pid| {
        Error::conflict(format!("the daemon of {} does not answer yet, process {pid}", run_dir.display()))
            .hint("try again in a moment")
    })?;
    match Keeper::open(&socket_path(run_dir)) {
        Ok(keeper) => {
            let ended = keeper.be_patient(RELEASE).and_then(|()| keeper.quit());
            ended.map(|()| true).map_err(|e| failed(run_dir, &e))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        Err(e) => Err(failed(run_dir, &e)),
    }
}

/// Starts a keeper as a process of its own that the end of this one does not touch.
///
/// # Errors
/// When the binary cannot be started.
pub(crate) fn launch(run_dir: &Path) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    // The path stops working when the binary is replaced by a newer one; the link does not.
    let binary = std::env::current_exe().ok().filter(|path| path.exists());
    Command::new(binary.unwrap_or_else(|| "/proc/self/exe".into()))
        .arg("--run-dir")
        .arg(run_dir)
        .arg("keeper")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// One descriptor per queue of every TAP: the usual soft limit of 1,024 is soon reached.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Not allowed in some containers; then it is as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("keeper.sock")
}

fn failed(run_dir: &Path, error: &io::Error) -> Error {
    Error::failed(format!("the keeper of {} failed: {error}", run_dir.display()))
}
