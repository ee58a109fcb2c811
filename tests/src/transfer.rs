//! TCP and UDP between namespaces, with every byte checked.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::Netns;

/// A gibibyte.
pub const GIB: u64 = 1 << 30;
const BLOCK: usize = 1 << 20;
/// No progress for so long ends a transfer.
const STALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);

/// Bytes that do not repeat within a block, nor from block to block.
fn block() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(BLOCK / 8).flatten().collect()
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Digest of what was sent.
    pub sent: [u8; 32],
    /// Digest of what arrived.
    pub received: [u8; 32],
    /// Bytes that arrived.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    result: mpsc::Receiver<Result<Done, String>>,
}

impl Transfer {
    /// Starts to send `bytes` over TCP from one namespace to `addr` in another; `pace` slows it down to about
    /// so many bytes a second.
    pub fn start(from: &Netns, to: &Netns, addr: IpAddr, bytes: u64, pace: Option<u64>) -> Transfer {
        Transfer::start_by(from, to, SocketAddr::new(addr, 0), None, bytes, pace)
    }

    /// The same to where `listen` is; the sender knows it as `by`, if not by that.
    pub fn start_by(
        from: &Netns,
        to: &Netns,
        listen: SocketAddr,
        by: Option<SocketAddr>,
        bytes: u64,
        pace: Option<u64>,
    ) -> Transfer {
        let listener = to.enter(|| TcpListener::bind(listen)).expect("listen");
        let target = by.unwrap_or(listener.local_addr().expect("address"));
        let (tx, result) = mpsc::channel();
        let (digest_tx, digest_rx) = mpsc::channel();
        std::thread::spawn(move || digest_tx.send(receive(&listener)));
        // The socket must be made inside; the thread that uses it may be anywhere.
        let stream = from.enter(|| TcpStream::connect_timeout(&target, CONNECT));
        std::thread::spawn(move || {
            let started = Instant::now();
            let done = stream
                .and_then(|s| send(s, bytes, pace))
                .map_err(|e| format!("sender: {e}"))
                .and_then(|sent| {
                    let (received, bytes) =
                        digest_rx.recv().expect("receiver").map_err(|e| format!("receiver: {e}"))?;
                    Ok(Done { sent, received, bytes, took: started.elapsed() })
                });
            tx.send(done)
        });
        Transfer { result }
    }

    /// Waits for the end.
    pub fn wait(self, limit: Duration) -> Result<Done, String> {
        self.result.recv_timeout(limit).unwrap_or_else(|_| Err(format!("not finished after {limit:?}")))
    }

    /// Waits for the end; panics unless all arrived unchanged.
    pub fn assert_whole(self, limit: Duration, bytes: u64) -> Done {
        let done = self.wait(limit).unwrap_or_else(|e| panic!("TCP transfer: {e}"));
        assert_eq!(done.bytes, bytes, "bytes that arrived");
        assert_eq!(done.sent, done.received, "sha256 differs");
        done
    }
}

fn send(mut stream: TcpStream, bytes: u64, pace: Option<u64>) -> std::io::Result<[u8; 32]> {
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let mut hash = Sha256::new();
    let mut block = block();
    let mut left = bytes;
    let started = Instant::now();
    let mut number = 0u64;
    while left > 0 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        // Paced transfers go in small pieces.
        let piece = pace.map_or(BLOCK, |p| (p / 50).clamp(1, BLOCK as u64) as usize).min(left as usize);
        hash.update(&block[..piece]);
        stream.write_all(&block[..piece])?;
        left -= piece as u64;
        number += 1;
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64((bytes - left) as f64 / pace as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver closes when it has everything.
    stream.read_to_end(&mut Vec::new())?;
    Ok(hash.finalize().into())
}

fn receive(listener: &TcpListener) -> std::io::Result<([u8; 32], u64)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        let n = uninterrupted(|| stream.read(&mut buffer))?;
        if n == 0 {
            return Ok((hash.finalize().into(), bytes));
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Repeats a call that was interrupted: one with a timeout is when the process was stopped for a moment.
pub fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends `bytes` and asserts that they arrive with equal sha256.
pub fn assert_tcp(from: &Netns, to: &Netns, addr: IpAddr, bytes: u64) -> Done {
    Transfer::start(from, to, addr, bytes, None).assert_whole(Duration::from_secs(120), bytes)
}

/// Sends a datagram of every size given, waits for its echo and compares. A lost one is sent again twice;
/// a size that never comes back, or comes back changed, fails.
pub fn assert_udp_echo(from: &Netns, to: &Netns, addr: IpAddr, sizes: impl Iterator<Item = usize>) {
    let server = to.enter(|| UdpSocket::bind(SocketAddr::new(addr, 0))).expect("bind");
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    let target = server.local_addr().expect("address");
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = from.enter(|| UdpSocket::bind(any)).expect("bind");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let (stop_tx, stop) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 65536];
            // Until the client is done (or has panicked).
            while stop.try_recv() == Err(mpsc::TryRecvError::Empty) {
                if let Ok((n, peer)) = server.recv_from(&mut buffer) {
                    server.send_to(&buffer[..n], peer).ok();
                }
            }
        });
        let _stop = stop_tx;
        let mut lost = 0;
        let source = block();
        let mut buffer = vec![0; 65536];
        for size in sizes {
            let data = &source[size..2 * size];
            let mut tries = 0;
            loop {
                client.send_to(data, target).unwrap_or_else(|e| panic!("datagram of {size} bytes: {e}"));
                match uninterrupted(|| client.recv(&mut buffer)) {
                    Ok(n) if buffer[..n] == *data => break,
                    // A late echo of a datagram that was thought lost.
                    Ok(n) if lost > 0 && buffer[..n] == source[n..2 * n] => {}
                    Ok(n) => panic!("datagram of {size} bytes came back as {n} bytes or changed"),
                    Err(_) => {
                        (lost, tries) = (lost + 1, tries + 1);
                        assert!(tries < 3, "datagram of {size} bytes does not come back");
                    }
                }
            }
        }
        assert!(lost < 5, "{lost} datagrams lost on an idle switch");
    });
}
