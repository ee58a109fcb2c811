//! The way out: frames queued for a tunnel port become datagrams of its underlay.
//!
//! In order: the inner MTU (a too-big error goes back where the packet came from), the remote or remotes,
//! encapsulation (TCP's segment size with it), one `sendmmsg` for all of the batch. A superframe is cut once, here; its
//! datagrams are one `sendmsg` with UDP_SEGMENT. Nothing is coalesced before, since it would be cut again.
//!
//! Over an uplink whole outer packets are made instead, superframes stay whole, and the router does the rest.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use trunkline_packet::{BATCH, Batch, DropReason, MacAddr, Packet, Pool, PortId, VlanId, segment};
use trunkline_ports::SendStats;
use trunkline_ports::underlay::Datagrams;
use trunkline_router::Iface;
use trunkline_tunnel::bfd::frame::Addresses;
use trunkline_tunnel::mtu::icmp::{TokenBucket, TooBig, too_big};
use trunkline_tunnel::{Encap, Nets, OuterPath, TxState, UdpRuns, encap_datagrams, encap_frame, fragment};

use super::ingress::is_to;
use super::remotes::Remotes;
use super::view::{Carrier, TunnelView};
use crate::counters::Shard;
use crate::snapshot::{PortView, Snapshot};

/// Datagrams after which those in hand are sent, so that they are still in the cache.
const ENOUGH: usize = 512;

/// Too-big errors a second, and at once, for the packets of one port on one worker.
const ERRORS: (u32, u32) = (100, 50);

/// A too-big error.
pub(crate) struct Reply {
    pub(crate) packet: Packet,
    /// The tunnel port it is about.
    pub(crate) by: PortId,
    /// The port of the one who is to get it.
    pub(crate) to: PortId,
}

/// What a worker needs to encapsulate; empty between batches.
pub(crate) struct Scratch {
    /// Tunnel header and inner frame, in the order of `sends`; over an uplink, whole frames.
    pub(crate) datagrams: Batch,
    /// A packet that is fragmented, over an uplink.
    whole: Batch,
    /// The runs of those from `base` on, all to one remote.
    runs: UdpRuns,
    base: usize,
    sends: Vec<Datagrams>,
    /// How many inner packets that is.
    packets: u64,
    /// Over an uplink, how many frames and bytes.
    frames: u64,
    bytes: u64,
    /// Too-big errors that were made.
    pub(crate) replies: Vec<Reply>,
    /// By the index of the port that is to get the errors.
    limits: Vec<TokenBucket>,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch {
            datagrams: Batch::with_capacity(2 * ENOUGH),
            whole: Batch::with_capacity(BATCH),
            runs: UdpRuns::new(1),
            base: 0,
            sends: Vec::with_capacity(ENOUGH),
            packets: 0,
            frames: 0,
            bytes: 0,
            replies: Vec::with_capacity(BATCH),
            limits: Vec::new(),
        }
    }

    /// Makes room for this many ports.
    pub(crate) fn resize(&mut self, ports: usize) {
        if self.limits.len() < ports {
            let (per_second, burst) = ERRORS;
            self.limits.resize(ports, TokenBucket::new(Instant::now(), per_second, burst));
        }
    }

    /// Forgets what is in hand.
    pub(crate) fn clear(&mut self) {
        self.sent();
        self.datagrams.clear();
        self.whole.clear();
        self.replies.clear();
    }

    fn sent(&mut self) {
        self.runs.clear();
        self.base = 0;
        self.sends.clear();
        (self.packets, self.frames, self.bytes) = (0, 0, 0);
    }
}

/// Sends one batch by one tunnel port.
pub(crate) struct Encapsulate<'a> {
    pub(crate) view: &'a TunnelView,
    pub(crate) shard: &'a Shard,
    /// The uplink, where that is the carrier and it is there.
    pub(crate) uplink: Option<&'a Iface>,
    /// Seconds on the engine's clock.
    pub(crate) now: u32,
    /// Seconds that learned addresses are good for.
    pub(crate) ageing: u32,
    pub(crate) pool: &'a mut Pool,
    pub(crate) scratch: &'a mut Scratch,
}

impl<'a> Encapsulate<'a> {
    /// `at`: which worker, and seconds on the engine's clock.
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        port: &'a PortView,
        view: &'a TunnelView,
        at: (usize, u32),
        pool: &'a mut Pool,
        scratch: &'a mut Scratch,
    ) -> Encapsulate<'a> {
        let ageing = snapshot.bridge_of(port).map_or(0, |bridge| bridge.config().ageing);
        let uplink = view.uplink().and_then(|uplink| snapshot.uplink(uplink));
        let (worker, now) = at;
        Encapsulate { view, shard: port.shards.of(worker), uplink, now, ageing, pool, scratch }
    }

    /// Sends the batch and leaves it empty.
    pub(crate) fn send_all(&mut self, batch: &mut Batch) {
        if let Carrier::Sockets { tx, .. } = &self.view.carrier {
            self.scratch.runs.start(tx.sockets());
        }
        for packet in batch.drain(..) {
            self.one(packet);
            if self.scratch.datagrams.len() >= ENOUGH {
                self.send();
            }
        }
        self.send();
    }

    /// Sends a packet of the tunnel itself to one remote.
    pub(crate) fn send_own(&mut self, packet: Packet, remote: IpAddr, df: bool) {
        self.shard.generated.add(1);
        match encap_to(self.view, remote) {
            Some(to) => self.encapsulate(packet, &Encap { df: to.df || df, ..to }, true),
            None => self.lose(packet, DropReason::TunnelNoRemote),
        }
        self.send();
    }

    fn lose(&mut self, packet: Packet, reason: DropReason) {
        self.shard.drop(reason, 1);
        self.pool.put(packet);
    }

    #[inline]
    fn one(&mut self, packet: Packet) {
        let view = self.view;
        let mtu = view.endpoint().inner_mtu;
        // Whether the outer packet may have "don't fragment".
        let mut whole = true;
        if segment::exceeds(&packet, usize::from(mtu)) {
            match self.too_big(&packet, mtu) {
                Ok(may_fragment) if may_fragment => whole = false,
                Ok(_) => return self.lose(packet, DropReason::Mtu),
                Err(reason) => return self.lose(packet, reason),
            }
        }
        // Or stations could end the tunnel's own session.
        if view.bfd && is_to(&packet, Addresses::OVS_MAC) {
            return self.lose(packet, DropReason::ReservedMac);
        }
        let tag = packet.meta().vlan.and_then(|tag| tag.vid()).unwrap_or(VlanId::NONE);
        let encaps = match view.tunnel().encaps(tag) {
            Ok(encaps) => encaps,
            Err(reason) => return self.lose(packet, reason),
        };
        match (&view.remotes, encaps, view.peers.as_slice()) {
            (None, [only], [peer]) if peer.is_alive() => self.encapsulate(packet, only, whole),
            (None, ..) => self.lose(packet, DropReason::TunnelPeerDown),
            (Some(remotes), ..) => self.choose(packet, remotes, tag, encaps, whole),
        }
    }

    /// Makes a too-big error, unless the outer packet may be fragmented: then true.
    #[cold]
    fn too_big(&mut self, packet: &Packet, mtu: u16) -> Result<bool, DropReason> {
        let to = packet.meta().in_port;
        let Some(limit) = self.scratch.limits.get_mut(to.index()) else { return Ok(false) };
        match too_big(packet, mtu, Instant::now(), limit, self.pool)? {
            TooBig::Fragment => Ok(true),
            TooBig::Silent => Ok(false),
            TooBig::Reply(packet) => {
                let by = self.view.endpoint().port;
                self.scratch.replies.push(Reply { packet, by, to });
                Ok(false)
            }
        }
    }

    /// Sends to the remote that the destination is behind, or to all of them.
    fn choose(&mut self, packet: Packet, remotes: &Arc<Remotes>, tag: VlanId, encaps: &[Encap], whole: bool) {
        let view = self.view;
        let mac = packet.head().first_chunk().copied().map_or(MacAddr::BROADCAST, MacAddr);
        let vlan = view.vlan(&packet);
        let known = if mac.is_group() { None } else { remotes.find(self.now, self.ageing, vlan, mac) };
        if let Some(number) = known {
            if let (Some(encap), Some(peer)) = (encaps.get(number), view.peers.get(number)) {
                return match peer.is_alive() {
                    true => self.encapsulate(packet, encap, whole),
                    false => self.lose(packet, DropReason::TunnelPeerDown),
                };
            }
            let learned = remotes.list().get(number).and_then(|to| view.tunnel().encap_to(tag, to).ok());
            if let Some(encap) = learned {
                return self.encapsulate(packet, &encap, whole);
            }
        }
        // Head-end replication. The last one gets the packet itself.
        let mut alive = encaps.iter().zip(&view.peers).filter(|(_, peer)| peer.is_alive());
        let Some((mut to, _)) = alive.next() else {
            let none =
                if encaps.is_empty() { DropReason::TunnelNoRemote } else { DropReason::TunnelPeerDown };
            return self.lose(packet, none);
        };
        for (next, _) in alive {
            self.shard.replicated.add(1);
            let copy = self.pool.duplicate(&packet);
            self.encapsulate(copy, to, whole);
            to = next;
        }
        self.encapsulate(packet, to, whole);
    }

    #[inline]
    fn encapsulate(&mut self, packet: Packet, to: &Encap, whole: bool) {
        if matches!(self.view.carrier, Carrier::Uplink(_)) {
            return self.encapsulate_frame(packet, to, whole);
        }
        let (view, s) = (self.view, &mut *self.scratch);
        let at = s.datagrams.len();
        let state = &view.endpoint().state.tx;
        let result = match whole {
            true => encap_datagrams(packet, to, state, self.pool, &mut s.datagrams),
            false => {
                let to = Encap { df: false, ..*to };
                encap_datagrams(packet, &to, state, self.pool, &mut s.datagrams)
            }
        };
        let info = match result {
            Ok(info) => info,
            Err(reason) => return self.shard.drop(reason, 1),
        };
        s.packets += 1;
        if to.header.kind().is_udp() {
            if s.sends.last().is_some_and(|last| last.dst != to.remote) || s.base == at {
                s.base = at;
                s.runs.clear();
            }
            let before = s.runs.runs().len();
            s.runs.extend(&s.datagrams[s.base..], &info);
            // The run that was the last one may have grown.
            let (new, base) = (&s.runs.runs()[before.saturating_sub(1)..], s.base);
            if before > 0 {
                s.sends.pop();
            }
            s.sends.extend(new.iter().map(|run| Datagrams {
                dst: to.remote,
                dst_port: to.dst_port,
                src: to.local,
                interface: view.interface(to.remote),
                tos: run.info.tos,
                ttl: run.info.ttl,
                df: run.info.df,
                socket: run.socket,
                first: base + run.first,
                count: run.count,
                size: run.size,
            }));
        } else {
            s.sends.extend((at..s.datagrams.len()).map(|first| Datagrams {
                dst: to.remote,
                dst_port: 0,
                src: to.local,
                interface: view.interface(to.remote),
                tos: info.tos,
                ttl: info.ttl,
                df: info.df,
                socket: 0,
                first,
                count: 1,
                size: s.datagrams[first].len(),
            }));
        }
    }

    /// Hands over what is encapsulated, and counts.
    fn send(&mut self) {
        let s = &mut *self.scratch;
        let Carrier::Sockets { tx, .. } = &self.view.carrier else {
            // The router sends them. They count as sent here.
            self.shard.tx_packets.add(s.packets);
            self.shard.tx_frames.add(s.frames);
            self.shard.tx_bytes.add(s.bytes);
            return s.sent();
        };
        if s.datagrams.is_empty() {
            return;
        }
        let mut stats = SendStats::default();
        tx.send(self.pool, &mut s.datagrams, &s.sends, &mut stats);
        self.shard.count_sent(s.packets, &stats);
        s.sent();
    }

    /// Makes an outer packet, which stays in the scratch for the router to send. Its link header has no
    /// addresses yet.
    #[inline]
    fn encapsulate_frame(&mut self, packet: Packet, to: &Encap, whole: bool) {
        let Some(uplink) = self.uplink else { return self.lose(packet, DropReason::EgressDown) };
        let own = || match to.remote {
            IpAddr::V4(_) => uplink.v4().map(IpAddr::V4),
            IpAddr::V6(_) => Some(IpAddr::V6(uplink.v6())),
        };
        let Some(src) = to.local.or_else(own) else {
            return self.lose(packet, DropReason::UnderlayUnreachable);
        };
        let nobody = MacAddr::default();
        let path = OuterPath { src_mac: nobody, dst_mac: nobody, vlan: None, src };
        let cut;
        let to = match whole {
            true => to,
            false => {
                cut = Encap { df: false, ..*to };
                &cut
            }
        };
        let state = &self.view.endpoint().state.tx;
        let s = &mut *self.scratch;
        let before = s.datagrams.len();
        let mut made = encap_frame(packet, to, &path, state, self.pool, &mut s.datagrams).map(|_| ());
        // A router on the path may not fragment, or say nothing: IPv6's never do. A probe goes whole.
        let path = self.view.fragment.filter(|_| !to.df).unwrap_or(uplink.mtu).min(uplink.mtu);
        if made.is_ok()
            && s.datagrams[before..].iter().any(|frame| segment::exceeds(frame, usize::from(path)))
        {
            made = s.refit(before, path, to.df, state, self.pool);
        }
        match made {
            Ok(()) => {
                let new = &s.datagrams[before..];
                s.packets += 1;
                s.frames += new.len() as u64;
                s.bytes += new.iter().map(|frame| frame.len() as u64).sum::<u64>();
            }
            Err(reason) => {
                s.datagrams.drain(before..).for_each(|frame| self.pool.put(frame));
                self.shard.drop(reason, 1);
            }
        }
    }
}

impl Scratch {
    /// Makes frames from `before` on fit, of which one at least exceeds what the path takes.
    #[cold]
    fn refit(
        &mut self,
        before: usize,
        path: u16,
        df: bool,
        state: &TxState,
        pool: &mut Pool,
    ) -> Result<(), DropReason> {
        // IPv6 has no such bit.
        if df {
            return Err(DropReason::Mtu);
        }
        let Scratch { whole, datagrams, .. } = self;
        whole.extend(datagrams.drain(before..));
        whole.drain(..).try_for_each(|frame| fragment(frame, path, state, pool, datagrams).map(|_| ()))
    }
}

/// How packets of the tunnel itself to a remote are made: in the network of untagged frames, or the first one.
pub(super) fn encap_to(tunnel: &TunnelView, remote: IpAddr) -> Option<Encap> {
    let vlan = match &tunnel.endpoint().nets {
        Nets::One(_) => VlanId::NONE,
        Nets::Map(map) => map.first()?.0,
    };
    tunnel.tunnel().encap_to(vlan, remote).ok()
}
