//! What is behind uplinks: an interface taken over, a TAP to the host's stack, or an interface shared with it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use trunkline_engine::PortIo;
use trunkline_packet::{MacAddr, PortId};
use trunkline_ports::afpacket::{AfPacket, Monitor};
use trunkline_ports::guard::{IngressDrop, PortShare, Reservation, taken_ports};
use trunkline_tunnel::Kind;

use super::adopted::Adopted;
use super::tap::{DEFAULT_MTU, TapDevice, Wish};
use crate::model::l3::{
    HostUplink, NatKind, NatSpec, OwnUplink, PortRange, Proto, SharedUplink, UplinkKind, UplinkSpec,
};
use crate::model::{AfpacketSpec, Desired, HostSpec, LinkSpec, Owner, PortKind, PortSpec, TunnelSpec};
use crate::net::host::HostRoute;
use crate::net::{explain, session};
use crate::validate::dst_port;
use crate::validate::uplink::host_side;
use crate::{Error, Result};

/// An uplink that works.
pub(super) struct Uplink {
    /// Its port in the engine.
    pub(super) id: PortId,
    pub(super) spec: UplinkSpec,
    pub(super) device: UplinkDevice,
    pub(super) seen: Seen,
    /// Of a shared uplink: its port on the host's loopback, by which the host's own processes and the hosts
    /// inside reach each other under the shared addresses.
    pub(super) loopback: Option<PortId>,
}

/// An uplink just opened.
pub(super) struct Opened {
    pub(super) device: UplinkDevice,
    pub(super) seen: Seen,
    pub(super) io: PortIo,
    /// Of the host's loopback.
    pub(super) loopback: Option<PortIo>,
}

pub(super) enum UplinkDevice {
    Own(Adopted),
    Host(TapDevice),
    Shared(Shared),
}

/// What was found of an uplink when it was last looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) interface: String,
    pub(super) mac: MacAddr,
    /// Bytes.
    pub(super) mtu: u32,
    /// The switch's addresses: of a shared uplink those of the host.
    pub(super) addresses: Vec<IpNet>,
    /// Of a shared uplink: the host's routes by the interface.
    pub(super) routes: Vec<HostRoute>,
}

/// An interface that stays the host's.
pub(super) struct Shared {
    monitor: Monitor,
    ifindex: u32,
    /// Keeps what is the switch's from the host's stack while it lives.
    _guard: IngressDrop,
    /// Goes and comes anew when the ports change.
    reservation: Option<Reservation>,
    /// What is reserved, for the next daemon.
    note: PathBuf,
    share: PortShare,
    /// The same on the host's loopback; `None` where it cannot be.
    loopback: Option<Loopback>,
    /// Neighbours the engine was told.
    pub(super) told: Vec<(IpAddr, MacAddr)>,
}

/// The switch's ports on the host's loopback.
struct Loopback {
    monitor: Monitor,
    ifindex: u32,
    _guard: IngressDrop,
}

/// Ports of an uplink that its rules publish, and those of tunnels that it carries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Published {
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    tunnels: Vec<(u16, u16)>,
    gre: bool,
    /// Those for which the daemon has a socket: it is the process that uses them.
    held: Vec<(u16, u16)>,
}

impl Published {
    /// Those of the desired state.
    pub(super) fn of(desired: &Desired, uplink: &str) -> Published {
        let mut all = Published::default();
        for spec in desired.nat.values().filter(|n| n.uplink == uplink) {
            if let NatSpec { kind: NatKind::Publish(p), .. } = spec {
                let of_proto = if p.proto == Proto::Tcp { &mut all.tcp } else { &mut all.udp };
                of_proto.push((p.port.first, p.port.last));
                if spec.owner.is_plugin() {
                    all.held.push((p.port.first, p.port.last));
                }
            }
        }
        for (kind, t) in carried(desired, uplink) {
            let port = dst_port(kind, t);
            match kind.is_udp() {
                true if all.tunnels.contains(&(port, port)) => {}
                true => all.tunnels.push((port, port)),
                false => all.gre = true,
            }
        }
        all
    }

    fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        self.tcp.iter().chain(&self.udp).chain(&self.tunnels).copied()
    }

    /// Refuses ports that a process of the host has, of those that were not published before.
    pub(super) fn check(&self, before: &Published) -> Result<()> {
        let new = |r: &(u16, u16)| !before.ranges().any(|b| b == *r) && !self.held.contains(r);
        for range in self.ranges().filter(new) {
            let taken =
                taken_ports(range).map_err(|e| explain("cannot see which ports the host uses", &e))?;
            if let Some(port) = taken.first() {
                return Err(Error::conflict(format!("a process of this host uses port {port}"))
                    .hint("ss -tulpn shows which; stop it or publish another port"));
            }
        }
        Ok(())
    }
}

impl Uplink {
    /// Makes what is behind it.
    pub(super) fn open(
        name: &str,
        spec: &UplinkSpec,
        published: &Published,
        run_dir: &Path,
    ) -> Result<Opened> {
        match &spec.kind {
            UplinkKind::Own(own) => open_own(own),
            UplinkKind::Host(host) => open_host(name, host),
            UplinkKind::Shared(shared) => {
                open_shared(shared, published, run_dir.join(format!("reserved-{name}")))
            }
        }
    }

    /// Whether another device is needed for what is desired now.
    pub(super) fn needs_new(&self, name: &str, spec: &UplinkSpec) -> bool {
        match (&self.spec.kind, &spec.kind) {
            (UplinkKind::Own(a), UplinkKind::Own(b)) => a.interface != b.interface,
            (UplinkKind::Host(a), UplinkKind::Host(b)) => ifname(name, a) != ifname(name, b),
            (UplinkKind::Shared(a), UplinkKind::Shared(b)) => a.interface != b.interface,
            _ => true,
        }
    }

    /// Takes over another spec that needs no other device, and other published ports; on failure everything
    /// is as before.
    pub(super) fn update(&mut self, name: &str, spec: &UplinkSpec, published: &Published) -> Result<()> {
        match (&mut self.device, &self.spec.kind, &spec.kind) {
            (UplinkDevice::Own(adopted), _, UplinkKind::Own(own)) => {
                self.seen = see_own(own, adopted)?;
            }
            (UplinkDevice::Host(tap), UplinkKind::Host(old), UplinkKind::Host(new)) => {
                let (before, after) = (host_port(name, old), host_port(name, new));
                if let (Some(before), Some(after)) = (Wish::of(name, &before), Wish::of(name, &after)) {
                    tap.update(&before, &after)?;
                }
                self.seen = see_host(name, new, tap)?;
            }
            (UplinkDevice::Shared(shared), _, UplinkKind::Shared(new)) => {
                let share = share(new, published, &self.seen.addresses);
                shared.change(&self.seen.interface, share)?;
            }
            _ => {}
        }
        self.spec = spec.clone();
        Ok(())
    }

    /// Looks again; true when something changed that the engine must know.
    ///
    /// # Errors
    /// When the device is gone, and must be made anew.
    pub(super) fn refresh(&mut self, published: &Published) -> Result<bool> {
        let seen = match (&mut self.device, &self.spec.kind) {
            (UplinkDevice::Own(adopted), UplinkKind::Own(own)) => {
                adopted.refresh()?;
                see_own(own, adopted)?
            }
            (UplinkDevice::Host(tap), UplinkKind::Host(_)) if !tap.is_alive() => {
                return Err(Error::not_found(format!("interface {} was deleted", self.seen.interface)));
            }
            (UplinkDevice::Shared(shared), UplinkKind::Shared(spec)) => {
                let seen = see_shared(spec)?;
                if seen.interface != self.seen.interface {
                    return Err(Error::not_found(format!(
                        "the default route leads out by {} now",
                        seen.interface
                    )));
                }
                let link = shared.monitor.refresh();
                link.map_err(|_| Error::not_found(format!("interface {} is gone", seen.interface)))?;
                shared.change(&seen.interface, share(spec, published, &seen.addresses))?;
                seen
            }
            _ => return Ok(false),
        };
        let changed = seen != self.seen;
        self.seen = seen;
        Ok(changed)
    }

    /// Why no packets pass, if so.
    pub(super) fn trouble(&self) -> Option<Error> {
        match &self.device {
            UplinkDevice::Own(adopted) => adopted.trouble(),
            UplinkDevice::Host(_) | UplinkDevice::Shared(_) => None,
        }
    }

    /// What the kernel dropped because we did not read fast enough.
    pub(super) fn ring_drops(&self) -> u64 {
        match &self.device {
            UplinkDevice::Own(adopted) => adopted.ring_drops(),
            UplinkDevice::Host(tap) => tap.ring_drops(),
            UplinkDevice::Shared(shared) => shared.monitor.ring_drops(),
        }
    }

    /// Ports of the host's addresses that are the switch's.
    pub(super) fn ports(&self) -> Vec<PortRange> {
        let UplinkDevice::Shared(shared) = &self.device else { return Vec::new() };
        let mut ports: Vec<PortRange> = shared
            .share
            .tcp
            .iter()
            .chain(&shared.share.udp)
            .map(|&(first, last)| PortRange { first, last })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// What works but should be known.
    pub(super) fn warning(&self) -> String {
        match (&self.device, &self.spec.kind) {
            (UplinkDevice::Shared(_), UplinkKind::Shared(spec)) => {
                let range = spec.ports();
                let taken = taken_ports((range.first, range.last)).unwrap_or_default();
                match &taken[..] {
                    [] => String::new(),
                    [port, ..] => format!(
                        "processes of this host use {} of these ports, like {port}: what comes for them is lost",
                        taken.len()
                    ),
                }
            }
            (UplinkDevice::Host(_), _) => {
                let off = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
                match off("/proc/sys/net/ipv4/ip_forward") {
                    true => "this host routes nothing onward: sysctl -w net.ipv4.ip_forward=1".to_owned(),
                    false => String::new(),
                }
            }
            _ => String::new(),
        }
    }

    /// Tells the host's stack to find out about neighbours, and returns what it knows: of a shared uplink
    /// whose neighbours changed since the last time.
    pub(super) fn neighbours(&mut self, wanted: &[IpAddr]) -> Result<Option<Vec<(IpAddr, MacAddr)>>> {
        let UplinkDevice::Shared(shared) = &mut self.device else { return Ok(None) };
        let routers = self.seen.routes.iter().filter_map(|r| r.via);
        let known = session(None, |s| {
            let link = s.expect_link(&self.seen.interface)?;
            let known = s.host_neighbours(&link)?;
            let unknown = |addr: &IpAddr| !known.iter().any(|(a, _)| a == addr);
            for addr in routers.chain(wanted.iter().copied()).filter(unknown) {
                s.resolve(&link, addr)?;
            }
            Ok(known)
        })?;
        if known == shared.told {
            return Ok(None);
        }
        shared.told.clone_from(&known);
        Ok(Some(known))
    }
}

/// Tunnels that an uplink carries.
pub(super) fn carried<'a>(
    desired: &'a Desired,
    uplink: &'a str,
) -> impl Iterator<Item = (Kind, &'a TunnelSpec)> {
    let tunnels = desired.ports.values().filter_map(|spec| spec.kind.tunnel());
    tunnels.filter(move |(_, t)| t.underlay.as_deref() == Some(uplink))
}

/// Name of the host's interface of an uplink of type host.
pub(super) fn ifname<'a>(name: &'a str, host: &'a HostUplink) -> &'a str {
    host.interface.as_deref().unwrap_or(name)
}

fn open_own(own: &OwnUplink) -> Result<Opened> {
    let spec = AfpacketSpec { interface: own.interface.clone(), force: own.force };
    let (adopted, io) = Adopted::make_uplink(&spec)?;
    let seen = see_own(own, &adopted).inspect_err(|_| {
        if let Err(error) = adopted.put_back() {
            tracing::error!(interface = own.interface, %error, "a failed edit could not be undone");
        }
    })?;
    Ok(Opened { device: UplinkDevice::Own(adopted), seen, io, loopback: None })
}

fn see_own(own: &OwnUplink, adopted: &Adopted) -> Result<Seen> {
    let given = own.mac.as_ref().and_then(|m| m.parse().ok());
    let mac = given.or(adopted.mac).ok_or_else(|| {
        Error::invalid(format!("interface {} has no MAC address", own.interface)).hint("give one with --mac")
    })?;
    if let Some(mtu) = own.mtu
        && mtu > adopted.mtu
    {
        return Err(Error::invalid(format!(
            "MTU {mtu} is more than the {} of interface {}",
            adopted.mtu, own.interface
        ))
        .hint("raise that of the interface first"));
    }
    Ok(Seen {
        interface: own.interface.clone(),
        mac,
        mtu: own.mtu.unwrap_or(adopted.mtu),
        addresses: own.addresses.clone(),
        routes: Vec::new(),
    })
}

/// The host's side of an uplink, as a port would be written.
fn host_port(name: &str, host: &HostUplink) -> PortSpec {
    let addresses = host.addresses.iter().filter_map(|net| host_side(host, net)).collect();
    let link = LinkSpec { addresses, mac: other_mac(host), mtu: host.mtu, ..LinkSpec::default() };
    let ifname = Some(ifname(name, host).to_owned());
    PortSpec::new(Owner::Cli, "", PortKind::Host(HostSpec { ifname, queues: None, link }))
}

/// The two ends of the TAP have addresses that differ in their last bit.
fn other_mac(host: &HostUplink) -> Option<String> {
    let mut mac: MacAddr = host.mac.as_ref()?.parse().ok()?;
    mac.0[5] ^= 1;
    Some(mac.to_string())
}

fn open_host(name: &str, host: &HostUplink) -> Result<Opened> {
    let port = host_port(name, host);
    let wish = Wish::of(name, &port).ok_or_else(|| Error::failed("a host port is a TAP"))?;
    let tap = TapDevice::make(&wish)?;
    let io = tap.io(true).map_err(|e| explain(format!("interface {}", ifname(name, host)), &e))?;
    let seen = see_host(name, host, &tap)?;
    Ok(Opened { device: UplinkDevice::Host(tap), seen, io, loopback: None })
}

fn see_host(name: &str, host: &HostUplink, tap: &TapDevice) -> Result<Seen> {
    let mac = host.mac.as_ref().and_then(|m| m.parse().ok());
    Ok(Seen {
        interface: ifname(name, host).to_owned(),
        mac: mac.ok_or_else(|| Error::failed("the uplink has no MAC address"))?,
        mtu: if tap.mtu == 0 { DEFAULT_MTU } else { tap.mtu },
        addresses: host.addresses.clone(),
        routes: Vec::new(),
    })
}

fn see_shared(spec: &SharedUplink) -> Result<Seen> {
    session(None, |s| {
        let link = match &spec.interface {
            Some(name) => s.expect_link(name)?,
            None => s.default_link()?,
        };
        if !link.up {
            return Err(Error::failed(format!("interface {} is down", link.name)));
        }
        let addresses = s.addresses(&link)?;
        if addresses.is_empty() {
            return Err(Error::failed(format!("interface {} has no address to share", link.name))
                .hint("give it one, or use an uplink of type own"));
        }
        let mac = link.mac.ok_or_else(|| Error::failed(format!("interface {} is no Ethernet", link.name)))?;
        let routes = s.host_routes(&link)?;
        Ok(Seen { interface: link.name, mac, mtu: link.mtu, addresses, routes })
    })
}

/// Which frames are the switch's.
fn share(spec: &SharedUplink, published: &Published, addresses: &[IpNet]) -> PortShare {
    let own = (spec.ports().first, spec.ports().last);
    let addresses = addresses.iter().map(IpNet::addr).take(PortShare::MAX_ADDRESSES).collect();
    let mut share = PortShare::new(own, addresses);
    share.tcp.extend_from_slice(&published.tcp);
    share.udp.extend(published.udp.iter().chain(&published.tunnels));
    share.tunnels.clone_from(&published.tunnels);
    share.gre = published.gre;
    share
}

fn reserve(share: &PortShare, note: &Path) -> Result<Reservation> {
    let ranges: Vec<_> = share.tcp.iter().chain(&share.udp).copied().collect();
    Reservation::new(&ranges, Some(note)).map_err(|e| explain("cannot keep these ports from the host", &e))
}

fn open_shared(spec: &SharedUplink, published: &Published, note: PathBuf) -> Result<Opened> {
    let seen = see_shared(spec)?;
    let share = share(spec, published, &seen.addresses);
    let no_socket = |e| explain("cannot open a packet socket", &e);
    let socket = AfPacket::open_shared(&seen.interface, true, &share).map_err(no_socket)?;
    let ifindex = socket.ifindex();
    let guard = attach(ifindex, &seen.interface, &share)?;
    let reservation = Some(reserve(&share, &note)?);
    let monitor = socket.monitor();
    let (rx, tx) = socket.into_io();
    let (loopback, loopback_io) = match open_loopback(&share) {
        Ok((loopback, io)) => (Some(loopback), Some(io)),
        Err(error) => {
            tracing::warn!(%error, "processes of this host do not reach what is published");
            (None, None)
        }
    };
    let shared =
        Shared { monitor, ifindex, _guard: guard, reservation, note, share, loopback, told: Vec::new() };
    let device = UplinkDevice::Shared(shared);
    Ok(Opened { device, seen, io: PortIo { rx, tx }, loopback: loopback_io })
}

/// Lets the stack take packets from one of its own addresses on the loopback that did not leave by it: else
/// they are martians (ip-sysctl, accept_local).
const ACCEPT_LOCAL: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";

fn open_loopback(share: &PortShare) -> Result<(Loopback, PortIo)> {
    let refused = |e| explain("cannot use the host's loopback", &e);
    let socket = AfPacket::open_shared("lo", true, share).map_err(refused)?;
    let ifindex = socket.ifindex();
    let guard = attach(ifindex, "lo", share)?;
    std::fs::write(ACCEPT_LOCAL, "1").map_err(refused)?;
    let monitor = socket.monitor();
    let (rx, tx) = socket.into_io();
    Ok((Loopback { monitor, ifindex, _guard: guard }, PortIo { rx, tx }))
}

fn attach(ifindex: u32, interface: &str, share: &PortShare) -> Result<IngressDrop> {
    IngressDrop::attach_ports(ifindex, share)
        .map_err(|e| explain(format!("cannot keep the switch's ports on {interface} from the host"), &e))
}

impl Shared {
    /// Takes other ports or addresses; on failure everything is as before.
    fn change(&mut self, interface: &str, share: PortShare) -> Result<()> {
        if share == self.share {
            return Ok(());
        }
        let guard = attach(self.ifindex, interface, &share)?;
        let refused = |e| explain(format!("cannot change the ports shared on {interface}"), &e);
        self.monitor.set_share(&share).map_err(refused)?;
        // Two at once would not know whose a port is.
        self.reservation = None;
        match reserve(&share, &self.note) {
            Ok(reservation) => self.reservation = Some(reservation),
            Err(error) => {
                let back = self
                    .monitor
                    .set_share(&self.share)
                    .map_err(refused)
                    .and_then(|()| reserve(&self.share, &self.note));
                match back {
                    Ok(reservation) => self.reservation = Some(reservation),
                    Err(error) => tracing::error!(interface, %error, "a failed edit could not be undone"),
                }
                return Err(error);
            }
        }
        self._guard = guard;
        if let Some(loopback) = &mut self.loopback {
            let changed = attach(loopback.ifindex, "lo", &share).and_then(|guard| {
                loopback.monitor.set_share(&share).map_err(refused)?;
                loopback._guard = guard;
                Ok(())
            });
            if let Err(error) = changed {
                tracing::warn!(%error, "processes of this host do not reach what is published anew");
            }
        }
        self.share = share;
        Ok(())
    }
}
