//! A full mesh of hosts: each has a tunnel to every other, one endpoint for each peer, all of them in one
//! split-horizon group, so that a frame from one peer never goes to another and there is no loop without a
//! spanning tree. Which peers there are is the control plane's to know.

/// Most peers of one mesh: each is a port, and each flooded frame is sent to each.
pub const MAX_PEERS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use trunkline_packet::PortId;

    use crate::{DropReason, Endpoint, EndpointState, GreKey, Kind, NetId, Outer, Tunnels};

    fn host(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// The endpoints of one host, a port each.
    fn mesh(local: u8, peers: impl IntoIterator<Item = u8>) -> Vec<Endpoint> {
        let endpoint = |n: u8| {
            let mut e = Endpoint::new(PortId(n.into()), Kind::Gre, NetId::Key(GreKey(7)));
            (e.local, e.remotes, e.gre_sequence) = (Some(host(local)), vec![host(n)], true);
            e
        };
        peers.into_iter().map(endpoint).collect()
    }

    fn from(src: u8, dst: u8) -> Outer {
        Outer { src: host(src), dst: host(dst), src_port: 0, dst_port: 0, tos: 0, ttl: 64, proto: 47 }
    }

    #[test]
    fn every_pair_has_exactly_one_tunnel() {
        for local in 1..=6 {
            let peers = || (1..=6).filter(move |&n| n != local);
            let tunnels = Tunnels::new(mesh(local, peers())).unwrap();
            assert_eq!(tunnels.iter().count(), 5);
            for peer in peers() {
                let found = tunnels.gre(&from(peer, local), Some(GreKey(7))).unwrap();
                assert_eq!(found.tunnel.endpoint().port, PortId(peer.into()));
                assert_eq!(found.tunnel.endpoint().remotes, [host(peer)]);
            }
            assert_eq!(tunnels.gre(&from(9, local), Some(GreKey(7))).err(), Some(DropReason::UnknownRemote));
        }
    }

    #[test]
    fn a_peer_that_comes_or_goes_disturbs_no_other() {
        let mut endpoints = mesh(1, [2, 3]);
        let before = Tunnels::new(endpoints.clone()).unwrap();
        endpoints.remove(0);
        endpoints.extend(mesh(1, [4]));
        let after = Tunnels::new(endpoints).unwrap();
        let of = |tunnels: &Tunnels, n: u16| -> Option<Arc<EndpointState>> {
            tunnels.of_port(PortId(n)).map(|t| t.endpoint().state.clone())
        };
        assert!(Arc::ptr_eq(&of(&before, 3).unwrap(), &of(&after, 3).unwrap()));
        assert!(of(&after, 2).is_none() && of(&after, 4).is_some());
    }
}
