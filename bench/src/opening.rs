//! New connections by ordinary and raw sockets, as many as a machine can open: what a switch is asked to begin per
//! second, where one connection at a time only shows how long each takes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags, SocketType, ipproto,
    sendmmsg, socket, socket_with, sockopt,
};

use crate::frames;

/// Ports of one address that flows come from: below those that Linux chooses from by itself.
const PORTS: std::ops::Range<u16> = 1024..32768;
/// Datagrams given to the kernel at once.
const BURST: usize = 64;
/// How long a connection may take before its place goes to another.
const PATIENCE: Duration = Duration::from_millis(500);

/// Some addresses, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The first.
    pub first: Ipv4Addr,
    /// How many, at least 1.
    pub count: u32,
}

impl Addresses {
    fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + n % self.count)
    }
}

/// Flows between some addresses: the ports of the first pair, then those of the next. After all come the first again.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Where from; addresses of this machine.
    pub from: Addresses,
    /// Where to.
    pub to: Addresses,
    /// The port there.
    pub port: u16,
}

impl Flows {
    fn nth(&self, n: u64) -> (SocketAddrV4, SocketAddrV4) {
        let (pair, port) = ((n / PORTS.len() as u64) as u32, (n % PORTS.len() as u64) as u16);
        let (from, to) = (self.from.nth(pair), self.to.nth(pair / self.from.count));
        (SocketAddrV4::new(from, PORTS.start + port), SocketAddrV4::new(to, self.port))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        PORTS.len() as u64 * u64::from(self.from.count) * u64::from(self.to.count)
    }
}

/// Sends datagrams, each the only one of its flow, as fast as that goes, until the time is over or all flows have had
/// one. `payload`: what is in a datagram, whose number goes into the first eight bytes. Returns how many were sent.
///
/// # Errors
/// When there is no raw socket, for which one has to be root.
pub fn datagrams(flows: &Flows, span: Duration, payload: &[u8]) -> io::Result<u64> {
    const HEADERS: usize = 28;
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
    let mut packets: Vec<Vec<u8>> = vec![Vec::new(); BURST];
    let (start, mut sent) = (Instant::now(), 0);
    while sent < flows.count() && start.elapsed() < span {
        let burst = (flows.count() - sent).min(BURST as u64);
        let numbered = packets.iter_mut().zip(sent..sent + burst);
        for (packet, number) in numbered {
            let (from, to) = flows.nth(number);
            packet.clear();
            frames::ipv4(packet, *from.ip(), *to.ip(), 17, payload.len() + 8);
            let len = (payload.len() + 8) as u16;
            for field in [from.port(), to.port(), len, 0] {
                packet.extend_from_slice(&field.to_be_bytes());
            }
            packet.extend_from_slice(payload);
            packet[HEADERS..HEADERS + 8].copy_from_slice(&number.to_be_bytes());
        }
        let to: Vec<SocketAddrAny> =
            (sent..sent + burst).map(|n| SocketAddrV4::new(*flows.nth(n).1.ip(), 0).into()).collect();
        let parts: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let mut controls: [_; BURST] = std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut messages: Vec<MMsgHdr<'_>> = (to.iter().zip(&parts).zip(&mut controls))
            .map(|((to, parts), control)| MMsgHdr::new_with_addr(to, parts, control))
            .collect();
        // What a full queue did not take is lost, like anything on the way.
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            let taken = sendmmsg(&raw, rest, SendFlags::empty()).unwrap_or(1).clamp(1, rest.len());
            rest = &mut rest[taken..];
        }
        sent += burst;
    }
    Ok(sent)
}

/// What came of opening connections.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// That were established.
    pub connections: u64,
    /// That were refused, or took longer than half a second.
    pub failed: u64,
    /// In this time.
    pub took: Duration,
}

/// One that is being opened.
struct Pending {
    socket: OwnedFd,
    since: Instant,
}

/// Opens TCP connections for that long, so many at once, and closes each as soon as it is established, by a reset, so
/// that no port has to wait.
///
/// # Errors
/// When sockets cannot be made.
pub fn connections(flows: &Flows, span: Duration, at_once: usize) -> io::Result<Opened> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (start, mut number) = (Instant::now(), 0);
    let mut opened = Opened { connections: 0, failed: 0, took: Duration::ZERO };
    let mut next = |place: usize| -> io::Result<Pending> {
        loop {
            let (from, to) = flows.nth(number);
            number += 1;
            if let Some(socket) = begin(from, to)? {
                let data = epoll::EventData::new_u64(place as u64);
                epoll::add(&poll, &socket, data, epoll::EventFlags::OUT)?;
                return Ok(Pending { socket, since: Instant::now() });
            }
        }
    };
    let mut pending = (0..at_once).map(&mut next).collect::<io::Result<Vec<_>>>()?;
    let mut events = [MaybeUninit::uninit(); 256];
    let mut looked = start;
    while start.elapsed() < span {
        let (ready, _) =
            epoll::wait(&poll, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 }))?;
        for event in ready {
            let place = event.data.u64() as usize;
            let Some(slot) = pending.get_mut(place) else { continue };
            match sockopt::socket_error(&slot.socket)? {
                Ok(()) => opened.connections += 1,
                Err(_) => opened.failed += 1,
            }
            *slot = next(place)?;
        }
        if looked.elapsed() > PATIENCE / 4 {
            looked = Instant::now();
            for (place, slot) in pending.iter_mut().enumerate().filter(|(_, p)| p.since.elapsed() > PATIENCE)
            {
                opened.failed += 1;
                *slot = next(place)?;
            }
        }
    }
    opened.took = start.elapsed();
    Ok(opened)
}

/// A socket that is connecting, and will reset what it has when it is closed. `None` when somebody has the port.
fn begin(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::bind(&socket, &from) {
        Err(rustix::io::Errno::ADDRINUSE) => return Ok(None),
        result => result?,
    }
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Some(socket)),
        Err(rustix::io::Errno::ADDRNOTAVAIL) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_flow_once() {
        let first = |last| Ipv4Addr::new(192, 0, 2, last);
        let flows = Flows {
            from: Addresses { first: first(1), count: 2 },
            to: Addresses { first: first(100), count: 3 },
            port: 9,
        };
        let seen: HashSet<_> = (0..flows.count()).map(|n| flows.nth(n)).collect();
        assert_eq!((seen.len() as u64, flows.nth(flows.count())), (flows.count(), flows.nth(0)));
    }
}
