//! Which tunnel a packet belongs to, and which remotes a port sends to.
//!
//! A [`Tunnels`] table is built whole from the endpoints and never changed; a new one replaces it. What
//! changes as packets flow (sequence numbers) is in each endpoint's shared [`EndpointState`], which the next
//! table takes over, so an endpoint that stays does not notice that others come and go.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use trunkline_packet::{PortId, VlanId};

use crate::config::{Encap, InnerVlan, RxSequence, Tos, Ttl, TunnelHeader, TxState};
use crate::exact::{Exact, Key, Pair};
use crate::{DropReason, GreKey, Kind, NetId, Outer, Vni, outer};

/// The virtual networks behind one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nets {
    /// One; the port's VLAN options say what VLANs it carries.
    One(NetId),
    /// Several, each a VLAN of the bridge; [`VlanId::NONE`] stands for untagged frames. Inner tags are always
    /// stripped.
    Map(Vec<(VlanId, NetId)>),
}

/// What changes as an endpoint sends and receives.
#[derive(Debug, Default)]
pub struct EndpointState {
    /// Sending.
    pub tx: TxState,
    /// Receiving.
    pub rx: RxSequence,
}

/// One end of a tunnel: a port of a bridge.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The port.
    pub port: PortId,
    /// Which encapsulation.
    pub kind: Kind,
    /// Our address; any of the host's when `None`.
    pub local: Option<IpAddr>,
    /// A multicast group on which packets come in too.
    pub group: Option<IpAddr>,
    /// The far ends; a flooded frame goes to each (head-end replication). Packets from others are refused,
    /// unless the list is empty: then any sender will do.
    pub remotes: Vec<IpAddr>,
    /// The virtual networks.
    pub nets: Nets,
    /// UDP port, ours and theirs; 0 for GRE.
    pub dst_port: u16,
    /// Outer traffic class.
    pub tos: Tos,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer "don't fragment".
    pub df: bool,
    /// Outer UDP checksum; the default of [`Encap::new`] when `None`.
    pub udp_checksum: Option<bool>,
    /// Take packets over IPv6 without an outer UDP checksum (RFC 6936 §5).
    pub zero_checksum_v6: bool,
    /// The inner tag.
    pub inner_vlan: InnerVlan,
    /// GRE: send checksums, and refuse packets without.
    pub gre_checksum: bool,
    /// GRE: send sequence numbers, and refuse packets without or out of sequence.
    pub gre_sequence: bool,
    /// Longest inner IP packet; larger TCP packets that come in are cut to it.
    pub inner_mtu: u16,
    /// Lower TCP's maximum segment size to the inner MTU, in both directions.
    pub mss_clamp: bool,
    /// Sequence numbers.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    /// An endpoint with the defaults.
    pub fn new(port: PortId, kind: Kind, net: NetId) -> Endpoint {
        Endpoint {
            port,
            kind,
            local: None,
            group: None,
            remotes: Vec::new(),
            nets: Nets::One(net),
            dst_port: kind.default_port().unwrap_or_default(),
            tos: Tos::Fixed(0),
            ttl: Ttl::Fixed(Ttl::DEFAULT),
            df: true,
            udp_checksum: None,
            zero_checksum_v6: false,
            inner_vlan: InnerVlan::default_for(kind),
            gre_checksum: false,
            gre_sequence: false,
            inner_mtu: 1450,
            mss_clamp: false,
            state: Arc::default(),
        }
    }

    fn header(&self, net: NetId) -> Option<TunnelHeader> {
        match (self.kind, net) {
            (Kind::Gre, NetId::None) => Some(TunnelHeader::gre(None, self.gre_checksum, self.gre_sequence)),
            (Kind::Gre, NetId::Key(key)) => {
                Some(TunnelHeader::gre(Some(key), self.gre_checksum, self.gre_sequence))
            }
            (Kind::Nvgre, NetId::Vni(vsid)) => Some(TunnelHeader::nvgre(vsid)),
            (Kind::Vxlan, NetId::Vni(vni)) => Some(TunnelHeader::vxlan(vni)),
            (Kind::Geneve, NetId::Vni(vni)) => TunnelHeader::geneve(vni, &[]),
            _ => None,
        }
    }

    fn encap(&self, header: TunnelHeader, remote: IpAddr) -> Encap {
        let default = Encap::new(header, remote);
        Encap {
            local: self.local,
            dst_port: self.dst_port,
            tos: self.tos,
            ttl: self.ttl,
            df: self.df,
            udp_checksum: self.udp_checksum.unwrap_or(default.udp_checksum),
            inner_vlan: self.inner_vlan(),
            mss_clamp: self.mss_clamp.then_some(self.inner_mtu),
            ..default
        }
    }

    /// What becomes of inner tags: a VLAN map leaves no room for them.
    fn inner_vlan(&self) -> InnerVlan {
        match self.nets {
            Nets::One(_) => self.inner_vlan,
            Nets::Map(_) => InnerVlan::Strip,
        }
    }

    fn nets(&self) -> Vec<(Option<VlanId>, NetId)> {
        match &self.nets {
            Nets::One(net) => vec![(None, *net)],
            Nets::Map(map) => map.iter().map(|&(vlan, net)| (Some(vlan), net)).collect(),
        }
    }

    fn check(&self) -> Result<(), TableError> {
        let refuse = |why| Err(TableError::Invalid { port: self.port, why });
        let addresses: Vec<IpAddr> =
            self.remotes.iter().copied().chain(self.local).chain(self.group).collect();
        let nets = self.nets();
        if nets.is_empty() || nets.iter().any(|&(_, net)| self.header(net).is_none()) {
            return refuse("VXLAN, Geneve and NVGRE need a VNI, GRE a key or none");
        }
        let distinct: HashSet<_> = nets.iter().map(|&(vlan, _)| vlan).collect();
        if distinct.len() < nets.len() {
            return refuse("a VLAN is twice in the VLAN map");
        }
        if addresses.iter().any(|a| a.is_ipv4() != addresses[0].is_ipv4()) {
            return refuse("local and remote addresses are of two families");
        }
        if addresses.iter().any(IpAddr::is_unspecified) || self.local.is_some_and(|a| a.is_multicast()) {
            return refuse("an address is no host's");
        }
        if self.local.is_some_and(|local| self.remotes.contains(&local)) {
            return refuse("the remote is our own address");
        }
        if self.group.is_some_and(|group| !group.is_multicast()) {
            return refuse("the group is no multicast address");
        }
        if self.kind.is_udp() != (self.dst_port != 0) {
            return refuse("VXLAN and Geneve need a UDP port, GRE has none");
        }
        if self.gre_sequence && (self.remotes.len() != 1 || nets.len() != 1) {
            return refuse("sequence numbers need exactly one remote and one key");
        }
        if self.kind == Kind::Nvgre && self.inner_vlan == InnerVlan::Keep {
            return refuse("NVGRE carries no inner tags (RFC 7637 §3.3)");
        }
        if self.kind != Kind::Gre && (self.gre_checksum || self.gre_sequence) {
            return refuse("only GRE has a checksum and sequence numbers of its own");
        }
        Ok(())
    }
}

/// Why a table cannot be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableError {
    /// An endpoint makes no sense by itself.
    Invalid {
        /// Whose.
        port: PortId,
        /// Why, for users.
        why: &'static str,
    },
    /// Two endpoints would take the same packets.
    Conflict {
        /// The one.
        first: PortId,
        /// The other.
        second: PortId,
    },
    /// One UDP port for both VXLAN and Geneve.
    SharedPort(u16),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Invalid { why, .. } => f.write_str(why),
            TableError::Conflict { .. } => {
                f.write_str("another tunnel has the same type, addresses and key or VNI")
            }
            TableError::SharedPort(port) => write!(f, "UDP port {port} is in use for another tunnel type"),
        }
    }
}

impl std::error::Error for TableError {}

/// An endpoint made ready for packets.
#[derive(Debug)]
pub struct Tunnel {
    endpoint: Endpoint,
    /// By VLAN, ordered; one entry without a VLAN when there is no map.
    sends: Vec<Sends>,
    inner_vlan: InnerVlan,
}

#[derive(Debug)]
struct Sends {
    vlan: Option<VlanId>,
    header: TunnelHeader,
    encaps: Vec<Encap>,
}

impl Tunnel {
    /// The endpoint.
    #[inline]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    #[inline]
    pub(crate) fn inner_vlan(&self) -> InnerVlan {
        self.inner_vlan
    }

    #[inline]
    fn sends(&self, vlan: VlanId) -> Result<&Sends, DropReason> {
        match self.sends.as_slice() {
            [only] if only.vlan.is_none() => Ok(only),
            map => map
                .binary_search_by_key(&Some(vlan), |s| s.vlan)
                .map(|at| &map[at])
                .map_err(|_| DropReason::UnmappedVlan),
        }
    }

    /// How to send a frame of this VLAN to each remote.
    ///
    /// # Errors
    /// [`DropReason::UnmappedVlan`].
    #[inline]
    pub fn encaps(&self, vlan: VlanId) -> Result<&[Encap], DropReason> {
        Ok(&self.sends(vlan)?.encaps)
    }

    /// How to send a frame of this VLAN to one remote that need not be on the list, such as one learned.
    ///
    /// # Errors
    /// [`DropReason::UnmappedVlan`].
    #[inline]
    pub fn encap_to(&self, vlan: VlanId, remote: IpAddr) -> Result<Encap, DropReason> {
        Ok(self.endpoint.encap(self.sends(vlan)?.header, remote))
    }
}

/// Which of local and remote address an endpoint names, the most precise first.
const SHAPES: [(bool, bool); 4] = [(true, true), (false, true), (true, false), (false, false)];

#[inline]
const fn shape(local: bool, remote: bool) -> usize {
    local as usize | (remote as usize) << 1
}

/// A match: the tunnel and the VLAN its map gives the packet.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The tunnel.
    pub tunnel: &'a Tunnel,
    /// The bridge's VLAN; `None` without a map.
    pub vlan: Option<VlanId>,
}

/// All tunnels of one underlay. Immutable.
#[derive(Debug, Default)]
pub struct Tunnels {
    tunnels: Vec<Tunnel>,
    exact: Exact,
    pairs: HashSet<Pair, RandomState>,
    /// Which of [`SHAPES`] there are, by [`shape`].
    shapes: [bool; 4],
    locals: HashSet<IpAddr, RandomState>,
    udp_ports: Vec<(u16, Kind)>,
    gre: bool,
    zero_checksum_v6: bool,
}

impl Tunnels {
    /// Builds the table.
    ///
    /// # Errors
    /// [`TableError`]: nothing is built then.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Tunnels, TableError> {
        let mut table = Tunnels::default();
        for endpoint in endpoints {
            endpoint.check()?;
            table.add(endpoint)?;
        }
        Ok(table)
    }

    fn add(&mut self, endpoint: Endpoint) -> Result<(), TableError> {
        let port = endpoint.dst_port;
        if endpoint.kind.is_udp() {
            match self.udp_ports.iter().find(|(p, _)| *p == port) {
                Some((_, kind)) if *kind != endpoint.kind => return Err(TableError::SharedPort(port)),
                Some(_) => {}
                None => self.udp_ports.push((port, endpoint.kind)),
            }
        }
        let remotes: Vec<Option<IpAddr>> = match endpoint.remotes.as_slice() {
            [] => vec![None],
            // A group is sent to; what comes in on it is from anyone.
            list => list.iter().map(|&a| Some(a).filter(|a| !a.is_multicast())).collect(),
        };
        let nets = endpoint.nets();
        let mut locals = vec![endpoint.local];
        locals.extend(endpoint.group.map(Some));
        for (&local, &remote) in locals.iter().flat_map(|l| remotes.iter().map(move |r| (l, r))) {
            let pair = Pair { kind: endpoint.kind, port, local, remote };
            self.pairs.insert(pair);
            self.shapes[shape(local.is_some(), remote.is_some())] = true;
            for &(vlan, net) in &nets {
                if let Some(other) = self.exact.insert(&pair, net, (self.tunnels.len(), vlan)) {
                    let first = self.tunnels.get(other).map_or(endpoint.port, |t| t.endpoint.port);
                    return Err(TableError::Conflict { first, second: endpoint.port });
                }
            }
        }
        self.locals.extend(endpoint.local);
        self.gre |= !endpoint.kind.is_udp();
        self.zero_checksum_v6 |= endpoint.zero_checksum_v6;
        let mut sends: Vec<Sends> = nets
            .iter()
            .filter_map(|&(vlan, net)| {
                let header = endpoint.header(net)?;
                let encaps = endpoint.remotes.iter().map(|&r| endpoint.encap(header, r)).collect();
                Some(Sends { vlan, header, encaps })
            })
            .collect();
        sends.sort_by_key(|s| s.vlan);
        let inner_vlan = endpoint.inner_vlan();
        self.tunnels.push(Tunnel { endpoint, sends, inner_vlan });
        Ok(())
    }

    /// The tunnel behind a port. For the control plane: it searches.
    pub fn of_port(&self, port: PortId) -> Option<&Tunnel> {
        self.tunnels.iter().find(|t| t.endpoint.port == port)
    }

    /// All tunnels.
    pub fn iter(&self) -> std::slice::Iter<'_, Tunnel> {
        self.tunnels.iter()
    }

    /// What a UDP destination port carries.
    #[inline]
    pub fn kind_of_port(&self, port: u16) -> Option<Kind> {
        self.udp_ports.iter().find(|(p, _)| *p == port).map(|&(_, kind)| kind)
    }

    /// Whether there is any GRE or NVGRE.
    #[inline]
    pub fn has_gre(&self) -> bool {
        self.gre
    }

    /// Whether any endpoint takes packets over IPv6 without an outer UDP checksum.
    #[inline]
    pub fn zero_checksum_v6(&self) -> bool {
        self.zero_checksum_v6
    }

    /// Whether packets of this IP protocol from `src` to `dst` may be a tunnel's: all that can be said of a
    /// fragment.
    pub fn may_carry(&self, src: IpAddr, dst: IpAddr, proto: u8) -> bool {
        self.pairs.iter().any(|pair| {
            outer::protocol(pair.kind) == proto
                && pair.local.is_none_or(|local| local == dst)
                && pair.remote.is_none_or(|remote| remote == src)
        })
    }

    /// The tunnel of a VXLAN or Geneve packet.
    ///
    /// # Errors
    /// [`DropReason::UnknownRemote`], [`DropReason::WrongVni`], [`DropReason::TunnelLoop`].
    #[inline]
    pub fn udp(&self, kind: Kind, outer: &Outer, vni: Vni) -> Result<Match<'_>, DropReason> {
        self.find(kind, outer, NetId::Vni(vni))
            .unwrap_or_else(|| Err(self.missed(&[kind], outer, DropReason::WrongVni)))
    }

    /// The tunnel of a GRE packet: that of its key, or of its VSID if the key is one.
    ///
    /// # Errors
    /// [`DropReason::UnknownRemote`], [`DropReason::WrongKey`], [`DropReason::TunnelLoop`].
    #[inline]
    pub fn gre(&self, outer: &Outer, key: Option<GreKey>) -> Result<Match<'_>, DropReason> {
        self.find(Kind::Gre, outer, key.map_or(NetId::None, NetId::Key))
            .or_else(|| self.find(Kind::Nvgre, outer, NetId::Vni(key?.vsid())))
            .unwrap_or_else(|| Err(self.missed(&[Kind::Gre, Kind::Nvgre], outer, DropReason::WrongKey)))
    }

    /// The most precise match: both addresses, then any local, then any remote, then any of both.
    #[inline]
    fn find(&self, kind: Kind, outer: &Outer, net: NetId) -> Option<Result<Match<'_>, DropReason>> {
        let port = if kind.is_udp() { outer.dst_port } else { 0 };
        let pair = Pair { kind, port, local: Some(outer.dst), remote: Some(outer.src) };
        let key = Key::new(&pair, net);
        for (local, remote) in SHAPES {
            if self.shapes[shape(local, remote)]
                && let Some((index, vlan)) = self.exact.get(&key.naming(local, remote))
            {
                if outer.src == outer.dst || (!remote && self.locals.contains(&outer.src)) {
                    return Some(Err(DropReason::TunnelLoop));
                }
                return Some(Ok(Match { tunnel: self.tunnels.get(index)?, vlan }));
            }
        }
        None
    }

    fn pairs(&self, kind: Kind, outer: &Outer) -> impl Iterator<Item = Pair> + use<> {
        let (src, dst, port) = (outer.src, outer.dst, if kind.is_udp() { outer.dst_port } else { 0 });
        SHAPES.into_iter().map(move |(local, remote)| Pair {
            kind,
            port,
            local: local.then_some(dst),
            remote: remote.then_some(src),
        })
    }

    fn missed(&self, kinds: &[Kind], outer: &Outer, wrong: DropReason) -> DropReason {
        let known = kinds.iter().any(|&kind| self.pairs(kind, outer).any(|pair| self.pairs.contains(&pair)));
        match known {
            true => wrong,
            false if outer.src == outer.dst || self.locals.contains(&outer.src) => DropReason::TunnelLoop,
            false => DropReason::UnknownRemote,
        }
    }
}
