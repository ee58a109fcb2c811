//! Interfaces taken over through AF_PACKET: checked, cut off from the host's stack, watched.

use std::io;
use std::os::fd::OwnedFd;

use trunkline_engine::PortIo;
use trunkline_packet::MacAddr;
use trunkline_ports::TxCaps;
use trunkline_ports::afpacket::{AfPacket, Monitor};
use trunkline_ports::guard::IngressDrop;

use crate::model::AfpacketSpec;
use crate::net::{explain, session};
use crate::{Error, Result};

/// An interface taken over.
pub(super) struct Adopted {
    monitor: Monitor,
    /// Keeps what arrives from the host's stack. `None`: forced without.
    guard: Option<IngressDrop>,
    interface: String,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    caps: TxCaps,
    /// It was down before.
    raised: bool,
}

impl Adopted {
    /// Takes over the interface of a port and brings it up. `kept`: the guard of the daemon before.
    pub(super) fn make(
        spec: &AfpacketSpec,
        offload: bool,
        kept: Option<OwnedFd>,
    ) -> Result<(Adopted, PortIo)> {
        Adopted::open(spec, |name| AfPacket::open(name, offload), kept)
    }

    /// The same for an uplink.
    pub(super) fn make_uplink(spec: &AfpacketSpec) -> Result<(Adopted, PortIo)> {
        Adopted::open(spec, |name| AfPacket::open_wire(name, true), None)
    }

    fn open(
        spec: &AfpacketSpec,
        socket: impl FnOnce(&str) -> io::Result<AfPacket>,
        kept: Option<OwnedFd>,
    ) -> Result<(Adopted, PortIo)> {
        let name = &spec.interface;
        let link = session(None, |s| {
            let link = s.expect_link(name)?;
            let addresses = s.addresses(&link)?;
            if let (false, Some(address)) = (spec.force, addresses.first()) {
                return Err(Error::conflict(format!("interface {name} has the address {address}"))
                    .hint("take its addresses away, or give --force: the host cannot use them any more"));
            }
            if let (false, Some(index)) = (spec.force, link.controller) {
                let owner = s.links()?.into_iter().find(|l| l.index == index);
                let owner = owner.map_or_else(|| format!("interface {index}"), |l| l.name);
                return Err(Error::conflict(format!("interface {name} belongs to {owner}"))
                    .hint(format!("ip link set {name} nomaster, or give --force")));
            }
            Ok(link)
        })?;
        let guard = match guard(link.index, kept) {
            Ok(guard) => Some(guard),
            Err(error) if spec.force => {
                tracing::warn!(interface = name, %error, "the host's stack still sees this interface");
                None
            }
            Err(error) => {
                return Err(explain(format!("cannot keep the host's stack off interface {name}"), &error)
                    .hint("--force goes on without"));
            }
        };
        let socket = socket(name).map_err(|e| explain("cannot open a packet socket", &e))?;
        let (monitor, caps, mtu) = (socket.monitor(), socket.caps(), socket.mtu());
        let (rx, tx) = socket.into_io();
        // Last, so that nothing here has to undo it.
        if !link.up {
            session(None, |s| s.set_up(&link, true))?;
        }
        let (interface, raised) = (name.clone(), !link.up);
        let adopted = Adopted { monitor, guard, interface, mac: link.mac, mtu, up: true, caps, raised };
        Ok((adopted, PortIo { rx, tx }))
    }

    /// Leaves the interface as it was found: the edit that took it over has failed.
    pub(super) fn put_back(&self) -> Result<()> {
        if !self.raised {
            return Ok(());
        }
        session(None, |s| s.set_up(&s.expect_link(&self.interface)?, false))
    }

    /// Looks at the interface; true when something changed.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn refresh(&mut self) -> Result<bool> {
        let gone = |_| Error::not_found(format!("interface {} is gone", self.interface));
        let link = self.monitor.refresh().map_err(gone)?;
        let changed = (self.mtu, self.up) != (link.mtu, link.up);
        (self.mtu, self.up) = (link.mtu, link.up);
        Ok(changed)
    }

    /// Why no frames pass, if so.
    pub(super) fn trouble(&self) -> Option<Error> {
        let down = || Error::failed(format!("interface {} is down", self.interface));
        (!self.up).then(down)
    }

    /// Descriptors for the keeper: the host's stack stays cut off while no daemon runs.
    pub(super) fn fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.guard.iter().map(IngressDrop::try_clone).collect()
    }

    /// Offloads in force.
    pub(super) fn offloads(&self) -> Vec<String> {
        let TxCaps { csum, tso, uso, .. } = self.caps;
        let all = [(csum, "csum"), (tso, "tso4"), (tso, "tso6"), (uso, "uso")];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect()
    }

    /// What the kernel dropped because we did not read fast enough.
    pub(super) fn ring_drops(&self) -> u64 {
        self.monitor.ring_drops()
    }
}

fn guard(ifindex: u32, kept: Option<OwnedFd>) -> std::io::Result<IngressDrop> {
    let kept = kept.and_then(|fd| IngressDrop::from_fd(fd).ok());
    match kept.filter(|g| matches!(g.ifindex(), Ok(Some(index)) if index == ifindex)) {
        Some(guard) => Ok(guard),
        None => IngressDrop::attach(ifindex),
    }
}
