//! Raw sockets that are connected to the remotes most is sent to.
//!
//! An address and a source given with each message cost the kernel 7 % of what it takes to send a packet of 1,500 bytes.
//! A connected socket needs neither, but has the source that the route chose when it was connected. So one is used only
//! where that is the source asked for. There are few of them: every raw socket is looked at for every packet that
//! comes in.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Datagrams, path, sock};
use crate::netns::Netns;

/// Remotes that have a socket of their own.
const MOST: usize = 8;
/// After so many groups of packets that went to others, all sockets are given up: who sends then takes them.
const MISSES: u32 = 4096;

/// Opens a socket that is not connected yet and receives nothing.
type Open = fn() -> io::Result<OwnedFd>;

pub(super) struct Near {
    open: Open,
    /// The namespace of the other sockets; a worker's is the same.
    home: io::Result<(u64, u64)>,
    all: RwLock<Vec<Remote>>,
    misses: AtomicU32,
}

struct Remote {
    dst: Ipv4Addr,
    src: Ipv4Addr,
    /// `None`: there is none that would do.
    fd: Option<Arc<OwnedFd>>,
}

impl Near {
    pub(super) fn new(open: Open) -> Near {
        let home = Netns::current().map(|ns| ns.id());
        Near { open, home, all: RwLock::new(Vec::with_capacity(MOST)), misses: AtomicU32::new(0) }
    }

    /// The socket for what is sent like this, "don't fragment" included; made if there is room for one more.
    pub(super) fn find(&self, to: &Datagrams) -> Option<Arc<OwnedFd>> {
        let (IpAddr::V4(dst), Some(IpAddr::V4(src))) = (to.dst, to.src) else { return None };
        if !to.df || to.interface != 0 || dst.is_multicast() || dst.is_broadcast() {
            return None;
        }
        let no_more = {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            match all.iter().find(|r| (r.dst, r.src) == (dst, src)) {
                Some(Remote { fd: Some(fd), .. }) => return Some(fd.clone()),
                found => found.is_some() || all.len() >= MOST,
            }
        };
        if !no_more {
            return self.make(dst, src);
        }
        if self.misses.fetch_add(1, Relaxed) >= MISSES {
            self.forget();
        }
        None
    }

    /// Closes all, after an error or so that others get their turn.
    #[cold]
    pub(super) fn forget(&self) {
        self.misses.store(0, Relaxed);
        self.all.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[cold]
    fn make(&self, dst: Ipv4Addr, src: Ipv4Addr) -> Option<Arc<OwnedFd>> {
        let fd = self.connected(dst, src).ok().flatten().map(Arc::new);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MOST && !all.iter().any(|r| (r.dst, r.src) == (dst, src)) {
            all.push(Remote { dst, src, fd: fd.clone() });
        }
        fd
    }

    /// A socket whose source is the one asked for; `None` if the route chooses another.
    fn connected(&self, dst: Ipv4Addr, src: Ipv4Addr) -> io::Result<Option<OwnedFd>> {
        // A socket bound to a group does not tell its source. Asked before and after: if the answer changes meanwhile,
        // nobody knows.
        let chosen = || path(dst.into(), None).map(|path| path.source == IpAddr::V4(src));
        let at_home = self.home.as_ref().is_ok_and(|home| Netns::current().is_ok_and(|ns| ns.id() == *home));
        if !at_home || !chosen()? {
            return Ok(None);
        }
        let fd = (self.open)()?;
        sock::connect(&fd, dst.into(), 0)?;
        Ok(chosen()?.then_some(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(dst: [u8; 4], src: [u8; 4]) -> Datagrams {
        Datagrams { src: Some(src.into()), ..Datagrams::one_to(dst.into(), 0) }
    }

    /// UDP sockets do as well, and need no privileges.
    fn near() -> Near {
        Near::new(|| {
            sock::open(super::super::Family::V4, rustix::net::SocketType::DGRAM, rustix::net::ipproto::UDP)
        })
    }

    #[test]
    fn only_where_the_route_would_choose_the_same() {
        let near = near();
        let (here, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
        let usual = to(here, here);
        let found = near.find(&usual).expect("a socket");
        assert!(Arc::ptr_eq(&found, &near.find(&usual).expect("the same")));
        assert!(near.find(&to(here, other)).is_none(), "another source");
        for different in [
            Datagrams { src: None, ..usual },
            Datagrams { df: false, ..usual },
            Datagrams { interface: 1, ..usual },
            Datagrams { dst: [224, 0, 0, 1].into(), ..usual },
            Datagrams { dst: "::1".parse().unwrap(), src: Some("::1".parse().unwrap()), ..usual },
        ] {
            assert!(near.find(&different).is_none(), "{different:?}");
        }
        near.forget();
        assert!(!Arc::ptr_eq(&found, &near.find(&usual).expect("a new one")));
    }

    #[test]
    fn they_are_few_and_change_hands() {
        let near = near();
        let remote = |last| to([127, 0, 1, last], [127, 0, 0, 1]);
        let has = |last| near.find(&remote(last)).is_some();
        assert_eq!((0..20).filter(|&last| has(last)).count(), MOST);
        assert!(has(0) && !has(19));
        for _ in 0..MISSES {
            near.find(&remote(19));
        }
        assert!(has(19), "it is wanted more than those that have one");
        assert!(near.all.read().unwrap().len() <= MOST);
    }
}
