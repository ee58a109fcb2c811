//! What a bridge and its ports are configured to do. Plain values; validated before they come here.

use std::net::Ipv4Addr;
use std::sync::Arc;

use trunkline_packet::{MacAddr, PortId, VlanId};

use crate::Guard;
use crate::vlan::carries;

/// How a port treats VLAN tags, in Open vSwitch's words (`ovs-vswitchd.conf.db(5)`, Port, vlan_mode).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VlanMode {
    /// Carries exactly one VLAN, untagged in both directions. Tagged frames are dropped at ingress
    /// (a priority tag, VID 0, counts as untagged).
    Access,
    /// Carries the VLANs of `trunks`, tagged. Untagged and priority-tagged frames are in VLAN 0.
    #[default]
    Trunk,
    /// A trunk whose untagged ingress is in VLAN `tag`; at egress that VLAN is tagged.
    NativeTagged,
    /// A trunk whose untagged ingress is in VLAN `tag`; at egress that VLAN is untagged.
    NativeUntagged,
    /// A provider port: every frame, tagged or not, is put into service VLAN `tag` (802.1ad S-TAG) and
    /// leaves without it. `trunks`, if not all, limits the customer VLANs.
    Dot1qTunnel,
}

/// A set of VLAN identifiers, 0 to 4094.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// Every VLAN.
    pub fn all() -> VlanSet {
        VlanSet(Box::new([u64::MAX; 64]))
    }

    /// None.
    pub fn empty() -> VlanSet {
        VlanSet(Box::new([0; 64]))
    }

    /// Adds one.
    pub fn insert(&mut self, vid: VlanId) {
        self.0[usize::from(vid.get() >> 6)] |= 1 << (vid.get() & 63);
    }

    /// Whether it is in the set.
    #[inline]
    pub fn contains(&self, vid: VlanId) -> bool {
        self.0[usize::from(vid.get() >> 6)] >> (vid.get() & 63) & 1 != 0
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(iter: T) -> Self {
        let mut set = VlanSet::empty();
        iter.into_iter().for_each(|v| set.insert(v));
        set
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VlanSet({} vlans)", self.0.iter().map(|w| w.count_ones()).sum::<u32>())
    }
}

/// One port's role in its bridge.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Its slot in the engine's port table.
    pub id: PortId,
    /// Tag handling.
    pub vlan_mode: VlanMode,
    /// The VLAN of an access, native or tunnel port; [`VlanId::NONE`] otherwise.
    pub tag: VlanId,
    /// VLANs carried by trunk and native ports (the native VLAN is always carried).
    pub trunks: VlanSet,
    /// Isolated ports exchange frames only with ports that are not.
    pub isolated: bool,
    /// Ports of one group do not exchange frames; `None`: no group.
    pub split_horizon_group: Option<u32>,
    /// Learn source addresses here.
    pub learning: bool,
    /// Send unknown-unicast, multicast and broadcast frames here.
    pub flood: bool,
    /// Most addresses learned here at a time; 0: no limit but the bridge's.
    pub max_macs: u32,
    /// Most flooded frames accepted from here per second (a superframe counts once); 0: no limit.
    pub flood_limit: u32,
    /// What may come in here; `None`: anything, and its DHCP servers and routers are believed.
    pub guard: Option<Arc<Guard>>,
}

impl PortConfig {
    /// A trunk of all VLANs that learns and floods.
    pub fn new(id: PortId) -> PortConfig {
        PortConfig {
            id,
            vlan_mode: VlanMode::Trunk,
            tag: VlanId::NONE,
            trunks: VlanSet::all(),
            isolated: false,
            split_horizon_group: None,
            learning: true,
            flood: true,
            max_macs: 0,
            flood_limit: 0,
            guard: None,
        }
    }

    /// DHCP gave an address to a host of the VLAN, for so many seconds (`u32::MAX`: for ever), at `now` seconds of
    /// the engine's clock. A port of that VLAN that is held to what DHCP gives it may use the address if it
    /// may use the host's MAC address, and may not any more if it had it and may not.
    pub fn lease(&self, now: u32, vid: VlanId, mac: MacAddr, address: Ipv4Addr, seconds: u32) {
        if let Some(guard) = self.guard.as_ref().filter(|_| carries(self, vid)) {
            guard.lease(now, mac, address, seconds);
        }
    }
}

/// What a whole bridge does.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Seconds after which an address not seen is forgotten (802.1Q §8.8.3; default 300).
    pub ageing: u32,
    /// Most addresses learned at a time on the bridge.
    pub max_macs: u32,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        BridgeConfig { ageing: 300, max_macs: 16384 }
    }
}
