//! The table of endpoints: which one takes a packet, and where a port sends to.

mod common;

use std::net::IpAddr;

use common::*;
use trunkline_packet::{Batch, Pool, PortId, Tpid, VlanId, VlanTag};
use trunkline_tunnel::{
    DropReason, Endpoint, GreKey, InnerVlan, Kind, NetId, Nets, Outer, TableError, Tunnels, TxState, decap,
    encap_datagrams,
};

#[test]
fn a_vlan_map_gives_each_vlan_a_network_and_back() {
    let (a, b) = hosts(false);
    let (v10, v20) = (VlanId::new(10).unwrap(), VlanId::new(20).unwrap());
    let net = |n| NetId::Vni(trunkline_tunnel::Vni::new(n).unwrap());
    let map = |local, remote| {
        let mut e = endpoint(5, local, remote);
        e.nets = Nets::Map(vec![(v20, net(200)), (v10, net(100)), (VlanId::NONE, net(1))]);
        Tunnels::new(vec![e]).unwrap()
    };
    let (from, to) = (map(a, b), map(b, a));
    let tunnel = from.of_port(PortId(15)).unwrap();
    let mut pool = Pool::new(4, 1);
    for (vlan, vni, back) in [(v10, 100u32, Some(10)), (v20, 200, Some(20)), (VlanId::NONE, 1, None)] {
        let mut p = Frame::SMALL.build(&mut pool);
        p.meta_mut().vlan = Some(VlanTag::new(Tpid::Customer, vlan, 0xe000));
        let mut out = Batch::new();
        let encap = tunnel.encaps(vlan).unwrap()[0];
        encap_datagrams(p, &encap, &TxState::default(), &mut pool, &mut out).unwrap();
        assert_eq!(out[0].head()[4..8], (vni << 8).to_be_bytes());
        let mut p = out.remove(0);
        decap(&mut p, &vxlan_from_a(0), &to).unwrap();
        assert_eq!(p.meta().vlan.and_then(VlanTag::vid).map(VlanId::get), back);
        assert_eq!(p.to_vec(), Frame::SMALL.build(&mut pool).to_vec());
    }
    assert_eq!(tunnel.encaps(VlanId::new(30).unwrap()).err(), Some(DropReason::UnmappedVlan));
}

#[test]
fn a_flooded_frame_goes_to_each_remote() {
    let mut e = Endpoint::new(PortId(1), Kind::Vxlan, NetId::Vni(vni()));
    e.remotes = (1..=3).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    let remotes = e.remotes.clone();
    let table = Tunnels::new(vec![e]).unwrap();
    let tunnel = table.of_port(PortId(1)).unwrap();
    let encaps: Vec<IpAddr> = tunnel.encaps(UNTAGGED).unwrap().iter().map(|e| e.remote).collect();
    assert_eq!(encaps, remotes);
    let learned = IpAddr::from([198, 51, 100, 1]);
    assert_eq!(tunnel.encap_to(UNTAGGED, learned).unwrap().remote, learned);
}

#[test]
fn the_most_precise_endpoint_wins_and_misses_say_what_is_wrong() {
    let (a, b) = hosts(false);
    let mut any = Endpoint::new(PortId(1), Kind::Vxlan, NetId::Vni(vni()));
    any.local = Some(b);
    let mut one = any.clone();
    (one.port, one.remotes) = (PortId(2), vec![a]);
    let mut keyless = Endpoint::new(PortId(3), Kind::Gre, NetId::None);
    keyless.remotes = vec![a];
    let mut zero = keyless.clone();
    (zero.port, zero.nets) = (PortId(4), Nets::One(NetId::Key(GreKey(0))));
    let mut nvgre = Endpoint::new(PortId(5), Kind::Nvgre, NetId::Vni(vni()));
    nvgre.remotes = vec![a];
    let table = Tunnels::new(vec![any, one, keyless, zero, nvgre]).unwrap();
    let from = |src: IpAddr| Outer { src, ..vxlan_from_a(0) };
    let port = |src| table.udp(Kind::Vxlan, &from(src), vni()).map(|m| m.tunnel.endpoint().port.0);
    let other = IpAddr::from([203, 0, 113, 1]);
    assert_eq!((port(a), port(other), port(b)), (Ok(2), Ok(1), Err(DropReason::TunnelLoop)));
    let wrong = trunkline_tunnel::Vni::new(1).unwrap();
    assert_eq!(table.udp(Kind::Vxlan, &from(a), wrong).err(), Some(DropReason::WrongVni));
    assert_eq!(table.udp(Kind::Geneve, &from(a), vni()).err(), Some(DropReason::UnknownRemote));
    let gre =
        |src, key: Option<u32>| table.gre(&from(src), key.map(GreKey)).map(|m| m.tunnel.endpoint().port.0);
    assert_eq!((gre(a, None), gre(a, Some(0)), gre(a, Some(VNI << 8 | 9))), (Ok(3), Ok(4), Ok(5)));
    assert_eq!(gre(a, Some(1)), Err(DropReason::WrongKey));
    assert_eq!(gre(other, None), Err(DropReason::UnknownRemote));
}

#[test]
fn endpoints_that_make_no_sense_are_refused() {
    let (a, b) = hosts(false);
    let good = || endpoint(5, a, b);
    assert!(Tunnels::new(vec![good()]).is_ok());
    let changes: [fn(&mut Endpoint); 10] = [
        |e| (e.kind, e.dst_port, e.inner_vlan) = (Kind::Nvgre, 0, InnerVlan::Keep),
        |e| e.nets = Nets::One(NetId::None),
        |e| e.nets = Nets::Map(Vec::new()),
        |e| e.nets = Nets::Map(vec![(VlanId::MAX, NetId::Vni(vni())); 2]),
        |e| e.remotes = vec![hosts(true).1],
        |e| e.remotes = vec![hosts(false).0],
        |e| e.remotes = vec![IpAddr::from([0; 4])],
        |e| e.group = Some(IpAddr::from([10, 0, 0, 1])),
        |e| e.dst_port = 0,
        |e| e.gre_checksum = true,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut e = good();
        change(&mut e);
        assert!(matches!(Tunnels::new(vec![e]), Err(TableError::Invalid { .. })), "{index}");
    }
    let mut many = endpoint(3, a, b);
    many.remotes.push(IpAddr::from([192, 0, 2, 3]));
    assert!(Tunnels::new(vec![many]).is_err(), "sequence numbers of two senders cannot be told apart");
    let second = Endpoint { port: PortId(99), ..good() };
    assert_eq!(
        Tunnels::new(vec![good(), second]).err(),
        Some(TableError::Conflict { first: PortId(15), second: PortId(99) })
    );
    let geneve = Endpoint { dst_port: 4789, ..endpoint(6, a, b) };
    assert_eq!(Tunnels::new(vec![good(), geneve]).err(), Some(TableError::SharedPort(4789)));
}

/// Two tunnels of one host may face each other, when both name the other's address; only a wildcard must not
/// take the host's own packets.
#[test]
fn our_own_address_is_a_loop_only_for_endpoints_that_take_anyone() {
    let (a, b) = hosts(false);
    let facing = Tunnels::new(vec![
        Endpoint { port: PortId(1), ..endpoint(5, a, b) },
        Endpoint { port: PortId(2), ..endpoint(5, b, a) },
    ])
    .unwrap();
    let found = facing.udp(Kind::Vxlan, &vxlan_from_a(0), vni());
    assert_eq!(found.map(|m| m.tunnel.endpoint().port).ok(), Some(PortId(2)));
}
