//! A full mesh of hosts: each has a tunnel to every other, all of them in one split-horizon group, so that a
//! frame from one peer never goes to another and there is no loop without a spanning tree.
//!
//! Each host is told the same list of peers, itself included or not. A peer keeps its port, its sequence
//! numbers and its liveness session as long as it is a member, whoever else comes and goes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use trunkline_packet::PortId;

use crate::bfd::{Config, Session, State};
use crate::table::{Endpoint, EndpointState};
use crate::{Kind, NetId};

/// Most peers of one mesh: each is a port, and each flooded frame is sent to each.
pub const MAX_PEERS: usize = 1024;

/// A member.
#[derive(Debug)]
pub struct Peer {
    /// Its port on the bridge.
    pub port: PortId,
    /// Liveness; `None` where the far ends do not speak BFD.
    pub session: Option<Session>,
    state: Arc<EndpointState>,
}

impl Peer {
    /// Whether flooded frames go there: a peer without liveness is taken to live.
    pub fn is_alive(&self) -> bool {
        self.session.as_ref().is_none_or(|s| s.state() == State::Up)
    }
}

/// Why a peer was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MeshError {
    /// It is a member already.
    Member(IpAddr),
    /// It is this host.
    Local(IpAddr),
    /// It is of another address family than this host.
    Family(IpAddr),
    /// It is no host's address.
    NoHost(IpAddr),
    /// [`MAX_PEERS`] is reached.
    Full,
}

impl fmt::Display for MeshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeshError::Member(addr) => write!(f, "{addr} is in the mesh already"),
            MeshError::Local(addr) => write!(f, "{addr} is this host"),
            MeshError::Family(addr) => write!(f, "{addr} and our own address are not both IPv4 or IPv6"),
            MeshError::NoHost(addr) => write!(f, "{addr} is no host's address"),
            MeshError::Full => write!(f, "a mesh has {MAX_PEERS} peers at most"),
        }
    }
}

impl std::error::Error for MeshError {}

/// This host's side of a mesh.
#[derive(Debug)]
pub struct Mesh {
    template: Endpoint,
    local: IpAddr,
    split_horizon_group: u16,
    liveness: bool,
    peers: BTreeMap<IpAddr, Peer>,
}

impl Mesh {
    /// A mesh without peers. All its ports belong in `split_horizon_group`; with `liveness` each peer gets a
    /// BFD session.
    pub fn new(kind: Kind, net: NetId, local: IpAddr, split_horizon_group: u16, liveness: bool) -> Mesh {
        let mut template = Endpoint::new(PortId::NONE, kind, net);
        template.local = Some(local);
        Mesh { template, local, split_horizon_group, liveness, peers: BTreeMap::new() }
    }

    /// What all its tunnels have in common. Port, remotes and state in it do not count.
    pub fn template_mut(&mut self) -> &mut Endpoint {
        &mut self.template
    }

    /// Frames from one of its ports never leave by another.
    pub const fn split_horizon_group(&self) -> u16 {
        self.split_horizon_group
    }

    /// The members, by address.
    pub fn peers(&self) -> impl Iterator<Item = (IpAddr, &Peer)> {
        self.peers.iter().map(|(&addr, peer)| (addr, peer))
    }

    /// A member, to feed its session.
    pub fn peer_mut(&mut self, addr: IpAddr) -> Option<&mut Peer> {
        self.peers.get_mut(&addr)
    }

    /// Adds a peer, which gets a port of its own.
    ///
    /// # Errors
    /// [`MeshError`]; nothing has changed then.
    pub fn add(&mut self, addr: IpAddr, port: PortId, now: Instant, seed: u64) -> Result<(), MeshError> {
        self.may_add(addr)?;
        let session = self.liveness.then(|| {
            // Unique on this host as the port is; 0 is not allowed.
            Session::new(Config::new(u32::from(port.0) + 1), now, seed)
        });
        self.peers.insert(addr, Peer { port, session, state: Arc::default() });
        Ok(())
    }

    fn may_add(&self, addr: IpAddr) -> Result<(), MeshError> {
        let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
        if addr == self.local {
            Err(MeshError::Local(addr))
        } else if addr.is_unspecified() || addr.is_multicast() || broadcast {
            Err(MeshError::NoHost(addr))
        } else if addr.is_ipv4() != self.local.is_ipv4() {
            Err(MeshError::Family(addr))
        } else if self.peers.contains_key(&addr) {
            Err(MeshError::Member(addr))
        } else if self.peers.len() >= MAX_PEERS {
            Err(MeshError::Full)
        } else {
            Ok(())
        }
    }

    /// Takes a peer out, and says which port is free now. The others do not notice.
    pub fn remove(&mut self, addr: IpAddr) -> Option<PortId> {
        self.peers.remove(&addr).map(|peer| peer.port)
    }

    /// What a list of all hosts asks for: which peers to add and which to remove. This host may be on it.
    pub fn difference(&self, hosts: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let mut add: Vec<IpAddr> =
            hosts.iter().copied().filter(|a| *a != self.local && !self.peers.contains_key(a)).collect();
        add.sort_unstable();
        add.dedup();
        (add, self.peers.keys().copied().filter(|a| !hosts.contains(a)).collect())
    }

    /// One endpoint for each peer, for [`crate::Tunnels::new`].
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.peers.iter().map(|(&addr, peer)| Endpoint {
            port: peer.port,
            remotes: vec![addr],
            state: Arc::clone(&peer.state),
            ..self.template.clone()
        })
    }

    /// When a session has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.session.as_ref()?.next_deadline()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DropReason, GreKey, Outer, Tunnels};
    use std::time::Duration;

    fn host(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn mesh(local: u8, peers: impl IntoIterator<Item = u8>) -> Mesh {
        let mut mesh = Mesh::new(Kind::Gre, NetId::Key(GreKey(7)), host(local), 1, true);
        mesh.template_mut().gre_sequence = true;
        for n in peers {
            mesh.add(host(n), PortId(n.into()), Instant::now(), n.into()).unwrap();
        }
        mesh
    }

    fn from(src: u8, dst: u8) -> Outer {
        Outer { src: host(src), dst: host(dst), src_port: 0, dst_port: 0, tos: 0, ttl: 64, proto: 47 }
    }

    #[test]
    fn every_pair_has_exactly_one_tunnel() {
        for local in 1..=6 {
            let mesh = mesh(local, (1..=6).filter(|&n| n != local));
            let tunnels = Tunnels::new(mesh.endpoints().collect()).unwrap();
            assert_eq!(tunnels.iter().count(), 5);
            for peer in (1..=6).filter(|&n| n != local) {
                let found = tunnels.gre(&from(peer, local), Some(GreKey(7))).unwrap();
                assert_eq!(found.tunnel.endpoint().port, PortId(peer.into()));
                assert_eq!(found.tunnel.endpoint().remotes, [host(peer)]);
            }
            assert_eq!(tunnels.gre(&from(9, local), Some(GreKey(7))).err(), Some(DropReason::UnknownRemote));
        }
    }

    #[test]
    fn a_peer_that_comes_or_goes_disturbs_no_other() {
        let mut mesh = mesh(1, [2, 3]);
        let before = Tunnels::new(mesh.endpoints().collect()).unwrap();
        let of = |tunnels: &Tunnels, n: u16| tunnels.of_port(PortId(n)).map(|t| t.endpoint().state.clone());
        let now = Instant::now() + Duration::from_secs(2);
        let mut deadlines = Vec::new();
        mesh.add(host(4), PortId(4), now, 1).unwrap();
        assert_eq!(mesh.remove(host(2)), Some(PortId(2)));
        deadlines.push(mesh.peer_mut(host(3)).and_then(|p| p.session.as_ref()?.next_deadline()));
        let after = Tunnels::new(mesh.endpoints().collect()).unwrap();
        assert!(Arc::ptr_eq(&of(&before, 3).unwrap(), &of(&after, 3).unwrap()));
        assert!(of(&after, 2).is_none() && of(&after, 4).is_some());
        assert!(deadlines[0].is_some_and(|at| at < now));
        assert_eq!(mesh.next_deadline(), deadlines[0]);
    }

    #[test]
    fn peers_that_make_no_sense_are_refused() {
        let mut mesh = mesh(1, [2]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for (addr, error) in [
            (host(1), MeshError::Local(host(1))),
            (host(2), MeshError::Member(host(2))),
            (v6, MeshError::Family(v6)),
            (IpAddr::from([224, 0, 0, 1]), MeshError::NoHost(IpAddr::from([224, 0, 0, 1]))),
            (IpAddr::from([0; 4]), MeshError::NoHost(IpAddr::from([0; 4]))),
        ] {
            assert_eq!(mesh.add(addr, PortId(9), Instant::now(), 0), Err(error));
        }
        assert_eq!(mesh.peers().count(), 1);
    }

    #[test]
    fn a_list_of_all_hosts_says_what_to_change() {
        let mesh = mesh(1, [2, 3]);
        assert_eq!(
            mesh.difference(&[host(1), host(3), host(5), host(4), host(5)]),
            (vec![host(4), host(5)], vec![host(2)])
        );
    }

    #[test]
    fn a_dead_peer_is_noticed() {
        let mut mesh = mesh(1, [2]);
        assert!(!mesh.peers().next().unwrap().1.is_alive(), "not before it was heard");
        let now = Instant::now();
        let mut far = Session::new(Config::new(99), now, 5);
        let near = mesh.peer_mut(host(2)).unwrap();
        let session = near.session.as_mut().unwrap();
        for ms in 0..3000 {
            let at = now + Duration::from_millis(ms);
            while let Some(p) = session.poll(at) {
                far.on_packet(at, 255, &p).unwrap();
            }
            while let Some(p) = far.poll(at) {
                session.on_packet(at, 255, &p).unwrap();
            }
        }
        assert!(near.is_alive());
        near.session.as_mut().unwrap().expire(now + Duration::from_secs(4)).unwrap();
        assert!(!near.is_alive());
    }
}
