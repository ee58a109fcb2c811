//! The daemon's parts together, on a real kernel: interfaces made, changed, lost, taken over. Needs root.

mod tunnels;

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use trunkline_ports::netns::Netns;

use super::*;
use crate::keeper::Keeper;
use crate::model::{BridgeSpec, Desired, PortSpec, PortState, PortStatus};
use crate::net::{Link, session};
use crate::testing::in_new_netns;

/// A network namespace that ends with it.
struct Container {
    path: String,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Container {
    fn new() -> Container {
        let (end, wait) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            in_new_netns(move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
                let _ = wait.recv();
            });
        });
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), told.recv().unwrap());
        Container { path, end: Some(end), thread: Some(thread) }
    }

    fn link(&self, name: &str) -> Option<Link> {
        session(Some(&Netns::open(&self.path).unwrap()), |s| s.link(name)).unwrap()
    }

    /// Addresses and default gateways.
    fn layer3(&self, name: &str) -> Vec<String> {
        session(Some(&Netns::open(&self.path).unwrap()), |s| {
            let link = s.expect_link(name)?;
            let addresses = s.addresses(&link)?.into_iter().map(|a| a.to_string());
            let gateways = s.defaults(&link)?.into_iter().map(|g| format!("via {g}"));
            Ok(addresses.chain(gateways).collect())
        })
        .unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A keeper on a thread.
fn keeper_thread() -> Launch {
    Box::new(|dir| {
        let dir = dir.to_owned();
        std::thread::spawn(move || keeper::serve(&dir));
        Ok(None)
    })
}

/// A daemon without its API.
struct Daemons {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    daemon: Option<Daemon>,
}

impl Daemons {
    fn new() -> Daemons {
        // As in `run`.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut daemons = Daemons { dir: tempfile::tempdir().unwrap(), runtime, daemon: None };
        daemons.start();
        daemons.edit(|d| Ok(d.bridges.insert("br0".into(), BridgeSpec::default()))).unwrap();
        daemons
    }

    fn start(&mut self) {
        let config = DaemonConfig {
            run_dir: self.dir.path().join("run"),
            state_dir: self.dir.path().join("state"),
            config: None,
            workers: 1,
            pin: false,
            docker: None,
            spin: Spin::Micros(0),
        };
        self.daemon = Some(Daemon::start(&config, keeper_thread()).unwrap());
    }

    fn stop(&mut self, release: bool) {
        if let Some(Daemon { controller, actor, .. }) = self.daemon.take() {
            self.runtime.block_on(controller.stop(release));
            actor.join().unwrap();
        }
    }

    fn controller(&self) -> &Controller {
        &self.daemon.as_ref().unwrap().controller
    }

    fn edit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Desired) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.controller().edit(f))
    }

    fn put(&self, name: &'static str, spec: serde_json::Value) -> Result<()> {
        let spec: PortSpec = serde_json::from_value(spec).unwrap();
        self.edit(move |d| {
            d.ports.insert(name.into(), spec);
            Ok(())
        })
    }

    fn status(&self, name: &str) -> PortStatus {
        let ports = self.runtime.block_on(self.controller().ports());
        ports.into_iter().find(|p| p.name == name).unwrap()
    }

    fn eventually(&self, name: &str, what: &str, holds: impl Fn(&PortStatus) -> bool) -> PortStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status(name);
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.stop(true);
    }
}

fn up(status: &PortStatus) -> bool {
    status.state == PortState::Up
}

fn eth0(container: &Container) -> serde_json::Value {
    json!({
        "bridge": "br0", "type": "tap", "netns": container.path, "ifname": "eth0",
        "addresses": ["10.7.0.1/24", "fd00:7::1/64"], "gateways": ["10.7.0.254", "fd00:7::ff"],
    })
}

fn with(mut spec: serde_json::Value, key: &str, value: serde_json::Value) -> serde_json::Value {
    spec[key] = value;
    spec
}

const ADDRESSES: [&str; 4] = ["10.7.0.1/24", "fd00:7::1/64", "via 10.7.0.254", "via fd00:7::ff"];

#[test]
fn a_tap_is_made_changed_and_removed() {
    in_new_netns(|| {
        let (daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        let status = daemon.status("web");
        assert!(up(&status), "{status:?}");
        let made = container.link("eth0").unwrap();
        assert!(made.up && made.carrier && made.mtu == 1500, "{made:?}");
        assert_eq!(made.mac.map(|m| m.to_string()), status.mac);
        assert_eq!(container.layer3("eth0"), ADDRESSES);

        let changed = with(eth0(&container), "mtu", json!(9000));
        let changed = with(changed, "addresses", json!(["10.8.0.1/16"]));
        let changed = with(changed, "gateways", json!(["10.8.255.254"]));
        let changed = with(changed, "offload", json!("off"));
        daemon.put("web", changed).unwrap();
        let link = container.link("eth0").unwrap();
        assert_eq!((link.index, link.mtu, link.mac), (made.index, 9000, made.mac), "the same interface");
        assert_eq!(container.layer3("eth0"), ["10.8.0.1/16", "via 10.8.255.254"]);
        let status = daemon.status("web");
        assert_eq!((status.mtu, status.offloads.len()), (9000, 0));

        daemon.put("web", with(eth0(&container), "queues", json!(2))).unwrap();
        let link = container.link("eth0").unwrap();
        assert_ne!(link.index, made.index, "another interface");
        assert_eq!(link.mac, made.mac, "with the same address");
        assert_eq!(container.layer3("eth0"), ADDRESSES);
        assert_eq!(daemon.status("web").queues, 2);

        daemon.edit(|d| Ok(d.ports.remove("web"))).unwrap();
        assert_eq!(container.link("eth0"), None);
    });
}

#[test]
fn an_edit_that_fails_half_way_leaves_interfaces_alone() {
    in_new_netns(|| {
        let (daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        let before = (container.link("eth0"), daemon.controller().desired());
        // Made anew under the same name, while the old one is kept; then a port that cannot be.
        let web: PortSpec = serde_json::from_value(with(eth0(&container), "queues", json!(2))).unwrap();
        let zzz: PortSpec =
            serde_json::from_value(json!({"bridge": "br0", "type": "afpacket", "interface": "nothing"}))
                .unwrap();
        let error = daemon.edit(move |d| {
            d.ports.insert("web".into(), web);
            d.ports.insert("zzz".into(), zzz);
            Ok(())
        });
        assert_eq!(error.unwrap_err().message, "port zzz: there is no interface nothing");
        assert_eq!((container.link("eth0"), daemon.controller().desired()), before);
        assert_eq!(container.layer3("eth0"), ADDRESSES);
        assert!(up(&daemon.status("web")));

        // A change of a running interface of which the last step fails: its own address is no gateway.
        let bad = with(eth0(&container), "addresses", json!(["10.9.0.1/24"]));
        let bad = with(bad, "mtu", json!(4000));
        let bad = with(bad, "gateways", json!(["10.9.0.1"]));
        daemon.put("web", bad).unwrap_err();
        assert_eq!(container.link("eth0"), before.0);
        assert_eq!(container.layer3("eth0"), ADDRESSES);
    });
}

#[test]
fn refusals_leave_nothing_behind() {
    in_new_netns(|| {
        let (daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        let netns = Netns::open(&container.path).unwrap();
        session(Some(&netns), |s| s.add_veth("eth9", "peer")).unwrap();
        drop(netns);
        let error = daemon.put("db", with(eth0(&container), "ifname", json!("eth9"))).unwrap_err();
        assert_eq!(
            error.message,
            format!("port db: interface eth9 already exists in namespace {}", container.path)
        );
        let error = daemon.put("db", with(eth0(&container), "netns", json!("/nowhere"))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        let other = with(with(eth0(&container), "ifname", json!("eth1")), "netns-id", json!("1:1"));
        let error = daemon.put("db", other).unwrap_err();
        assert!(error.message.contains("another one is in its place"), "{error}");
        assert_eq!(container.link("eth1"), None);
        let left = session(None, |s| s.links()).unwrap();
        assert_eq!(left.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    });
}

#[test]
fn a_deleted_interface_comes_back_and_one_of_a_dead_container_does_not() {
    in_new_netns(|| {
        let (daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        let made = container.link("eth0").unwrap();
        let netns = Netns::open(&container.path).unwrap();
        session(Some(&netns), |s| s.delete(&s.expect_link("eth0")?)).unwrap();
        drop(netns);
        let back = |s: &PortStatus| up(s) && container.link("eth0").is_some_and(|l| l.index != made.index);
        daemon.eventually("web", "it comes back", back);
        assert_eq!(container.layer3("eth0"), ADDRESSES);
        assert_eq!(container.link("eth0").unwrap().mac, made.mac);

        let path = container.path.clone();
        drop(container);
        let status = daemon.eventually("web", "it is down", |s| !up(s));
        assert_eq!(status.reason, format!("network namespace {path} is gone"));
    });
}

#[test]
fn the_next_daemon_takes_the_interfaces_over() {
    in_new_netns(|| {
        let (mut daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        daemon.put("br0", json!({"bridge": "br0", "type": "host", "addresses": ["10.7.0.254/24"]})).unwrap();
        let host = || session(None, |s| s.expect_link("br0")).unwrap();
        let before = (container.link("eth0"), host().index, daemon.controller().desired());
        let netns = Netns::open(&container.path).unwrap();
        let own: ipnet::IpNet = "192.0.2.7/32".parse().unwrap();
        session(Some(&netns), |s| s.add_address(&s.expect_link("eth0")?, own)).unwrap();
        drop(netns);

        daemon.stop(false);
        daemon.start();
        assert!(up(&daemon.status("web")) && up(&daemon.status("br0")));
        assert_eq!((container.link("eth0"), host().index, daemon.controller().desired()), before);
        assert!(
            container.layer3("eth0").contains(&own.to_string()),
            "what the container added is still there"
        );

        daemon.stop(true);
        assert_eq!(container.link("eth0"), None, "released");
        daemon.start();
        assert!(up(&daemon.status("web")));
        assert_eq!(container.layer3("eth0"), ADDRESSES, "made anew");
    });
}

#[test]
fn another_keeper_takes_the_place_of_one_that_ends() {
    in_new_netns(|| {
        let (mut daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        let made = container.link("eth0");
        let run_dir = daemon.dir.path().join("run");
        let connect = || keeper::Keeper::connect(&run_dir, &keeper_thread()).unwrap();
        connect().quit().unwrap();
        assert_eq!(container.link("eth0"), made, "the daemon has it still");
        let deadline = Instant::now() + Duration::from_secs(20);
        while connect().fetch().is_ok_and(|held| held.is_empty()) {
            assert!(Instant::now() < deadline, "handed over again");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon.stop(false);
        assert_eq!(container.link("eth0").map(|l| l.index), made.as_ref().map(|l| l.index));
        daemon.start();
        assert_eq!(container.link("eth0"), made);
    });
}

#[test]
fn what_cannot_be_restored_does_not_stop_the_daemon() {
    in_new_netns(|| {
        let (mut daemon, container) = (Daemons::new(), Container::new());
        daemon.put("web", eth0(&container)).unwrap();
        daemon.put("null", json!({"bridge": "br0", "type": "null"})).unwrap();
        daemon.stop(true);
        drop(container);
        daemon.start();
        assert!(up(&daemon.status("null")));
        let status = daemon.status("web");
        assert!(!up(&status) && status.reason.contains("no such network namespace"), "{status:?}");
        // What is down can be changed and removed.
        let isolate =
            |d: &mut Desired| Ok(std::mem::replace(&mut d.ports.get_mut("web").unwrap().isolated, true));
        assert!(!daemon.edit(isolate).unwrap());
        assert!(daemon.status("web").spec.isolated);
        daemon.edit(|d| Ok(d.ports.remove("web"))).unwrap();
    });
}

#[test]
fn an_adopted_interface_is_watched() {
    in_new_netns(|| {
        let daemon = Daemons::new();
        let make = || session(None, |s| s.add_veth("v0", "v1")).unwrap();
        let delete = || session(None, |s| s.delete(&s.expect_link("v0")?)).unwrap();
        make();
        let address: ipnet::IpNet = "10.0.0.1/24".parse().unwrap();
        session(None, |s| s.add_address(&s.expect_link("v0")?, address)).unwrap();
        let spec = json!({"bridge": "br0", "type": "afpacket", "interface": "v0"});
        let error = daemon.put("v0", spec.clone()).unwrap_err();
        assert_eq!(error.message, "port v0: interface v0 has the address 10.0.0.1/24");
        session(None, |s| s.del_address(&s.expect_link("v0")?, address)).unwrap();
        daemon.put("v0", spec.clone()).unwrap();
        assert!(up(&daemon.status("v0")));

        session(None, |s| s.set_mtu(&s.expect_link("v0")?, 9000)).unwrap();
        daemon.eventually("v0", "the MTU is noticed", |s| s.mtu == 9000);
        session(None, |s| s.set_up(&s.expect_link("v0")?, false)).unwrap();
        let status = daemon.eventually("v0", "it is down", |s| !up(s));
        assert_eq!(status.reason, "interface v0 is down");
        session(None, |s| s.set_up(&s.expect_link("v0")?, true)).unwrap();
        daemon.eventually("v0", "it is up again", up);
        delete();
        let status = daemon.eventually("v0", "it is gone", |s| !up(s));
        assert_eq!(status.reason, "interface v0 is gone");
        make();
        daemon.eventually("v0", "it is back", up);
        daemon.edit(|d| Ok(d.ports.remove("v0"))).unwrap();
        delete();
    });
}

#[test]
fn a_port_moves_to_another_bridge_with_its_interface() {
    in_new_netns(|| {
        let (daemon, container) = (Daemons::new(), Container::new());
        daemon.edit(|d| Ok(d.bridges.insert("br1".into(), BridgeSpec::default()))).unwrap();
        daemon.put("web", eth0(&container)).unwrap();
        let made = container.link("eth0");
        daemon.put("web", with(eth0(&container), "bridge", json!("br1"))).unwrap();
        assert!(up(&daemon.status("web")));
        assert_eq!(container.link("eth0"), made);
        daemon.edit(|d| Ok(d.bridges.remove("br0"))).unwrap();
        assert!(up(&daemon.status("web")));
    });
}

fn persistent_tap(name: &str) {
    let mut make = std::process::Command::new("ip");
    make.args(["tuntap", "add", name, "mode", "tap", "vnet_hdr"]);
    assert!(make.status().unwrap().success());
}

#[test]
fn a_persistent_tap_is_adopted_and_left() {
    in_new_netns(|| {
        let daemon = Daemons::new();
        let spec = json!({
            "bridge": "br0", "type": "tap", "ifname": "vm0", "adopt": true, "addresses": ["10.7.0.9/24"],
        });
        let error = daemon.put("vm", spec.clone()).unwrap_err();
        assert_eq!(error.message, "port vm: there is no interface vm0");
        persistent_tap("vm0");
        let before = session(None, |s| s.expect_link("vm0")).unwrap();
        daemon.put("vm", spec).unwrap();
        let link = session(None, |s| s.expect_link("vm0")).unwrap();
        assert_eq!((link.index, link.mac, link.up), (before.index, before.mac, true));
        daemon.edit(|d| Ok(d.ports.remove("vm"))).unwrap();
        assert_eq!(session(None, |s| s.expect_link("vm0")).unwrap().index, before.index);
    });
}

#[test]
fn what_a_failed_edit_took_over_is_as_before() {
    in_new_netns(|| {
        let daemons = Daemons::new();
        session(None, |s| s.add_veth("v0", "v1")).unwrap();
        persistent_tap("pt0");
        let before = session(None, |s| Ok((s.expect_link("v0")?, s.expect_link("pt0")?))).unwrap();
        assert!(!before.0.up && !before.1.up);
        let error = daemons
            .edit(|d| {
                let port = |spec| serde_json::from_value::<PortSpec>(spec).unwrap();
                let tap = json!({"bridge": "br0", "type": "tap", "adopt": true, "mac": "02:00:00:00:00:77",
                    "mtu": 1400, "addresses": ["10.9.0.1/24"], "gateways": ["10.9.0.2"]});
                d.ports.insert(
                    "a".into(),
                    port(json!({"bridge": "br0", "type": "afpacket", "interface": "v0"})),
                );
                d.ports.insert("pt0".into(), port(tap));
                let missing = json!({"bridge": "br0", "type": "afpacket", "interface": "nothing"});
                d.ports.insert("z".into(), port(missing));
                Ok(())
            })
            .unwrap_err();
        assert!(error.message.starts_with("port z: there is no interface nothing"), "{error}");
        let after = session(None, |s| {
            let pt0 = s.expect_link("pt0")?;
            assert_eq!(s.addresses(&pt0)?, []);
            Ok((s.expect_link("v0")?, pt0))
        });
        let (v0, pt0) = after.unwrap();
        assert_eq!((v0.up, pt0.up, pt0.mac, pt0.mtu), (false, false, before.1.mac, before.1.mtu));
    });
}

#[test]
fn what_the_keeper_was_not_told_to_let_go_of_goes_later() {
    in_new_netns(|| {
        let daemons = Daemons::new();
        daemons.put("web", json!({"bridge": "br0", "type": "tap"})).unwrap();
        // As if a message to it had been lost.
        let keeper = Keeper::connect(&daemons.dir.path().join("run"), &keeper_thread()).unwrap();
        let mut kept = keeper.fetch().unwrap();
        assert_eq!(kept.len(), 1);
        keeper.put("lost", &json!(null), &kept.remove(0).1.fds).unwrap();
        assert!(daemons.controller().notice(Notice::KeeperGone));
        daemons.eventually("web", "still up", up);
        assert_eq!(keeper.names().unwrap(), ["web"]);
    });
}

#[test]
fn a_run_directory_with_a_long_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = DaemonConfig {
        run_dir: dir.path().join("x".repeat(120)),
        state_dir: dir.path().join("state"),
        config: None,
        workers: 1,
        pin: false,
        docker: None,
        spin: Spin::Micros(0),
    };
    let error = Daemon::start(&config, keeper_thread()).err().unwrap();
    assert!(error.message.ends_with("is too long"), "{error}");
}

#[test]
fn what_a_dead_daemon_left_is_released() {
    in_new_netns(|| {
        let mut daemons = Daemons::new();
        let container = Container::new();
        let client = crate::client::Client::new(&daemons.dir.path().join("run"));
        daemons.put("web", eth0(&container)).unwrap();
        daemons.stop(false);
        assert!(container.link("eth0").is_some());
        daemons.runtime.block_on(client.stop(true)).unwrap();
        assert!(container.link("eth0").is_none());
        let error = daemons.runtime.block_on(client.stop(true)).unwrap_err();
        assert!(error.message.starts_with("no trunkline daemon answers"), "{error}");
    });
}

#[test]
fn a_second_daemon_is_refused() {
    in_new_netns(|| {
        let daemon = Daemons::new();
        let run_dir = daemon.dir.path().join("run");
        let config = |state: &str| DaemonConfig {
            run_dir: run_dir.clone(),
            state_dir: daemon.dir.path().join(state),
            config: None,
            workers: 1,
            pin: false,
            docker: None,
            spin: Spin::Micros(0),
        };
        let error = Daemon::start(&config("other"), keeper_thread()).err().unwrap();
        let pid = std::process::id();
        let expected =
            format!("a daemon with the run directory {} runs already, process {pid}", run_dir.display());
        assert_eq!(error.message, expected);
    });
}
