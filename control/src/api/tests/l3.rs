//! Gateways, uplinks, routes, NAT and connection tracking over the socket.

use super::*;
use crate::model::l3::{CtFilter, GatewaySpec, NatSpec, RouteSpec, UplinkSpec};

impl Daemon {
    async fn with_gateway(&self) {
        self.furnish().await;
        let spec: GatewaySpec = serde_json::from_value(json!({"addresses": ["10.77.0.1/24"]})).unwrap();
        self.client.add(Some("br0"), &spec).await.unwrap();
        let spec = json!({"type": "own", "interface": "eth1", "addresses": ["192.0.2.10/24"], "gateways": ["192.0.2.1"]});
        let spec: UplinkSpec = serde_json::from_value(spec).unwrap();
        self.client.add(Some("up0"), &spec).await.unwrap();
    }
}

#[tokio::test]
async fn objects_come_and_go_and_get_names() {
    let d = daemon();
    d.with_gateway().await;
    let c = &d.client;
    assert_eq!(c.list::<GatewaySpec>().await.unwrap()[0].name, "br0");
    let changed = c.patch::<GatewaySpec>("br0", &json!({"mtu": 1400})).await.unwrap();
    assert_eq!((changed.spec.mtu, changed.spec.owner), (Some(1400), Owner::Cli));
    assert!(changed.spec.mac.is_some(), "what was drawn is kept");

    let rule = |json: Value| serde_json::from_value::<NatSpec>(json).unwrap();
    let publish = |port: u16| {
        rule(json!({"type": "publish", "uplink": "up0", "proto": "tcp", "port": port, "to": "10.77.0.2:80"}))
    };
    let made = c.add(None, &publish(8080)).await.unwrap();
    assert_eq!(
        (made.name.as_str(), &made.external),
        ("publish-tcp-8080", &vec!["192.0.2.10".parse().unwrap()])
    );
    let error = c.add(None, &publish(8080)).await.unwrap_err();
    assert_eq!(
        error.message,
        "nat publish-tcp-8080-2: tcp port 8080 is published by nat publish-tcp-8080 already"
    );
    let masquerade = rule(json!({"type": "masquerade", "uplink": "up0", "from": "10.77.0.0/24"}));
    assert_eq!(c.add(None, &masquerade).await.unwrap().bridges, ["br0"]);

    let route: RouteSpec =
        serde_json::from_value(json!({"prefix": "10.9.0.0/16", "via": "10.77.0.2"})).unwrap();
    assert_eq!(c.add(None, &route).await.unwrap().name.as_deref(), Some("10.9.0.0-16"));
    assert_eq!(c.list::<RouteSpec>().await.unwrap().len(), 4);

    let error = c.del::<UplinkSpec>("up0").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "uplink up0 is used by nat masquerade-10.77.0.0-24; delete that first: trunkline nat del masquerade-10.77.0.0-24"
    );
    assert_eq!(c.del_bridge("br0", false).await.unwrap_err().kind, ErrorKind::Conflict);
    for name in ["publish-tcp-8080", "masquerade-10.77.0.0-24"] {
        c.del::<NatSpec>(name).await.unwrap();
    }
    c.del::<RouteSpec>("10.9.0.0-16").await.unwrap();
    c.del::<UplinkSpec>("up0").await.unwrap();
    c.del_bridge("br0", true).await.unwrap();
    assert!(d.controller.desired().gateways.is_empty(), "a bridge's gateways go with it");
}

#[tokio::test]
async fn connection_tracking_is_set_and_asked() {
    let d = daemon();
    d.furnish().await;
    let c = &d.client;
    let set = c.patch_ct_settings(&json!({"limit": 1000, "liberal": true})).await.unwrap();
    assert_eq!((set.limit, set.liberal, set.pickup), (Some(1000), Some(true), None));
    assert_eq!(c.ct_settings().await.unwrap(), set);
    assert_eq!(c.patch_ct_settings(&json!({"limit": null, "liberal": null})).await.unwrap().limit, None);
    assert_eq!(d.controller.desired().ct, None, "the defaults are no object");
    let filter = CtFilter { proto: Some("tcp".into()), port: Some(80), ..CtFilter::default() };
    assert!(c.connections(&filter).await.unwrap().is_empty());
    assert_eq!(c.count_connections(&filter).await.unwrap().limit, 262_144);
    assert_eq!(c.flush_connections(&filter).await.unwrap(), 0);
    let filter = CtFilter { bridge: Some("br 9&x".into()), ..CtFilter::default() };
    assert_eq!(c.connections(&filter).await.unwrap_err().message, "there is no bridge br 9&x");
    assert!(c.neighbours().await.unwrap().is_empty() && c.leases().await.unwrap().is_empty());
}

#[tokio::test]
async fn refusals_of_layer_3_say_what_is_wrong() {
    let d = daemon();
    d.with_gateway().await;
    let new = |name: &str, spec: Value| json!({"name": name, "spec": spec}).to_string();
    let before = d.controller.revision();
    for (method, path, body, status, says) in [
        ("GET", "/v1/gateways/nope", String::new(), 404, "there is no gateway nope"),
        ("DELETE", "/v1/uplinks/nope", String::new(), 404, "there is no uplink nope"),
        ("PATCH", "/v1/nat/nope", "{}".into(), 404, "there is no nat nope"),
        ("PATCH", "/v1/gateways/br0", "[]".into(), 400, "a merge patch is a JSON object"),
        (
            "POST",
            "/v1/gateways",
            json!({"spec": {"addresses": ["10.8.0.1/24"]}}).to_string(),
            400,
            "the gateway has no name",
        ),
        (
            "POST",
            "/v1/gateways",
            new("br0", json!({"addresses": ["10.8.0.1/24"]})),
            409,
            "gateway br0 is there already",
        ),
        (
            "POST",
            "/v1/gateways",
            new("br0.5", json!({"adresses": []})),
            400,
            "unknown key 'adresses' in gateway br0.5",
        ),
        ("POST", "/v1/gateways", new("br0.5", json!({"addresses": ["10.77.0.9/24"]})), 409, "overlaps"),
        (
            "POST",
            "/v1/uplinks",
            new("u", json!({"type": "none"})),
            400,
            "type in uplink u: unknown variant `none`",
        ),
        (
            "POST",
            "/v1/uplinks",
            new("u", json!({"type": "shared", "addresses": []})),
            400,
            "type shared has no key 'addresses'",
        ),
        (
            "POST",
            "/v1/routes",
            json!({"spec": {"prefix": "10.9.0.0/16"}}).to_string(),
            400,
            "it leads nowhere",
        ),
        (
            "POST",
            "/v1/nat",
            json!({"spec": {"type": "publish", "uplink": "up0"}}).to_string(),
            400,
            "missing key 'proto'",
        ),
        ("PATCH", "/v1/ct/settings", json!({"limits": 5}).to_string(), 400, "unknown key 'limits' in ct"),
        ("PUT", "/v1/ct/settings", json!({"limit": 1}).to_string(), 400, "limit 1 is out of range"),
        ("GET", "/v1/ct?protocol=tcp", String::new(), 400, "unknown field `protocol`"),
        ("POST", "/v1/ct/flush", json!({"source": "x"}).to_string(), 400, "unknown field `source`"),
        ("POST", "/v1/ct", String::new(), 405, "POST does not work on /v1/ct"),
    ] {
        let (got, answer) = d.request(method, path, &body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == status && message.contains(says), "{method} {path} {body}\n  says {got} {answer}");
    }
    assert_eq!(d.controller.revision(), before, "nothing was changed");
}

#[tokio::test]
async fn a_watch_tells_of_gateways_and_uplinks() {
    let d = daemon();
    d.with_gateway().await;
    let mut watch = d.client.watch().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match watch.next().await.unwrap().unwrap() {
            Event::Gateway(g) => seen.push(g.name),
            Event::Uplink(u) => seen.push(u.name),
            _ => {}
        }
    }
    assert_eq!(seen, ["br0", "up0"]);
    d.client.del::<UplinkSpec>("up0").await.unwrap();
    loop {
        if let Event::UplinkGone { name } = watch.next().await.unwrap().unwrap() {
            break assert_eq!(name, "up0");
        }
    }
}
