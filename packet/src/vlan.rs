//! VLAN identifiers and tags (IEEE 802.1Q §9).

use std::fmt;

/// A VLAN identifier, 0 to 4094. 0 stands for "no VLAN": untagged and priority-tagged frames on a port
/// that assigns none. 4095 is reserved and never constructed (IEEE 802.1Q table 9-2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VlanId(u16);

impl VlanId {
    /// Untagged.
    pub const NONE: VlanId = VlanId(0);
    /// The largest identifier a user may configure.
    pub const MAX: VlanId = VlanId(4094);

    /// `None` for 4095 and above.
    #[inline]
    pub const fn new(vid: u16) -> Option<VlanId> {
        if vid < 4095 { Some(VlanId(vid)) } else { None }
    }

    /// The 12-bit number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan{}", self.0)
    }
}

/// Which kind of tag: customer or service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Tpid {
    /// C-TAG, 0x8100.
    #[default]
    Customer,
    /// S-TAG, 0x88a8.
    Service,
}

impl Tpid {
    /// The EtherType on the wire, host order.
    #[inline]
    pub const fn ethertype(self) -> u16 {
        match self {
            Tpid::Customer => 0x8100,
            Tpid::Service => 0x88a8,
        }
    }

    /// The tag kind an EtherType announces, if any.
    #[inline]
    pub const fn from_ethertype(v: u16) -> Option<Tpid> {
        match v {
            0x8100 => Some(Tpid::Customer),
            0x88a8 => Some(Tpid::Service),
            _ => None,
        }
    }
}

/// One tag: its kind and the raw TCI (PCP 3 bits, DEI 1 bit, VID 12 bits). The VID may be the reserved
/// 4095 here, since a tag is what was on the wire; [`VlanTag::vid`] checks it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanTag {
    /// Customer or service.
    pub tpid: Tpid,
    /// Priority, drop eligibility and identifier, as on the wire, host order.
    pub tci: u16,
}

impl VlanTag {
    /// A tag with this identifier and the priority bits (PCP and DEI) of `priority`, a TCI.
    #[inline]
    pub const fn new(tpid: Tpid, vid: VlanId, priority: u16) -> VlanTag {
        VlanTag { tpid, tci: vid.0 | priority & 0xf000 }
    }

    /// The identifier; `None` for the reserved 4095.
    #[inline]
    pub const fn vid(self) -> Option<VlanId> {
        VlanId::new(self.tci & 0xfff)
    }

    /// PCP and DEI, in place (the high four bits of the TCI).
    #[inline]
    pub const fn priority(self) -> u16 {
        self.tci & 0xf000
    }

    /// Four bytes as on the wire.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 4] {
        let (t, c) = (self.tpid.ethertype().to_be_bytes(), self.tci.to_be_bytes());
        [t[0], t[1], c[0], c[1]]
    }
}
