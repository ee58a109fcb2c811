//! Descriptors outlive the process that handed them over. Needs root for TAPs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde_json::json;
use trunkline_ports::tap::{Tap, TapConfig};

use super::*;
use crate::net::session;
use crate::rundir::listen_privately;
use crate::testing::in_new_netns;

/// Serves on a thread; a keeper that a test needs to kill is a process.
fn in_thread() -> Launch {
    Box::new(|dir| {
        let dir = dir.to_owned();
        std::thread::spawn(move || serve(&dir));
        Ok(None)
    })
}

fn tap(name: &str, queues: u16) -> Tap {
    Tap::open(&TapConfig { name: name.into(), queues, offload: true, adopt: false }).unwrap()
}

fn exists(name: &str) -> bool {
    session(None, |s| s.link(name)).unwrap().is_some()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn descriptors_outlive_their_daemon_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        // More queues than fit into one message.
        for (name, queues) in [("tl0", 1), ("tl1", 256)] {
            let tap = tap(name, queues);
            keeper.put(name, &json!({ "queues": queues }), &tap.try_clone_fds().unwrap()).unwrap();
        }
        drop(keeper);
        assert!(exists("tl0") && exists("tl1"));

        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        let kept = keeper.fetch().unwrap();
        let summary: Vec<_> =
            kept.iter().map(|(name, k)| (name.as_str(), k.meta["queues"].as_u64(), k.fds.len())).collect();
        assert_eq!(summary, [("tl0", Some(1), 1), ("tl1", Some(256), 256)]);
        for (name, kept) in kept {
            let tap = Tap::from_fds(kept.fds, true).unwrap();
            assert_eq!(tap.name(), name);
        }
        keeper.release("tl0").unwrap();
        eventually("a released interface goes", || !exists("tl0"));
        assert!(exists("tl1"));
        keeper.quit().unwrap();
        eventually("all go when it quits", || !exists("tl1"));
    });
}

#[test]
fn what_is_put_again_replaces_what_was_held() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        let (a, b) = (tap("tl0", 1), tap("tl1", 1));
        keeper.put("p", &json!(1), &a.try_clone_fds().unwrap()).unwrap();
        keeper.put("p", &json!(2), &b.try_clone_fds().unwrap()).unwrap();
        drop((a, b));
        eventually("the first one goes", || !exists("tl0"));
        let kept = keeper.fetch().unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((&kept[0].1.meta, kept[0].1.fds.len()), (&json!(2), 1));
        assert_eq!(Tap::from_fds(kept.into_iter().next().unwrap().1.fds, true).unwrap().name(), "tl1");
        keeper.quit().unwrap();
    });
}

#[test]
fn an_interface_that_goes_is_let_go_of_and_an_idle_keeper_ends() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        let server = server::Server::bind(dir.path()).unwrap();
        let ended = std::thread::spawn(move || server.serve());
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        let fds: Vec<OwnedFd> = tap("tl0", 1).try_clone_fds().unwrap();
        keeper.put("p", &json!(null), &fds).unwrap();
        // Moved into a namespace that ends: the device goes though the descriptors are held.
        in_new_netns(|| {
            let there = trunkline_ports::netns::Netns::current().unwrap();
            Tap::from_fds(fds.iter().map(|fd| fd.try_clone().unwrap()).collect(), true)
                .unwrap()
                .netns()
                .unwrap()
                .run(|| session(None, |s| s.move_to(&s.expect_link("tl0")?, &there)).unwrap())
                .unwrap();
        });
        drop(keeper);
        // Nothing is left to hold, nobody asks: it ends by itself.
        eventually("the keeper ends", || ended.is_finished());
        ended.join().unwrap().unwrap();
    });
}

#[test]
fn more_names_than_fit_into_one_message_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
    let file = [OwnedFd::from(tempfile::tempfile().unwrap())];
    let names: Vec<String> = (0..1200).map(|n| format!("{n:063}")).collect();
    for name in &names {
        keeper.put(name, &json!(null), &file).unwrap();
    }
    let fetched: Vec<String> = keeper.fetch().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(fetched, names);
    keeper.quit().unwrap();
}

#[test]
fn a_keeper_that_does_not_answer_in_time_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let _listener = listen_privately(&path, SocketType::SEQPACKET).unwrap();
    let keeper = Keeper::open(&path).unwrap();
    let watched = keeper.watch().unwrap();
    set_socket_timeout(&watched, Timeout::Recv, Some(Duration::from_millis(20))).unwrap();
    assert_eq!(keeper.release("p").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // A late answer would be taken for that to the next question: there is none.
    assert_eq!(keeper.release("p").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut polled = [PollFd::new(&watched, PollFlags::empty())];
    assert_eq!(poll(&mut polled, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap(), 1, "hung up");
}

#[test]
fn a_keeper_that_cannot_be_found_any_more_ends() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        let server = server::Server::bind(dir.path()).unwrap();
        let ended = std::thread::spawn(move || server.serve());
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        keeper.put("p", &json!(null), &tap("tl0", 1).try_clone_fds().unwrap()).unwrap();
        let other = std::fs::write(dir.path().join("other"), "");
        other.and_then(|()| std::fs::rename(dir.path().join("other"), socket_path(dir.path()))).unwrap();
        keeper.put("q", &json!(null), &[]).unwrap();
        assert!(exists("tl0") && !ended.is_finished(), "a daemon has it");
        drop(keeper);
        eventually("the keeper ends", || ended.is_finished());
        assert!(!exists("tl0"));
        assert!(socket_path(dir.path()).exists(), "what is not the keeper's stays");
    });
}

#[test]
fn a_keeper_without_a_daemon_is_made_to_let_go() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        assert!(!release(dir.path()).unwrap(), "there is none");
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        keeper.put("p", &json!(null), &tap("tl0", 1).try_clone_fds().unwrap()).unwrap();
        let daemon = Lock::take(&dir.path().join(DAEMON_LOCK)).unwrap().unwrap_or_else(|_| panic!());
        let refused = release(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("does not answer yet, process {}", std::process::id())),
            "{refused}"
        );
        assert!(exists("tl0"));
        drop((keeper, daemon));
        assert!(release(dir.path()).unwrap());
        assert!(!exists("tl0"));
        eventually("the keeper ends", || !release(dir.path()).unwrap());
    });
}

#[test]
fn one_keeper_per_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _first = server::Server::bind(dir.path()).unwrap();
    let error = server::Server::bind(dir.path()).err().unwrap();
    assert!(error.message.contains("runs already, process "), "{error}");
}

#[test]
fn another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
    let error = keeper.ask_version(99).unwrap_err();
    assert_eq!(error.to_string(), format!("the keeper speaks version {VERSION}, not 99"));
}

/// Not a test: the process that `a_killed_daemon_leaves_its_interface` kills.
#[test]
#[ignore = "runs as a child of another test"]
fn daemon_to_be_killed() {
    let dir = std::env::var("TRUNKLINE_TEST_KEEPER").expect("started by another test");
    let keeper = Keeper::connect(Path::new(&dir), &in_thread()).unwrap();
    let tap = tap("tl0", 1);
    keeper.put("p", &json!(null), &tap.try_clone_fds().unwrap()).unwrap();
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_daemon_leaves_its_interface() {
    let dir = tempfile::tempdir().unwrap();
    in_new_netns(|| {
        let keeper = Keeper::connect(dir.path(), &in_thread()).unwrap();
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "keeper::tests::daemon_to_be_killed", "--nocapture"])
            .env("TRUNKLINE_TEST_KEEPER", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the daemon hands over", || keeper.fetch().unwrap().len() == 1);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(exists("tl0"));
        let kept = keeper.fetch().unwrap().pop().unwrap().1;
        let tap = Tap::from_fds(kept.fds, true).unwrap();
        assert_eq!(tap.name(), "tl0");
        keeper.quit().unwrap();
        drop(tap);
        eventually("released", || !exists("tl0"));
    });
}
