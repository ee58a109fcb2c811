//! DHCP and router advertisements through the router: what it looks at before, and says at the end.

mod kit;

use std::sync::Arc;

use kit::*;
use parking_lot::Mutex;
use trunkline_packet::MacAddr;
use trunkline_router::{Limits, Services, Tables, dhcp, ra};

const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0xaa, 0x77]);

fn rig() -> Rig {
    let mut all = ifaces();
    let range = ("10.77.0.100".parse().unwrap(), "10.77.0.101".parse().unwrap());
    all[0].services = Arc::new(Services {
        dhcp: Some(Mutex::new(dhcp::Server::new(dhcp::Config::new(range)))),
        ra: Some(Mutex::new(ra::Advertiser::new(ra::Config::default()))),
    });
    Rig::with(all, &routes(), Limits::default())
}

fn discover() -> Vec<u8> {
    let mut m = vec![0u8; 240];
    m[..3].copy_from_slice(&[1, 1, 6]);
    m[28..34].copy_from_slice(&CLIENT.0);
    m[236..].copy_from_slice(&[99, 130, 83, 99]);
    m.extend([53, 1, 1, 255]);
    let builder = etherparse::PacketBuilder::ethernet2(CLIENT.0, [0xff; 6]);
    let mut frame = Vec::new();
    builder.ipv4([0; 4], [255; 4], 64).udp(68, 67).write(&mut frame, &m).unwrap();
    frame
}

/// The address that an offer is for.
fn offered(out: &Out) -> Option<[u8; 4]> {
    let offer = out.sent.iter().find(|(_, f, _)| f[12..14] == [8, 0] && f[34..36] == [0, 67])?;
    offer.1[58..62].try_into().ok()
}

/// The address that is asked for.
fn asked(out: &Out) -> Option<[u8; 4]> {
    let request = out.sent.iter().find(|(_, f, _)| f[12..14] == [8, 6] && f[20..22] == [0, 1])?;
    request.1[38..42].try_into().ok()
}

fn answer(from: MacAddr, addr: [u8; 4]) -> Vec<u8> {
    let head = [&MACS[0].0[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    [&head[..], &from.0, &addr, &MACS[0].0, &[10, 77, 0, 1]].concat()
}

#[test]
fn rfc2131_an_address_is_asked_for_before_it_is_offered() {
    let mut rig = rig();
    rig.receive(A, &discover());
    let out = rig.take();
    let first = asked(&out).expect("an ARP request");
    assert_eq!(offered(&out), None);
    assert!(rig.router.next_due() <= rig.now + 300);
    // The client asks again meanwhile: one offer, one question.
    rig.receive(A, &discover());
    assert_eq!(asked(&rig.take()), None);
    rig.now += 300;
    rig.tick();
    assert_eq!(offered(&rig.take()), Some(first), "nobody has it");
    rig.now += 300;
    rig.tick();
    assert_eq!(offered(&rig.take()), None, "once");
}

#[test]
fn rfc2131_an_address_in_use_is_not_offered() {
    let mut rig = rig();
    rig.receive(A, &discover());
    let first = asked(&rig.take()).expect("an ARP request");
    rig.receive(A, &answer(PEER, first));
    rig.now += 300;
    rig.tick();
    assert_eq!(offered(&rig.take()), None);
    rig.receive(A, &discover());
    let second = asked(&rig.take()).expect("another");
    assert_ne!(second, first);
    // Its client has it already: it may go on.
    rig.receive(A, &answer(CLIENT, second));
    rig.now += 300;
    rig.tick();
    assert_eq!(offered(&rig.take()), Some(second));
}

#[test]
fn rfc4861_who_stops_advertising_says_so() {
    let mut rig = rig();
    let advertised = |out: &Out| -> Vec<u16> {
        let ra = |f: &&(_, Vec<u8>, _)| f.1[12..14] == [0x86, 0xdd] && f.1.get(54) == Some(&134);
        out.sent.iter().filter(ra).map(|f| u16::from_be_bytes([f.1[60], f.1[61]])).collect()
    };
    rig.router.set_tables(rig.now, Arc::new(Tables::new(ifaces(), &routes()).unwrap()));
    assert!(rig.router.is_ceasing() && rig.router.next_due() == 0);
    rig.tick();
    let out = rig.take();
    assert_eq!(advertised(&out), [0]);
    out.sent.iter().for_each(|(_, frame, _)| assert_valid(frame));
    assert!(!rig.router.is_ceasing());
}
