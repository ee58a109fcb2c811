//! The HTTP API on the daemon's socket, as other programs use it.

use std::os::unix::fs::PermissionsExt;

use trunkline_tests::http::{Lines, request};
use trunkline_tests::{Kind, Lab};

#[test]
fn objects_are_made_changed_and_deleted() {
    let lab = Lab::new();
    let socket = lab.daemon.run_dir.join("trunkline.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let call = |method: &str, path: &str, body: Option<&str>| request(&socket, method, path, body);

    assert_eq!(call("GET", "/v1/status", None).1["pid"], lab.daemon.pid());
    assert_eq!(call("POST", "/v1/bridges", Some(r#"{"name":"br1","spec":{"ageing":60}}"#)).0, 201);
    let (status, error) = call("POST", "/v1/bridges", Some(r#"{"name":"br1","spec":{}}"#));
    assert_eq!((status, error["kind"].as_str()), (409, Some("conflict")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("br1") && error["hint"].is_string(), "{error}");
    let port = r#"{"name":"h","spec":{"bridge":"br1","type":"host","addresses":["10.9.0.1/24"]}}"#;
    assert_eq!(call("POST", "/v1/ports", Some(port)).0, 201);
    assert_eq!(call("PATCH", "/v1/ports/h", Some(r#"{"vlan":7}"#)).0, 200);
    assert_eq!(call("PATCH", "/v1/ports/h", Some(r#"{"vlan":5000}"#)).0, 400);
    let (_, shown) = call("GET", "/v1/ports/h", None);
    assert_eq!(
        (&shown["spec"]["vlan"], &shown["state"], &shown["vlan-mode"]),
        (&7.into(), &"up".into(), &"access".into())
    );
    assert_eq!(call("PATCH", "/v1/ports/h", Some(r#"{"vlan":null}"#)).0, 200);
    assert_eq!(call("GET", "/v1/ports/h", None).1["vlan-mode"], "trunk");
    assert_eq!(call("GET", "/v1/ports?bridge=br0", None).1.as_array().map(Vec::len), Some(0));
    assert_eq!(call("DELETE", "/v1/bridges/br1", None).0, 409);
    assert_eq!(call("DELETE", "/v1/bridges/br1?force=true", None).0 / 100, 2);
    assert_eq!(call("GET", "/v1/ports/h", None).0, 404);
    assert!(!lab.ns.interfaces().contains(&"h".to_owned()));
    // What is no request at all.
    for body in ["", "{", "[]", r#"{"name":7}"#, r#"{"name":"x","spec":{"colour":"red"}}"#] {
        let (status, error) = call("POST", "/v1/bridges", Some(body));
        assert_eq!((status, error["kind"].as_str()), (400, Some("invalid")), "{body}: {error}");
    }
    assert_eq!(call("GET", "/v1/nothing", None).0, 404);
}

#[test]
fn a_watcher_sees_what_is_and_what_happens() {
    let mut lab = Lab::new();
    lab.daemon.allow("port");
    let socket = lab.daemon.run_dir.join("trunkline.sock");
    lab.container(Kind::Tap, "a");
    let mut events = Lines::watch(&socket);
    assert_eq!(events.next().unwrap()["event"], "hello");
    events.expect(|e| e["event"] == "bridge" && e["name"] == "br0");
    // The namespace is gone already.
    events.expect(|e| e["event"] == "port" && e["name"] == "a");
    lab.ok(&["bridge", "add", "br1"]);
    events.expect(|e| e["event"] == "bridge" && e["name"] == "br1");
    let b = lab.container(Kind::Tap, "b");
    events.expect(|e| e["event"] == "port" && e["name"] == "b" && e["state"] == "up");
    drop(b);
    let down = events.expect(|e| e["event"] == "port" && e["name"] == "b" && e["state"] == "down");
    assert!(down["reason"].as_str().is_some_and(|r| !r.is_empty()), "{down}");
    lab.ok(&["port", "del", "b"]);
    events.expect(|e| e["event"] == "port-gone" && e["name"] == "b");
    // The stream ends with the daemon.
    lab.daemon.terminate();
    assert!(events.count() < 1000);
}
