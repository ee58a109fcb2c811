//! Tunnels on a real kernel: paths, the MTU of containers, sockets that are taken.

use super::*;

/// A veth to nowhere that carries 192.0.2.1/24.
fn underlay() {
    session(None, |s| {
        s.add_veth("u0", "u1")?;
        for name in ["u0", "u1"] {
            s.set_up(&s.expect_link(name)?, true)?;
        }
        s.add_address(&s.expect_link("u0")?, "192.0.2.1/24".parse().unwrap())
    })
    .unwrap();
}

fn set_mtu(mtu: u32) {
    session(None, |s| s.set_mtu(&s.expect_link("u0")?, mtu)).unwrap();
}

fn vxlan(remote: &str) -> serde_json::Value {
    json!({ "bridge": "br0", "type": "vxlan", "vni": 7, "remotes": [remote] })
}

#[test]
fn the_mtu_of_containers_follows_the_path() {
    in_new_netns(|| {
        underlay();
        let (mut daemon, container, fixed) = (Daemons::new(), Container::new(), Container::new());
        let mtu = |of: &Container| of.link("eth0").unwrap().mtu;
        daemon.put("web", eth0(&container)).unwrap();
        daemon.put("fixed", with(eth0(&fixed), "mtu", json!(9000))).unwrap();
        daemon.put("vx", vxlan("192.0.2.2")).unwrap();
        assert_eq!((mtu(&container), mtu(&fixed)), (1450, 9000), "at once");
        let web = daemon.status("web");
        assert_eq!((web.mtu, web.mtu_why.as_str()), (1450, "what tunnel vx carries"));
        let vx = daemon.status("vx");
        assert_eq!(vx.mtu_why, "path MTU 1500 to 192.0.2.2 less 50 of headers");
        assert_eq!((vx.peers[0].path_mtu, vx.peers[0].local), (Some(1500), Some([192, 0, 2, 1].into())));

        set_mtu(1400);
        daemon.eventually("web", "it falls with the path", |web| web.mtu == 1350);
        assert_eq!((mtu(&container), mtu(&fixed)), (1350, 9000));
        set_mtu(1300);
        let vx = daemon.eventually("vx", "never below what IPv6 needs", |vx| vx.mtu == 1280);
        assert!(vx.mtu_why.contains("outer packets are fragmented"), "{vx:?}");
        daemon.eventually("web", "so is the container's", |web| web.mtu == 1280);
        assert_eq!(container.layer3("eth0"), ADDRESSES, "addresses and routes stay");

        // One given takes precedence, and gives way again to what the tunnel carries.
        daemon.put("web", with(eth0(&container), "mtu", json!(1290))).unwrap();
        assert_eq!(mtu(&container), 1290);
        daemon.put("web", eth0(&container)).unwrap();
        assert_eq!(mtu(&container), 1280);

        // The next daemon finds it so, and leaves it so.
        daemon.stop(false);
        daemon.start();
        daemon.eventually("web", "taken over", up);
        assert_eq!(mtu(&container), 1280);

        set_mtu(9000);
        daemon.eventually("web", "it rises, but not above the default", |web| web.mtu == 1500);
        assert_eq!(mtu(&container), 1500);
        set_mtu(1500);
        daemon.eventually("web", "and so on", |web| web.mtu == 1450);
        daemon.edit(|d| Ok(d.ports.remove("vx"))).unwrap();
        assert_eq!(mtu(&container), 1500, "without the tunnel it is as before");
    });
}

#[test]
fn a_remote_that_cannot_be_reached_is_waited_for() {
    in_new_netns(|| {
        underlay();
        let daemon = Daemons::new();
        daemon.put("vx", vxlan("198.51.100.9")).unwrap();
        let status = daemon.status("vx");
        assert_eq!((status.state, status.reason.as_str()), (PortState::Down, "no route to 198.51.100.9"));
        assert_eq!(status.peers[0].path_mtu, None);
        let address = |add: bool| {
            let net = "198.51.100.1/24".parse().unwrap();
            let link = |s: &crate::net::Session| s.expect_link("u0");
            session(
                None,
                |s| if add { s.add_address(&link(s)?, net) } else { s.del_address(&link(s)?, net) },
            )
            .unwrap();
        };
        address(true);
        daemon.eventually("vx", "it comes with the route", up);
        address(false);
        daemon.eventually("vx", "and goes with it", |status| !up(status));
        let foreign = with(vxlan("192.0.2.2"), "local", json!("203.0.113.1"));
        let refused = daemon.put("vx2", foreign).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "port vx2: local 203.0.113.1 is not an address of this host; use one of its addresses, or leave local out"
        );
        assert_eq!(daemon.runtime.block_on(daemon.controller().ports()).len(), 1);
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    in_new_netns(|| {
        underlay();
        let daemon = Daemons::new();
        let taken = std::net::UdpSocket::bind("0.0.0.0:4789").unwrap();
        let refused = daemon.put("vx", vxlan("192.0.2.2")).unwrap_err();
        let says = "port vx: UDP port 4789 over IPv4 is taken by another program; ";
        assert!(refused.to_string().starts_with(says), "{refused}");
        assert!(daemon.controller().desired().ports.is_empty());
        drop(taken);
        daemon.put("vx", vxlan("192.0.2.2")).unwrap();
        assert!(up(&daemon.status("vx")));
    });
}

#[test]
fn tunnels_swap_their_networks_and_names() {
    in_new_netns(|| {
        underlay();
        let daemon = Daemons::new();
        daemon.put("one", vxlan("192.0.2.2")).unwrap();
        daemon.put("two", with(vxlan("192.0.2.2"), "vni", json!(8))).unwrap();
        let swap = daemon.edit(|d| {
            let one = d.ports.remove("one").unwrap();
            let two = d.ports.remove("two").unwrap();
            d.ports.insert("one".into(), two);
            d.ports.insert("two".into(), one);
            Ok(())
        });
        swap.unwrap();
        // A change that fails leaves the tunnels as they were.
        let broken: PortSpec =
            serde_json::from_value(json!({"bridge": "br0", "type": "afpacket", "interface": "nothing"}))
                .unwrap();
        let failed = daemon.edit(move |d| {
            d.ports.remove("one");
            let two = d.ports.remove("two").unwrap();
            d.ports.insert("also".into(), two);
            d.ports.insert("zzz".into(), broken);
            Ok(())
        });
        failed.unwrap_err();
        for name in ["one", "two"] {
            assert!(up(&daemon.status(name)));
        }
        // They are in force: a third of the same kind is refused by the engine's table too.
        let error = daemon.put("three", vxlan("192.0.2.2")).unwrap_err();
        assert!(error.message.contains("has the same type, addresses and VNI or key"), "{error}");
    });
}

#[test]
fn a_tunnel_goes_with_its_uplink_and_comes_back() {
    in_new_netns(|| {
        session(None, |s| s.add_veth("u0", "u1")).unwrap();
        let daemon = Daemons::new();
        let uplink = json!({"type": "own", "interface": "u0", "addresses": ["192.0.2.1/24"]});
        let uplink: crate::model::l3::UplinkSpec = serde_json::from_value(uplink).unwrap();
        let tunnel: PortSpec =
            serde_json::from_value(with(vxlan("192.0.2.2"), "underlay", json!("up"))).unwrap();
        let both = daemon.edit(move |d| {
            d.uplinks.insert("up".into(), uplink);
            d.ports.insert("vx".into(), tunnel);
            Ok(())
        });
        both.unwrap();
        let vx = daemon.status("vx");
        assert!(up(&vx), "{vx:?}");
        assert_eq!((vx.mtu, vx.peers[0].local), (1450, Some([192, 0, 2, 1].into())));
        let refused = daemon.edit(|d| Ok(d.uplinks.remove("up"))).unwrap_err();
        assert!(refused.message.contains("port vx: there is no uplink up"), "{refused}");

        session(None, |s| s.delete(&s.expect_link("u0")?)).unwrap();
        let down = daemon.eventually("vx", "it goes with the uplink", |vx| !up(vx));
        assert_eq!(down.reason, "uplink up is down");
        session(None, |s| s.add_veth("u0", "u1")).unwrap();
        daemon.eventually("vx", "it comes with the uplink", up);
    });
}
