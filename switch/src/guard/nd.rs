//! Neighbour discovery through a guard (RFC 4861, RFC 4862).

use std::net::Ipv6Addr;

use trunkline_packet::headers::Fragment;
use trunkline_packet::{DropReason, Headers};

use super::Check;

/// ICMPv6 types (RFC 4861 §4, RFC 2710, RFC 3810, RFC 2894).
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const RENUMBERING: u8 = 138;
const MLD2_REPORT: u8 = 143;

/// Options with a link-layer address: the source's and the target's.
const LINK_LAYER: [u8; 2] = [1, 2];

impl Check<'_> {
    /// An ICMPv6 message. True: it may come from `::`.
    pub(super) fn icmpv6(&self, ip: &Headers, src: Ipv6Addr, dst: Ipv6Addr) -> Result<bool, DropReason> {
        let l4 = usize::from(ip.l4);
        let kind = self.head.get(l4).copied().unwrap_or_default();
        let options = match kind {
            ROUTER_ADVERTISEMENT | REDIRECT | RENUMBERING => return Err(DropReason::GuardRa),
            MLD_REPORT | MLD_DONE | MLD2_REPORT => return Ok(true),
            ROUTER_SOLICITATION => 8,
            SOLICITATION | ADVERTISEMENT => 24,
            _ => return Ok(false),
        };
        if ip.fragment != Fragment::None {
            return Err(DropReason::GuardNd);
        }
        let end = ip.end as usize;
        let Some(message) = self.head.get(l4..end) else { return Err(DropReason::GuardHidden) };
        self.link_layer(message.get(options..).ok_or(DropReason::GuardNd)?, src.is_unspecified())?;
        let target = match message.get(8..24).and_then(<[u8]>::first_chunk::<16>) {
            Some(target) if kind != ROUTER_SOLICITATION => Ipv6Addr::from(*target),
            _ => return Ok(true),
        };
        match kind {
            // Who asks whether an address is free is about to claim it.
            SOLICITATION if src.is_unspecified() => match self.owns_v6(target) && dst.is_multicast() {
                true => Ok(true),
                false => Err(DropReason::GuardNd),
            },
            ADVERTISEMENT if !self.owns_v6(target) => Err(DropReason::GuardNd),
            _ => Ok(false),
        }
    }

    /// Link-layer addresses in options are the frame's own; from `::` there are none (RFC 4861 §4.1, §4.3).
    fn link_layer(&self, mut options: &[u8], nobody: bool) -> Result<(), DropReason> {
        while !options.is_empty() {
            let option = match *options {
                [_, units, ..] if units > 0 => options.get(..usize::from(units) * 8),
                _ => None,
            };
            let option = option.ok_or(DropReason::GuardNd)?;
            if LINK_LAYER.contains(&option[0]) && (nobody || option[1] != 1 || option[2..] != self.mac.0) {
                return Err(DropReason::GuardNd);
            }
            options = &options[option.len()..];
        }
        Ok(())
    }
}
