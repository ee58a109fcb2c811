//! A liveness session and the prober of the path MTU, with any packets at any times.

use std::time::{Duration, Instant};

use trunkline_packet::{MacAddr, Pool};
use trunkline_tunnel::bfd::frame::{Addresses, build_padded, parse};
use trunkline_tunnel::bfd::{Config, ControlPacket, Session, State};
use trunkline_tunnel::mtu::probe::{Prober, inner_len};
use trunkline_tunnel::{Encap, TunnelHeader, Vni};

use crate::input::Input;
use crate::tunnels::hosts;

/// The input is options of the session, then a list of: what happens (1: a packet, 2: held down or let go, 4:
/// new intervals, 8: another link MTU; the time comes in the high bits), and its content.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let start = Instant::now();
    let mut now = start;
    let options = input.u8();
    let config = Config {
        passive: options & 1 != 0,
        detect_mult: 1 + (options >> 1 & 3),
        ..Config::new(u32::from(options) + 1)
    };
    let mut session = Session::new(config, now, 7);
    let to = Encap::new(TunnelHeader::vxlan(Vni::MAX), hosts(options & 8 != 0).1);
    let mut prober = Prober::new(&to, 1500, now);
    let mut pool = Pool::new(4, 2);
    while !input.is_empty() {
        let what = input.u8();
        now += Duration::from_millis(1 << (what >> 4));
        if what & 1 != 0 {
            let len = input.u8();
            let ttl = if len & 0x80 != 0 { input.u8() } else { 255 };
            let bytes = input.bytes(usize::from(len & 0x7f));
            if let Ok(parsed) = ControlPacket::parse(bytes) {
                assert_eq!(ControlPacket::parse(&parsed.to_bytes()), Ok(parsed));
            }
            let before = session.state();
            match session.on_packet(now, ttl, bytes) {
                Ok(event) => assert_eq!(event.map_or(before, |e| e.to), session.state()),
                Err(_) => assert_eq!(session.state(), before),
            }
        }
        if what & 2 != 0 {
            session.set_admin_down(now, what & 4 != 0);
        }
        if what & 4 != 0 {
            session.set_intervals(u32::from(input.u16()) + 1, u32::from(input.u16()));
        }
        if what & 8 != 0 {
            prober.set_link(input.u16());
        }
        serve(now, &mut session, &mut prober, &to, &mut pool);
    }
}

/// What the owner of a session does.
fn serve(now: Instant, session: &mut Session, prober: &mut Prober, to: &Encap, pool: &mut Pool) {
    session.expire(now);
    let mut sent = 0;
    while let Some(bytes) = session.poll(now) {
        sent += 1;
        // An answer and a periodic one.
        assert!(sent <= 2, "no flood");
        let p = ControlPacket::parse(&bytes).expect("what is sent is right");
        assert!(!(p.poll && p.fin));
        assert_eq!(p.state, session.state());
    }
    let was = prober.mtu();
    if let Some(probe) = prober.poll(now, session) {
        assert_eq!(session.state(), State::Up);
        let addresses = Addresses::ovs(MacAddr([2, 0, 0, 0, 0, 1]));
        let len = inner_len(to, probe.size);
        let packet = build_padded(&probe.control, &addresses, 1, len, pool).expect("it fits a packet");
        let (ttl, bytes) = parse(&packet, addresses.dst_mac).expect("what is sent is right");
        assert!(ttl == 255 && ControlPacket::parse(bytes).is_ok_and(|p| p.poll));
        pool.put(packet);
        assert_eq!(prober.poll(now, session), None, "one at a time");
    }
    assert!(prober.mtu().is_some() || was.is_none(), "never forgotten");
    if let Some(loss) = session.loss() {
        assert!(loss.lost <= loss.expected);
    }
    for due in [session.next_deadline(), prober.next_deadline(session)].into_iter().flatten() {
        assert!(due >= now, "what was due was done");
    }
}
