//! Netlink messages: making and reading them. The kernel answers before a send returns, so nothing waits.

const NESTED: u16 = 0x8000;

/// Type and body of the first message, and what follows it.
pub(crate) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((kind, bytes.get(16..len)?, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let found = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & !NESTED;
        let value = bytes.get(4..len)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// Messages in the making.
#[derive(Default)]
pub(crate) struct Requests(Vec<u8>);

impl Requests {
    /// All of them, to be sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends a message: `header` is its family's, `fill` adds the attributes. Sequence number and port are
    /// 0: answers come in order, so neither is needed.
    pub(crate) fn push(&mut self, kind: u16, flags: i32, header: &[u8], fill: impl FnOnce(&mut Requests)) {
        let start = self.0.len();
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend([0; 8]);
        self.0.extend(header);
        fill(self);
        let len = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Requests)) {
        let mut inner = Requests::default();
        fill(&mut inner);
        self.attribute(kind | NESTED, &inner.0);
    }
}
