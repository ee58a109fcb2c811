//! TAP interfaces: a descriptor on one side, an interface of the kernel on the other.
//!
//! Every frame carries a `virtio_net_hdr`, so checksums and segmentation are left for whoever needs them,
//! and one read or write moves up to 64 KiB.
//!
//! A TAP belongs to the namespace in which `/dev/net/tun` was opened, and only its device moves. Opened
//! here and moved into a container's namespace, its device goes when that namespace goes, and reads answer
//! EBADFD. A descriptor opened inside would keep the namespace alive.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use trunkline_packet::buf::{HEAD_ROOM, TAIL_ROOM};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{Batch, DropReason, Packet, Pool, VnetHdr};

use crate::netns::Netns;
use crate::{Queues, RecvEnd, RecvStats, RxQueue, SendStats, TxCaps, TxQueue, frame, link, sys};

/// The most queues a TAP has (MAX_TAP_QUEUES in the kernel).
pub const MAX_QUEUES: u16 = 256;

/// Which TAP to open and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapConfig {
    /// Name of the interface, in the calling thread's namespace.
    pub name: String,
    /// Queues, 1 to [`MAX_QUEUES`]. More than one makes a multi-queue device, which it stays.
    pub queues: u16,
    /// Let the kernel hand over superframes and partial checksums, and hand such over to it.
    pub offload: bool,
    /// Take over an existing persistent TAP instead of making one.
    pub adopt: bool,
}

/// The offloads in force: what the kernel behind a TAP may leave undone in frames it hands over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TapFeatures {
    /// Partial checksums.
    pub csum: bool,
    /// TCP superframes over IPv4.
    pub tso4: bool,
    /// TCP superframes over IPv6.
    pub tso6: bool,
    /// UDP superframes (Linux 6.2).
    pub uso: bool,
}

impl TapFeatures {
    /// The names users see.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [(self.csum, "csum"), (self.tso4, "tso4"), (self.tso6, "tso6"), (self.uso, "uso")];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }
}

/// An open TAP with all its queues.
#[derive(Debug)]
pub struct Tap {
    name: String,
    features: TapFeatures,
    queues: Vec<OwnedFd>,
}

impl Tap {
    /// Opens a TAP in the calling thread's namespace. A new one is not persistent: it goes with its last
    /// descriptor.
    ///
    /// # Errors
    /// `AlreadyExists` when making one and the name is taken; `NotFound` when adopting and there is none;
    /// `InvalidInput` for an impossible name or number of queues, and when what is there is not a
    /// persistent TAP or has other queues; `ResourceBusy` when another process has it; `PermissionDenied`.
    pub fn open(config: &TapConfig) -> io::Result<Tap> {
        let name = config.name.as_str();
        sys::ifreq(name)?;
        if config.queues == 0 || config.queues > MAX_QUEUES {
            return Err(invalid(format!("a TAP has 1 to {MAX_QUEUES} queues, not {}", config.queues)));
        }
        if config.adopt {
            link::index(name)?;
        }
        let base = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let multi = if config.queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        // EXCL: fail rather than attach to what exists.
        let excl = if config.adopt { 0 } else { libc::IFF_TUN_EXCL };
        let first = match attach(name, base | multi | excl) {
            // A persistent TAP made with multi_queue takes a single queue only if it is asked for so.
            Err(e) if config.adopt && config.queues == 1 && e.raw_os_error() == Some(libc::EINVAL) => {
                attach(name, base | libc::IFF_MULTI_QUEUE)
            }
            other => other,
        };
        let mut queues = vec![first.map_err(|e| explain(config, e))?];
        if config.adopt && flags_and_name(&queues[0])?.0 & libc::IFF_PERSIST == 0 {
            return Err(invalid(format!(
                "interface {name} is not persistent: it would go with its present owner"
            )));
        }
        for _ in 1..config.queues {
            queues.push(attach(name, base | multi).map_err(|e| explain(config, e))?);
        }
        Tap::set_up(name.to_string(), queues, config.offload)
    }

    /// Goes on with descriptors that another process held: repeats every ioctl, since what an earlier
    /// owner set persists.
    ///
    /// # Errors
    /// `NotFound` when the device is gone; `InvalidInput` when they are not the queues of one TAP opened by
    /// [`Tap::open`].
    pub fn from_fds(fds: Vec<OwnedFd>, offload: bool) -> io::Result<Tap> {
        let mut name = None;
        for fd in &fds {
            let (flags, of) = flags_and_name(fd)?;
            let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
            if flags & wanted != wanted {
                return Err(invalid(format!("interface {of} is not a TAP with virtio headers")));
            }
            match &name {
                None => name = Some(of),
                Some(first) if *first == of => {}
                Some(first) => {
                    return Err(invalid(format!("descriptors of two interfaces, {first} and {of}")));
                }
            }
            rustix::io::ioctl_fionbio(fd, true)?;
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
        let name = name.ok_or_else(|| invalid("a TAP needs at least one descriptor".into()))?;
        Tap::set_up(name, fds, offload)
    }

    fn set_up(name: String, queues: Vec<OwnedFd>, offload: bool) -> io::Result<Tap> {
        let named = |e| sys::context(format_args!("interface {name}"), e);
        for fd in &queues {
            sys::ioctl_int(fd, libc::TUNSETVNETHDRSZ, VnetHdr::LEN as libc::c_int).map_err(named)?;
        }
        let features = set_offload(&queues[0], offload).map_err(named)?;
        Ok(Tap { name, features, queues })
    }

    /// Name of the interface when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the interface now.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn name_now(&self) -> io::Result<String> {
        Ok(flags_and_name(&self.queues[0])?.1)
    }

    /// The offloads in force.
    pub fn features(&self) -> TapFeatures {
        self.features
    }

    /// How many queues it has open.
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The namespace the device is in now. See [`Netns`] about keeping it.
    ///
    /// # Errors
    /// `NotFound` when the device is gone; `Unsupported` before Linux 5.12.
    pub fn netns(&self) -> io::Result<Netns> {
        let fd = sys::ioctl_value(&self.queues[0], libc::TUNGETDEVNETNS, 0).map_err(gone)?;
        // SAFETY: TUNGETDEVNETNS answers with a descriptor it has just opened for us.
        Netns::try_from(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Duplicates of all descriptors, in queue order, for a keeper. The device lives until the last is
    /// closed.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone_fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.queues.iter().map(OwnedFd::try_clone).collect()
    }

    /// The two sides of every queue. A descriptor is closed when both of its sides are dropped.
    pub fn into_io(self) -> Queues {
        let f = self.features;
        let caps = TxCaps { csum: f.csum, tso: f.tso4 && f.tso6, uso: f.uso, tunnel_gso: false };
        let mut io = Queues::default();
        for fd in self.queues.into_iter().map(Arc::new) {
            io.0.push(Box::new(TapRx(fd.clone())));
            io.1.push(Arc::new(TapTx { fd, caps }));
        }
        io
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Opens a queue: `/dev/net/tun`, then TUNSETIFF.
fn attach(name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let options = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(options)
        .open("/dev/net/tun")
        .map_err(|e| sys::context("/dev/net/tun", e))?;
    let mut req = sys::ifreq(name)?;
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    sys::ioctl_ifreq(&file, libc::TUNSETIFF, &mut req)?;
    Ok(file.into())
}

/// What a refused TUNSETIFF means.
fn explain(config: &TapConfig, e: io::Error) -> io::Error {
    let name = &config.name;
    match e.raw_os_error() {
        Some(libc::EBUSY) if config.adopt => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("interface {name} is in use by another process"),
        ),
        Some(libc::EBUSY | libc::EEXIST) => {
            io::Error::new(io::ErrorKind::AlreadyExists, format!("interface {name} already exists"))
        }
        Some(libc::EINVAL) if config.adopt && config.queues > 1 => {
            invalid(format!("interface {name} is not a TAP with several queues"))
        }
        Some(libc::EINVAL) if config.adopt => invalid(format!("interface {name} is not a TAP")),
        Some(libc::E2BIG) => invalid(format!("interface {name} has no queue left")),
        _ => sys::context(format_args!("interface {name}"), e),
    }
}

fn flags_and_name(fd: &OwnedFd) -> io::Result<(libc::c_int, String)> {
    // SAFETY: `ifreq` is plain C data, for which all zeros is a valid value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    sys::ioctl_ifreq(fd, libc::TUNGETIFF, &mut req).map_err(gone)?;
    // SAFETY: TUNGETIFF has filled this member.
    let flags = unsafe { req.ifr_ifru.ifru_flags };
    Ok((libc::c_int::from(flags), sys::ifreq_name(&req)))
}

/// EBADFD is how a TAP descriptor says that its device is no more.
fn gone(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV) => {
            io::Error::new(io::ErrorKind::NotFound, "the interface is gone, or its namespace is")
        }
        Some(libc::ENOTTY) => invalid("not the descriptor of a TAP".into()),
        _ => e,
    }
}

/// Sets the most offloads the kernel takes; it refuses a set with one it does not know.
fn set_offload(fd: &OwnedFd, offload: bool) -> io::Result<TapFeatures> {
    const CSUM: libc::c_uint = libc::TUN_F_CSUM;
    const TSO: libc::c_uint = CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let steps: &[libc::c_uint] = if offload {
        &[TSO | libc::TUN_F_TSO_ECN | USO, TSO | libc::TUN_F_TSO_ECN, TSO, CSUM, 0]
    } else {
        &[0]
    };
    let mut refused = None;
    for &set in steps {
        match sys::ioctl_value(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(set)) {
            Ok(_) => {
                let has = |flag| set & flag != 0;
                return Ok(TapFeatures {
                    csum: has(CSUM),
                    tso4: has(libc::TUN_F_TSO4),
                    tso6: has(libc::TUN_F_TSO6),
                    uso: has(USO),
                });
            }
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

struct TapRx(Arc<OwnedFd>);

impl RxQueue for TapRx {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, stats: &mut RecvStats) -> RecvEnd {
        let mut tail = Some(pool.take_tail());
        let (mut end, mut bytes) = (RecvEnd::More, 0);
        // Bounded by reads, not by frames handed over, so that a flood of bad ones cannot hold a worker.
        for _ in 0..budget {
            if bytes >= crate::ENOUGH_BYTES {
                break;
            }
            let mut packet = pool.get();
            let spare = tail.get_or_insert_with(|| pool.take_tail());
            let mut areas = [
                IoSliceMut::new(packet.rx_area_after::<{ VnetHdr::LEN }>()),
                IoSliceMut::new(spare.as_mut()),
            ];
            match rustix::io::readv(&*self.0, &mut areas) {
                Ok(n) => {
                    bytes += n;
                    match accept(&mut packet, n, &mut tail) {
                        Ok(()) => out.push(packet),
                        Err(reason) => {
                            stats.count(reason);
                            pool.put(packet);
                        }
                    }
                }
                Err(Errno::INTR) => pool.put(packet),
                // A frame whose offload virtio cannot express; the kernel has dropped it.
                Err(Errno::INVAL) => {
                    stats.count(DropReason::BadOffload);
                    pool.put(packet);
                }
                Err(e) => {
                    pool.put(packet);
                    end = failed(e);
                    break;
                }
            }
        }
        if let Some(tail) = tail {
            pool.put_tail(tail);
        }
        end
    }
}

fn failed(e: Errno) -> RecvEnd {
    match e {
        Errno::AGAIN => RecvEnd::Drained,
        Errno::BADFD | Errno::NODEV | Errno::BADF => {
            RecvEnd::Failed { error: gone(io::Error::from_raw_os_error(libc::EBADFD)), fatal: true }
        }
        other => RecvEnd::Failed { error: other.into(), fatal: false },
    }
}

/// Makes `packet` what a read of `n` bytes brought, header included.
#[inline]
fn accept(
    packet: &mut Packet,
    n: usize,
    tail: &mut Option<trunkline_packet::buf::Tail>,
) -> Result<(), DropReason> {
    // The kernel cuts what does not fit without a word: a frame that fills the buffers may be a cut one.
    if n >= VnetHdr::LEN + HEAD_ROOM + TAIL_ROOM {
        return Err(DropReason::Oversize);
    }
    let len = n.saturating_sub(VnetHdr::LEN);
    if len < ETH_HLEN {
        return Err(DropReason::Truncated);
    }
    let header = packet.before().map(VnetHdr::from_bytes).ok_or(DropReason::NoBuffer)?;
    packet.meta_mut().offload = header.to_offload(len)?;
    packet.set_received(len, tail)
}

struct TapTx {
    fd: Arc<OwnedFd>,
    caps: TxCaps,
}

impl TxQueue for TapTx {
    fn caps(&self) -> TxCaps {
        self.caps
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        for mut packet in batch.drain(..) {
            match self.write(&mut packet) {
                Ok(()) => {
                    stats.packets += 1;
                    stats.bytes += packet.len() as u64;
                }
                Err(reason) => stats.drops[reason.index()] += 1,
            }
            pool.put(packet);
        }
    }
}

impl TapTx {
    #[inline]
    fn write(&self, packet: &mut Packet) -> Result<(), DropReason> {
        if packet.len() < ETH_HLEN {
            return Err(DropReason::Truncated);
        }
        let parts = frame::with_vnet_header(packet)?.map(IoSlice::new);
        // One part is cheaper for the kernel than two, one of them empty.
        let parts = if parts[1].is_empty() { &parts[..1] } else { &parts[..] };
        loop {
            return match rustix::io::writev(self.fd.as_fd(), parts) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => Err(DropReason::EgressFull),
                // EIO: the interface is not up.
                Err(Errno::IO | Errno::BADFD | Errno::NETDOWN | Errno::NODEV) => Err(DropReason::EgressDown),
                Err(_) => Err(DropReason::EgressError),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A datagram socket stands in for the TAP: it too brings one frame a read, and cuts long ones silently.
    fn read(datagrams: &[&[u8]], budget: usize) -> (Batch, RecvStats, RecvEnd) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        for d in datagrams {
            theirs.send(d).unwrap();
        }
        let mut rx = TapRx(Arc::new(OwnedFd::from(ours)));
        let (mut pool, mut out, mut stats) = (Pool::new(64, 4), Batch::new(), RecvStats::default());
        let end = rx.recv(&mut pool, &mut out, budget, &mut stats);
        (out, stats, end)
    }

    fn frame(header: VnetHdr, len: usize) -> Vec<u8> {
        let mut f = header.to_bytes().to_vec();
        f.resize(VnetHdr::LEN + len, 0x5a);
        f
    }

    #[test]
    fn every_length_is_handed_over_or_counted() {
        let longest = HEAD_ROOM + TAIL_ROOM - 1;
        for len in [14, 15, 60, 1514, HEAD_ROOM - 1, HEAD_ROOM, HEAD_ROOM + 1, 9014, longest] {
            let (out, stats, end) = read(&[&frame(VnetHdr::default(), len)], 8);
            assert!(out.len() == 1 && out[0].to_vec() == vec![0x5a; len], "{len}");
            assert_eq!((stats.truncated, stats.oversize, stats.bad_offload), (0, 0, 0));
            assert!(matches!(end, RecvEnd::Drained));
        }
        for len in [longest + 1, longest + 2, longest + 5000] {
            let (out, stats, _) = read(&[&frame(VnetHdr::default(), len)], 8);
            assert_eq!((out.len(), stats.oversize), (0, 1), "{len}");
        }
        for len in 0..VnetHdr::LEN + ETH_HLEN {
            let (out, stats, _) = read(&[&vec![0; len]], 8);
            assert_eq!((out.len(), stats.truncated), (0, 1), "{len}");
        }
    }

    #[test]
    fn garbage_in_the_virtio_header_is_counted_and_passed_by() {
        let good = frame(VnetHdr::default(), 60);
        let mut random = 1u32;
        let mut bad = 0;
        for _ in 0..2000 {
            let garbage: Vec<u8> = (0..VnetHdr::LEN)
                .map(|_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 24) as u8
                })
                .collect();
            let mut f = garbage;
            f.resize(VnetHdr::LEN + 60, 0);
            let (out, stats, _) = read(&[&f, &good], 8);
            assert_eq!(out.len() as u32 + stats.bad_offload, 2);
            assert!(out.last().is_some_and(|p| p.to_vec() == good[VnetHdr::LEN..]));
            bad += stats.bad_offload;
        }
        assert!(bad > 1000, "{bad}");
    }

    #[test]
    fn the_budget_bounds_reads_of_bad_frames_too() {
        let bad = frame(VnetHdr { gso_type: 77, ..VnetHdr::default() }, 60);
        let (out, stats, end) = read(&[&bad, &bad, &bad], 2);
        assert_eq!((out.len(), stats.bad_offload), (0, 2));
        assert!(matches!(end, RecvEnd::More));
    }

    #[test]
    fn a_dead_device_is_fatal_and_other_failures_are_not() {
        assert!(matches!(failed(Errno::AGAIN), RecvEnd::Drained));
        for e in [Errno::BADFD, Errno::NODEV, Errno::BADF] {
            assert!(matches!(failed(e), RecvEnd::Failed { fatal: true, .. }));
        }
        for e in [Errno::IO, Errno::NOMEM] {
            assert!(matches!(failed(e), RecvEnd::Failed { fatal: false, .. }));
        }
    }

    #[test]
    fn feature_names() {
        let all = TapFeatures { csum: true, tso4: true, tso6: true, uso: true };
        assert_eq!(all.names(), ["csum", "tso4", "tso6", "uso"]);
        assert_eq!(TapFeatures { uso: false, tso4: false, ..all }.names(), ["csum", "tso6"]);
    }
}
