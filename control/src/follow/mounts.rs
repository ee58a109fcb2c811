//! Bare namespaces: a name is a file on which the namespace is mounted, so the table of mounts says when one
//! appears (proc(5), /proc/pid/mounts: a change makes it readable as exceptional).

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::Notify;

/// How often namespaces are looked at where the table cannot be watched.
const PERIOD: Duration = Duration::from_secs(1);
/// How long after the last follower the thread is gone at the latest.
const LINGER: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Wakes `told` whenever the daemon's table of mounts changes.
pub(super) async fn watch(told: &Notify) {
    loop {
        let changed = Arc::new(Notify::new());
        let weak = Arc::downgrade(&changed);
        // A thread of its own: the file is no socket that the runtime could wait for without polling.
        let thread = std::thread::Builder::new().name("tl-mounts".into()).spawn(move || {
            if let Err(error) = changes(&weak) {
                tracing::warn!(%error, "the table of mounts cannot be watched");
            }
        });
        told.notify_one();
        while thread.as_ref().is_ok_and(|t| !t.is_finished()) {
            changed.notified().await;
            told.notify_one();
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Tells of every change, until nobody listens.
fn changes(told: &Weak<Notify>) -> io::Result<()> {
    let table = File::open("/proc/self/mounts")?;
    let outcome = loop {
        let mut polled = [PollFd::new(&table, PollFlags::PRI)];
        let count = match poll(&mut polled, Some(&LINGER)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => break Err(error.into()),
        };
        match told.upgrade() {
            None => break Ok(()),
            Some(told) if count > 0 => told.notify_one(),
            Some(_) => {}
        }
    };
    if let Some(told) = told.upgrade() {
        told.notify_one();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_noticed() {
        let told = Arc::new(Notify::new());
        let weak = Arc::downgrade(&told);
        let thread = std::thread::spawn(move || changes(&weak));
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = std::process::Command::new(program).args(args).arg(dir.path()).status().unwrap();
            assert!(done.success(), "needs root");
        };
        let noticed = || {
            use futures::FutureExt as _;
            told.notified().now_or_never().is_some()
        };
        // The thread may not have opened the table yet.
        let seen = (0..100).any(|_| {
            run("mount", &["-t", "tmpfs", "none"]);
            run("umount", &[]);
            std::thread::sleep(Duration::from_millis(20));
            noticed()
        });
        assert!(seen && !thread.is_finished());
        // Nothing more is told while nothing changes here, but others may mount: only the end is sure.
        drop(told);
        run("mount", &["-t", "tmpfs", "none"]);
        run("umount", &[]);
        assert!(thread.join().unwrap().is_ok());
    }
}
