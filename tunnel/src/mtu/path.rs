//! What a path takes, learned from too-big errors and forgotten with time (RFC 1191, RFC 8201).

use std::time::{Duration, Instant};

use super::IPV6_MIN;

/// How long after the last decrease a larger packet is tried: twice the least that RFC 1191 §6.3 and RFC 8201
/// §4 allow, as both recommend.
pub const AGE: Duration = Duration::from_secs(600);

/// "A host MUST never reduce its estimate of the Path MTU below 68 octets" (RFC 1191 §3).
const IPV4_LEAST: u16 = 68;

/// RFC 1191 §7, table 7-1: what to try when a router of old does not say what it takes.
const PLATEAUS: [u16; 11] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// The path MTU to one remote, of the outer IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathMtu {
    ipv6: bool,
    link: u16,
    current: u16,
    lowered: Option<Instant>,
}

impl PathMtu {
    /// As much as the first link takes.
    pub const fn new(link: u16, ipv6: bool) -> PathMtu {
        PathMtu { ipv6, link, current: link, lowered: None }
    }

    /// The MTU in force.
    pub const fn get(&self) -> u16 {
        self.current
    }

    /// The first link's MTU changed. A larger one is believed only where nothing smaller was learned.
    pub fn set_link(&mut self, link: u16) {
        self.link = link;
        if self.lowered.is_none() || self.current >= link {
            (self.current, self.lowered) = (link, None);
        }
    }

    /// A too-big error came: a router takes `reported` bytes, or does not say (0); `sent` is the length of the
    /// packet it is about. True when the estimate fell.
    pub fn too_big(&mut self, now: Instant, reported: u32, sent: u16) -> bool {
        let reported = u16::try_from(reported).unwrap_or(u16::MAX);
        let mtu = match (self.ipv6, reported) {
            // RFC 8201 §4: "a node … MUST discard" an error that reports less than the IPv6 minimum.
            (true, ..IPV6_MIN) => return false,
            (true, _) => reported,
            (false, 0) => {
                let sent = sent.min(self.current);
                PLATEAUS.into_iter().find(|&plateau| plateau < sent).unwrap_or(IPV4_LEAST)
            }
            (false, _) => reported.max(IPV4_LEAST),
        };
        // "MUST NOT increase its estimate … in response to the contents of a" too-big error.
        if mtu >= self.current {
            return false;
        }
        (self.current, self.lowered) = (mtu, Some(now));
        true
    }

    /// Forgets a decrease that is long ago. True when the estimate rose.
    pub fn age(&mut self, now: Instant) -> bool {
        let old = self.lowered.is_some_and(|at| now.saturating_duration_since(at) >= AGE);
        if old {
            (self.current, self.lowered) = (self.link, None);
        }
        old
    }

    /// When [`PathMtu::age`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.lowered.map(|at| at + AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_rises_with_time_and_not_by_reports() {
        let now = Instant::now();
        let mut mtu = PathMtu::new(1500, false);
        assert!(mtu.too_big(now, 1400, 1500));
        assert!(!mtu.too_big(now, 1450, 1500), "RFC 1191 §3: never raised by an error");
        assert_eq!(mtu.deadline(), Some(now + AGE));
        assert!(!mtu.age(now + AGE - Duration::from_secs(1)));
        assert!(mtu.age(now + AGE));
        assert_eq!((mtu.get(), mtu.deadline()), (1500, None));
    }

    #[test]
    fn rfc1191_3_never_below_68() {
        let mut mtu = PathMtu::new(1500, false);
        mtu.too_big(Instant::now(), 20, 1500);
        assert_eq!(mtu.get(), 68);
    }

    #[test]
    fn rfc1191_7_plateaus_for_routers_that_do_not_say() {
        let now = Instant::now();
        let mut mtu = PathMtu::new(1500, false);
        let falls: Vec<u16> = std::iter::from_fn(|| mtu.too_big(now, 0, 1500).then(|| mtu.get())).collect();
        assert_eq!(falls, [1492, 1006, 508, 296, 68]);
        let mut mtu = PathMtu::new(1500, false);
        mtu.too_big(now, 0, 1100);
        assert_eq!(mtu.get(), 1006);
    }

    #[test]
    fn rfc8201_4_reports_below_1280_are_discarded() {
        let mut mtu = PathMtu::new(1500, true);
        assert!(!mtu.too_big(Instant::now(), 1279, 1500) && !mtu.too_big(Instant::now(), 0, 1500));
        assert!(mtu.too_big(Instant::now(), 1280, 1500));
        assert!(!mtu.too_big(Instant::now(), 70_000, 1500));
    }

    #[test]
    fn the_links_own_mtu_is_a_ceiling() {
        let mut mtu = PathMtu::new(1500, false);
        mtu.set_link(9000);
        assert_eq!(mtu.get(), 9000);
        mtu.too_big(Instant::now(), 1400, 9000);
        mtu.set_link(1500);
        assert_eq!(mtu.get(), 1400);
        mtu.set_link(1300);
        assert_eq!((mtu.get(), mtu.deadline()), (1300, None));
    }
}
