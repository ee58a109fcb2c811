//! The kernel's own vxlan device, as the far end of a tunnel.

use std::net::IpAddr;

use crate::Netns;
use crate::underlay::{Family, Underlay};

/// A host whose `vx0` is a tunnel to one other.
#[derive(Debug)]
pub struct VxlanHost {
    /// Its namespace.
    pub ns: Netns,
    /// Inner address of `vx0`: 10.7.8.N.
    pub v4: IpAddr,
    /// Inner address of `vx0`: fd07::8N.
    pub v6: IpAddr,
}

impl VxlanHost {
    /// Makes host `n` of the underlay, with a device to host `remote`; `args` go to `ip link add`, such as
    /// `id 77 dstport 4789 udpcsum`.
    pub fn new(name: &str, underlay: &Underlay, n: u8, remote: u8, family: Family, args: &str) -> VxlanHost {
        let ns = Netns::new(name);
        underlay.join(&ns, n);
        let (local, remote) = (underlay.address(n, family), underlay.address(remote, family));
        ns.sh(&format!("ip link add vx0 type vxlan local {local} remote {remote} {args}"));
        let host = VxlanHost {
            ns,
            v4: format!("10.7.8.{n}").parse().expect("address"),
            v6: format!("fd07::8{n:02}").parse().expect("address"),
        };
        host.ns.sh(&format!("ip address add {}/16 dev vx0", host.v4));
        host.ns.sh(&format!("ip address add {}/64 dev vx0 nodad", host.v6));
        host.ns.sh("ip link set vx0 up");
        host
    }
}
