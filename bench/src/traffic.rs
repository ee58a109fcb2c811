//! Traffic between two network namespaces by ordinary sockets: what `trunkline bench ports` measures with.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub use trunkline_ports::netns::Netns;

/// How much is written at a time, and after how much what is sent repeats.
const CHUNK: usize = 128 << 10;

/// Of so many reads one is compared with what was sent.
const SAMPLE: u64 = 16;

/// Where one end is.
#[derive(Debug)]
pub struct End {
    /// Its namespace.
    pub netns: Netns,
    /// Its address there.
    pub address: Ipv4Addr,
}

/// What came through in a time.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Datagrams, or reads.
    pub packets: u64,
    /// Datagrams, or writes, that were sent.
    pub sent: u64,
    /// The time, as the receiver saw it.
    pub took: Duration,
    /// CPU time of the whole machine in it.
    pub cpu: Duration,
}

fn pattern() -> Vec<u8> {
    // Not periodic in anything a packet is cut into.
    (0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn corrupt() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what arrived is not what was sent")
}

/// One TCP stream from `a` to `b` for that long.
///
/// # Errors
/// When it fails, or brings other bytes than were sent.
pub fn tcp(a: &End, b: &End, span: Duration) -> io::Result<Volume> {
    let listener = b.netns.run(|| TcpListener::bind(SocketAddrV4::new(b.address, 0)))??;
    let to = listener.local_addr()?;
    let mut sender = a.netns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    sender.set_write_timeout(Some(Duration::from_secs(5)))?;
    let pattern = pattern();
    let before = busy()?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let (end, mut writes) = (Instant::now() + span, 0);
            while Instant::now() < end {
                sender.write_all(&pattern)?;
                writes += 1;
            }
            sender.shutdown(std::net::Shutdown::Write)?;
            io::Result::Ok(writes)
        });
        let (start, mut bytes, mut reads) = (Instant::now(), 0u64, 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = receiver.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            let at = (bytes % CHUNK as u64) as usize;
            let first = n.min(CHUNK - at);
            let right =
                buffer[..first] == pattern[at..at + first] && buffer[first..n] == pattern[..n - first];
            if reads % SAMPLE == 0 && !right {
                return Err(corrupt());
            }
            (bytes, reads) = (bytes + n as u64, reads + 1);
        }
        let took = start.elapsed();
        let sent: u64 = sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
        if bytes != sent * CHUNK as u64 {
            return Err(corrupt());
        }
        Ok(Volume { bytes, packets: reads, sent, took, cpu: busy()?.saturating_sub(before) })
    })
}

/// Datagrams of `size` bytes from `a` to `b`, as fast as they can be sent, for that long.
///
/// # Errors
/// When the sockets fail, nothing arrives, or other bytes than were sent.
pub fn udp(a: &End, b: &End, size: usize, span: Duration) -> io::Result<Volume> {
    let receiver = b.netns.run(|| UdpSocket::bind(SocketAddrV4::new(b.address, 0)))??;
    let sender = a.netns.run(|| UdpSocket::bind(SocketAddrV4::new(a.address, 0)))??;
    sender.connect(receiver.local_addr()?)?;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (pattern, done) = (pattern(), AtomicBool::new(false));
    let before = busy()?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let (end, mut sent) = (Instant::now() + span, 0u64);
            while sent % 64 != 0 || Instant::now() < end {
                // A full queue of the interface is no error: what it costs is seen at the receiver.
                if let Err(e) = sender.send(&pattern[..size])
                    && e.raw_os_error() != Some(NOBUFS)
                {
                    done.store(true, Relaxed);
                    return Err(e);
                }
                sent += 1;
            }
            done.store(true, Relaxed);
            Ok(sent)
        });
        let (start, mut last, mut packets) = (Instant::now(), Instant::now(), 0u64);
        let mut buffer = vec![0; 2048];
        loop {
            match receiver.recv(&mut buffer) {
                Ok(n) => {
                    if n != size || (packets % SAMPLE == 0 && buffer[..n] != pattern[..size]) {
                        return Err(corrupt());
                    }
                    packets += 1;
                    if packets % 64 == 0 {
                        last = Instant::now();
                    }
                }
                Err(_) if done.load(Relaxed) => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        let cpu = busy()?.saturating_sub(before);
        let sent = sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
        if packets == 0 {
            return Err(io::Error::other("no datagram arrived"));
        }
        let took = last.saturating_duration_since(start).max(Duration::from_millis(1));
        Ok(Volume { bytes: packets * size as u64, packets, sent, took, cpu })
    })
}

/// ENOBUFS of Linux.
const NOBUFS: i32 = 105;

/// Round trips of a datagram of 64 bytes from `a` to `b` and back, one at a time, sorted.
///
/// # Errors
/// When the sockets fail or no answer comes within a second.
pub fn round_trips(a: &End, b: &End, span: Duration) -> io::Result<Vec<Duration>> {
    let echo = b.netns.run(|| UdpSocket::bind(SocketAddrV4::new(b.address, 0)))??;
    let asking = a.netns.run(|| UdpSocket::bind(SocketAddrV4::new(a.address, 0)))??;
    asking.connect(echo.local_addr()?)?;
    echo.connect(asking.local_addr()?)?;
    asking.set_read_timeout(Some(Duration::from_secs(1)))?;
    echo.set_read_timeout(Some(Duration::from_millis(50)))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Relaxed) {
                if let Ok(n) = echo.recv(&mut buffer) {
                    // An answer that is not sent is noticed by who waits for it.
                    let _ = echo.send(&buffer[..n]);
                }
            }
        });
        let trips = || {
            let (end, mut trips) = (Instant::now() + span, Vec::new());
            let (mut out, mut back) = ([0u8; 64], [0u8; 64]);
            while Instant::now() < end {
                out[..8].copy_from_slice(&(trips.len() as u64).to_be_bytes());
                let start = Instant::now();
                asking.send(&out)?;
                let n = asking.recv(&mut back)?;
                trips.push(start.elapsed());
                if back[..n] != out {
                    return Err(corrupt());
                }
            }
            trips.sort_unstable();
            Ok(trips)
        };
        let result = trips();
        done.store(true, Relaxed);
        result
    })
}

/// CPU time that the whole machine has spent so far, idling and waiting left out.
fn busy() -> io::Result<Duration> {
    // In hundredths of a second, on every Linux (proc(5), USER_HZ).
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    let times: Vec<u32> = first.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    match times[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, steal] => {
            Ok(TICK * user.wrapping_add(nice).wrapping_add(system).wrapping_add(irq + softirq + steal))
        }
        _ => Err(io::Error::other("/proc/stat is not as it should be")),
    }
}
