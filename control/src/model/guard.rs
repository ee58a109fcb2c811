//! What a port is held to: anti-spoof.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use trunkline_packet::MacAddr;

/// One thing that a port may use; see [`crate::model::PortSpec::anti_spoof`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// `own`: the MAC address and the addresses of the port's own interface, as they are configured here.
    Own,
    /// `dhcp`: the IPv4 addresses that a DHCP server gives to the port's MAC addresses.
    Dhcp,
    /// A MAC address.
    Mac(MacAddr),
    /// An IPv4 or IPv6 address, or a network of them.
    Net(IpNet),
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allow::Own => f.write_str("own"),
            Allow::Dhcp => f.write_str("dhcp"),
            Allow::Mac(mac) => mac.fmt(f),
            Allow::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Allow::Net(net) => net.fmt(f),
        }
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> String {
        allow.to_string()
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Allow, String> {
        match text {
            "own" => return Ok(Allow::Own),
            "dhcp" => return Ok(Allow::Dhcp),
            _ => {}
        }
        if let Ok(mac) = text.parse() {
            return Ok(Allow::Mac(mac));
        }
        let net = text.parse::<IpNet>().map(|net| net.trunc());
        net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map(Allow::Net).map_err(|_| {
            let text: String = text.chars().take(40).collect();
            format!(
                "'{}' is nothing to hold a port to; use own, dhcp, a MAC address, an address or a prefix",
                text.escape_debug()
            )
        })
    }
}

impl TryFrom<String> for Allow {
    type Error = String;

    fn try_from(text: String) -> Result<Allow, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, same) in [
            ("own", "own"),
            ("dhcp", "dhcp"),
            ("02-00-00-00-00-0A", "02:00:00:00:00:0a"),
            ("10.77.0.2", "10.77.0.2"),
            ("10.77.0.9/24", "10.77.0.0/24"),
            ("fd77::2/128", "fd77::2"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Allow>().unwrap().to_string(), same);
        }
        for bad in ["", "true", "10.77.0", "10.77.0.2/33", "02:00:00:00:00", "web"] {
            assert!(bad.parse::<Allow>().unwrap_err().contains("is nothing to hold a port to"));
        }
    }
}
