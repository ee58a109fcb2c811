//! Classic pcap (draft-ietf-opsawg-pcap §4 and §5).

use std::io;

use super::Reader;

/// Reads the frames.
pub(super) fn parse(file: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut r = Reader { file, at: 0, big_endian: false };
    match r.u32()? {
        // Microseconds, nanoseconds.
        0xa1b2_c3d4 | 0xa1b2_3c4d => {}
        0xd4c3_b2a1 | 0x4d3c_b2a1 => r.big_endian = true,
        _ => {
            r.at = 0;
            return Err(r.error("neither a pcap nor a pcapng file"));
        }
    }
    let (major, minor) = (r.u16()?, r.u16()?);
    if major != 2 {
        r.at = 4;
        return Err(r.error(format_args!("pcap version {major}.{minor}; only 2.x is known")));
    }
    // Two reserved words and the snap length.
    r.take(12)?;
    // The upper half says whether frames end in a checksum, and how long it is (bit 26, bits 28 to 31).
    let link_type = r.u32()?;
    r.check_link_type(link_type & 0xffff)?;
    let fcs = if link_type & 1 << 26 != 0 { (link_type >> 28) as usize * 2 } else { 0 };
    let mut frames = Vec::new();
    while !r.is_at_end() {
        // The time, which does not matter here.
        r.take(8)?;
        let (captured, original) = (r.u32()?, r.u32()?);
        let mut frame = r.frame(captured, original)?;
        frame.truncate(frame.len().saturating_sub(fcs));
        frames.push(frame);
    }
    Ok(frames)
}
