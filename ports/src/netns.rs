//! Network namespaces: finding them and doing something inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::PathBuf;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::sys;

/// An open network namespace.
///
/// The descriptor keeps the namespace alive: while it is open, the namespace of a container that has ended
/// stays, with its interfaces answering. Open it, use it, drop it; remember [`Netns::id`] instead.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: (u64, u64),
}

impl Netns {
    /// Opens a namespace by name (as `ip netns` has them, under `/run/netns` or `/var/run/netns`), by
    /// absolute path, or, if `spec` is all digits, by process id.
    ///
    /// # Errors
    /// `NotFound` when there is no such name, path or process; `InvalidInput` when `spec` can be none of
    /// these or what is there is not a network namespace.
    pub fn open(spec: &str) -> io::Result<Netns> {
        for path in candidates(spec)? {
            // NONBLOCK and NOCTTY: the path may be a FIFO or a terminal, which must not do anything to us.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(fd) => {
                    return Netns::try_from(fd).map_err(|e| sys::context(path.display(), e));
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => {
                    return Err(sys::context(format_args!("network namespace {}", path.display()), e.into()));
                }
            }
        }
        let what = match spec {
            _ if is_pid(spec) => "process",
            _ => "network namespace",
        };
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no such {what}: {spec}")))
    }

    /// Makes a new one, empty but for a loopback interface that is down. It lives as long as this, or anything
    /// in it, does.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Netns> {
        thread::scope(|scope| {
            let inside = || {
                // SAFETY: only this thread, which ends here, leaves its network namespace; no descriptors or
                // memory are unshared.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                    .map_err(|e| sys::context("cannot make a network namespace", e.into()))?;
                Netns::current()
            };
            let handle = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?;
            handle.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> io::Result<Netns> {
        let fd = File::open("/proc/thread-self/ns/net")
            .map_err(|e| sys::context("/proc/thread-self/ns/net", e))?;
        Netns::try_from(OwnedFd::from(fd))
    }

    /// Device and inode, which name the namespace while it lives. A later namespace may get the same ones.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Runs `f` inside, on a thread of its own that ends with it, and waits for the result. A panic in `f`
    /// goes on in the caller. Blocks: not for workers.
    ///
    /// # Errors
    /// When the thread cannot be made or may not enter (needs CAP_SYS_ADMIN there).
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|e| sys::context("cannot enter the network namespace", e.into()))?;
                Ok(f())
            };
            let handle = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?;
            handle.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl TryFrom<OwnedFd> for Netns {
    type Error = io::Error;

    /// `InvalidInput` when the descriptor is not a network namespace.
    fn try_from(fd: OwnedFd) -> io::Result<Netns> {
        if !matches!(sys::ioctl_value(&fd, libc::NS_GET_NSTYPE, 0), Ok(libc::CLONE_NEWNET)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Netns { fd, id: (stat.st_dev, stat.st_ino) })
    }
}

fn is_pid(spec: &str) -> bool {
    !spec.is_empty() && spec.bytes().all(|b| b.is_ascii_digit())
}

/// Where `spec` may be found, in order.
fn candidates(spec: &str) -> io::Result<Vec<PathBuf>> {
    if is_pid(spec) {
        return Ok(vec![PathBuf::from(format!("/proc/{spec}/ns/net"))]);
    }
    if spec.starts_with('/') && !spec.contains('\0') {
        return Ok(vec![PathBuf::from(spec)]);
    }
    if spec.is_empty() || spec == "." || spec == ".." || spec.contains(['/', '\0']) {
        let shown: String = spec.chars().take(80).collect();
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{shown}' is not a network namespace: give a name, an absolute path or a pid"),
        ));
    }
    Ok(["/run/netns", "/var/run/netns"].map(|dir| PathBuf::from(dir).join(spec)).into())
}
