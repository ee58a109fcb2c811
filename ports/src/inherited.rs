//! Sockets that the service manager listens on and hands to us: sd_listen_fds(3).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first of them (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// The descriptors handed to this process; none when it is asked again.
pub fn inherited() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    // Meant for this process, not for one that started it.
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let count = RawFd::try_from(number("LISTEN_FDS").unwrap_or(0).min(64)).unwrap_or(0);
    (FIRST..FIRST + count)
        .filter_map(|fd| {
            // SAFETY: only borrowed for the call, which fails on what is no descriptor.
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
            // SAFETY: it is open, was put there for us, and is taken once, as `TAKEN` sees to.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}
