//! Namespaces by name, path and process id.

mod common;

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use common::*;
use trunkline_ports::link;
use trunkline_ports::netns::Netns;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A name under /run/netns that goes when the test ends.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status());
    }
}

#[test]
fn found_by_pid_path_and_descriptor() {
    sandbox(Needs::Net, || {
        let here = Netns::current().unwrap();
        // The child inherits this thread's namespace.
        let child = Killed(Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap());
        let by_pid = Netns::open(&child.0.id().to_string()).unwrap();
        let by_path = Netns::open(&format!("/proc/{}/ns/net", child.0.id())).unwrap();
        let by_fd = Netns::try_from(here.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!([by_pid.id(), by_path.id(), by_fd.id()], [here.id(); 3]);
        assert_ne!(new_netns().id(), here.id());
    });
}

#[test]
fn found_by_name() {
    let test = test_name();
    sandbox(Needs::Net, || {
        let name = Named(format!("ports-test-{}", std::process::id()));
        let added = Command::new("ip").args(["netns", "add", &name.0]).stderr(Stdio::null()).status();
        if !added.is_ok_and(|status| status.success()) {
            return skipped(&test, "may not write to /run/netns");
        }
        let ns = Netns::open(&name.0).unwrap();
        assert_eq!(ns.id(), Netns::open(&format!("/run/netns/{}", name.0)).unwrap().id());
        inside(&ns, || ip("link add onlyhere type veth peer name onlyhere2"));
        assert!(inside(&ns, || link::index("onlyhere")).is_ok());
        assert_eq!(link::index("onlyhere").unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn run_is_inside_only_for_its_closure() {
    sandbox(Needs::Net, || {
        let (here, there) = (Netns::current().unwrap().id(), new_netns());
        assert_eq!(there.run(|| Netns::current().unwrap().id()).unwrap(), there.id());
        assert_eq!(Netns::current().unwrap().id(), here);
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| there.run(|| panic!("on purpose"))));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
    });
}

#[test]
fn what_is_no_namespace_is_refused() {
    let kind = |spec: &str| Netns::open(spec).unwrap_err().kind();
    for spec in ["", ".", "..", "a/b", "../etc/passwd", "a\0b", "/a\0b"] {
        assert_eq!(kind(spec), ErrorKind::InvalidInput, "{spec:?}");
    }
    for spec in ["nosuch-namespace", "/run/nosuch/path", "4194305"] {
        assert_eq!(kind(spec), ErrorKind::NotFound, "{spec:?}");
    }
    for spec in ["/etc/passwd", "/dev/null", "/proc/self/ns/mnt", "/"] {
        assert_eq!(kind(spec), ErrorKind::InvalidInput, "{spec:?}");
    }
    assert_eq!(
        Netns::open("nosuch-namespace").unwrap_err().to_string(),
        "no such network namespace: nosuch-namespace"
    );
    assert_eq!(Netns::open("4194305").unwrap_err().to_string(), "no such process: 4194305");
}
