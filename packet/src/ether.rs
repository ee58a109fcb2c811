//! Ethernet addresses and EtherTypes (IEEE 802.3, 802.1Q).

use std::fmt;
use std::str::FromStr;

/// Length of an Ethernet header without tags, in bytes.
pub const ETH_HLEN: usize = 14;

/// Shortest Ethernet frame without its FCS, in bytes (IEEE 802.3 §3.2.8).
pub const ETH_ZLEN: usize = 60;

/// An EUI-48 address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Group addresses (multicast and broadcast) have the I/G bit set (IEEE 802 §8.2).
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The all-zero address is no station's.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.to_u64() == 0
    }

    /// `01-80-C2-00-00-00` to `0F`: never forwarded by a bridge (IEEE 802.1Q §8.6.3, table 8-1).
    #[inline]
    pub const fn is_reserved_group(self) -> bool {
        self.to_u64() & !0xf == 0x0180_c200_0000
    }

    /// The address as the low 48 bits of an integer, first byte most significant.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        let m = self.0;
        u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
    }

    /// The inverse of [`MacAddr::to_u64`]; the high 16 bits are ignored.
    #[inline]
    pub const fn from_u64(v: u64) -> MacAddr {
        let b = v.to_be_bytes();
        MacAddr([b[2], b[3], b[4], b[5], b[6], b[7]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a MAC address did not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMac(String);

impl fmt::Display for BadMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a MAC address: write six hex bytes, like 02:00:00:00:00:01", self.0)
    }
}

impl std::error::Error for BadMac {}

impl FromStr for MacAddr {
    type Err = BadMac;

    /// Six two-digit hex bytes separated all by `:` or all by `-`.
    fn from_str(s: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(s.chars().take(40).collect());
        let separator = if s.contains('-') { '-' } else { ':' };
        let mut out = [0u8; 6];
        let mut parts = s.split(separator);
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddr(out)) }
    }
}

/// An EtherType in host order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// Reverse ARP (RFC 903), with which virtual machines announce themselves.
    pub const RARP: EtherType = EtherType(0x8035);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// C-VLAN tag (IEEE 802.1Q table 9-1).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// S-VLAN tag (IEEE 802.1Q table 9-1).
    pub const SVLAN: EtherType = EtherType(0x88a8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trip_and_refusals() {
        let mac: MacAddr = "02:00:5e:10:00:fF".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!("02-00-5e-10-00-ff".parse(), Ok(mac));
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:00",
            "2:0:5e:10:0:ff",
            "02:00-5e:10:00:ff",
            "+2:00:5e:10:00:ff",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn address_classes() {
        assert!(MacAddr::BROADCAST.is_group());
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0f]).is_reserved_group());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved_group());
        assert!(!MacAddr([2, 0, 0, 0, 0, 1]).is_group());
    }
}
