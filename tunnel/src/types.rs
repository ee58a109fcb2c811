//! Names of virtual networks, and the kinds of tunnels.

use std::fmt;

/// Which encapsulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Ethernet in GRE (RFC 2784, RFC 2890), with or without a key.
    Gre,
    /// Ethernet in GRE with a virtual subnet identifier in the key (RFC 7637).
    Nvgre,
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

impl Kind {
    /// Whether it travels in UDP, rather than as IP protocol 47.
    #[inline]
    pub const fn is_udp(self) -> bool {
        matches!(self, Kind::Vxlan | Kind::Geneve)
    }

    /// The UDP destination port that IANA assigned.
    pub const fn default_port(self) -> Option<u16> {
        match self {
            Kind::Vxlan => Some(4789),
            Kind::Geneve => Some(6081),
            Kind::Gre | Kind::Nvgre => None,
        }
    }
}

/// A virtual network identifier of 24 bits: VXLAN's and Geneve's VNI, NVGRE's VSID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest.
    pub const MAX: Vni = Vni(0xff_ffff);

    /// `None` above 24 bits.
    #[inline]
    pub const fn new(vni: u32) -> Option<Vni> {
        if vni <= Vni::MAX.0 { Some(Vni(vni)) } else { None }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Three bytes as on the wire.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// From the wire.
    #[inline]
    pub const fn from_bytes([a, b, c]: [u8; 3]) -> Vni {
        Vni(u32::from_be_bytes([0, a, b, c]))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vni{}", self.0)
    }
}

/// The key of a GRE tunnel (RFC 2890 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GreKey(pub u32);

impl GreKey {
    /// The key NVGRE makes of a VSID and a flow identifier (RFC 7637 §3.2).
    #[inline]
    pub const fn nvgre(vsid: Vni, flow: u8) -> GreKey {
        GreKey(vsid.0 << 8 | flow as u32)
    }

    /// The VSID in it, if it is NVGRE's.
    #[inline]
    pub const fn vsid(self) -> Vni {
        Vni(self.0 >> 8)
    }
}

/// What tells the virtual networks between two hosts apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NetId {
    /// GRE without a key.
    None,
    /// GRE with a key. Key 0 is not the same as none (RFC 2890 §2.1 makes the field optional).
    Key(GreKey),
    /// VXLAN, Geneve, NVGRE.
    Vni(Vni),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_is_24_bits() {
        assert_eq!(Vni::new(0x100_0000), None);
        assert_eq!(Vni::from_bytes(Vni::MAX.to_bytes()), Vni::MAX);
        assert_eq!(Vni::new(0x12_3456).map(Vni::to_bytes), Some([0x12, 0x34, 0x56]));
    }

    #[test]
    fn rfc7637_3_2_the_key_is_the_vsid_and_the_flow_id() {
        let key = GreKey::nvgre(Vni::from_bytes([1, 2, 3]), 4);
        assert_eq!((key, key.vsid()), (GreKey(0x0102_0304), Vni::from_bytes([1, 2, 3])));
    }
}
