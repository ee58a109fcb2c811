//! Building and reading Ethernet frames byte by byte.

/// A VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// VLAN identifier, 12 bits.
    pub vid: u16,
    /// Priority, 3 bits.
    pub pcp: u8,
    /// Drop eligible.
    pub dei: bool,
}

impl Tag {
    /// An 802.1Q tag of priority 0.
    pub const fn c(vid: u16) -> Tag {
        Tag { tpid: 0x8100, vid, pcp: 0, dei: false }
    }

    /// An 802.1ad tag of priority 0.
    pub const fn s(vid: u16) -> Tag {
        Tag { tpid: 0x88a8, ..Tag::c(vid) }
    }

    fn tci(self) -> u16 {
        u16::from(self.pcp) << 13 | u16::from(self.dei) << 12 | self.vid
    }
}

/// EtherType of the tests' own frames (IEEE 802 local experimental 1).
pub const EXPERIMENT: u16 = 0x88b5;

/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A locally administered address that ends in `n`.
pub const fn mac(n: u32) -> [u8; 6] {
    let b = n.to_be_bytes();
    [0x02, 0x00, b[0], b[1], b[2], b[3]]
}

/// As text.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// A frame of these parts, not padded.
pub fn frame(dst: [u8; 6], src: [u8; 6], tags: &[Tag], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::with_capacity(14 + 4 * tags.len() + payload.len());
    f.extend_from_slice(&dst);
    f.extend_from_slice(&src);
    for tag in tags {
        f.extend_from_slice(&tag.tpid.to_be_bytes());
        f.extend_from_slice(&tag.tci().to_be_bytes());
    }
    f.extend_from_slice(&ethertype.to_be_bytes());
    f.extend_from_slice(payload);
    f
}

/// An experimental frame whose payload is `text`, padded to the minimum of 60 bytes.
pub fn experiment(dst: [u8; 6], src: [u8; 6], tags: &[Tag], text: &str) -> Vec<u8> {
    let mut f = frame(dst, src, tags, EXPERIMENT, text.as_bytes());
    if f.len() < 60 {
        f.resize(60, 0);
    }
    f
}

/// The tags of a frame, outermost first.
pub fn tags(frame: &[u8]) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut at = 12;
    while let Some(&[a, b, c, d]) = frame.get(at..at + 4) {
        let tpid = u16::from_be_bytes([a, b]);
        if tpid != 0x8100 && tpid != 0x88a8 {
            break;
        }
        let tci = u16::from_be_bytes([c, d]);
        found.push(Tag { tpid, vid: tci & 0xfff, pcp: (tci >> 13) as u8, dei: tci & 0x1000 != 0 });
        at += 4;
    }
    found
}

/// The text of an experimental frame; `None` for any other frame.
pub fn text(frame: &[u8]) -> Option<String> {
    let at = 12 + 4 * tags(frame).len();
    if frame.get(at..at + 2)? != EXPERIMENT.to_be_bytes() {
        return None;
    }
    let text = frame[at + 2..].split(|b| *b == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}
