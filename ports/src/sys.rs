//! The few system calls that rustix does not wrap, each made safe once.

use std::ffi::c_int;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fd::BorrowedFd;

/// An error of the same kind with a sentence in front that names what failed.
pub(crate) fn context(what: impl std::fmt::Display, error: io::Error) -> io::Error {
    let kind = match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => io::ErrorKind::NotFound,
        _ => error.kind(),
    };
    io::Error::new(kind, format!("{what}: {}", text(&error)))
}

/// The kernel's words without "(os error N)".
fn text(error: &io::Error) -> String {
    let s = error.to_string();
    match s.find(" (os error") {
        Some(at) => s[..at].to_string(),
        None => s,
    }
}

/// Turns the -1 of libc into the error it stands for.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An `ifreq` with this interface name.
///
/// # Errors
/// When the kernel would not take the name, or would take it as a pattern ("%d").
pub(crate) fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    let bad = name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || name == "."
        || name == ".."
        || name.bytes().any(|b| b == 0 || b == b'/' || b == b':' || b == b'%' || b.is_ascii_whitespace());
    if bad {
        let shown: String = name.chars().take(40).collect();
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{shown}' is not an interface name: 1 to 15 characters without '/', ':', '%' or spaces"),
        ));
    }
    // SAFETY: `ifreq` is plain C data, for which all zeros is a valid value.
    let mut req: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(req)
}

/// The name in an `ifreq`.
pub(crate) fn ifreq_name(req: &libc::ifreq) -> String {
    let bytes: Vec<u8> = req.ifr_name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An ioctl whose argument is an `ifreq`.
pub(crate) fn ioctl_ifreq(fd: impl AsFd, request: libc::Ioctl, req: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every request this crate passes reads and writes at most one `ifreq`, which `req` is.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, req as *mut libc::ifreq) })?;
    Ok(())
}

/// An ioctl whose argument is a pointer to an int.
pub(crate) fn ioctl_int(fd: impl AsFd, request: libc::Ioctl, mut value: c_int) -> io::Result<()> {
    // SAFETY: every request this crate passes reads one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &mut value as *mut c_int) })?;
    Ok(())
}

/// An ioctl whose argument is a plain number, and its answer.
pub(crate) fn ioctl_value(fd: impl AsFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<c_int> {
    // SAFETY: every request this crate passes takes its argument by value, so no memory is touched.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) })
}

/// Marks types of plain C data: any bytes make a valid value and none is padding the kernel minds.
///
/// # Safety
/// All bit patterns must be valid.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and structs of integers.
unsafe impl Plain for c_int {}
// SAFETY: as above.
unsafe impl Plain for libc::packet_mreq {}
// SAFETY: as above.
unsafe impl Plain for libc::tpacket_stats {}
// SAFETY: as above.
unsafe impl Plain for libc::tpacket_req {}
// SAFETY: as above.
unsafe impl Plain for libc::ip_mreqn {}
// SAFETY: as above.
unsafe impl Plain for libc::ipv6_mreq {}

pub(crate) fn setsockopt<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: &T,
) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which has that size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (value as *const T).cast(), len) })?;
    Ok(())
}

pub(crate) fn getsockopt<T: Plain>(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has that size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &mut len) })?;
    // SAFETY: zeroed above, and `T` is plain data whatever the kernel wrote.
    Ok(unsafe { value.assume_init() })
}

/// Gives a socket a filter of classic BPF, in place of the one it had.
pub(crate) fn attach_filter(socket: impl AsFd, code: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: code.as_ptr().cast_mut() };
    // SAFETY: the kernel reads a `sock_fprog` of the size given and through it `code`, which it copies.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// A socket on which interface ioctls can be made, in the calling thread's namespace.
pub(crate) fn ioctl_socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names() {
        assert_eq!(ifreq_name(&ifreq("eth0.10@x").unwrap()), "eth0.10@x");
        assert_eq!(ifreq_name(&ifreq("fifteen-letters").unwrap()), "fifteen-letters");
        for bad in ["", "sixteen-letters-", "a/b", "a:b", "tap%d", "a b", ".", "..", "a\0b"] {
            assert_eq!(ifreq(bad).err().map(|e| e.kind()), Some(io::ErrorKind::InvalidInput), "{bad:?}");
        }
    }

    #[test]
    fn context_keeps_the_kind() {
        let e = context("interface x", io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(e.to_string(), "interface x: Operation not permitted");
        assert_eq!(context("x", io::Error::from_raw_os_error(libc::ENODEV)).kind(), io::ErrorKind::NotFound);
    }
}
