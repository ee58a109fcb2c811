//! The keeper's own side.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, SocketType, accept_with};
use serde_json::Value;

use super::message::{Answer, MAX_FDS, MAX_NAMES, Request, receive, send};
use super::{VERSION, failed, socket_path};
use crate::rundir::{Lock, listen_privately};
use crate::{Error, Result};

/// How long it stays with nothing to hold and no daemon.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it looks for interfaces that are gone, while no daemon does.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a daemon may take to read an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long to wait when there is no descriptor for another connection.
const SHORTAGE: Duration = Duration::from_millis(100);

pub(super) struct Server {
    _lock: Lock,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    listener: OwnedFd,
    daemons: Vec<OwnedFd>,
    held: BTreeMap<String, Held>,
}

struct Held {
    meta: Value,
    fds: Vec<OwnedFd>,
}

impl Server {
    pub(super) fn bind(run_dir: &Path) -> Result<Server> {
        let lock = Lock::take(&run_dir.join("keeper.lock")).map_err(|e| failed(run_dir, &e))?;
        let lock = lock.map_err(|pid| {
            Error::conflict(format!("a keeper for {} runs already, process {pid}", run_dir.display()))
        })?;
        let path = socket_path(run_dir);
        let listener = listen_privately(&path, SocketType::SEQPACKET).map_err(|e| failed(run_dir, &e))?;
        let file = identity(&path).ok_or_else(|| Error::failed(format!("{} is gone", path.display())))?;
        Ok(Server { _lock: lock, path, file, listener, daemons: Vec::new(), held: BTreeMap::new() })
    }

    /// Serves until it is of no more use.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let mut idle_since = Instant::now();
        loop {
            let wait = match (self.daemons.is_empty(), self.held.is_empty()) {
                (false, _) => None,
                (true, false) => Some(SWEEP),
                (true, true) => match PATIENCE.checked_sub(idle_since.elapsed()) {
                    Some(left) => Some(left),
                    None => return Ok(()),
                },
            };
            let ready = self.wait(wait)?;
            if !self.handle(&ready)? {
                return Ok(());
            }
            if self.daemons.is_empty() {
                if !self.is_reachable() {
                    // Held any longer, the interfaces would only be in the way of the next daemon.
                    return Ok(());
                }
                self.close_dead();
            }
            if !self.daemons.is_empty() || !self.held.is_empty() {
                idle_since = Instant::now();
            }
        }
    }

    /// Which of the listener (first) and the connections have something; sorted.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<usize>> {
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        let all = std::iter::once(&self.listener).chain(&self.daemons);
        let mut polled: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = polled.iter().enumerate().filter(|(_, p)| !p.revents().is_empty());
        Ok(ready.map(|(n, _)| n).collect())
    }

    /// False when it was asked to end.
    fn handle(&mut self, ready: &[usize]) -> io::Result<bool> {
        // From the last one, so that removal does not move those still to come.
        for &n in ready.iter().rev() {
            if n == 0 {
                match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                    Ok(daemon) => {
                        set_socket_timeout(&daemon, Timeout::Send, Some(ANSWER))?;
                        self.daemons.push(daemon);
                    }
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                    // Ending would let go of everything; what is held may become less.
                    Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => std::thread::sleep(SHORTAGE),
                    Err(e) => return Err(e.into()),
                }
                continue;
            }
            match self.serve_one(n - 1) {
                Ok(Served::Next) => {}
                Ok(Served::Quit) => return Ok(false),
                // A connection that ends or talks nonsense is closed; what is held stays.
                Ok(Served::End) | Err(_) => drop(self.daemons.remove(n - 1)),
            }
        }
        Ok(true)
    }

    fn serve_one(&mut self, n: usize) -> io::Result<Served> {
        let Some((request, fds)) = receive::<Request>(&self.daemons[n])? else { return Ok(Served::End) };
        let mut answer = Answer::default();
        let mut beside: &[OwnedFd] = &[];
        let mut served = Served::Next;
        match request {
            Request::Hello { version } => {
                answer.pid = std::process::id();
                if version != VERSION {
                    answer.error = format!("the keeper speaks version {VERSION}, not {version}");
                }
            }
            Request::Put { name, meta, append } => {
                let held = self.held.entry(name).or_insert(Held { meta: Value::Null, fds: Vec::new() });
                if !append {
                    held.fds.clear();
                }
                held.meta = meta;
                held.fds.extend(fds);
            }
            Request::Drop { name } => drop(self.held.remove(&name)),
            Request::Names { after } => {
                let later = self.held.keys().filter(|name| **name > after);
                answer.names = later.take(MAX_NAMES).cloned().collect();
            }
            Request::Get { name, from } => match self.held.get(&name) {
                Some(held) => {
                    answer.meta = held.meta.clone();
                    answer.total = held.fds.len();
                    let from = from.min(held.fds.len());
                    beside = &held.fds[from..held.fds.len().min(from + MAX_FDS)];
                }
                None => answer.error = format!("nothing is held as {name}"),
            },
            Request::Quit => {
                // Closed before the answer: who asked may rely on the interfaces being gone.
                self.held.clear();
                served = Served::Quit;
            }
        }
        let beside: Vec<BorrowedFd<'_>> = beside.iter().map(AsFd::as_fd).collect();
        send(&self.daemons[n], &answer, &beside)?;
        Ok(served)
    }

    /// Whether a daemon can find the socket: not when somebody has removed the run directory.
    fn is_reachable(&self) -> bool {
        identity(&self.path) == Some(self.file)
    }

    /// Closes descriptors whose device is gone.
    fn close_dead(&mut self) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.held.retain(|_, held| {
            // Asked without IN: a waiting frame is none of the keeper's business.
            let mut polled: Vec<_> = held.fds.iter().map(|fd| PollFd::new(fd, PollFlags::empty())).collect();
            let asked = poll(&mut polled, Some(&now));
            asked.is_err() || !polled.iter().any(|p| p.revents().intersects(PollFlags::ERR | PollFlags::HUP))
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_reachable() {
            // Left behind, the next keeper replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

enum Served {
    Next,
    End,
    Quit,
}
