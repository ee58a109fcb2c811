//! The kit of the end-to-end tests: namespaces, a daemon per test, containers, peers, traffic, checks.
//!
//! A scenario is written once in `tests/*.rs` and run over port types and offload settings. Every test has
//! its own [`Lab`]: a network namespace with its own daemon, run and state directories, so tests run in
//! parallel. Everything happens inside `scripts/sandbox`, and whatever a killed test leaves behind vanishes
//! with it. The kit uses the `trunkline` binary and nothing else of the project.

pub mod capture;
pub mod check;
pub mod cmd;
pub mod cni;
pub mod daemon;
pub mod docker;
pub mod frame;
pub mod guest;
pub mod http;
pub mod internet;
pub mod lab;
pub mod mesh;
pub mod netns;
pub mod ovs;
pub mod pair;
pub mod ping;
pub mod podman;
pub mod raw;
pub mod scapy;
pub mod transfer;
pub mod tunnel;
pub mod underlay;
pub mod vxlan;

pub use lab::{Container, Kind, Lab, Opts};
pub use netns::Netns;

use std::time::{Duration, Instant};

/// Panics unless the test runs inside `scripts/sandbox`: outside it would make interfaces and namespaces
/// on the machine itself.
pub fn require_sandbox() {
    assert!(
        std::env::var_os("TRUNKLINE_SANDBOX").is_some(),
        "end-to-end tests run only inside scripts/sandbox; use `make test-e2e` (one test: `make test-e2e E2E=name`)"
    );
}

/// Polls `condition` until it holds or `limit` has passed; returns whether it held. Tests give generous limits:
/// the machine is small, shared and noisy.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
