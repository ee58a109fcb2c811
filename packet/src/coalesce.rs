//! Merging frames of one flow within an egress batch into superframes, as the kernel's GRO does: a
//! container that receives one UDP superframe instead of 64 datagrams spends a fraction of the time.
//!
//! Theory of operation. One pass over the batch keeps a few open *runs*, each the last frame of a flow that
//! more may be added to. A frame of a flow that has a run either joins it or closes it, so frames of one
//! flow never overtake each other; fragments and whatever does not parse, whose flow is not known, close all
//! runs. Headers are put right once, when a run closes. Work is linear in the bytes of the batch: there is a
//! fixed number of runs, a payload is summed at most twice and copied at most once.
//!
//! Two frames merge unless one of these holds:
//! - **Flow.** They differ in link addresses, VLAN tags (in metadata or bytes), IP version, addresses,
//!   protocol or ports.
//! - **IP.** Either is a fragment; has IPv4 options or IPv6 extension headers; is cut, or padded behind the
//!   IP packet; or is an encapsulated packet with outer offload. They differ in TOS or traffic class (with
//!   ECN), TTL or hop limit, DF or the reserved flag, or the IPv6 flow label. The IPv4 identification does
//!   not count on; with DF set it may also stay the same, as it means nothing then (RFC 6864 §4.1).
//! - **Checksums.** An IPv4 header checksum is wrong. A transport checksum of unknown state is wrong. It is
//!   a UDP checksum of 0, which a superframe cannot express. It is partial, but not of the outermost
//!   transport header.
//! - **UDP.** The length field does not match. A payload is empty, or is longer than the first one; a
//!   shorter one is the last. There would be more than 64 segments (UDP_MAX_SEGMENTS of older kernels).
//! - **TCP.** SYN, FIN, RST, URG or CWR is set, or other flags but PSH differ; PSH ends a run. The sequence
//!   number does not follow on; acknowledgement, window, urgent pointer, or any option (with timestamps)
//!   differ. A payload is empty, or is longer than the first one; a shorter one is the last.
//! - **Superframes.** Segment sizes or kinds differ; the first does not end with a full segment. There would
//!   be more segments than [`MAX_SEGMENTS`].
//! - **Room.** The IP packet would exceed 65,535 bytes, or the first frame is too large for a head
//!   and its tail is shared with a copy.

use crate::checksum::{self, TCP_CHECK, UDP_CHECK};
use crate::headers::{Fragment, Headers, IpVersion, proto, read16, read32, write16};
use crate::segment::{MAX_SEGMENTS, fix_ip};
use crate::{Batch, Checksum, Gso, GsoKind, Offload, Packet, Pool};

/// Flows that may be merged at a time; the oldest run makes way.
const RUNS: usize = 8;

/// Most datagrams in one UDP superframe.
pub const MAX_UDP_SEGMENTS: usize = 64;

/// The largest IP packet.
const MAX_IP: usize = 65535;

pub(crate) const DF: u8 = 0x40;
pub(crate) const PSH: u8 = 0x08;
/// FIN, SYN, RST, URG, CWR.
pub(crate) const NEVER: u8 = 0x01 | 0x02 | 0x04 | 0x20 | 0x80;

/// Merges frames of one flow into superframes, in place, and returns how many frames were absorbed by
/// others. The order within each flow stays. For an egress that takes TCP and UDP superframes.
pub fn coalesce(batch: &mut Batch, pool: &mut Pool) -> usize {
    if batch.len() < 2 {
        return 0;
    }
    let mut runs = Runs::new();
    let mut kept = 0;
    for index in 0..batch.len() {
        let absorbed = match Frame::look(&batch[index]) {
            Look::Other => false,
            Look::Unknown => {
                runs.close_all(batch);
                false
            }
            Look::Flow(hash, frame) => runs.take(hash, frame, index, kept, batch, pool),
        };
        if !absorbed {
            batch.swap(kept, index);
            kept += 1;
        }
    }
    runs.close_all(batch);
    let absorbed = batch.len() - kept;
    batch.drain(kept..).for_each(|packet| pool.put(packet));
    absorbed
}

/// What a frame is to the merger.
enum Look {
    /// Of no flow that is merged.
    Other,
    /// Of a flow that cannot be told: a fragment, or headers that do not parse.
    Unknown,
    /// Of the flow with this hash; `None` when it cannot merge with any frame.
    Flow(u32, Option<Frame>),
}

/// A frame that might merge, by itself.
#[derive(Clone, Copy)]
struct Frame {
    ip: Headers,
    /// Length of all headers.
    headers: usize,
    /// Bytes behind them.
    payload: usize,
    /// Payload of each segment but a shorter last one.
    size: usize,
    /// How many segments.
    segments: usize,
    /// Nothing may be added behind it: it ends with a short segment, or TCP said PSH.
    ends: bool,
}

impl Frame {
    #[inline]
    fn look(packet: &Packet) -> Look {
        let head = packet.head();
        match Headers::of_frame(head) {
            Some(ip) if ip.fragment != Fragment::None => Look::Unknown,
            Some(ip) if !matches!(ip.proto, proto::TCP | proto::UDP) => Look::Other,
            Some(ip) => match ip.flow(head) {
                Some(flow) => Look::Flow(flow.hash32(), Frame::new(packet, ip)),
                None => Look::Unknown,
            },
            None => Look::Unknown,
        }
    }

    #[inline]
    fn new(packet: &Packet, ip: Headers) -> Option<Frame> {
        let (head, len, meta) = (packet.head(), packet.len(), packet.meta());
        let headers = usize::from(ip.l4) + ip.transport_len(head)?;
        let payload = len.checked_sub(headers)?;
        if ip.extended || ip.end as usize != len || payload == 0 || meta.outer != Offload::NONE {
            return None;
        }
        let l4 = usize::from(ip.l4);
        let (kind, check, push) = match ip.proto {
            proto::UDP => {
                let empty_check = meta.offload.csum.is_full() && read16(head, l4 + 6)? == 0;
                if empty_check || usize::from(read16(head, l4 + 4)?) != len - l4 {
                    return None;
                }
                (GsoKind::UdpL4, UDP_CHECK, false)
            }
            _ => {
                let flags = head[l4 + 13];
                if flags & NEVER != 0 {
                    return None;
                }
                (
                    if ip.version == IpVersion::V4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 },
                    TCP_CHECK,
                    flags & PSH != 0,
                )
            }
        };
        if let Checksum::Partial { start, offset } = meta.offload.csum
            && (start != ip.l4 || offset != check)
        {
            return None;
        }
        let gso = meta.offload.gso;
        let size = match gso.kind {
            GsoKind::None => payload,
            k if k != kind || gso.ecn || gso.size == 0 => return None,
            _ => usize::from(gso.size),
        };
        let segments = payload.div_ceil(size);
        Some(Frame { ip, headers, payload, size, segments, ends: push || payload != size * segments })
    }

    /// Whether what the checksums cover arrived as it was sent.
    fn is_sound(&self, packet: &Packet) -> bool {
        checksum::ipv4_header_ok(packet.head(), &self.ip)
            && (!matches!(packet.meta().offload.csum, Checksum::Unknown)
                || checksum::transport_ok(packet, &self.ip))
    }
}

/// A frame that more may be added to.
#[derive(Clone, Copy)]
struct Run {
    /// The frame as it came.
    first: Frame,
    /// Where it is in the batch.
    at: usize,
    segments: usize,
    payload: usize,
    /// Frames merged into it.
    absorbed: usize,
    /// All have the same IPv4 identification.
    fixed_id: bool,
}

impl Run {
    /// Adds the frame `next` to the run, if it may and the pool has room.
    fn join(&mut self, next: &Frame, index: usize, batch: &mut Batch, pool: &mut Pool) -> bool {
        let Ok([packet, other]) = batch.get_disjoint_mut([self.at, index]) else { return false };
        let fits = (next.size == self.first.size || (next.segments == 1 && next.payload < self.first.size))
            && self.first.headers - usize::from(self.first.ip.l3) + self.payload + next.payload <= MAX_IP
            && self.segments + next.segments
                <= if self.first.ip.proto == proto::UDP { MAX_UDP_SEGMENTS } else { MAX_SEGMENTS };
        if !fits || !self.same_headers(packet, other, next) {
            return false;
        }
        let fixed_id = match self.identification(packet.head(), other.head(), next) {
            Some(fixed) => fixed,
            None => return false,
        };
        if !next.is_sound(other) || (self.absorbed == 0 && !self.first.is_sound(packet)) {
            return false;
        }
        if self.absorbed == 0 {
            packet.unshare(pool);
        }
        if packet.append_range(other, next.headers, next.payload, pool).is_err() {
            return false;
        }
        if next.ends && self.first.ip.proto == proto::TCP {
            let flags = usize::from(next.ip.l4) + 13;
            let push = other.head()[flags] & PSH;
            packet.head_mut()[flags] |= push;
        }
        let frames = &mut packet.meta_mut().frames;
        *frames = frames.saturating_add(other.meta().frames);
        self.fixed_id = fixed_id;
        self.segments += next.segments;
        self.payload += next.payload;
        self.absorbed += 1;
        true
    }

    /// Whether all that must be equal is.
    #[inline]
    fn same_headers(&self, packet: &Packet, other: &Packet, next: &Frame) -> bool {
        let (a, b, ip) = (packet.head(), other.head(), &self.first.ip);
        let placed = |f: &Frame| (f.ip.version, f.ip.proto, f.ip.l3, f.ip.l4, f.headers);
        if placed(&self.first) != placed(next) || packet.meta().vlan != other.meta().vlan {
            return false;
        }
        let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
        let (Some(a), Some(b)) = (a.get(..self.first.headers), b.get(..next.headers)) else { return false };
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let network = match ip.version {
            // All but total length, identification, checksum.
            IpVersion::V4 => same(l3, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l3 + 20),
            // All but payload length.
            IpVersion::V6 => same(l3, l3 + 4) && same(l3 + 6, l3 + 40),
        };
        let transport = match ip.proto {
            proto::UDP => same(l4, l4 + 4),
            _ => {
                // All but sequence number, PSH, checksum.
                same(l4, l4 + 4)
                    && same(l4 + 8, l4 + 13)
                    && (a[l4 + 13] ^ b[l4 + 13]) & !PSH == 0
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, self.first.headers)
                    && read32(a, l4 + 4).map(|s| s.wrapping_add(self.payload as u32)) == read32(b, l4 + 4)
            }
        };
        network && transport && same(0, l3)
    }

    /// `None` when the IPv4 identification forbids merging, else whether it stays the same.
    #[inline]
    fn identification(&self, a: &[u8], b: &[u8], next: &Frame) -> Option<bool> {
        let l3 = usize::from(self.first.ip.l3);
        if self.first.ip.version == IpVersion::V6 {
            return Some(false);
        }
        let step = read16(b, l3 + 4)?.wrapping_sub(read16(a, l3 + 4)?);
        let may_stay = a[l3 + 6] & DF != 0 && next.segments == 1 && (self.fixed_id || self.segments == 1);
        match step {
            0 if may_stay => Some(true),
            _ if step == self.segments as u16 && !self.fixed_id => Some(false),
            _ => None,
        }
    }

    /// Puts the headers and metadata of the first frame right.
    fn close(&self, batch: &mut Batch) {
        if self.absorbed == 0 {
            return;
        }
        let Some(packet) = batch.get_mut(self.at) else { return };
        let (len, ip) = (packet.len(), &self.first.ip);
        let l4 = usize::from(ip.l4);
        let head = packet.head_mut();
        fix_ip(head, ip, len, 0);
        let (kind, offset) = match (ip.proto, ip.version) {
            (proto::UDP, _) => {
                write16(head, l4 + 4, (len - l4) as u16);
                (GsoKind::UdpL4, UDP_CHECK)
            }
            (_, IpVersion::V4) => (GsoKind::TcpV4, TCP_CHECK),
            (_, IpVersion::V6) => (GsoKind::TcpV6, TCP_CHECK),
        };
        let pseudo = ip.pseudo(head, (len - l4) as u32).fold();
        write16(head, l4 + usize::from(offset), pseudo);
        packet.meta_mut().offload = Offload {
            csum: Checksum::Partial { start: ip.l4, offset },
            gso: Gso { kind, ecn: false, size: self.first.size as u16 },
        };
    }
}

/// The open runs.
struct Runs {
    hashes: [u32; RUNS],
    runs: [Option<Run>; RUNS],
    /// The slot to give up next.
    oldest: usize,
}

impl Runs {
    fn new() -> Runs {
        Runs { hashes: [0; RUNS], runs: [None; RUNS], oldest: 0 }
    }

    /// Takes the frame at `index` of the batch, which will move to `kept` unless it is absorbed. Returns
    /// whether it was.
    #[inline]
    fn take(
        &mut self,
        hash: u32,
        frame: Option<Frame>,
        index: usize,
        kept: usize,
        batch: &mut Batch,
        pool: &mut Pool,
    ) -> bool {
        let found = (0..RUNS).find(|&slot| self.hashes[slot] == hash && self.runs[slot].is_some());
        let slot = match found {
            Some(slot) => {
                if let (Some(run), Some(frame)) = (&mut self.runs[slot], &frame)
                    && run.join(frame, index, batch, pool)
                {
                    if frame.ends || frame.size != run.first.size {
                        self.close(slot, batch);
                    }
                    return true;
                }
                slot
            }
            None => self.oldest,
        };
        let opens = frame.filter(|frame| !frame.ends);
        if found.is_none() {
            if opens.is_none() {
                return false;
            }
            self.oldest = (self.oldest + 1) % RUNS;
        }
        self.close(slot, batch);
        self.hashes[slot] = hash;
        self.runs[slot] = opens.map(|first| Run {
            at: kept,
            segments: first.segments,
            payload: first.payload,
            absorbed: 0,
            fixed_id: false,
            first,
        });
        false
    }

    fn close(&mut self, slot: usize, batch: &mut Batch) {
        if let Some(run) = self.runs[slot].take() {
            run.close(batch);
        }
    }

    fn close_all(&mut self, batch: &mut Batch) {
        (0..RUNS).for_each(|slot| self.close(slot, batch));
    }
}
