//! Dropping by a program on the interface's tcx ingress hook. The descriptor is its link's.

use std::ffi::c_long;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::not_a_guard;
use super::program::{Instruction, Program};
use crate::sys;

const BPF_PROG_LOAD: c_long = 5;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// What a program returns: the frame is dropped, or the next program is asked.
const TCX_DROP: i32 = 2;
const TCX_NEXT: i32 = -1;

/// The part of `union bpf_attr` for BPF_PROG_LOAD that is used, up to `expected_attach_type`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The same for BPF_LINK_CREATE, with its tcx part.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// The same for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` with its tcx part.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// A link that drops of what the interface of the calling thread's namespace receives that to which the
/// program says "yes".
pub(super) fn attach(ifindex: u32, program: &Program) -> io::Result<OwnedFd> {
    let program = load(&program.extended(TCX_DROP, TCX_NEXT)).map_err(explain)?;
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // The link holds the program from here on.
    bpf_fd(BPF_LINK_CREATE, &mut attr).map_err(explain)
}

/// The interface the link is attached to, if there still is one.
pub(super) fn ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut info = LinkInfo::default();
    let mut attr = GetInfo {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: mem::size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` is laid out as the kernel expects; it writes at most `info_len` bytes to `info`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL | libc::EBADF | libc::EBADFD) => not_a_guard(),
        _ => e,
    })?;
    if info.link_type != BPF_LINK_TYPE_TCX || info.attach_type != BPF_TCX_INGRESS {
        return Err(not_a_guard());
    }
    Ok(Some(info.ifindex).filter(|&index| index != 0))
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..14].copy_from_slice(b"trunkline_drop");
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        // No helper is called, so no licence matters to the kernel.
        license: c"MIT OR Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_TCX_INGRESS,
    };
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

/// bpf(2) with a command that answers with a new descriptor (always close-on-exec).
fn bpf_fd<T>(command: c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: both callers lay `attr` out as the kernel expects, and its pointers are to data that outlives the call.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` must be laid out as `command` expects, and what it points to be valid.
unsafe fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes no more than the size given; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, mem::size_of::<T>()) };
    sys::check(result as i32)
}

fn explain(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS) => {
            io::Error::new(io::ErrorKind::Unsupported, "dropping at ingress (tcx) needs Linux 6.6 or later")
        }
        _ => sys::context("dropping at ingress (tcx)", e),
    }
}
