//! Namespaces of a test's own, and a hand for queues.
#![allow(dead_code, unsafe_code, unreachable_pub)]

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;
use trunkline_packet::{Batch, Offload, Packet, Pool};
use trunkline_ports::netns::Netns;
use trunkline_ports::{RecvEnd, RecvStats, RxQueue, SendStats, TxQueue};

/// What a test needs besides a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Net,
    Tun,
}

/// Runs `f` on a thread in a network namespace of its own, which goes with it. Without the right to make
/// one, says that the test was skipped.
pub fn sandbox(needs: Needs, f: impl FnOnce() + Send) {
    let test = test_name();
    let outcome = thread::scope(|s| {
        s.spawn(|| {
            if needs == Needs::Tun
                && let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")
            {
                return Some(format!("/dev/net/tun: {e}"));
            }
            if let Err(e) = enter_new() {
                return Some(format!("no namespace of its own (needs root): {e}"));
            }
            f();
            None
        })
        .join()
    });
    match outcome {
        Ok(None) => {}
        Ok(Some(why)) => skipped(&test, &why),
        Err(panic) => panic::resume_unwind(panic),
    }
}

/// The harness names the thread of each test after it.
pub fn test_name() -> String {
    thread::current().name().unwrap_or("test").to_string()
}

/// Says so straight to the descriptor: the harness swallows what a passing test prints.
pub fn skipped(test: &str, why: &str) {
    drop(io::stderr().write_all(format!("\nSKIPPED {test}: {why}\n").as_bytes()));
}

fn enter_new() -> io::Result<()> {
    // SAFETY: only the namespace is unshared, not the descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    ip("link set lo up");
    Ok(())
}

/// Another new namespace, which lives as long as the handle (and what is moved in).
pub fn new_netns() -> Netns {
    thread::scope(|s| s.spawn(|| enter_new().and_then(|()| Netns::current())).join()).unwrap().unwrap()
}

/// A path that `ip link set … netns` takes.
pub fn path_of(ns: &Netns) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd())
}

/// Runs `ip` with these words in the calling thread's namespace.
pub fn ip(words: &str) {
    let out = Command::new("ip").args(words.split_whitespace()).output().expect("ip (iproute2) runs");
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Sets an interface up and waits until it sends: when the other end of a veth comes up, the kernel goes on
/// dropping silently what is sent (noop qdisc) until its link watch has noticed, up to a second later.
pub fn up(dev: &str) {
    ip(&format!("link set {dev} up"));
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let out = Command::new("ip").args(["-o", "link", "show", dev]).output().expect("ip (iproute2) runs");
        if String::from_utf8_lossy(&out.stdout).contains("state UP") {
            break;
        }
        assert!(Instant::now() < end, "{dev} never came up: {}", String::from_utf8_lossy(&out.stdout));
        thread::sleep(Duration::from_millis(5));
    }
    // The state changes just before the queue does, under the lock that this request takes too.
    ip(&format!("link set {dev} up"));
}

/// Whether `f` holds within two seconds. For what happens when a last descriptor is closed: a child that
/// another test is starting holds copies of all of them until its exec.
pub fn eventually(mut f: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(2);
    while !f() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Does something in another namespace.
pub fn inside<T: Send>(ns: &Netns, f: impl FnOnce() -> T + Send) -> T {
    ns.run(f).unwrap()
}

/// Waits until `fd` is readable or in error; false after `wait`.
pub fn readable(fd: RawFd, wait: Duration) -> bool {
    // SAFETY: callers pass descriptors of queues they hold.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// A receiving side with its pool and everything it met.
pub struct Rx {
    pub queue: Box<dyn RxQueue>,
    pub pool: Pool,
    pub stats: RecvStats,
}

impl Rx {
    pub fn new(queue: Box<dyn RxQueue>) -> Rx {
        Rx { queue, pool: Pool::new(256, 64), stats: RecvStats::default() }
    }

    /// One call.
    pub fn recv(&mut self) -> (Batch, RecvEnd) {
        let mut out = Batch::new();
        let end = self.queue.recv(&mut self.pool, &mut out, 64, &mut self.stats);
        (out, end)
    }

    /// The first frame that `wanted` accepts, within two seconds.
    pub fn find(&mut self, mut wanted: impl FnMut(&Packet) -> bool) -> Option<Packet> {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            readable(self.queue.poll_fd().unwrap(), Duration::from_millis(50));
            let (batch, _) = self.recv();
            if let Some(p) = batch.into_iter().find(&mut wanted) {
                return Some(p);
            }
        }
        None
    }

    /// The first failure that `wanted` accepts (by its `fatal`), within two seconds.
    pub fn failure(&mut self, wanted: bool) -> Option<io::Error> {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            readable(self.queue.poll_fd().unwrap(), Duration::from_millis(20));
            match self.recv().1 {
                RecvEnd::Failed { error, fatal } if fatal == wanted => return Some(error),
                _ => {}
            }
        }
        None
    }

    /// Frames of the next 200 ms that `wanted` accepts.
    pub fn count(&mut self, mut wanted: impl FnMut(&Packet) -> bool) -> usize {
        let end = Instant::now() + Duration::from_millis(200);
        let mut n = 0;
        while Instant::now() < end {
            readable(self.queue.poll_fd().unwrap(), Duration::from_millis(20));
            n += self.recv().0.iter().filter(|p| wanted(p)).count();
        }
        n
    }
}

/// Sends packets and says what became of them.
pub fn send(tx: &dyn TxQueue, packets: impl IntoIterator<Item = Packet>) -> SendStats {
    let mut pool = Pool::new(64, 64);
    let mut batch: Batch = packets.into_iter().collect();
    let mut stats = SendStats::default();
    tx.send(&mut pool, &mut batch, &mut stats);
    assert!(batch.is_empty());
    stats
}

/// A packet of these bytes.
pub fn packet(bytes: &[u8], offload: Offload) -> Packet {
    let mut pool = Pool::new(1, 1);
    let mut p = pool.get();
    p.set_bytes(bytes, &mut pool).unwrap();
    p.meta_mut().offload = offload;
    p
}

/// An Ethernet frame of an EtherType nobody uses.
pub fn odd_frame(fill: u8, len: usize) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    f.resize(len, fill);
    f
}

/// A TCP/IPv4 superframe with `payload` bytes, and its metadata: checksum partial, segments of 1,000 bytes.
pub fn superframe(payload: usize) -> (Vec<u8>, Offload) {
    use trunkline_packet::{Checksum, Gso, GsoKind};
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    f.extend([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
    f[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    let sum = |bytes: &[u8], start: u32| {
        let sum: u32 =
            bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>() + start;
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    };
    let ip_sum = !sum(&f[14..34], 0);
    f[24..26].copy_from_slice(&ip_sum.to_be_bytes());
    let pseudo = sum(&f[26..34], 6 + 20 + payload as u32);
    f.extend([0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    f.extend(pseudo.to_be_bytes());
    f.extend([0, 0]);
    f.extend((0..payload).map(|i| i as u8));
    let csum = Checksum::Partial { start: 34, offset: 16 };
    (f, Offload { csum, gso: Gso { kind: GsoKind::TcpV4, ecn: false, size: 1000 } })
}

pub fn is_odd(p: &Packet) -> bool {
    p.head().get(12..14) == Some(&[0x88, 0xb5])
}

/// Whether it is an IPv4 packet of this protocol.
pub fn is_ipv4(p: &Packet, protocol: u8) -> bool {
    p.head().get(12..14) == Some(&[8, 0]) && p.head().get(23) == Some(&protocol)
}

/// Sends an IPv4 packet back where it came from: swaps MACs, addresses and UDP ports, which leaves every
/// checksum true, partial ones too; turns an echo request into a reply.
pub fn reflect(p: &mut Packet) {
    let h = p.head_mut();
    let (dst, src) = h[..12].split_at_mut(6);
    dst.swap_with_slice(src);
    let (a, b) = h[26..34].split_at_mut(4);
    a.swap_with_slice(b);
    if h[23] == 17 {
        let (a, b) = h[34..38].split_at_mut(2);
        a.swap_with_slice(b);
    } else if h[23] == 1 && h[34] == 8 {
        h[34] = 0;
        // RFC 1624: the checksum grows by what the type lost (8 in the high byte).
        let sum = u32::from(u16::from_be_bytes([h[36], h[37]])) + 0x0800;
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        h[36..38].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Gives an interface an address and a permanent neighbour, and makes it quiet.
pub fn address(dev: &str, own: Ipv4Addr, peer: Ipv4Addr, peer_mac: &str) {
    let quiet = format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6");
    drop(std::fs::write(quiet, "1"));
    ip(&format!("address replace {own}/24 dev {dev}"));
    ip(&format!("link set {dev} up"));
    ip(&format!("neigh replace {peer} lladdr {peer_mac} dev {dev} nud permanent"));
}

/// Two receiving sides and two sending sides, joined back to back until told to stop. What crossed, by
/// direction: frames, and the largest one.
pub fn join(a: (Rx, std::sync::Arc<dyn TxQueue>), b: (Rx, std::sync::Arc<dyn TxQueue>)) -> Joined {
    use std::sync::atomic::Ordering::Relaxed;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (flag, mut sides) = (stop.clone(), [a, b]);
    let thread = thread::spawn(move || {
        let mut seen = Seen::default();
        let mut batch = Batch::new();
        while !flag.load(Relaxed) {
            let fds = [&sides[0], &sides[1]].map(|s| s.0.queue.poll_fd().unwrap());
            // SAFETY: the queues are alive.
            let fds = fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
            let mut polls = [PollFd::new(&fds[0], PollFlags::IN), PollFd::new(&fds[1], PollFlags::IN)];
            poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).unwrap();
            for from in [0, 1] {
                let tx = sides[1 - from].1.clone();
                let rx = &mut sides[from].0;
                let _ = rx.queue.recv(&mut rx.pool, &mut batch, 64, &mut rx.stats);
                for p in &mut batch {
                    seen.largest = seen.largest.max(p.len());
                    seen.superframes += u64::from(p.meta().offload.is_gso());
                    let partial = matches!(p.meta().offload.csum, trunkline_packet::Checksum::Partial { .. });
                    seen.partial += u64::from(partial);
                }
                let mut stats = SendStats::default();
                tx.send(&mut rx.pool, &mut batch, &mut stats);
                for (n, total) in stats.drops.iter().zip(&mut seen.drops) {
                    *total += n;
                }
            }
        }
        seen
    });
    Joined { stop, thread }
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub largest: usize,
    pub superframes: u64,
    pub partial: u64,
    pub drops: [u32; trunkline_packet::DropReason::COUNT],
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { largest: 0, superframes: 0, partial: 0, drops: [0; trunkline_packet::DropReason::COUNT] }
    }
}

pub struct Joined {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: thread::JoinHandle<Seen>,
}

impl Joined {
    pub fn stop(self) -> Seen {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Sends 8 MiB over TCP from one namespace to another and checks every byte.
pub fn tcp_transfer(from: &Netns, to: &Netns, to_address: Ipv4Addr) {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    const SIZE: usize = 8 << 20;
    let data: Vec<u8> = (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let listener = inside(to, || TcpListener::bind((to_address, 5001)).unwrap());
    thread::scope(|s| {
        let receiver = s.spawn(move || {
            let mut got = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        inside(from, || {
            let mut stream =
                TcpStream::connect_timeout(&(to_address, 5001).into(), Duration::from_secs(10)).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(&data).unwrap();
        });
        assert!(receiver.join().unwrap() == data, "the bytes arrived as they were sent");
    });
}
