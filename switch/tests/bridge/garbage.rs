//! Nothing that comes in makes the bridge panic.

use proptest::prelude::*;
use trunkline_packet::{DropReason, Offload};

use crate::kit::*;

fn every_mode() -> Net {
    Net::new(vec![
        port(1),
        access(2, 10),
        native(3, true, 10, &[20]),
        native(4, false, 10, &[20]),
        tunnel(5, 10),
    ])
}

#[test]
fn a_frame_cut_at_any_byte_is_counted() {
    let mut net = every_mode();
    let whole = frame(255, 1, &[tag(S, 10), tag(C, 7), tag(C, 8)]);
    for port in 1..=5 {
        for len in 0..whole.len() {
            let ends = net.inject(port, &whole[..len]);
            // Inside the addresses, the type, or one of the two tags the rules look at.
            assert_eq!(ends == dropped(DropReason::Truncated), len < 22, "{len} on port {port}: {ends:?}");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        frames in prop::collection::vec((1u16..7, prop::collection::vec(any::<u8>(), 0..80), 0u8..4), 1..50),
    ) {
        let mut net = every_mode();
        for (port, mut bytes, tags) in frames {
            // Mostly something that gets as far as the tags.
            for i in 0..usize::from(tags) {
                if let Some(at) = bytes.get_mut(12 + 4 * i..14 + 4 * i) {
                    at.copy_from_slice(&[0x81, 0]);
                    bytes[6] = 2;
                }
            }
            let ends = net.inject_offload(port, &bytes, Offload::NONE);
            prop_assert!(!ends.is_empty());
        }
    }
}
