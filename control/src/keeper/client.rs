//! The daemon's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
};
use serde::Serialize;
use serde_json::Value;

use super::message::{Answer, MAX_FDS, Request, receive, send};
use super::{VERSION, socket_path};
use crate::{Error, Result};

/// How long a keeper just started may take to answer.
const START: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How a keeper is started; `None`: there is one already, or somebody else starts it.
pub(crate) type Launch = Box<dyn Fn(&Path) -> io::Result<Option<Child>> + Send>;

/// What the keeper held for a port.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) meta: Value,
    pub(crate) fds: Vec<OwnedFd>,
}

/// A connection to the keeper.
pub(crate) struct Keeper {
    socket: OwnedFd,
    /// If we started it: to be reaped when it ends.
    child: Option<Child>,
    pid: u32,
}

impl Keeper {
    /// Connects to the keeper of the run directory, and starts one if there is none.
    ///
    /// # Errors
    /// When it cannot be started, does not answer, or speaks another version.
    pub(crate) fn connect(run_dir: &Path, launch: &Launch) -> Result<Keeper> {
        let failed = |e: io::Error| {
            Error::failed(format!("cannot reach the keeper of {}: {e}", run_dir.display())).hint(
                "it holds the interfaces while the daemon restarts; see that 'trunkline keeper' can start",
            )
        };
        let path = socket_path(run_dir);
        let deadline = Instant::now() + START;
        let mut child: Option<Child> = None;
        loop {
            let error = match Keeper::greet(&path) {
                Ok(mut keeper) => {
                    keeper.child = child;
                    return Ok(keeper);
                }
                // It answered, and will not answer otherwise.
                Err(e) if e.kind() == io::ErrorKind::Other => {
                    return Err(failed(e).hint(
                        "end it with 'trunkline stop --release': its interfaces go, and are made anew",
                    ));
                }
                Err(e) => e,
            };
            if Instant::now() >= deadline {
                return Err(failed(error));
            }
            // One that is about to end may still have the socket and the lock, so that the first one started
            // gives up.
            if child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None))) {
                child = launch(run_dir).map_err(failed)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Connects to a keeper that is there and speaks our version.
    fn greet(path: &Path) -> io::Result<Keeper> {
        let mut keeper = Keeper::open(path)?;
        keeper.pid = keeper.ask(&Request::Hello { version: VERSION }, &[])?.0.pid;
        Ok(keeper)
    }

    /// Connects to a keeper that is there.
    pub(super) fn open(path: &Path) -> io::Result<Keeper> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        for side in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, side, Some(ANSWER))?;
        }
        Ok(Keeper { socket, child: None, pid: 0 })
    }

    /// Answers may take as long as that from now on.
    pub(super) fn be_patient(&self, patience: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, Some(patience))?)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that hangs up when the keeper goes, or [`Keeper::close`] is called.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Ends the connection; what is held stays held.
    pub(crate) fn close(&self) {
        // Fails when the other side has ended it.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// The ports it holds something for.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().cloned().unwrap_or_default();
            let (answer, _) = self.ask(&Request::Names { after }, &[])?;
            if answer.names.is_empty() {
                return Ok(names);
            }
            names.extend(answer.names);
        }
    }

    /// Everything it holds, by port.
    pub(crate) fn fetch(&self) -> io::Result<Vec<(String, Kept)>> {
        let get = |name: String| {
            let mut kept = Kept { meta: Value::Null, fds: Vec::new() };
            loop {
                let request = Request::Get { name: name.clone(), from: kept.fds.len() };
                let (answer, fds) = self.ask(&request, &[])?;
                let stuck = fds.is_empty();
                kept.meta = answer.meta;
                kept.fds.extend(fds);
                if stuck || kept.fds.len() >= answer.total {
                    return Ok((name, kept));
                }
            }
        };
        self.names()?.into_iter().map(get).collect()
    }

    /// Hands it the descriptors of a port, in place of those it had.
    pub(crate) fn put(&self, name: &str, meta: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
        let meta = serde_json::to_value(meta)?;
        let mut append = false;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        for chunk in fds.chunks(MAX_FDS) {
            self.ask(&Request::Put { name: name.to_owned(), meta: meta.clone(), append }, chunk)?;
            append = true;
        }
        Ok(())
    }

    /// Has it close what it holds for a port.
    pub(crate) fn release(&self, name: &str) -> io::Result<()> {
        self.ask(&Request::Drop { name: name.to_owned() }, &[]).map(|_| ())
    }

    /// Has it close everything and end.
    pub(crate) fn quit(mut self) -> io::Result<()> {
        self.ask(&Request::Quit, &[])?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Its end was noticed: leaves no zombie behind, unless the process lives on.
    pub(crate) fn reap(mut self) {
        let Some(child) = &mut self.child else { return };
        for _ in 0..20 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[cfg(test)]
    pub(super) fn ask_version(&self, version: u32) -> io::Result<()> {
        self.ask(&Request::Hello { version }, &[]).map(|_| ())
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<(Answer, Vec<OwnedFd>)> {
        // An answer that comes late would be taken for that to the next question: this connection has had
        // it, whoever watches it connects anew.
        let (answer, fds) = self.exchange(request, fds).inspect_err(|_| self.close())?;
        if !answer.error.is_empty() {
            return Err(io::Error::other(answer.error));
        }
        Ok((answer, fds))
    }

    fn exchange(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<(Answer, Vec<OwnedFd>)> {
        send(&self.socket, request, fds)?;
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the keeper has ended");
        receive(&self.socket)?.ok_or_else(ended)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
        if let Some(child) = &mut self.child {
            // Reaps it if it has ended; else it goes on without us.
            let _ = child.try_wait();
        }
    }
}
