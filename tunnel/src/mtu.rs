//! How large an inner packet may be: what the tunnel adds, what the path takes (RFC 1191, RFC 8201), and
//! TCP's segment size made to fit.

pub mod icmp;
pub mod mss;
pub mod path;
pub mod probe;
pub mod report;

use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{IPV4_HLEN, IPV6_HLEN, UDP_HLEN};

use crate::config::{Encap, InnerVlan};

/// The least MTU of a link that carries IPv6 (RFC 8200 §5). Linux takes IPv6 off an interface whose MTU is
/// set below.
pub const IPV6_MIN: u16 = 1280;

/// What every IPv4 host must be able to receive (RFC 791 §3.1): inner MTUs below it are of no use.
pub const IPV4_MIN: u16 = 576;

/// Bytes of an outer packet in front of the inner IP packet: outer IP (without options), UDP, the tunnel
/// header, the inner Ethernet header and its tag, if the tunnel keeps one.
pub fn overhead(to: &Encap) -> u16 {
    let ip = if to.remote.is_ipv4() { IPV4_HLEN } else { IPV6_HLEN };
    let udp = if to.header.kind().is_udp() { UDP_HLEN } else { 0 };
    let tag = if to.inner_vlan == InnerVlan::Keep { 4 } else { 0 };
    (ip + udp + to.header.len() + ETH_HLEN + tag) as u16
}

/// Why an inner MTU is what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The path MTU less the overhead.
    Path,
    /// Configured, and the path takes it.
    Configured,
    /// Configured, and more than the path takes: outer packets are fragmented.
    ConfiguredFragmented,
    /// The path takes less than IP needs: outer packets are fragmented.
    Least,
}

impl Why {
    /// For users.
    pub const fn help(self) -> &'static str {
        match self {
            Why::Path => "path MTU less the tunnel's headers",
            Why::Configured => "configured",
            Why::ConfiguredFragmented => {
                "configured; larger than the path takes, outer packets are fragmented"
            }
            Why::Least => "the least that IP needs; the path takes less, outer packets are fragmented",
        }
    }
}

/// The inner MTU in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InnerMtu {
    /// Longest inner IP packet.
    pub mtu: u16,
    /// Outer packets must be sent without DF, or inner ones of this length do not arrive.
    pub fragment: bool,
    /// Why.
    pub why: Why,
}

/// The inner MTU on a path whose MTU (of the outer IP packet) is `path`. With `ipv6` inside it is never below
/// 1280.
pub fn inner_mtu(path: u16, overhead: u16, ipv6: bool, configured: Option<u16>) -> InnerMtu {
    let least = if ipv6 { IPV6_MIN } else { IPV4_MIN };
    let fits = path.saturating_sub(overhead);
    match configured {
        Some(mtu) if mtu >= least => {
            let fragment = mtu > fits;
            let why = if fragment { Why::ConfiguredFragmented } else { Why::Configured };
            InnerMtu { mtu, fragment, why }
        }
        _ if fits < least || configured.is_some() => {
            InnerMtu { mtu: least, fragment: fits < least, why: Why::Least }
        }
        _ => InnerMtu { mtu: fits, fragment: false, why: Why::Path },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geneve::GeneveOption;
    use crate::{GreKey, TunnelHeader, Vni};

    #[test]
    fn overhead_is_what_encapsulation_adds() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let option = GeneveOption { class: 1, kind: 1, data: &[0; 4] };
        for (header, on_v4, on_v6) in [
            (TunnelHeader::vxlan(Vni::MAX), 50, 70),
            (TunnelHeader::nvgre(Vni::MAX), 42, 62),
            (TunnelHeader::gre(None, false, false), 38 + 4, 58 + 4),
            (TunnelHeader::gre(Some(GreKey(1)), true, true), 50 + 4, 70 + 4),
            (TunnelHeader::geneve(Vni::MAX, &[]).unwrap(), 50 + 4, 70 + 4),
            (TunnelHeader::geneve(Vni::MAX, &[option]).unwrap(), 58 + 4, 78 + 4),
        ] {
            assert_eq!(overhead(&Encap::new(header, v4)), on_v4, "{header:?}");
            assert_eq!(overhead(&Encap::new(header, v6)), on_v6, "{header:?}");
        }
    }

    #[test]
    fn rfc8200_5_never_below_1280_where_ipv6_is_on() {
        let mtu = |mtu, fragment, why| InnerMtu { mtu, fragment, why };
        assert_eq!(inner_mtu(1500, 50, true, None), mtu(1450, false, Why::Path));
        assert_eq!(inner_mtu(1330, 50, true, None), mtu(1280, false, Why::Path));
        assert_eq!(inner_mtu(1329, 50, true, None), mtu(1280, true, Why::Least));
        assert_eq!(inner_mtu(1329, 50, false, None), mtu(1279, false, Why::Path));
        assert_eq!(inner_mtu(68, 70, false, None), mtu(576, true, Why::Least));
    }

    #[test]
    fn a_configured_mtu_is_obeyed_unless_it_breaks_ip() {
        let mtu = |mtu, fragment, why| InnerMtu { mtu, fragment, why };
        assert_eq!(inner_mtu(1500, 50, true, Some(1400)), mtu(1400, false, Why::Configured));
        assert_eq!(inner_mtu(1500, 50, true, Some(1500)), mtu(1500, true, Why::ConfiguredFragmented));
        assert_eq!(inner_mtu(1500, 50, true, Some(1000)), mtu(1280, false, Why::Least));
        assert_eq!(inner_mtu(1500, 50, false, Some(1000)), mtu(1000, false, Why::Configured));
    }
}
