//! Traffic between two containers, the same through every switch: `traffic server ADDRESS PORT` in one,
//! `traffic client ADDRESS PORT WHAT SECONDS [SIZE]` in the other, which prints what came of it as JSON.
//!
//! | WHAT | |
//! |---|---|
//! | `rr` | requests and answers of 64 bytes on one TCP connection, one at a time |
//! | `connect` | TCP connections opened, used for one byte, and closed, one at a time |
//! | `bulk` | one TCP stream of which the server compares every byte |
//! | `udp` | datagrams of SIZE bytes, as fast as they can be sent |
//! | `paced` | datagrams of SIZE bytes at the highest rate of which at most 0.5 % are lost |
//! | `flows` | datagrams of SIZE bytes, each of another flow, as fast as they can be sent |
//! | `connects` | TCP connections opened, SIZE at once, and reset |
//!
//! The last two take four arguments more: FROM N TO N, the first address and how many, of the client and of where it
//! sends to.
//!
//! The server compares every 16th datagram with what was sent, and every request and answer is compared.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use trunkline_bench::opening::{self, Addresses, Flows};

/// Of so many datagrams one is compared.
const SAMPLE: u64 = 16;
/// What the kernel may hold for the receiver, so that being scheduled out for a moment is no loss of the switch.
const BUFFER: usize = 4 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How much of a TCP stream is written at a time, and after how much it repeats.
const BULK: usize = 128 << 10;
/// Loss that a rate may have to count.
const LOSS: f64 = 0.005;
/// How long no datagram comes before the server takes the burst for ended.
const QUIET: Duration = Duration::from_millis(60);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["server", address, port] => server(SocketAddr::new(address.parse()?, port.parse()?)),
        ["client", address, port, what, seconds, ref rest @ ..] => {
            let to = SocketAddr::new(address.parse()?, port.parse()?);
            let span = Duration::from_secs_f64(seconds.parse()?);
            let size = rest.first().map_or(Ok(64), |s| s.parse::<usize>())?.clamp(8, 1472);
            let result = match (what, rest) {
                ("flows" | "connects", [_, from, n, first, m]) => {
                    let addresses = |first: &str, n: &str| -> Outcome<Addresses> {
                        Ok(Addresses { first: first.parse()?, count: n.parse::<u32>()?.max(1) })
                    };
                    let flows =
                        Flows { from: addresses(from, n)?, to: addresses(first, m)?, port: to.port() };
                    if what == "flows" { scattered(to, &flows, span, size)? } else { connects(&flows, span, size)? }
                }
                _ => client(to, what, span, size)?,
            };
            println!("{result}");
            Ok(())
        }
        _ => {
            Err("usage: traffic server ADDRESS PORT | traffic client ADDRESS PORT WHAT SECONDS [SIZE [FROM N TO N]]"
                .into())
        }
    }
}

fn server(at: SocketAddr) -> Outcome<()> {
    let listener = TcpListener::bind(at)?;
    // As many as may come at once, instead of the few that the library asks for.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let socket = UdpSocket::bind(at)?;
    // Only root may have more than net.core.rmem_max.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    socket.set_read_timeout(Some(QUIET))?;
    let (count, wrong, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| sink(&socket, &count, &wrong, &stop));
        let result = || -> io::Result<()> {
            // Connections that have said nothing yet, and maybe never will.
            let mut silent: Vec<TcpStream> = Vec::new();
            loop {
                let all = std::iter::once(listener.as_fd()).chain(silent.iter().map(AsFd::as_fd));
                let mut ready: Vec<PollFd<'_>> =
                    all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
                poll(&mut ready, None)?;
                let spoken: Vec<bool> = ready[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
                let mut heard: Vec<TcpStream> = Vec::new();
                for i in (0..spoken.len()).rev().filter(|i| spoken[*i]) {
                    heard.push(silent.swap_remove(i));
                }
                while let Ok((connection, _)) = listener.accept() {
                    heard.push(connection);
                }
                for connection in heard {
                    connection.set_nonblocking(true)?;
                    match connection.peek(&mut [0]) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => silent.push(connection),
                        Ok(1) => {
                            connection.set_nonblocking(false)?;
                            // A client that has gone is no concern of the others.
                            let _ = answer(connection, &count, &wrong);
                        }
                        _ => {}
                    }
                }
            }
        };
        let result = result();
        stop.store(true, Relaxed);
        Ok(result?)
    })
}

/// Counts datagrams, each beginning with its number, and looks at some.
fn sink(socket: &UdpSocket, count: &AtomicU64, wrong: &AtomicU64, stop: &AtomicBool) {
    let (mut buffer, mut n) = ([0; 2048], 0);
    while !stop.load(Relaxed) {
        if let Ok(len) = socket.recv(&mut buffer) {
            n += 1;
            count.store(n, Relaxed);
            if n % SAMPLE == 0 && !is_datagram(&buffer[..len]) {
                wrong.fetch_add(1, Relaxed);
            }
        }
    }
}

fn fill(datagram: &mut [u8], number: u64) {
    datagram[..8].copy_from_slice(&number.to_be_bytes());
}

fn body(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn is_datagram(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes[8..] == body(bytes.len())[8..]
}

/// One connection: its first byte says what it is for.
fn answer(mut c: TcpStream, count: &AtomicU64, wrong: &AtomicU64) -> io::Result<()> {
    c.set_nodelay(true)?;
    let mut kind = [0];
    c.read_exact(&mut kind)?;
    match kind {
        [b'r'] => {
            let mut request = [0; 64];
            while c.read_exact(&mut request).is_ok() {
                c.write_all(&request)?;
            }
        }
        [b'c'] => c.write_all(&kind)?,
        [b'b'] => {
            let (pattern, mut buffer) = (body(BULK), vec![0; BULK]);
            let (mut bytes, mut bad) = (0u64, 0u64);
            loop {
                let n = c.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                let at = (bytes % BULK as u64) as usize;
                let first = n.min(BULK - at);
                let right =
                    buffer[..first] == pattern[at..at + first] && buffer[first..n] == pattern[..n - first];
                (bytes, bad) = (bytes + n as u64, bad + u64::from(!right));
            }
            c.write_all(&[bytes.to_be_bytes(), bad.to_be_bytes()].concat())?;
        }
        // Counters, each time they are asked for, once nothing comes any more.
        _ => {
            while c.read_exact(&mut kind).is_ok() {
                let mut seen = count.load(Relaxed);
                loop {
                    thread::sleep(QUIET / 2);
                    let now = count.load(Relaxed);
                    if now == seen {
                        break;
                    }
                    seen = now;
                }
                c.write_all(&[seen.to_be_bytes(), wrong.load(Relaxed).to_be_bytes()].concat())?;
            }
        }
    }
    Ok(())
}

fn connect(to: SocketAddr, kind: u8) -> io::Result<TcpStream> {
    let mut c = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    c.set_nodelay(true)?;
    c.set_read_timeout(Some(Duration::from_secs(5)))?;
    c.write_all(&[kind])?;
    Ok(c)
}

fn client(to: SocketAddr, what: &str, span: Duration, size: usize) -> Outcome<String> {
    match what {
        "rr" => round_trips(to, span),
        "connect" => {
            let (start, mut n) = (Instant::now(), 0u64);
            while start.elapsed() < span {
                let mut c = connect(to, b'c')?;
                let mut back = [0];
                c.read_exact(&mut back)?;
                n += 1;
            }
            Ok(format!("{{\"per-second\": {:.1}}}", n as f64 / start.elapsed().as_secs_f64()))
        }
        "bulk" => bulk(to, span),
        "udp" => {
            let mut stream = Datagrams::new(to, size)?;
            let burst = stream.send(span, None)?;
            Ok(burst.json())
        }
        "paced" => paced(to, span, size),
        _ => Err(format!("{what}: neither rr, connect, bulk, udp nor paced").into()),
    }
}

/// Datagrams that each begin something, and how many of them arrived.
fn scattered(to: SocketAddr, flows: &Flows, span: Duration, size: usize) -> Outcome<String> {
    let mut stream = Datagrams::new(to, size)?;
    let start = Instant::now();
    let sent = opening::datagrams(flows, span, &stream.datagram)?;
    let took = start.elapsed();
    Ok(stream.arrived(sent, took)?.json())
}

fn connects(flows: &Flows, span: Duration, at_once: usize) -> Outcome<String> {
    let opened = opening::connections(flows, span, at_once)?;
    let rate = opened.connections as f64 / opened.took.as_secs_f64();
    Ok(format!(
        "{{\"per-second\": {rate:.1}, \"connections\": {}, \"failed\": {}}}",
        opened.connections, opened.failed
    ))
}

fn bulk(to: SocketAddr, span: Duration) -> Outcome<String> {
    let mut c = connect(to, b'b')?;
    c.set_write_timeout(Some(Duration::from_secs(5)))?;
    let (pattern, start, mut sent) = (body(BULK), Instant::now(), 0);
    while start.elapsed() < span {
        c.write_all(&pattern)?;
        sent += BULK as u64;
    }
    c.shutdown(std::net::Shutdown::Write)?;
    let (mut bytes, mut bad) = ([0; 8], [0; 8]);
    c.read_exact(&mut bytes)?;
    c.read_exact(&mut bad)?;
    let (bytes, bad) = (u64::from_be_bytes(bytes), u64::from_be_bytes(bad));
    if bytes != sent || bad != 0 {
        return Err(
            format!("{bytes} of {sent} bytes arrived, {bad} reads of them are not what was sent").into()
        );
    }
    let gbit = bytes as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64();
    Ok(format!("{{\"gbit\": {gbit:.3}, \"bytes\": {bytes}}}"))
}

fn round_trips(to: SocketAddr, span: Duration) -> Outcome<String> {
    let mut c = connect(to, b'r')?;
    let (start, mut trips) = (Instant::now(), Vec::new());
    let (mut out, mut back) = ([0; 64], [0; 64]);
    while start.elapsed() < span {
        out[..8].copy_from_slice(&(trips.len() as u64).to_be_bytes());
        let sent = Instant::now();
        c.write_all(&out)?;
        c.read_exact(&mut back)?;
        trips.push(sent.elapsed());
        if back != out {
            return Err("an answer is not what was asked".into());
        }
    }
    let rate = trips.len() as f64 / start.elapsed().as_secs_f64();
    trips.sort_unstable();
    let at = |share: f64| {
        let i = ((trips.len() as f64 * share) as usize).min(trips.len().saturating_sub(1));
        trips.get(i).map_or(f64::NAN, |t| t.as_secs_f64() * 1e6)
    };
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    Ok(format!("{{\"per-second\": {rate:.1}, \"p50\": {p50:.1}, \"p99\": {p99:.1}, \"p999\": {p999:.1}}}"))
}

/// A stream of datagrams, and what the receiver says of it.
struct Datagrams {
    socket: UdpSocket,
    control: TcpStream,
    datagram: Vec<u8>,
    number: u64,
    /// What the receiver had counted before.
    counted: u64,
}

/// A part of it.
struct Burst {
    sent: u64,
    arrived: u64,
    took: Duration,
}

impl Burst {
    fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }

    fn loss(&self) -> f64 {
        1.0 - self.arrived.min(self.sent) as f64 / self.sent.max(1) as f64
    }

    fn json(&self) -> String {
        let (rate, loss) = (self.rate(), self.loss());
        format!("{{\"per-second\": {rate:.1}, \"loss\": {loss:.5}, \"packets\": {}}}", self.arrived)
    }
}

impl Datagrams {
    fn new(to: SocketAddr, size: usize) -> Outcome<Datagrams> {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        let mut stream =
            Datagrams { socket, control: connect(to, b'u')?, datagram: body(size), number: 0, counted: 0 };
        stream.counted = stream.count()?;
        Ok(stream)
    }

    fn count(&mut self) -> Outcome<u64> {
        self.control.write_all(b"?")?;
        let (mut n, mut wrong) = ([0; 8], [0; 8]);
        self.control.read_exact(&mut n)?;
        self.control.read_exact(&mut wrong)?;
        match u64::from_be_bytes(wrong) {
            0 => Ok(u64::from_be_bytes(n)),
            wrong => Err(format!("{wrong} datagrams are not what was sent").into()),
        }
    }

    /// As fast as possible, or so many per second.
    fn send(&mut self, span: Duration, rate: Option<f64>) -> Outcome<Burst> {
        let (start, mut sent) = (Instant::now(), 0u64);
        loop {
            let elapsed = start.elapsed();
            if elapsed >= span {
                break;
            }
            let due = rate.map_or(sent + 64, |rate| (elapsed.as_secs_f64() * rate) as u64);
            if due <= sent {
                // Sleeping gives the CPU to the switch; the kernel makes at least 60 µs of it.
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            // Not more than the queues of a slow moment hold, whatever is due.
            let until = due.min(sent + 256);
            while sent < until {
                fill(&mut self.datagram, self.number);
                // A full queue loses it, like any other on the way.
                let _ = self.socket.send(&self.datagram);
                self.number += 1;
                sent += 1;
            }
        }
        let took = start.elapsed();
        self.arrived(sent, took)
    }

    /// What became of so many that were sent.
    fn arrived(&mut self, sent: u64, took: Duration) -> Outcome<Burst> {
        let counted = self.count()?;
        let arrived = counted - self.counted;
        self.counted = counted;
        Ok(Burst { sent, arrived, took })
    }
}

/// Finds the highest rate that arrives, by halving the range in which it is.
fn paced(to: SocketAddr, span: Duration, size: usize) -> Outcome<String> {
    const STEPS: u32 = 7;
    let mut stream = Datagrams::new(to, size)?;
    let step = span / (STEPS + 1);
    let flat_out = stream.send(step, None)?;
    // What can be offered at all bounds it above.
    let (mut low, mut high) = (0.0, flat_out.sent as f64 / flat_out.took.as_secs_f64() * 1.1);
    let mut rate = flat_out.rate().max(high / 20.0).min(high);
    let mut best: Option<Burst> = (flat_out.loss() <= LOSS).then_some(flat_out);
    for _ in 0..STEPS {
        let burst = stream.send(step, Some(rate))?;
        if burst.loss() <= LOSS {
            low = rate;
            if best.as_ref().is_none_or(|b| b.rate() < burst.rate()) {
                best = Some(burst);
            }
        } else {
            high = rate;
        }
        rate = (low + high) / 2.0;
    }
    Ok(best.map_or_else(|| "{\"per-second\": 0, \"loss\": 1, \"packets\": 0}".to_owned(), |b| b.json()))
}
