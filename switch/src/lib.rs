//! The bridge: which port a frame may enter by, in which VLAN it is, where it leaves and with which tag.
//!
//! Sans-IO: `now` and packets come in, decisions go out. See IEEE 802.1Q §8 and `ovs-vswitchd.conf.db(5)`,
//! whose VLAN vocabulary is used.

pub mod bridge;
pub mod config;
pub mod fdb;
pub mod guard;
mod sync;
mod vlan;

pub use bridge::{Bridge, Sink};
pub use config::{BridgeConfig, PortConfig, VlanMode, VlanSet};
pub use fdb::{Fdb, FdbCounters, FdbEntry};
pub use guard::{Allowed, Guard};
