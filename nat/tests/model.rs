//! A plain model beside the real thing: the same packets, the same decisions.
//!
//! The model knows UDP with endpoint-independent mapping and each kind of filtering, and keeps flows in a
//! `HashMap` with their last packet. External ports are the real one's to choose; the model takes the choice
//! over and holds it against the rules: one mapping per inside endpoint, no port twice.

mod kit;

use std::collections::HashMap;
use std::net::SocketAddr;

use kit::*;
use proptest::prelude::*;
use trunkline_nat::{Config, DropReason, Filtering};

const TIMEOUT: u64 = 300_000;
/// Deadlines are in ticks of 128 ms, and ports are free when the wheel has come round: late, never early.
const SLACK: u64 = 2_500;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Host, its port, remote, its port.
    Out(u8, u8, u8, u8),
    /// To the external port of this host's port, or to a random one.
    In(u8, u8, u8, u8, Option<u16>),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let small = 0u8..3;
    prop_oneof![
        4 => (small.clone(), small.clone(), small.clone(), small.clone()).prop_map(|(a, b, c, d)| Step::Out(a, b, c, d)),
        4 => (small.clone(), small.clone(), small.clone(), small.clone(), prop::option::weighted(0.1, 2000u16..2012))
            .prop_map(|(a, b, c, d, e)| Step::In(a, b, c, d, e)),
        1 => (0u32..350_000).prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Model {
    /// Local and remote endpoint: last packet, and whether the host began it.
    flows: HashMap<(SocketAddr, SocketAddr), (u64, bool)>,
    external: HashMap<SocketAddr, SocketAddr>,
}

impl Model {
    /// Lets time pass until it is certain what has expired, and forgets that.
    fn settle(&mut self, w: &mut World) {
        let overdue =
            |now: u64| move |&(at, _): &(u64, bool)| (TIMEOUT..TIMEOUT + SLACK).contains(&(now - at));
        while self.flows.values().any(overdue(w.now)) {
            w.pass(SLACK);
        }
        w.nat.tick(w.now, 1 << 15, &mut Sunk::default());
        let now = w.now;
        self.flows.retain(|_, &mut (at, _)| now - at < TIMEOUT);
        let flows = &self.flows;
        self.external.retain(|local, _| flows.keys().any(|(l, _)| l == local));
    }
}

fn endpoints(v6: bool, host: u8, port: u8, remote: u8, rport: u8) -> (SocketAddr, SocketAddr) {
    let (host, port, remote, rport) = (host + 1, 2000 + u16::from(port), remote + 1, 50 + u16::from(rport));
    if v6 {
        (addr(&format!("[fd77::{host}]:{port}")), addr(&format!("[2001:db8:1::{remote}]:{rport}")))
    } else {
        (addr(&format!("10.77.0.{host}:{port}")), addr(&format!("198.51.100.{remote}:{rport}")))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn udp_behaves_as_the_model(
        steps in prop::collection::vec(step(), 1..120),
        v6: bool,
        kind in 0usize..3,
    ) {
        let filtering =
            [Filtering::EndpointIndependent, Filtering::Address, Filtering::AddressAndPort][kind];
        let own = if v6 { "2001:db8::10" } else { "192.0.2.10" };
        let rule = masquerade(&[own], (2000, 2020), filtering);
        let mut w = World::new(Config::for_capacity(1024), &[rule]);
        let mut m = Model::default();
        for step in steps {
            match step {
                Step::Wait(ms) => w.pass(u64::from(ms)),
                Step::Out(a, b, c, d) => {
                    let (local, remote) = endpoints(v6, a, b, c, d);
                    m.settle(&mut w);
                    let got = w.out(&udp_to(local, remote, b"there")).unwrap();
                    let (ext, to) = ends(&got);
                    prop_assert_eq!((ext.ip(), to), (ip(own), remote));
                    prop_assert!((2000..=2020).contains(&ext.port()));
                    if let Some(&known) = m.external.get(&local) {
                        prop_assert_eq!(ext, known, "endpoint-independent mapping");
                    } else {
                        prop_assert!(m.external.values().all(|&e| e != ext), "no port twice");
                        let wish = SocketAddr::new(ext.ip(), local.port());
                        prop_assert!(ext == wish || m.external.values().any(|&e| e == wish), "preserved if free");
                        m.external.insert(local, ext);
                    }
                    let began = m.flows.get(&(local, remote)).is_none_or(|f| f.1);
                    m.flows.insert((local, remote), (w.now, began));
                }
                Step::In(a, b, c, d, random) => {
                    let (local, remote) = endpoints(v6, a, b, c, d);
                    m.settle(&mut w);
                    let ext = match random {
                        Some(port) => SocketAddr::new(ip(own), port),
                        None => m.external.get(&local).copied().unwrap_or(SocketAddr::new(ip(own), 2020)),
                    };
                    let got = w.back(&udp_to(remote, ext, b"back")).map(|p| ends(&p));
                    let target = m.external.iter().find(|(_, e)| **e == ext).map(|(l, _)| *l);
                    let want = match target {
                        None => Err(DropReason::NatUnsolicited),
                        Some(local) if m.flows.contains_key(&(local, remote)) => Ok(local),
                        Some(local) => {
                            let known = m.flows.iter().any(|((l, r), (_, began))| *l == local && r.ip() == remote.ip() && *began);
                            match filtering {
                                Filtering::EndpointIndependent => Ok(local),
                                Filtering::Address if known => Ok(local),
                                _ => Err(DropReason::NatFiltered),
                            }
                        }
                    };
                    prop_assert_eq!(got, want.map(|l| (remote, l)));
                    if let Ok(local) = want {
                        let began = m.flows.get(&(local, remote)).is_some_and(|f| f.1);
                        m.flows.insert((local, remote), (w.now, began));
                    }
                }
            }
        }
    }

    /// Both sides of TCP connections that follow the protocol, in any interleaving: nothing is dropped, and
    /// what one side sends is what the other would have got without us, but for the addresses.
    #[test]
    fn tcp_that_behaves_is_never_hindered(
        turns in prop::collection::vec((any::<bool>(), 0usize..3000, any::<bool>()), 1..80),
        isn in any::<(u32, u32)>(),
        scales in any::<(Option<u8>, Option<u8>)>(),
        simultaneous: bool,
    ) {
        let mut w = World::usual();
        let (a, ext, r) = (addr("10.77.0.9:5000"), addr("192.0.2.10:5000"), addr("198.51.100.1:80"));
        let scale = |s: Option<u8>| s.map(|s| s % 15);
        let with = |seg: Seg, s: Option<u8>| Seg { scale: scale(s), ..seg };
        // Next number to send and to expect, of each side; what is on its way.
        let mut next = [isn.0.wrapping_add(1), isn.1.wrapping_add(1)];
        w.out(&tcp_to(a, r, with(Seg::new(SYN, isn.0, 0), scales.0))).unwrap();
        if simultaneous {
            w.back(&tcp_to(r, ext, with(Seg::new(SYN, isn.1, 0), scales.1))).unwrap();
            w.out(&tcp_to(a, r, with(Seg::new(SYN | ACK, isn.0, next[1]), scales.0))).unwrap();
        }
        w.back(&tcp_to(r, ext, with(Seg::new(SYN | ACK, isn.1, next[0]), scales.1))).unwrap();
        w.out(&tcp_to(a, r, Seg::new(ACK, next[0], next[1]))).unwrap();
        let mut finished = [false; 2];
        for (outside, len, fin) in turns {
            let me = usize::from(outside);
            // Half the turns of a side that has finished are bare acknowledgements, as all then are.
            let (len, fin) = if finished[me] { (0, false) } else { (len, fin && len % 16 == 0) };
            let flags = if fin { ACK | FIN } else { ACK };
            let seg = Seg::new(flags, next[me], next[1 - me]).len(len);
            let got = if outside { w.back(&tcp_to(r, ext, seg)) } else { w.out(&tcp_to(a, r, seg)) };
            let want = if outside { tcp_to(r, a, seg) } else { tcp_to(ext, r, seg) };
            prop_assert_eq!(got, Ok(want));
            next[me] = next[me].wrapping_add((len + usize::from(fin)) as u32);
            finished[me] |= fin;
        }
        prop_assert_eq!(w.nat.connections(w.now).count(), 1);
    }
}
