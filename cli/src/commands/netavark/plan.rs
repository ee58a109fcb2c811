//! From what netavark says to what the daemon is asked, and back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value, json};
use trunkline_control::docker::network_wish;
use trunkline_control::model::attach::{Attach, NetworkWish, PublishWish};
use trunkline_control::model::l3::Proto;
use trunkline_control::model::{LinkRoute, Owner};
use trunkline_control::{Error, Result};

use super::types::{Exec, Network, PortMapping, Route, Subnet};

/// Podman's name for a network whose containers get no default route.
const NO_DEFAULT_ROUTE: &str = "no_default_route";

/// The options of a network; whether its containers get default routes.
fn options(network: &Network) -> Result<(NetworkWish, bool)> {
    let mut options = network.options.clone();
    let no_default = match options.remove(NO_DEFAULT_ROUTE).as_deref() {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        Some(other) => {
            return Err(Error::invalid(format!(
                "option {NO_DEFAULT_ROUTE}={other}: this is neither true nor false"
            ))
            .hint("use true or false"));
        }
    };
    let mut wish = network_wish(options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    wish.name.clone_from(&network.name);
    if !network.internal {
        wish.gateways = network.subnets.iter().filter_map(gateway).collect();
        wish.masquerade = true;
    }
    Ok((wish, !no_default))
}

/// The gateway's address with its prefix length.
fn gateway(subnet: &Subnet) -> Option<IpNet> {
    IpNet::new(subnet.gateway?, subnet.subnet.prefix_len()).ok()
}

/// Checks a network that is being made, and fills in what podman leaves to the driver.
pub(super) fn create(given: Value) -> Result<Value> {
    let wrong = |e: serde_json::Error| Error::invalid(format!("not a network of podman's: {e}"));
    let network: Network = serde_json::from_value(given.clone()).map_err(wrong)?;
    let Value::Object(mut made) = given else { return Err(Error::invalid("not a network of podman's")) };
    options(&network)?;
    if !network.network_interface.is_empty() {
        return Err(Error::invalid(format!(
            "--interface-name {}: the driver gives networks no interface of the host",
            network.network_interface
        ))
        .hint("leave it out; for a bridge that is there: -o bridge=NAME"));
    }
    for subnet in &network.subnets {
        if subnet.gateway.is_some_and(|gateway| !subnet.subnet.contains(&gateway)) {
            return Err(Error::invalid(format!("the gateway of subnet {} is not in it", subnet.subnet)));
        }
    }
    routes(&network.routes)?;
    match network.ipam_options.get("driver").map_or("", String::as_str) {
        "none" => {}
        driver @ ("" | "host-local") => {
            let mut subnets = made.get("subnets").and_then(Value::as_array).cloned().unwrap_or_default();
            let has = |v4: bool| network.subnets.iter().any(|s| s.subnet.addr().is_ipv4() == v4);
            if network.subnets.is_empty() {
                subnets.push(json!({ "subnet": subnet4(&network.id) }));
            }
            if network.ipv6_enabled && !has(false) {
                subnets.push(json!({ "subnet": subnet6(&network.id) }));
            }
            made.insert("subnets".into(), subnets.into());
            if driver.is_empty() {
                let ipam = made.entry("ipam_options").or_insert(Value::Null);
                if ipam.is_null() {
                    *ipam = json!({});
                }
                ipam["driver"] = "host-local".into();
            }
            if has(false) {
                made.insert("ipv6_enabled".into(), true.into());
            }
        }
        other => {
            return Err(Error::invalid(format!("--ipam-driver {other} does not go with trunkline"))
                .hint("use host-local or none"));
        }
    }
    // Netavark runs its name server for its own drivers only.
    made.insert("dns_enabled".into(), false.into());
    Ok(Value::Object(made))
}

/// FNV-1a of a network's id: what is made of it is the same every time.
fn hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// One of 32,768 subnets in 10.128.0.0/9, which podman's own drivers do not choose from.
fn subnet4(id: &str) -> Ipv4Net {
    let n = hash(id);
    let [a, b] = ((n ^ (n >> 32)) as u16).to_be_bytes();
    Ipv4Net::new(Ipv4Addr::new(10, 128 | a, b, 0), 24).expect("a length of IPv4")
}

/// A unique local prefix (RFC 4193 §3.1): 40 bits of the id.
fn subnet6(id: &str) -> Ipv6Net {
    let n = hash(id);
    let [_, _, _, a, b, c, d, e] = n.to_be_bytes();
    let address = u128::from_be_bytes([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ipv6Net::new(Ipv6Addr::from(address), 64).expect("a length of IPv6")
}

/// What a container's interface is to be like.
pub(super) fn attach(exec: &Exec, netns: &str) -> Result<Attach> {
    let Exec { network, network_options, .. } = exec;
    let (wish, default_route) = options(network)?;
    if let Some(option) = network_options.options.keys().next() {
        return Err(Error::invalid(format!("the trunkline driver has no option '{option}' of a container"))
            .hint("options are the network's: podman network create -o"));
    }
    let addresses = network_options.static_ips.iter().map(|ip| {
        let of = network.subnets.iter().find(|s| s.subnet.contains(ip));
        let net = of.and_then(|s| IpNet::new(*ip, s.subnet.prefix_len()).ok());
        net.ok_or_else(|| Error::invalid(format!("{ip} is in no subnet of network {}", network.name)))
    });
    let addresses: Vec<IpNet> = addresses.collect::<Result<_>>()?;
    let default_of = |v4: bool| {
        let of = |net: &IpNet| wish.gateways.iter().find(|g| g.contains(&net.addr())).map(IpNet::addr);
        addresses.iter().filter(|a| a.addr().is_ipv4() == v4).find_map(of)
    };
    let default_routes = [true, false].into_iter().filter(|_| default_route).filter_map(default_of).collect();
    let publish = exec.port_mappings.iter().map(publish).collect::<Result<Vec<_>>>()?.concat();
    let mut labels = BTreeMap::new();
    if !exec.container_name.is_empty() {
        labels.insert("name".to_owned(), exec.container_name.clone());
    }
    Ok(Attach {
        owner: Owner::Podman,
        network: wish,
        container: exec.container_id.clone(),
        netns: netns.to_owned(),
        ifname: network_options.interface_name.clone(),
        addresses,
        default_routes,
        routes: routes(&network.routes)?,
        mac: Some(network_options.static_mac.clone()).filter(|mac| !mac.is_empty()),
        publish,
        labels,
    })
}

fn routes(routes: &[Route]) -> Result<Vec<LinkRoute>> {
    let read = |route: &Route| match (route.route_type.as_deref(), route.metric) {
        (None | Some("unicast"), None) => Ok(LinkRoute { to: route.destination, via: route.gateway }),
        (Some(other), _) if other != "unicast" => Err(Error::invalid(format!(
            "route {}: a route of type {other} cannot be made",
            route.destination
        ))
        .hint("use routes with a gateway")),
        _ => Err(Error::invalid(format!("route {}: routes have no metric here", route.destination))
            .hint("leave the metric out")),
    };
    routes.iter().map(read).collect()
}

fn publish(mapping: &PortMapping) -> Result<Vec<PublishWish>> {
    let PortMapping { container_port, host_ip, host_port, protocol, range } = mapping;
    let host = match host_ip.parse::<IpAddr>() {
        Ok(addr) if addr.is_unspecified() => None,
        Ok(addr) => Some(addr),
        Err(_) if host_ip.is_empty() => None,
        Err(_) => return Err(Error::invalid(format!("'{host_ip}' is not an address of the host"))),
    };
    let first = if *host_port == 0 { *container_port } else { *host_port };
    let count = (*range).max(1) - 1;
    let past = || Error::invalid(format!("{} ports from {first} on go past 65535", u32::from(count) + 1));
    let mut all = Vec::new();
    for name in if protocol.is_empty() { "tcp" } else { protocol }.split(',') {
        let proto = match name.trim() {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            other => {
                return Err(Error::invalid(format!(
                    "protocol {other} has no ports that trunkline can publish"
                ))
                .hint("publish TCP or UDP"));
            }
        };
        for n in 0..=count {
            let port = first.checked_add(n).ok_or_else(past)?;
            let to = container_port.checked_add(n).ok_or_else(past)?;
            all.push(PublishWish { proto, host, port, to });
        }
    }
    Ok(all)
}

/// Netavark's StatusBlock.
pub(super) fn status(exec: &Exec, made: &Attach, mac: &str) -> Value {
    let subnets: Vec<Value> = made
        .addresses
        .iter()
        .map(|net| {
            let gateway = made.network.gateways.iter().find(|g| g.contains(&net.addr())).map(IpNet::addr);
            json!({ "ipnet": net, "gateway": gateway })
        })
        .collect();
    let mut interfaces = Map::new();
    interfaces.insert(made.ifname.clone(), json!({ "mac_address": mac, "subnets": subnets }));
    json!({
        "dns_search_domains": [],
        "dns_server_ips": exec.network.network_dns_servers,
        "interfaces": interfaces,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(network: Value, options: Value, ports: Value) -> Exec {
        let mut whole = json!({"id": "2f259bab93aa", "name": "net1", "driver": "trunkline", "internal": false,
            "dns_enabled": false, "ipv6_enabled": false, "network_dns_servers": null});
        whole.as_object_mut().unwrap().extend(network.as_object().unwrap().clone());
        let exec = json!({"container_id": "752947ff91f9", "container_name": "web", "port_mappings": ports,
            "network": whole, "network_options": options});
        serde_json::from_value(exec).unwrap()
    }

    #[test]
    fn a_container_gets_what_podman_says() {
        let network = json!({
            "subnets": [
                {"gateway": "10.88.0.1", "lease_range": null, "subnet": "10.88.0.0/16"},
                {"gateway": "10.89.0.1", "subnet": "10.89.0.0/24"},
                {"gateway": "fd88::1", "subnet": "fd88::/64"}],
            "options": {"vlan": "10", "bridge": "br0", "mtu": "1400", "icc": "false"},
            "routes": [{"destination": "10.9.0.0/16", "gateway": "10.88.0.9", "metric": null}],
            "network_dns_servers": ["192.0.2.53"]
        });
        let options = json!({"aliases": ["x"], "interface_name": "eth0", "static_mac": "aa:bb:cc:dd:aa:00",
            "static_ips": ["10.88.0.50", "10.89.0.7", "fd88::50"]});
        let ports = json!([
            {"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp,udp", "range": 1},
            {"container_port": 90, "host_ip": "127.0.0.1", "host_port": 9000, "protocol": "", "range": 3}]);
        let exec = exec(network, options, ports);
        let asked = attach(&exec, "/run/netns/x").unwrap();
        let text = |list: &[IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(text(&asked.addresses), "10.88.0.50/16 10.89.0.7/24 fd88::50/64");
        assert_eq!(text(&asked.network.gateways), "10.88.0.1/16 10.89.0.1/24 fd88::1/64");
        assert_eq!(asked.default_routes, ["10.88.0.1", "fd88::1"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!((asked.network.vlan, asked.network.icc, asked.network.mtu), (Some(10), false, Some(1400)));
        assert_eq!(asked.routes[0].to_string(), "10.9.0.0/16 via 10.88.0.9");
        let ports: Vec<_> = asked.publish.iter().map(|p| (p.proto.name(), p.port, p.to)).collect();
        assert_eq!(
            ports,
            [("tcp", 8080, 80), ("udp", 8080, 80), ("tcp", 9000, 90), ("tcp", 9001, 91), ("tcp", 9002, 92)]
        );
        assert!(asked.publish[0].host.is_none() && asked.publish[4].host.is_some());
        assert_eq!(asked.id(), "podman:net1:752947ff91f9:eth0");
        let status = status(&exec, &asked, "aa:bb:cc:dd:aa:00");
        let expected = json!({"dns_search_domains": [], "dns_server_ips": ["192.0.2.53"], "interfaces": {"eth0": {
            "mac_address": "aa:bb:cc:dd:aa:00", "subnets": [
                {"gateway": "10.88.0.1", "ipnet": "10.88.0.50/16"},
                {"gateway": "10.89.0.1", "ipnet": "10.89.0.7/24"},
                {"gateway": "fd88::1", "ipnet": "fd88::50/64"}]}}});
        assert_eq!(status, expected);
    }

    #[test]
    fn internal_networks_and_those_without_addresses_lead_nowhere() {
        let subnets = json!([{"gateway": "10.88.0.1", "subnet": "10.88.0.0/16"}]);
        let options = json!({"interface_name": "eth0", "static_ips": ["10.88.0.50"]});
        let inside = json!({"internal": true, "subnets": subnets});
        let asked = attach(&exec(inside, options.clone(), json!(null)), "/x").unwrap();
        assert!(
            asked.network.gateways.is_empty() && asked.default_routes.is_empty() && !asked.network.masquerade
        );
        let quiet = json!({"options": {"no_default_route": "true"}, "subnets": subnets});
        let asked = attach(&exec(quiet, options, json!([])), "/x").unwrap();
        assert!(asked.default_routes.is_empty() && asked.network.gateways.len() == 1);
        let asked = attach(
            &exec(json!({"ipam_options": {"driver": "none"}}), json!({"interface_name": "e"}), json!([])),
            "/x",
        );
        assert!(asked.unwrap().addresses.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line() {
        let subnets = json!([{"gateway": "10.88.0.1", "subnet": "10.88.0.0/16"}]);
        let options = json!({"interface_name": "eth0"});
        let port = |proto: &str, port: u16, range: u16| json!([{"container_port": 80, "host_ip": "", "host_port": port, "protocol": proto, "range": range}]);
        for (network, options, ports, says) in [
            (
                json!({"options": {"vlna": "1"}}),
                options.clone(),
                json!([]),
                "no option 'vlna'; did you mean 'vlan'?",
            ),
            (
                json!({"options": {"no_default_route": "x"}}),
                options.clone(),
                json!([]),
                "neither true nor false",
            ),
            (
                json!({}),
                json!({"interface_name": "e", "static_ips": ["10.1.1.1"]}),
                json!([]),
                "10.1.1.1 is in no subnet",
            ),
            (
                json!({}),
                json!({"interface_name": "e", "options": {"mode": "x"}}),
                json!([]),
                "no option 'mode' of a container",
            ),
            (json!({"subnets": subnets}), options.clone(), port("sctp", 1, 1), "protocol sctp has no ports"),
            (
                json!({"subnets": subnets}),
                options.clone(),
                port("tcp", 65535, 2),
                "2 ports from 65535 on go past 65535",
            ),
            (
                json!({"routes": [{"destination": "10.0.0.0/8", "metric": null, "route_type": "blackhole"}]}),
                options.clone(),
                json!([]),
                "a route of type blackhole cannot be made",
            ),
        ] {
            let error = attach(&exec(network, options, ports), "/x").unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn networks_are_completed() {
        let given = |more: Value| {
            let mut whole = json!({"name": "net1", "id": "2f259bab93aa", "driver": "trunkline", "internal": false,
                "dns_enabled": true, "ipv6_enabled": false, "created": "2026-11-21T00:00:00Z", "labels": {"a": "b"}});
            whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            create(whole)
        };
        let made = given(json!({"ipv6_enabled": true})).unwrap();
        assert_eq!(
            (&made["dns_enabled"], &made["ipam_options"]["driver"]),
            (&json!(false), &json!("host-local"))
        );
        let subnets = made["subnets"].as_array().unwrap();
        let net = |n: usize| subnets[n]["subnet"].as_str().unwrap().parse::<IpNet>().unwrap();
        assert!("10.128.0.0/9".parse::<IpNet>().unwrap().contains(&net(0)), "{made}");
        assert!(matches!(net(1), IpNet::V6(n) if n.addr().is_unique_local() && n.prefix_len() == 64));
        assert_eq!(made["labels"], json!({"a": "b"}), "what is podman's stays");
        assert_eq!(given(json!({"ipv6_enabled": true})).unwrap(), made, "asked twice");
        let own = json!({"subnets": [{"subnet": "10.77.0.0/24", "gateway": "10.77.0.1"}], "ipam_options": {"driver": "host-local"}});
        assert_eq!(given(own.clone()).unwrap()["subnets"], own["subnets"]);
        let none = given(json!({"ipam_options": {"driver": "none"}})).unwrap();
        assert_eq!(none.get("subnets"), None);
        for (more, says) in [
            (json!({"options": {"colour": "red"}}), "no option 'colour'"),
            (json!({"network_interface": "br7"}), "--interface-name br7"),
            (json!({"ipam_options": {"driver": "dhcp"}}), "--ipam-driver dhcp"),
            (json!({"subnets": [{"subnet": "10.77.0.0/24", "gateway": "10.78.0.1"}]}), "is not in it"),
            (json!({"subnets": "x"}), "not a network of podman's"),
        ] {
            let error = given(more).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
