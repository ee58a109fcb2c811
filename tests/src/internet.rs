//! A world behind an uplink, and sockets that say whom they talk to.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{Container, Kind, Lab, Netns, Opts, eventually};

/// The gateway of `br0`.
pub const GATEWAY4: &str = "10.7.255.254";
/// The same over IPv6.
pub const GATEWAY6: &str = "fd07::ffff";
/// The switch's own address outside.
pub const OUTSIDE4: &str = "192.0.2.10";
/// The same over IPv6.
pub const OUTSIDE6: &str = "2001:db8::10";
/// A server far away.
pub const FAR4: &str = "198.51.100.1";
/// Another address of it.
pub const FAR4B: &str = "198.51.100.2";
/// The same over IPv6.
pub const FAR6: &str = "2001:db8:1::1";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address and a port.
pub fn at(addr: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(ip(&addr.to_string()), port)
}

/// A lab whose bridge has a gateway, and a namespace outside: a router with servers behind it.
#[derive(Debug)]
pub struct Internet {
    /// The switch.
    pub lab: Lab,
    /// The world: 192.0.2.1/24 and 2001:db8::1/64 on `eth0`, the servers' addresses on its loopback.
    pub far: Netns,
}

impl Internet {
    /// With `br0`, its gateway, an uplink `up` with addresses of its own on a veth (`up0`, in the daemon's
    /// namespace), and a masquerade of 10.7.0.0/16. IPv6 is routed.
    pub fn new() -> Internet {
        Internet::with(&[])
    }

    /// The same, with more arguments for `trunkline daemon`.
    pub fn with(args: &[&str]) -> Internet {
        let net = Internet::plugged(args);
        net.add_uplink();
        net.lab.ok(&["nat", "masquerade", "add", "--from", "10.7.0.0/16", "--uplink", "up"]);
        net
    }

    /// The same without uplink and masquerade: the daemon's namespace is a machine whose one interface `up0` has
    /// its addresses and default routes.
    pub fn machine(args: &[&str]) -> Internet {
        let net = Internet::plugged(args);
        for line in [
            &format!("ip address add {OUTSIDE4}/24 dev up0"),
            &format!("ip address add {OUTSIDE6}/64 dev up0 nodad"),
            "ip route add default via 192.0.2.1",
            "ip -6 route add default via 2001:db8::1",
        ] {
            net.lab.ns.sh(line);
        }
        net
    }

    /// The same without uplink and masquerade; the interface for it is there.
    pub fn plugged(args: &[&str]) -> Internet {
        let lab = Lab::with_args(args);
        let far = Netns::new(&lab.name("far"));
        lab.ns.sh(&format!("ip link add name up0 type veth peer name eth0 netns {}", far.name()));
        lab.ns.sh("ip link set up0 addrgenmode none up");
        for addr in ["192.0.2.1/24", "2001:db8::1/64 nodad"] {
            far.sh(&format!("ip address add {} dev eth0", addr));
        }
        far.sh("ip link set eth0 up");
        for addr in [FAR4, FAR4B, FAR6] {
            far.sh(&format!("ip address add {addr} dev lo"));
        }
        far.enter(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("sysctl");
            }
        });
        far.sh(&format!("ip -6 route add fd07::/64 via {OUTSIDE6}"));
        add_gateway(&lab);
        Internet { lab, far }
    }

    /// The uplink `up`.
    pub fn add_uplink(&self) {
        let (v4, v6) = (format!("{OUTSIDE4}/24"), format!("{OUTSIDE6}/64"));
        let mut args = vec!["uplink", "add", "up", "--interface", "up0", "--address", &v4, "--address", &v6];
        args.extend(["--gateway", "192.0.2.1", "--gateway", "2001:db8::1"]);
        self.lab.ok(&args);
    }

    /// A container on `br0` whose default routes are the gateway.
    pub fn container(&self, kind: Kind, port: &str) -> Container {
        self.container_with(kind, port, &Opts::default())
    }

    /// The same with wishes.
    pub fn container_with(&self, kind: Kind, port: &str, opts: &Opts<'_>) -> Container {
        let c = self.lab.container_with(kind, port, opts);
        set_routes(&c, GATEWAY4, GATEWAY6);
        c
    }

    /// Publishes a port of the uplink's address.
    pub fn publish(&self, proto: &str, port: &str, to: &str) {
        self.lab
            .ok(&["nat", "publish", "add", "--uplink", "up", "--proto", proto, "--port", port, "--to", to]);
    }

    /// The connections in the table, as `ct list` says.
    pub fn connections(&self) -> Vec<serde_json::Value> {
        self.lab.json(&["ct", "list"]).as_array().expect("array").clone()
    }

    /// One rule in `nat list`.
    pub fn rule(&self, kind: &str) -> serde_json::Value {
        let all = self.lab.json(&["nat", "list"]);
        let found = all.as_array().expect("array").iter().find(|r| r["spec"]["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {all:#}")).clone()
    }
}

impl Default for Internet {
    fn default() -> Self {
        Internet::new()
    }
}

/// Gives `br0` its gateway.
pub fn add_gateway(lab: &Lab) {
    let (v4, v6) = (format!("{GATEWAY4}/16"), format!("{GATEWAY6}/64"));
    lab.ok(&["gateway", "add", "br0", "--address", &v4, "--address", &v6]);
}

/// Default routes of a container.
pub fn set_routes(c: &Container, v4: &str, v6: &str) {
    c.ns.sh(&format!("ip route replace default via {v4}"));
    c.ns.sh(&format!("ip -6 route replace default via {v6}"));
}

/// Answers until dropped: whoever connects (TCP) or sends (UDP) is told its own address as the server sees it,
/// then gets back what it sends.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Echo {
    /// Serves TCP and UDP on a port of every address that a namespace has now.
    pub fn start(ns: &Netns, port: u16) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        // Of a socket on all of them, the kernel would choose the address that it answers UDP from.
        let listing = ns.sh("ip -o address show scope global") + &ns.sh("ip -o address show dev lo");
        let mut addresses: Vec<IpAddr> = listing
            .lines()
            .filter_map(|l| l.split_whitespace().nth(3)?.split('/').next()?.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let listener =
            ns.enter(|| TcpListener::bind(SocketAddr::new(ip("::"), port))).expect("listen on all addresses");
        let mut threads: Vec<_> =
            addresses.into_iter().map(|addr| serve_udp(ns, addr, port, stop.clone())).collect();
        let tcp_stop = stop.clone();
        listener.set_nonblocking(true).expect("mode");
        threads.push(std::thread::spawn(move || {
            while !tcp_stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let stop = tcp_stop.clone();
                        std::thread::spawn(move || serve(stream, peer, &stop));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }));
        Echo { stop, threads }
    }
}

fn serve_udp(ns: &Netns, addr: IpAddr, port: u16, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let socket = ns.enter(|| UdpSocket::bind(SocketAddr::new(addr, port))).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((n, peer)) = socket.recv_from(&mut buffer) {
                let mut answer = format!("{}\n", canonical(peer)).into_bytes();
                answer.extend(&buffer[..n]);
                socket.send_to(&answer, peer).ok();
            }
        }
    })
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn serve(mut stream: TcpStream, peer: SocketAddr, stop: &AtomicBool) {
    stream.set_nonblocking(false).ok();
    stream.set_read_timeout(Some(Duration::from_millis(200))).ok();
    if writeln!(stream, "{}", canonical(peer)).is_err() {
        return;
    }
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if stream.write_all(&buffer[..n]).is_ok() => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            _ => return,
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

/// A TCP connection to an [`Echo`].
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// As whom the server sees it.
    pub seen_as: SocketAddr,
}

impl Client {
    /// Connects from a namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(from: &Netns, to: SocketAddr) -> std::io::Result<Client> {
        let mut stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = Vec::new();
        let mut byte = [0];
        while byte[0] != b'\n' {
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line);
        let seen_as =
            text.trim().parse().map_err(|_| std::io::Error::other(format!("not an Echo: {text}")))?;
        Ok(Client { stream, seen_as })
    }

    /// Sends something and waits for it.
    ///
    /// # Errors
    /// What the kernel says, or that something else came back.
    pub fn talk(&mut self) -> std::io::Result<()> {
        let sent = [7u8; 3000];
        self.stream.write_all(&sent)?;
        let mut got = [0; 3000];
        self.stream.read_exact(&mut got)?;
        if got == sent { Ok(()) } else { Err(std::io::Error::other("changed on its way")) }
    }
}

/// Connects and talks; returns as whom the server sees the client.
pub fn tcp_seen_as(from: &Netns, to: SocketAddr) -> SocketAddr {
    let mut client = Client::connect(from, to).unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name()));
    client.talk().unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name()));
    client.seen_as
}

/// Sends a datagram of `size` bytes to an [`Echo`], a few times if needed, and checks what comes back. Returns as
/// whom the server sees the client.
///
/// # Errors
/// What the kernel says, also of ICMP errors; a timeout when nothing comes back.
pub fn udp_ask(from: &Netns, bind: u16, to: SocketAddr, size: usize) -> std::io::Result<SocketAddr> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    // A child that another test forks holds our sockets until it execs: a port just given up may be taken yet.
    let mut bound = Err(std::io::Error::from(ErrorKind::AddrInUse));
    eventually(Duration::from_secs(2), || {
        bound = from.enter(|| UdpSocket::bind(at(any, bind)));
        !matches!(&bound, Err(e) if e.kind() == ErrorKind::AddrInUse)
    });
    let socket = bound?;
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    socket.connect(to)?;
    let sent = vec![9u8; size];
    let mut buffer = vec![0; 65536];
    let mut last = std::io::Error::from(ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.send(&sent)?;
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let end = buffer.iter().position(|b| *b == b'\n').unwrap_or(0);
                let seen = std::str::from_utf8(&buffer[..end]).unwrap_or_default().parse();
                assert!(n == end + 1 + size && buffer[end + 1..n] == sent, "{size} bytes came back changed");
                return seen.map_err(|_| std::io::Error::other("not an Echo"));
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// The same; it must succeed.
pub fn udp_seen_as(from: &Netns, to: SocketAddr) -> SocketAddr {
    udp_ask(from, 0, to, 100).unwrap_or_else(|e| panic!("{} to {to} over UDP: {e}", from.name()))
}
