//! What the daemon costs when nothing happens.

use std::time::Duration;

use trunkline_tests::check::{cpu_seconds, rss_kib};
use trunkline_tests::{Lab, Netns};

/// 2 bridges, 100 ports. The bound is loose, because the machine is shared and this is not a measurement:
/// bench/ has that, with the bound of 1 % of a core.
#[test]
fn a_hundred_idle_ports() {
    let lab = Lab::new();
    lab.ok(&["bridge", "add", "br1"]);
    let ns = Netns::new(&lab.name("many"));
    for n in 0..100 {
        let (bridge, name) = (if n % 2 == 0 { "br0" } else { "br1" }, format!("p{n}"));
        lab.ok(&["port", "add", bridge, &name, "--type", "tap", "--netns", ns.name()]);
    }
    assert_eq!(ns.interfaces().len(), 100);
    // The interfaces' own beginnings (router solicitations) are over after a while.
    std::thread::sleep(Duration::from_secs(5));
    let before = cpu_seconds(lab.daemon.pid());
    std::thread::sleep(Duration::from_secs(5));
    let share = (cpu_seconds(lab.daemon.pid()) - before) / 5.0;
    let rss = rss_kib(lab.daemon.pid());
    println!("idle with 100 ports: {:.2} % of a core, {} MiB", share * 100.0, rss / 1024);
    assert!(share < 0.03, "{:.1} % of a core", share * 100.0);
    assert!(rss < 64 * 1024, "{rss} KiB");
}
