//! What processes that share a run directory do with it: locks and sockets.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// The lock of a run directory's daemon.
pub(crate) const DAEMON_LOCK: &str = "daemon.lock";

/// The API's socket in a run directory.
pub(crate) fn api_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("trunkline.sock")
}

/// Whether the names of the sockets in a run directory are short enough for the kernel (unix(7), sun_path).
pub(crate) fn is_short_enough(run_dir: &Path) -> bool {
    SocketAddrUnix::new(api_socket(run_dir)).is_ok()
}

/// An exclusive lock on a file that says whose it is; released when dropped, or with the process.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes our pid into the file; the inner error is the pid of the process that has
    /// it.
    pub(crate) fn take(path: &Path) -> io::Result<std::result::Result<Lock, String>> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Ok(Lock { _file: file }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                Ok(Err(pid.trim().to_owned()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A listening Unix socket of mode 0600, in place of whatever a process that was killed left behind: the
/// caller has the lock that says that nobody listens there.
pub(crate) fn listen_privately(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before `listen`, so there is no moment with a wider mode.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&socket, 128)?;
    Ok(socket)
}
