//! What coturn's discovery says about the translation (RFC 5780), with a server of two addresses outside.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use trunkline_tests::internet::{FAR4, FAR4B, Internet};
use trunkline_tests::{Kind, Netns, eventually, ping};

/// A STUN server, ended when dropped.
struct Stun(Child);

impl Stun {
    fn start(net: &Internet) -> Stun {
        let pid = net.lab.dir().join("turnserver.pid");
        let mut command = Command::new("turnserver");
        command.args(["-n", "-S", "-L", FAR4, "-L", FAR4B, "-p", "3478", "--alt-listening-port=3479"]);
        command
            .args(["--no-tls", "--no-dtls", "--log-file=stdout"])
            .arg(format!("--pidfile={}", pid.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = net.far.enter(|| command.spawn()).expect("turnserver (coturn)");
        let stun = Stun(child);
        let up = eventually(Duration::from_secs(20), || net.far.sh("ss -Hlnu").matches(":3479").count() >= 2);
        assert!(up, "the STUN server does not listen");
        stun
    }
}

impl Drop for Stun {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn discover(from: &Netns, what: &str, own: &str) -> String {
    let out = from.run("timeout", &["30", "turnutils_natdiscovery", what, "-L", own, FAR4]);
    out.stdout + &out.stderr
}

#[test]
fn mapping_is_endpoint_independent_and_filtering_as_asked() {
    let net = Internet::plugged(&[]);
    net.add_uplink();
    let rule = |filtering: &'static str| {
        ["nat", "masquerade", "add", "--from", "10.7.0.0/16", "--uplink", "up", "--filtering", filtering]
    };
    let a = net.container(Kind::Tap, "a");
    let own = a.v4.to_string();
    for (filtering, says) in [
        ("endpoint-independent", "Endpoint Independent Filtering"),
        ("address", "Address Dependent Filtering"),
        ("address-and-port", "Address and Port Dependent Filtering"),
    ] {
        net.lab.ok(&rule(filtering));
        ping::assert_reaches(&a.ns, FAR4.parse().expect("an address"));
        let _server = Stun::start(&net);
        let mapping = discover(&a.ns, "-m", &own);
        assert!(mapping.contains("NAT with Endpoint Independent Mapping"), "{filtering}:\n{mapping}");
        let filter = discover(&a.ns, "-f", &own);
        assert!(filter.contains(says), "{filtering}:\n{filter}");
        if filtering == "endpoint-independent" {
            let hairpin = discover(&a.ns, "-H", &own);
            assert!(hairpin.contains("successful hairpinning"), "{hairpin}");
        }
        let name = net.rule("masquerade")["name"].as_str().expect("a name").to_owned();
        net.lab.ok(&["nat", "del", &name]);
    }
    net.lab.assert_conserved();
}
