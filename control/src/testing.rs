//! What tests of several modules need.

use rustix::thread::UnshareFlags;

/// Runs `f` on a thread in a new network namespace, which goes with it. Needs root.
// Deprecated because of flags this does not use: only descriptor tables are dangerous to unshare.
#[allow(deprecated)]
pub(crate) fn in_new_netns<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = || {
            rustix::thread::unshare(UnshareFlags::NEWNET).expect("tests with namespaces need root");
            f()
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
