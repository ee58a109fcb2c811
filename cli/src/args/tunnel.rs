//! The options of tunnels: of `port add`, `port set` and `mesh` alike.

use std::net::IpAddr;

use trunkline_control::model::keys::parse_remote;

pub(super) fn remote(s: &str) -> Result<IpAddr, String> {
    parse_remote(s).map_err(|e| e.to_string())
}
