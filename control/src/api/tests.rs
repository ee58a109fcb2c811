//! The routes over a real socket, on a world that is a fake.

mod l3;
mod meshes;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::*;
use crate::client::Client;
use crate::files;
use crate::model::{BridgeSpec, Event, Owner, PortState, StaticFdb};
use crate::reconcile::fake::FakeWorld;
use crate::rundir::api_socket;

struct Daemon {
    dir: tempfile::TempDir,
    client: Client,
    controller: Controller,
    world: FakeWorld,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

fn daemon() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(api_socket(dir.path())).unwrap();
    let (controller, world) = crate::reconcile::fake::controller();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    let (docker, attachments) =
        (Plugin::new(controller.clone(), None), crate::attach::Attachments::new(controller.clone()));
    let served = tokio::spawn(serve(controller.clone(), docker, attachments, listener, shutdown));
    let client = Client::new(dir.path());
    Daemon { dir, client, controller, world, stop: Some(stop), served }
}

impl Daemon {
    /// Status and body of a request in raw bytes.
    async fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(api_socket(self.dir.path())).await.unwrap();
        // The server may refuse and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, body) = self.raw(request.as_bytes()).await;
        (status, if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() })
    }

    async fn furnish(&self) {
        let file = "[bridge.br0]\n[port.web]\nbridge='br0'\ntype='tap'\nnetns='web'\nifname='eth0'\nvlan=10\n\
                    [port.sink]\nbridge='br0'\ntype='null'";
        self.client.apply(&files::parse("f", file).unwrap(), false).await.unwrap();
    }
}

fn port(json: Value) -> crate::model::PortSpec {
    serde_json::from_value(json).unwrap()
}

#[tokio::test]
async fn bridges_and_ports_come_and_go() {
    let d = daemon();
    let c = &d.client;
    let made = c.add_bridge("br0", &BridgeSpec { ageing: 7, ..BridgeSpec::default() }).await.unwrap();
    assert_eq!((made.name.as_str(), made.spec.ageing, made.spec.owner), ("br0", 7, Owner::Cli));
    let made = c.add_port("p", &port(json!({"bridge": "br0", "type": "tap", "vlan": 10}))).await.unwrap();
    assert_eq!((made.state, made.spec.vlan), (PortState::Up, Some(10)));
    assert_eq!(c.bridge("br0").await.unwrap().ports, ["p"]);
    assert_eq!(c.ports(Some("br0")).await.unwrap().len(), 1);
    assert!(d.world.state.lock().ports.contains_key("p"));

    let changed = c.patch_port("p", &json!({"vlan": null, "trunks": "5-9", "mtu": 1400})).await.unwrap();
    assert_eq!((changed.spec.vlan, changed.spec.trunks.as_deref()), (None, Some("5-9")));
    let changed = c.put_bridge("br0", &BridgeSpec::default()).await.unwrap();
    assert_eq!(changed.spec.ageing, 300);

    let entry = StaticFdb { mac: "02:00:00:00:00:01".into(), vlan: 5, port: "p".into(), remote: None };
    c.add_fdb("br0", &entry).await.unwrap();
    c.add_fdb("br0", &entry).await.unwrap();
    assert_eq!(c.bridge("br0").await.unwrap().spec.static_fdb, [entry]);
    c.del_fdb("br0", 5, "02-00-00-00-00-01").await.unwrap();
    assert!(c.bridge("br0").await.unwrap().spec.static_fdb.is_empty());
    assert!(c.del_fdb("br0", 5, "02:00:00:00:00:01").await.unwrap_err().message.contains("no static entry"));

    assert_eq!(c.del_bridge("br0", false).await.unwrap_err().kind, ErrorKind::Conflict);
    c.del_port("p").await.unwrap();
    c.del_bridge("br0", false).await.unwrap();
    assert_eq!((c.bridges().await.unwrap().len(), c.ports(None).await.unwrap().len()), (0, 0));
}

#[tokio::test]
async fn force_takes_the_ports_along() {
    let d = daemon();
    d.furnish().await;
    d.client.del_bridge("br0", true).await.unwrap();
    assert!(d.controller.desired().ports.is_empty());
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let d = daemon();
    d.furnish().await;
    let body = |spec: Value| json!({"name": "new", "spec": spec}).to_string();
    let cases = [
        ("GET", "/v1/nothing", String::new(), 404, "there is no /v1/nothing"),
        ("POST", "/v1/status", String::new(), 405, "POST does not work on /v1/status"),
        ("GET", "/v1/bridges/nope", String::new(), 404, "there is no bridge nope"),
        ("DELETE", "/v1/bridges/nope", String::new(), 404, "there is no bridge nope"),
        ("GET", "/v1/ports?bridge=nope", String::new(), 404, "there is no bridge nope"),
        ("GET", "/v1/ports?bridg=x", String::new(), 400, "unknown field `bridg`"),
        ("GET", "/v1/ports/nope", String::new(), 404, "there is no port nope"),
        ("GET", "/v1/stats/nope", String::new(), 404, "there is no port nope"),
        ("GET", "/v1/bridges/nope/fdb", String::new(), 404, "there is no bridge nope"),
        ("GET", "/v1/bridges/br0/fdb?vlan=x", String::new(), 400, "the query '?vlan=x' is wrong"),
        ("DELETE", "/v1/bridges/br0/fdb/x/02:00:00:00:00:01", String::new(), 400, "'x' is not a VLAN"),
        ("DELETE", "/v1/bridges/br0/fdb/1/me", String::new(), 400, "'me' is not a MAC address"),
        ("POST", "/v1/bridges", String::new(), 400, "the request has no body"),
        (
            "POST",
            "/v1/bridges",
            "{".into(),
            400,
            "the body is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        ("POST", "/v1/bridges", "{}".into(), 400, "missing field `name`"),
        ("POST", "/v1/bridges", json!({"name": "br0"}).to_string(), 409, "bridge br0 is there already"),
        ("POST", "/v1/bridges", body(json!({"ageing": "x"})), 400, "ageing in bridge new: invalid type"),
        ("POST", "/v1/bridges", body(json!({"agein": 3})), 400, "unknown key 'agein' in bridge new"),
        (
            "POST",
            "/v1/ports",
            body(json!({"bridge": "br0", "type": "null", "vlan": 5000})),
            400,
            "port new: VLAN 5000 is out of range",
        ),
        (
            "POST",
            "/v1/ports",
            body(json!({"bridge": "br9", "type": "null"})),
            404,
            "port new: there is no bridge br9",
        ),
        (
            "POST",
            "/v1/ports",
            body(json!({"bridge": "br0", "type": "tun"})),
            400,
            "type in port new: unknown variant `tun`",
        ),
        (
            "PUT",
            "/v1/ports/nope",
            json!({"bridge": "br0", "type": "null"}).to_string(),
            404,
            "there is no port nope",
        ),
        ("PATCH", "/v1/ports/nope", "{}".into(), 404, "there is no port nope"),
        ("PATCH", "/v1/ports/web", "[]".into(), 400, "a merge patch is a JSON object"),
        ("PATCH", "/v1/ports/web", json!({"vlans": 1}).to_string(), 400, "unknown key 'vlans' in port web"),
        (
            "PATCH",
            "/v1/ports/web",
            json!({"vlan": 70000}).to_string(),
            400,
            "vlan in port web: VLAN 70000 is out of range",
        ),
        (
            "POST",
            "/v1/apply",
            json!({"port": {"x": {"bridge": "br0"}}}).to_string(),
            400,
            "port.x: missing field `type`",
        ),
        ("POST", "/v1/apply?dry-run=perhaps", "{}".into(), 400, "dry-run=perhaps"),
        ("POST", "/v1/stop", json!({"relese": true}).to_string(), 400, "unknown field `relese`"),
    ];
    let before = d.controller.revision();
    for (method, path, body, status, says) in cases {
        let (got, answer) = d.request(method, path, &body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == status && message.contains(says), "{method} {path} {body}\n  says {got} {answer}");
        assert!(!message.contains('\n') && answer["kind"].is_string(), "{answer}");
    }
    assert_eq!(d.controller.revision(), before, "nothing was changed");
}

#[tokio::test]
async fn what_the_world_refuses_changes_nothing() {
    let d = daemon();
    d.furnish().await;
    d.world.fail_on("add bad");
    let error = d.client.add_port("bad", &port(json!({"bridge": "br0", "type": "null"}))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(d.client.port("bad").await.is_err());
}

#[tokio::test]
async fn bodies_are_bounded() {
    let d = daemon();
    let (status, answer) = d.request("POST", "/v1/bridges", &"x".repeat(MAX_BODY + 1)).await;
    assert_eq!((status, answer["message"].as_str().unwrap()), (413, "the body is too large"));
    let spaces = " ".repeat(MAX_BODY - 16);
    let (status, _) = d.request("POST", "/v1/bridges", &format!("{{\"name\":\"b\"}}{spaces}")).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn what_is_no_http_harms_nobody() {
    let d = daemon();
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        assert_eq!(d.raw(garbage).await.0, 400);
    }
    assert!(d.client.status().await.is_ok());
}

#[tokio::test]
async fn a_put_keeps_the_owner_unless_it_says_another() {
    let d = daemon();
    d.furnish().await;
    let owner = || d.controller.desired().ports["sink"].owner;
    let spec = json!({"bridge": "br0", "type": "null", "vlan": 4});
    assert_eq!(d.request("PUT", "/v1/ports/sink", &spec.to_string()).await.0, 200);
    assert_eq!(owner(), Owner::Config);
    let spec = json!({"bridge": "br0", "type": "null", "owner": "docker"});
    assert_eq!(d.request("PUT", "/v1/ports/sink", &spec.to_string()).await.0, 200);
    assert_eq!(owner(), Owner::Docker);
}

#[tokio::test]
async fn apply_is_idempotent_and_can_be_tried_dry() {
    let d = daemon();
    let file = files::parse("f", "[bridge.br0]\n[port.p]\nbridge='br0'\ntype='null'").unwrap();
    assert_eq!(d.client.apply(&file, true).await.unwrap(), ["added bridge br0", "added port p"]);
    assert!(d.controller.desired().bridges.is_empty());
    assert_eq!(d.client.apply(&file, false).await.unwrap().len(), 2);
    let exported = d.client.export().await.unwrap();
    let revision = d.controller.revision();
    assert!(d.client.apply(&exported, false).await.unwrap().is_empty());
    assert_eq!(d.controller.revision(), revision);
    let bad = files::parse("f", "[port.q]\nbridge='br0'\ntype='null'").unwrap();
    for dry_run in [true, false] {
        let error = d.client.apply(&bad, dry_run).await.unwrap_err();
        assert_eq!((error.kind, error.hint.as_str()), (ErrorKind::Conflict, "add [bridge.br0] to the file"));
    }
    let bad = files::parse("f", "[port.q]\nbridge='br9'\ntype='null'").unwrap();
    for dry_run in [true, false] {
        let error = d.client.apply(&bad, dry_run).await.unwrap_err();
        assert_eq!(error.message, "port q: there is no bridge br9");
    }
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_ends_with_the_daemon() {
    let mut d = daemon();
    d.furnish().await;
    let mut watch = d.client.watch().await.unwrap();
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(watch.next().await.unwrap().unwrap());
    }
    let Event::Hello { revision } = first[0] else { panic!("{first:?}") };
    assert_eq!(revision, d.controller.revision());
    assert!(matches!(&first[1], Event::Bridge(b) if b.name == "br0"), "{first:?}");
    assert!(
        matches!((&first[2], &first[3]), (Event::Port(a), Event::Port(b)) if a.name == "sink" && b.name == "web")
    );

    d.client.del_port("sink").await.unwrap();
    loop {
        match watch.next().await.unwrap().expect("the stream goes on") {
            Event::PortGone { name } => break assert_eq!(name, "sink"),
            Event::Revision { revision: new } => assert_eq!(new, revision + 1),
            _ => {}
        }
    }
    d.stop.take().unwrap().send(()).unwrap();
    assert_eq!(watch.next().await.unwrap(), None);
    let served = tokio::time::timeout(Duration::from_secs(5), d.served).await;
    served.expect("serving ends with the streams").unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_watcher_is_told_what_it_missed() {
    let d = daemon();
    d.furnish().await;
    let mut watch = d.client.watch().await.unwrap();
    watch.next().await.unwrap();
    // More than the socket's buffers and the backlog hold.
    let label = "x".repeat(250);
    for i in 0..6000 {
        let label = format!("{label}{}", i % 10);
        d.controller
            .edit(move |d| {
                d.ports.get_mut("web").unwrap().labels.insert("a".into(), label);
                Ok(())
            })
            .await
            .unwrap();
    }
    let missed = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Event::Lagged { missed } = watch.next().await.unwrap().expect("the stream goes on") {
                break missed;
            }
        }
    });
    assert!(missed.await.expect("a slow reader is told") > 0);
}

#[tokio::test]
async fn stop_releases_only_when_asked() {
    for release in [false, true] {
        let d = daemon();
        d.client.stop(release).await.unwrap();
        assert_eq!(d.world.state.lock().stopped, Some(release));
    }
}

#[tokio::test]
async fn a_missing_daemon_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path()).status().await.unwrap_err().to_string();
    let expected = format!(
        "no trunkline daemon answers at {}/trunkline.sock; start one with 'trunkline daemon'",
        dir.path().display()
    );
    assert_eq!(error, expected);
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(api_socket(dir.path())).unwrap());
    assert_eq!(Client::new(dir.path()).status().await.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn what_speaks_another_protocol_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(api_socket(dir.path())).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    let error = Client::new(dir.path()).status().await.unwrap_err();
    assert!(error.message.contains("gave no proper answer"), "{error}");
}

/// `docs/api.md` and the router name the same routes; every example request of the page is understood.
#[tokio::test]
async fn the_documentation_is_true() {
    let page = include_str!("../../../docs/api.md");
    let d = daemon();
    d.furnish().await;
    let documented: Vec<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')?.split_once(' '))
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    assert_eq!(documented.len(), 70, "one for each method of each route");
    for (method, path) in &documented {
        let path =
            path.replace("{name}", "nope").replace("{vlan}", "1").replace("{mac}", "02:00:00:00:00:01");
        let path = path.replace("{port}", "nope").replace("{address}", "192.0.2.1");
        if path == "/v1/watch" {
            continue;
        }
        let (status, answer) = d.request(method, &path, "").await;
        let message = answer["message"].as_str().unwrap_or_default();
        let routed = status != 405 && !message.starts_with("there is no /");
        assert!(routed, "{method} {path}: {status} {answer}");
    }
    // Examples are `curl` lines with a body; they run in the order of the page.
    let d = daemon();
    let mut examples = 0;
    for line in
        page.lines().filter_map(|l| l.strip_prefix("curl -s --unix-socket /run/trunkline/trunkline.sock "))
    {
        let (method, rest) = match line.strip_prefix("-X ") {
            Some(rest) => rest.split_once(' ').unwrap(),
            None => ("GET", line),
        };
        let (body, url) = match rest.strip_prefix("-d '") {
            Some(rest) => rest.split_once("' ").unwrap(),
            None => ("", rest),
        };
        let path = url.trim_matches('\'').strip_prefix("http://trunkline").unwrap();
        if path == "/v1/watch" {
            continue;
        }
        let (status, answer) = d.request(method, path, body).await;
        assert!((200..300).contains(&status), "{line}\n  says {status} {answer}");
        examples += 1;
    }
    assert!(examples >= 55, "{examples} examples");
}
