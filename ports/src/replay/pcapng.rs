//! pcapng (draft-ietf-opsawg-pcapng §4): sections, interfaces, enhanced and simple packets; other blocks
//! are skipped.

use std::io;

use super::Reader;

/// A section header block's type, the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Reads the frames.
pub(super) fn parse(file: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut r = Reader { file, at: 0, big_endian: false };
    let mut frames = Vec::new();
    // Link types and snap lengths by interface, of the present section.
    let mut interfaces: Vec<(u32, u32)> = Vec::new();
    while !r.is_at_end() {
        let start = r.at;
        let kind = r.u32()?;
        if kind == SECTION {
            interfaces.clear();
            let mut peek = r;
            peek.take(4)?;
            r.big_endian = match peek.take(4)? {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                _ => return Err(r.error("a section without its byte-order mark")),
            };
        }
        let total = r.u32()? as usize;
        if total < 12 || !total.is_multiple_of(4) || total > file.len() - start {
            r.at = start + 4;
            return Err(r.error(format_args!("a block of {total} bytes")));
        }
        // Within the block, its trailing length excluded.
        let mut block = Reader { file: &file[..start + total - 4], ..r };
        match kind {
            INTERFACE => {
                let link_type = block.u16()?;
                block.take(2)?;
                interfaces.push((u32::from(link_type), block.u32()?));
            }
            ENHANCED_PACKET => {
                let interface = block.u32()?;
                let Some(&(link_type, _)) = interfaces.get(interface as usize) else {
                    return Err(block
                        .error(format_args!("a packet of interface {interface}, which is not described")));
                };
                block.check_link_type(link_type)?;
                // The time.
                block.take(8)?;
                let (captured, original) = (block.u32()?, block.u32()?);
                frames.push(block.frame(captured, original)?);
            }
            SIMPLE_PACKET => {
                let Some(&(link_type, snap)) = interfaces.first() else {
                    return Err(block.error("a packet before any interface is described"));
                };
                block.check_link_type(link_type)?;
                let original = block.u32()?;
                let captured = if snap == 0 { original } else { original.min(snap) };
                frames.push(block.frame(captured, original)?);
            }
            _ => {}
        }
        r.at = start + total;
        let mut trailer = Reader { at: start + total - 4, ..r };
        if trailer.u32()? as usize != total {
            trailer.at -= 4;
            return Err(trailer.error("a block whose two lengths differ"));
        }
    }
    Ok(frames)
}
