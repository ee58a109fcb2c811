//! The parser of capture files.

use trunkline_packet::MAX_FRAME;

/// The input is a file.
pub fn target(data: &[u8]) {
    if let Ok(frames) = trunkline_ports::replay::parse(data) {
        assert!(frames.iter().all(|f| f.len() <= MAX_FRAME));
        assert!(frames.iter().map(Vec::len).sum::<usize>() <= data.len());
    }
}
