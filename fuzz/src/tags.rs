//! Tags out of the bytes and in again.

use trunkline_packet::{Pool, Tpid, VlanTag, pop_tag, push_tag};

use crate::input::Input;

/// The input is a choice of metadata, and a frame with its virtio header.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut pool = Pool::new(1, 1);
    let choice = input.u8();
    let Some(mut packet) = input.frame(&mut pool) else { return };
    if choice & 1 != 0 {
        packet.meta_mut().vlan = Some(VlanTag { tpid: Tpid::Service, tci: u16::from(choice) });
    }
    let (bytes, vlan, offload) = (packet.to_vec(), packet.meta().vlan, packet.meta().offload);
    let popped = pop_tag(&mut packet);
    if popped.is_ok() && vlan.is_none() && packet.meta().vlan.is_some() {
        assert_eq!(packet.len() + 4, bytes.len());
        assert!(packet.meta().offload.check(packet.len()).is_ok());
        push_tag(&mut packet).expect("there was room for it before");
    } else {
        assert!(popped.is_ok() || bytes.len() < 18 || !offload.csum.is_full());
    }
    assert_eq!((packet.to_vec(), packet.meta().vlan, packet.meta().offload), (bytes, vlan, offload));

    let before = packet.len();
    if push_tag(&mut packet).is_ok() {
        assert_eq!(packet.len(), before + if vlan.is_some() { 4 } else { 0 });
        assert_eq!(packet.meta().vlan, None);
    }
}
