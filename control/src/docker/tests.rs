//! What docker asks for, as edits of the desired state; and the protocol over a real socket, on a world that is
//! a fake.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::protocol::{CreateEndpoint, CreateNetwork};
use super::*;
use crate::endpoint::ports::Held;

use crate::model::l3::Proto;
use crate::model::{BridgeSpec, PortKind};
use crate::validate::validate;

const NET: &str = "0123456789abcdef0123456789abcdef";
const END: &str = "fedcba9876543210fedcba9876543210";

fn network(options: Value) -> CreateNetwork {
    let asked = json!({
        "NetworkID": NET,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.77.0.0/24", "Gateway": "10.77.0.1/24"}],
        "IPv6Data": null
    });
    serde_json::from_value(asked).unwrap()
}

fn endpoint(mac: &str) -> CreateEndpoint {
    let interface = json!({"Address": "10.77.0.2/24", "AddressIPv6": "", "MacAddress": mac});
    let asked = json!({"NetworkID": NET, "EndpointID": END, "Interface": interface, "Options": null});
    serde_json::from_value(asked).unwrap()
}

#[test]
fn what_docker_makes_goes_without_a_trace() {
    let mut desired = Desired::default();
    networks::create(&mut desired, &network(json!({})), true).unwrap();
    let once = desired.clone();
    networks::create(&mut desired, &network(json!({})), true).unwrap();
    assert_eq!(desired, once, "asked twice");
    assert_eq!(
        (desired.bridges.len(), desired.gateways.len(), desired.uplinks.len(), desired.nat.len()),
        (1, 1, 1, 1)
    );

    let answer = endpoints::create(&mut desired, &endpoint("")).unwrap();
    assert_eq!(answer.mac_address, "02:42:0a:4d:00:02");
    assert_eq!(endpoints::create(&mut desired, &endpoint("")).unwrap(), answer);
    let joined = endpoints::join(&mut desired, END, "/run/docker/netns/x", false).unwrap();
    assert_eq!(joined.gateway.unwrap().to_string(), "10.77.0.1");
    assert!(joined.interface_name.src_name.len() <= 15 && !joined.disable_gateway_service);
    let again = endpoints::join(&mut desired, END, "/run/docker/netns/x", true).unwrap();
    assert_ne!(again.interface_name.src_name, joined.interface_name.src_name);

    let held = |port, proto| Held { proto, host: None, port, to: 80 };
    let outside = ["192.0.2.10".parse().unwrap()];
    let all = [held(8080, Proto::Tcp), held(8080, Proto::Udp), held(8081, Proto::Tcp)];
    let published = endpoints::publish(&mut desired, END, &all, &outside).unwrap();
    assert!(published.iter().all(|p| p.nat.len() == 2 && p.link == p.port), "{published:?}");
    validate(&desired).unwrap();
    // Docker replaces them as a whole.
    endpoints::publish(&mut desired, END, &all[..1], &outside).unwrap();
    assert_eq!(desired.nat.len(), 3);

    for _ in 0..2 {
        endpoints::leave(&mut desired, END);
        assert_eq!(desired.nat.len(), 1);
    }
    for _ in 0..2 {
        endpoints::delete(&mut desired, END);
        assert!(desired.ports.is_empty());
    }
    for _ in 0..2 {
        networks::delete(&mut desired, NET).unwrap();
    }
    desired.docker = None;
    assert_eq!(desired, Desired::default());
}

#[test]
fn what_was_there_before_stays() {
    let mut desired = Desired::default();
    desired.bridges.insert("br0".into(), BridgeSpec::default());
    let before = desired.clone();
    networks::create(&mut desired, &network(json!({"bridge": "br0", "vlan": "10", "icc": "false"})), false)
        .unwrap();
    assert!(desired.gateways.contains_key("br0.10") && desired.uplinks.is_empty());
    endpoints::create(&mut desired, &endpoint("02:00:00:00:00:07")).unwrap();
    let port = desired.ports.values().next().unwrap();
    assert!(port.isolated && port.vlan == Some(10));
    assert!(
        matches!(&port.kind, PortKind::Tap(t) if t.handed_over && t.link.mac.as_deref() == Some("02:00:00:00:00:07"))
    );
    validate(&desired).unwrap();
    // The network goes with an endpoint that docker has forgotten.
    networks::delete(&mut desired, NET).unwrap();
    desired.docker = None;
    assert_eq!(desired, before);
}

async fn ask(path: &std::path::Path, method: &str, body: &str) -> (u16, String, Value) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!(
        "POST /{method} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        path.display(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_protocol_as_docker_speaks_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("plugins/trunkline.sock");
    let (controller, world) = crate::reconcile::fake::controller();
    let plugin = Plugin::new(controller.clone(), None);
    plugin.enable(Some(socket.display().to_string())).await.unwrap();
    let (status, head, answer) = ask(&socket, "Plugin.Activate", "").await;
    assert_eq!((status, &answer["Implements"][0]), (200, &json!("NetworkDriver")));
    assert!(head.contains(protocol::CONTENT_TYPE), "{head}");
    assert_eq!(ask(&socket, "NetworkDriver.AllocateNetwork", "{}").await.0, 404);
    assert_eq!(ask(&socket, "nothing/here", "{}").await.0, 404);

    let asked = json!({"NetworkID": NET, "Options": {"com.docker.network.internal": true},
        "IPv4Data": [{"Pool": "10.77.0.0/24", "Gateway": "10.77.0.1/24"}]});
    let made = ask(&socket, "NetworkDriver.CreateNetwork", &asked.to_string()).await.2;
    assert_eq!(made, json!({}));
    for (method, body, says) in [
        ("NetworkDriver.CreateNetwork", "{", "NetworkDriver.CreateNetwork: EOF"),
        ("NetworkDriver.CreateNetwork", "[]", "NetworkDriver.CreateNetwork: "),
        ("NetworkDriver.CreateEndpoint", r#"{"NetworkID":"x","EndpointID":"y"}"#, "network x is not known"),
        ("NetworkDriver.Join", r#"{"NetworkID":"x","EndpointID":"y"}"#, "endpoint y is not known"),
    ] {
        let (status, _, answer) = ask(&socket, method, body).await;
        let said = answer["Err"].as_str().unwrap_or_default();
        assert!(status == 200 && said.contains(says) && !said.contains('\n'), "{method} {body}: {answer}");
    }
    let refused = ask(&socket, "IpamDriver.RequestAddress", r#"{"PoolID":"x","Options":null}"#).await.2;
    assert!(refused["Error"].as_str().is_some_and(|e| e.contains("no address pool x")), "{refused}");

    // What the world refuses is undone, and docker is told.
    let asked =
        json!({"NetworkID": NET, "EndpointID": END, "Interface": {"Address": "10.77.0.2/24"}}).to_string();
    world.fail_on(&format!("add {}", endpoints::port_name(END)));
    let refused = ask(&socket, "NetworkDriver.CreateEndpoint", &asked).await.2;
    assert!(refused["Err"].as_str().is_some_and(|e| e.contains("fails on purpose")), "{refused}");
    assert!(controller.desired().docker.as_ref().unwrap().endpoints.is_empty());
    world.failing.lock().clear();
    let made = ask(&socket, "NetworkDriver.CreateEndpoint", &asked).await.2;
    assert_eq!(made, json!({"Interface": {"MacAddress": "02:42:0a:4d:00:02"}}));
    let asked = json!({"NetworkID": NET, "EndpointID": END, "SandboxKey": ""}).to_string();
    let joined = ask(&socket, "NetworkDriver.Join", &asked).await.2;
    assert_eq!(
        (&joined["DisableGatewayService"], &joined["Gateway"]),
        (&json!(true), &Value::Null),
        "{joined}"
    );
    for method in ["Leave", "Leave", "DeleteEndpoint", "DeleteEndpoint", "RevokeExternalConnectivity"] {
        assert_eq!(ask(&socket, &format!("NetworkDriver.{method}"), &asked).await.2, json!({}), "{method}");
    }
    plugin.stop();
    assert!(!socket.exists());
}

/// The order and the options of moby 25 to 29, by its source (daemon/libnetwork/drivers/remote): ports are asked for
/// when the endpoint becomes the container's gateway, again when that changes, and revoked when it is no more.
#[tokio::test]
async fn ports_as_newer_engines_ask_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("trunkline.sock");
    let (controller, _world) = crate::reconcile::fake::controller();
    let plugin = Plugin::new(controller.clone(), None);
    plugin.enable(Some(socket.display().to_string())).await.unwrap();
    let capabilities = ask(&socket, "NetworkDriver.GetCapabilities", "null").await.2;
    assert_eq!(
        (&capabilities["Scope"], &capabilities["ConnectivityScope"]),
        (&json!("local"), &json!("global"))
    );
    let ok = async |method: &str, asked: &Value| {
        let (status, _, answer) = ask(&socket, &format!("NetworkDriver.{method}"), &asked.to_string()).await;
        assert!(status == 200 && answer.get("Err").is_none(), "{method}: {answer}");
        answer
    };
    let pool = json!([{"AddressSpace": "LocalDefault", "Pool": "10.77.0.0/24", "Gateway": "10.77.0.1/24", "AuxAddresses": null}]);
    let options = json!({"com.docker.network.enable_ipv4": true, "com.docker.network.enable_ipv6": false,
        "com.docker.network.generic": {}});
    ok("CreateNetwork", &json!({"NetworkID": NET, "Options": options, "IPv4Data": pool, "IPv6Data": []}))
        .await;

    let exposed = json!([{"Proto": 6, "Port": 80}]);
    let ports = json!([{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 0, "HostPortEnd": 0}]);
    let options =
        json!({"com.docker.network.endpoint.exposedports": exposed, "com.docker.network.portmap": ports});
    let with = |more: Value| {
        let mut asked = json!({"NetworkID": NET, "EndpointID": END});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    let published = || controller.desired().docker.as_ref().unwrap().endpoints[END].published.clone();
    let interface = json!({"Address": "10.77.0.2/24", "AddressIPv6": "", "MacAddress": "9a:33:4e:00:00:01"});
    let made = ok("CreateEndpoint", &with(json!({"Interface": interface, "Options": options}))).await;
    assert_eq!(made, json!({"Interface": {}}), "nothing was left open");
    ok("Join", &with(json!({"SandboxKey": "", "Options": options}))).await;
    assert!(published().is_empty(), "not before it is the gateway");
    ok("EndpointOperInfo", &with(json!({}))).await;

    ok("ProgramExternalConnectivity", &with(json!({"Options": options}))).await;
    let first = published();
    assert!(first.len() == 1 && first[0].port > 0 && first[0].to == 80, "{first:?}");
    // Another endpoint is the gateway of IPv6 now.
    let mut less = options.clone();
    less["com.docker.network.no_proxy_6to4"] = true.into();
    ok("ProgramExternalConnectivity", &with(json!({"Options": less}))).await;
    assert_eq!(published().len(), 1);
    for _ in 0..2 {
        ok("RevokeExternalConnectivity", &with(json!({}))).await;
        assert!(published().is_empty());
    }
    ok("ProgramExternalConnectivity", &with(json!({"Options": options}))).await;
    let port = published()[0].port;
    assert!(std::net::TcpListener::bind(("0.0.0.0", port)).is_err(), "the port is held");
    // Without ports: null, or no key.
    ok("RevokeExternalConnectivity", &with(json!({}))).await;
    for options in [json!({"com.docker.network.portmap": null}), json!({}), Value::Null] {
        ok("ProgramExternalConnectivity", &with(json!({"Options": options}))).await;
        assert!(published().is_empty());
    }
    ok("Leave", &with(json!({}))).await;
    ok("DeleteEndpoint", &with(json!({}))).await;
    ok("DeleteNetwork", &json!({"NetworkID": NET})).await;
    plugin.stop();
}
