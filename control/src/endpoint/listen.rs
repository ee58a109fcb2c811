//! Sockets on the host's published ports. They reserve the port, so that nobody else takes it, and carry what
//! reaches the host itself (from its own processes, over loopback, or by an interface that is no uplink) into
//! the network.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::ports::Held;
use crate::model::l3::Proto;
use crate::{Error, Result};

const BACKLOG: i32 = 1024;
/// UDP clients of one port at a time.
const MAX_CLIENTS: usize = 1024;
/// How long a UDP client may be silent (RFC 4787 §4.3: at least two minutes).
const SILENCE: Duration = Duration::from_secs(120);
/// After an error that may last, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// How often another free port is tried when one is free over one family only.
const ATTEMPTS: usize = 16;

/// A published port's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) held: Held,
    sockets: Vec<OwnedFd>,
}

/// Takes a port of the host's: the first that is free of `wanted.port` to `last`, or any if that is 0.
pub(crate) fn take(wanted: Held, last: u16) -> Result<Sockets> {
    let held = |port| Held { port, ..wanted };
    if wanted.port == 0 {
        let any = (0..ATTEMPTS).map(|_| open(held(0))).find(|taken| taken.is_ok());
        return any.unwrap_or_else(|| open(held(0)));
    }
    let mut refused = None;
    for port in wanted.port..=last.max(wanted.port) {
        match open(held(port)) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => refused = Some(refused.unwrap_or(error)),
        }
    }
    Err(refused.unwrap_or_else(|| Error::invalid("no port to publish")))
}

/// The sockets of a port; port 0 is any free one, the same over both families.
pub(crate) fn open(mut held: Held) -> Result<Sockets> {
    let addresses: Vec<IpAddr> = match held.host {
        Some(host) => vec![host],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut sockets = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(address, held.port);
        match socket(held.proto, at) {
            Ok((socket, port)) => {
                held.port = port;
                sockets.push(socket);
            }
            // A host without IPv6.
            Err(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
                if held.host.is_none() && address.is_ipv6() => {}
            Err(rustix::io::Errno::ADDRINUSE) => {
                let what = format!("Bind for {at} failed: port is already allocated");
                return Err(Error::conflict(what).hint(format!("publish another port than {}", at.port())));
            }
            Err(rustix::io::Errno::ADDRNOTAVAIL) => {
                return Err(Error::invalid(format!(
                    "Bind for {at} failed: {address} is not an address of the host"
                ))
                .hint("leave it out, or see: ip address"));
            }
            Err(e) => return Err(Error::failed(format!("Bind for {at} failed: {e}"))),
        }
    }
    Ok(Sockets { held, sockets })
}

fn socket(proto: Proto, at: SocketAddr) -> rustix::io::Result<(OwnedFd, u16)> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if proto == Proto::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if proto == Proto::Tcp {
        // Connections of a daemon before may be in TIME_WAIT. A listener is in the way nevertheless.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    if proto == Proto::Tcp {
        listen(&socket, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

/// Tasks that carry what reaches a published port; ended and the port given back when dropped.
#[derive(Debug)]
pub(crate) struct Carrier(Vec<JoinHandle<()>>);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Sockets {
    /// Carries to `inside` from now on.
    pub(crate) fn carry(self, inside: SocketAddr) -> Result<Carrier> {
        let mut carrier = Carrier(Vec::new());
        let proto = self.held.proto;
        for socket in self.sockets {
            let task = match proto {
                Proto::Tcp => TcpListener::from_std(socket.into()).map(|l| tokio::spawn(streams(l, inside))),
                Proto::Udp => UdpSocket::from_std(socket.into()).map(|s| tokio::spawn(datagrams(s, inside))),
            };
            carrier.0.push(task.map_err(|e| Error::failed(format!("cannot serve a published port: {e}")))?);
        }
        Ok(carrier)
    }
}

async fn streams(listener: TcpListener, inside: SocketAddr) {
    // Ends with this task, and so do the connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((mut client, _)) => {
                connections.spawn(async move {
                    // Where nobody listens inside, the client sees its connection closed.
                    let Ok(mut server) = TcpStream::connect(inside).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

async fn datagrams(socket: UdpSocket, inside: SocketAddr) {
    let socket = Arc::new(socket);
    let clients = Clients::default();
    let mut answers = tokio::task::JoinSet::new();
    let mut buffer = vec![0; 65536];
    loop {
        while answers.try_join_next().is_some() {}
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an answer before, mostly.
            tokio::task::yield_now().await;
            continue;
        };
        let known = clients.lock().get(&client).cloned();
        let server = match known {
            Some(server) => server,
            None if clients.lock().len() >= MAX_CLIENTS => continue,
            None => {
                let Ok(server) = connected(inside).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let server = Arc::new(server);
                clients.lock().insert(client, server.clone());
                answers.spawn(answer(socket.clone(), server.clone(), client, clients.clone()));
                server
            }
        };
        // Datagrams may get lost.
        let _ = server.send(&buffer[..length]).await;
    }
}

async fn connected(inside: SocketAddr) -> io::Result<UdpSocket> {
    let any =
        if inside.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(inside).await?;
    Ok(socket)
}

async fn answer(socket: Arc<UdpSocket>, server: Arc<UdpSocket>, client: SocketAddr, clients: Clients) {
    let mut buffer = vec![0; 65536];
    while let Ok(received) = tokio::time::timeout(SILENCE, server.recv(&mut buffer)).await {
        if let Ok(length) = received {
            let _ = socket.send_to(&buffer[..length], client).await;
        } else {
            // Refused: nobody listens inside yet.
            tokio::time::sleep(PAUSE).await;
        }
    }
    clients.lock().remove(&client);
}
