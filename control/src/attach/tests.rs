//! Attachments as edits of the desired state; and as a whole on a world that is a fake.

use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::model::l3::Proto;
use crate::model::{BridgeSpec, LinkRoute};
use crate::validate::validate;

fn asked(container: &str, address: &str) -> Attach {
    let asked = json!({
        "owner": "cni", "container": container, "netns": format!("/run/netns/{container}"), "ifname": "eth0",
        "network": {"name": "net1", "gateways": ["10.77.0.1/24"], "masquerade": true},
        "addresses": [address], "default-routes": ["10.77.0.1"], "routes": ["10.9.0.0/16 via 10.77.0.254"],
        "labels": {"pod": "default/web"}
    });
    serde_json::from_value(asked).unwrap()
}

#[test]
fn what_an_attachment_makes_goes_without_a_trace() {
    let mut desired = Desired::default();
    let one = asked("one", "10.77.0.2/24");
    add(&mut desired, &one, true).unwrap();
    validate(&desired).unwrap();
    assert_eq!(
        (desired.bridges.len(), desired.gateways.len(), desired.uplinks.len(), desired.nat.len()),
        (1, 1, 1, 1)
    );
    let port = &desired.ports["cni-one-eth0"];
    let PortKind::Tap(tap) = &port.kind else { panic!("{port:?}") };
    assert_eq!(tap.link.mac.as_deref(), Some("02:42:0a:4d:00:02"));
    assert_eq!(tap.link.routes, ["10.9.0.0/16 via 10.77.0.254".parse::<LinkRoute>().unwrap()]);
    assert_eq!(port.labels["pod"], "default/web");
    let again = add(&mut desired.clone(), &one, true).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);

    // A second one, of another subnet: one gateway, two addresses, two masquerades.
    let mut two = asked("two", "10.78.0.2/24");
    two.network.gateways = vec!["10.78.0.1/24".parse().unwrap()];
    (two.default_routes, two.routes) = (Vec::new(), Vec::new());
    add(&mut desired, &two, true).unwrap();
    validate(&desired).unwrap();
    assert_eq!((desired.gateways["cni-net1"].addresses.len(), desired.nat.len()), (2, 2));
    let held = Held { proto: Proto::Tcp, host: None, port: 8080, to: 80 };
    let published = publish(&mut desired, &two.id(), &[held], &["192.0.2.1".parse().unwrap()]).unwrap();
    assert_eq!((published[0].nat.len(), desired.nat.len()), (2, 4));
    validate(&desired).unwrap();
    // All of it survives being written down, and is no part of what is exported.
    let text = toml::to_string(&desired).unwrap();
    let read = crate::files::parse_state("s", &format!("version = 1\n{text}"), 1).unwrap();
    assert_eq!(read, desired);
    assert_eq!(crate::files::export(&desired), "");

    for _ in 0..2 {
        delete(&mut desired, &one.id());
        assert_eq!((desired.bridges.len(), desired.ports.len()), (1, 1));
    }
    delete(&mut desired, &two.id());
    assert_eq!(desired, Desired::default());
}

#[test]
fn what_was_there_before_stays() {
    let mut desired = Desired::default();
    desired.bridges.insert("br0".into(), BridgeSpec::default());
    let before = desired.clone();
    let mut one = asked("one", "10.77.0.2/24");
    (one.network.bridge, one.network.vlan, one.network.icc) = (Some("br0".into()), Some(10), false);
    add(&mut desired, &one, false).unwrap();
    assert!(desired.gateways.contains_key("br0.10") && desired.uplinks.is_empty());
    assert!(desired.ports["cni-one-eth0"].isolated);
    delete(&mut desired, &one.id());
    assert_eq!(desired, before);

    // A bridge that two networks share goes with the last of them.
    let mut others: Vec<Attach> =
        (1..3).map(|n| asked(&format!("c{n}"), &format!("10.77.{n}.2/24"))).collect();
    for (n, other) in others.iter_mut().enumerate() {
        other.network = NetworkWish {
            name: format!("n{n}"),
            bridge: Some("br9".into()),
            vlan: Some(10 + n as u16),
            ..NetworkWish::default()
        };
        add(&mut desired, other, false).unwrap();
    }
    delete(&mut desired, &others[0].id());
    assert!(desired.bridges.contains_key("br9"));
    delete(&mut desired, &others[1].id());
    assert_eq!(desired, before);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let mut desired = Desired::default();
    add(&mut desired, &asked("one", "10.77.0.2/24"), true).unwrap();
    type Change = fn(&mut Attach);
    let cases: [(Change, &str); 9] = [
        (
            |a| a.network.bridge = Some("other".into()),
            "network net1 has containers with the bridge cni-net1, not other",
        ),
        (|a| a.network.vlan = Some(7), "network net1 has containers with the VLAN none, not 7"),
        (
            |a| a.network.uplink = Some("up9".into()),
            "network net1 has containers with the uplink containers, not up9",
        ),
        (|a| a.network.mesh = Some("m9".into()), "there is no mesh m9"),
        (|a| a.network.name = "a/b".into(), "'a/b' names no network"),
        (|a| a.container = String::new(), "'' names no container"),
        (|a| a.netns = "x".into(), "'x' is not the path of a network namespace"),
        (|a| a.owner = Owner::Cli, "owner cli: attachments are made by CNI and podman"),
        (
            |a| {
                a.network.gateways.clear();
                a.publish = vec![serde_json::from_value(json!({"proto":"tcp","port":80,"to":80})).unwrap()];
            },
            "it has no gateway",
        ),
    ];
    for (change, says) in cases {
        let mut asked = asked("two", "10.77.0.3/24");
        change(&mut asked);
        let error = check(&asked).and_then(|()| add(&mut desired.clone(), &asked, true)).unwrap_err();
        let line = error.to_string();
        assert!(line.contains(says) && !line.contains('\n'), "{line}");
    }
    // The place is another network's.
    let mut other = asked("two", "10.77.0.3/24");
    (other.network.name, other.network.bridge) = ("net2".into(), Some("cni-net1".into()));
    let error = add(&mut desired, &other, true).unwrap_err().to_string();
    assert!(error.starts_with("cni-net1 is that of network cni:net1 already"), "{error}");
}

#[test]
fn names_fit() {
    let long = "n".repeat(255);
    let key = network_key(Owner::Podman, &long);
    assert!(stem(&key).len() <= 40 && stem(&key) != stem(&format!("{key}x")));
    let mut desired = Desired::default();
    let mut one = asked(&"c".repeat(64), "10.77.0.2/24");
    one.ifname = "eth0@weird".into();
    let name = port_name(&desired, &one);
    assert_eq!(name, "cni-cccccccccccc-eth0-weird");
    one.ifname = "eth0".into();
    one.network.name = long;
    add(&mut desired, &one, true).unwrap();
    let mut two = one.clone();
    two.container.push('d');
    add(&mut desired, &two, true).unwrap();
    assert!(desired.ports.contains_key("cni-cccccccccccc-eth0-2"), "{:?}", desired.ports.keys());
}

#[tokio::test]
async fn an_attachment_is_made_as_a_whole_or_not_at_all() {
    let (controller, world) = crate::reconcile::fake::controller();
    let attachments = Attachments::new(controller.clone());
    let mut one = asked("one", "10.77.0.2/24");
    one.network.masquerade = false;
    world.fail_on("add cni-one-eth0");
    let error = attachments.attach(one.clone()).await.unwrap_err();
    assert!(error.to_string().contains("fails on purpose"), "{error}");
    assert_eq!(*controller.desired(), Desired::default());
    world.failing.lock().clear();

    // The host's port is taken: nothing is made. Freed, it is held for as long as the attachment is there.
    let busy = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    one.publish = vec![serde_json::from_value(json!({"proto": "tcp", "port": port, "to": 80})).unwrap()];
    let error = attachments.attach(one.clone()).await.unwrap_err();
    assert!(error.to_string().contains("port is already allocated"), "{error}");
    assert_eq!(*controller.desired(), Desired::default());
    drop(busy);
    let status = attachments.attach(one.clone()).await.unwrap();
    assert_eq!((status.id.as_str(), status.attachment.published.len()), ("cni:net1:one:eth0", 1));
    assert!(std::net::TcpListener::bind(("0.0.0.0", port)).is_err());
    // A daemon that comes after takes it again.
    let next = Attachments::new(controller.clone());
    attachments.stop();
    let mut free = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        free = free || std::net::TcpListener::bind(("0.0.0.0", port)).is_ok();
    }
    assert!(free);
    let running = tokio::spawn(next.clone().run());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(std::net::TcpListener::bind(("0.0.0.0", port)).is_err());
    running.abort();
    for _ in 0..2 {
        next.detach(&status.id).await.unwrap();
        assert_eq!(*controller.desired(), Desired::default());
    }
    assert_eq!(next.status(&status.id).await.unwrap_err().kind, ErrorKind::NotFound);
}
