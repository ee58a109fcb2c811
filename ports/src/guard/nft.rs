//! Dropping by nf_tables: a chain on the interface's netdev ingress hook, empty and of policy drop, or with a
//! rule for each address and range of ports, or protocol.
//!
//! Its table has the owner flag: it belongs to the netlink socket that made it, nobody else can change or
//! flush it, and it goes when the last descriptor of the socket is closed. One socket has one table, named
//! after the socket's address. The kernel works synchronously, so every answer waits when a send returns.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, send, socket_with,
    sockopt,
};

use super::not_a_guard;
use super::share::PortShare;
use crate::netlink::{Requests, attribute, message};
use crate::sys;

// linux/netfilter/nf_tables.h and nfnetlink.h; what libc has of them lacks the owner.
const NFT: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = NFT | libc::NFT_MSG_NEWTABLE as u16;
const GET_TABLE: u16 = NFT | libc::NFT_MSG_GETTABLE as u16;
const NEW_CHAIN: u16 = NFT | libc::NFT_MSG_NEWCHAIN as u16;
const GET_CHAIN: u16 = NFT | libc::NFT_MSG_GETCHAIN as u16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const FLAG_OWNER: u32 = 2;
const INGRESS: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const NEW_RULE: u16 = NFT | libc::NFT_MSG_NEWRULE as u16;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_PROTOCOL: u32 = 1;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// The first register of 16 bytes, the comparison "equal" or "within", and the register of the verdict.
const REGISTER: [u8; 4] = 1u32.to_be_bytes();
const EQUAL: [u8; 4] = 0u32.to_be_bytes();
const VERDICT_REGISTER: [u8; 4] = 0u32.to_be_bytes();
/// Before all other chains (and flow tables, which would forward frames past us).
const PRIORITY: i32 = i32::MIN + 1;

const CHAIN: &[u8] = b"ingress\0";

/// A socket whose table drops what the interface of the calling thread's namespace receives, or of that what
/// is for `share`.
pub(super) fn attach(ifindex: u32, share: Option<&PortShare>) -> io::Result<OwnedFd> {
    let socket = open(ifindex, share).map_err(explain)?;
    // Its name might have changed hands while we used it.
    match self::ifindex(socket.as_fd())? {
        Some(index) if index == ifindex => Ok(socket),
        _ => Err(explain(io::Error::from_raw_os_error(libc::ENODEV))),
    }
}

fn open(ifindex: u32, share: Option<&PortShare>) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let name = table_name(port_id(socket.as_fd())?);
    let device = rustix::net::netdevice::index_to_name(&socket, ifindex)?;

    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    let mut batch = Requests::default();
    push(&mut batch, BATCH_BEGIN, 0, |_| {});
    push(&mut batch, NEW_TABLE, create, |m| {
        m.attribute(TABLE_NAME, &name);
        m.attribute(TABLE_FLAGS, &FLAG_OWNER.to_be_bytes());
    });
    push(&mut batch, NEW_CHAIN, create, |m| {
        m.attribute(CHAIN_TABLE, &name);
        m.attribute(CHAIN_NAME, CHAIN);
        m.nest(CHAIN_HOOK, |m| {
            m.attribute(HOOK_NUMBER, &INGRESS.to_be_bytes());
            m.attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes());
            m.attribute(HOOK_DEVICE, &terminated(&device));
        });
        let policy = if share.is_some() { ACCEPT } else { DROP };
        m.attribute(CHAIN_POLICY, &policy.to_be_bytes());
        m.attribute(CHAIN_TYPE, b"filter\0");
    });
    if let Some(share) = share {
        rules(&mut batch, &name, share);
    }
    push(&mut batch, BATCH_END, 0, |_| {});
    send(&socket, batch.bytes(), SendFlags::empty())?;
    // Table and chain are acknowledged. A refused batch may answer for itself before its parts do, or without
    // them, and a rule answers only if it is refused: hear all.
    let mut acknowledged = 0;
    loop {
        let heard = receive(socket.as_fd(), |answer| {
            acknowledged += 1;
            answer.map(drop)
        });
        match heard {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && acknowledged >= 2 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(socket)
}

/// Adds a rule for every address, protocol and range, and for GRE.
fn rules(batch: &mut Requests, table: &[u8], share: &PortShare) {
    let ported = [(libc::IPPROTO_TCP, &share.tcp), (libc::IPPROTO_UDP, &share.udp)];
    let ported = ported.iter().flat_map(|(protocol, ranges)| ranges.iter().map(|r| (*protocol, Some(*r))));
    let gre = share.gre.then_some((libc::IPPROTO_GRE, None));
    let all: Vec<_> = ported.chain(gre).collect();
    for address in &share.addresses {
        let (ethertype, octets, at) = match address {
            IpAddr::V4(a) => (libc::ETH_P_IP, a.octets().to_vec(), 16),
            IpAddr::V6(a) => (libc::ETH_P_IPV6, a.octets().to_vec(), 24),
        };
        for &(protocol, ports) in &all {
            push(batch, NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |m| {
                m.attribute(RULE_TABLE, table);
                m.attribute(RULE_CHAIN, CHAIN);
                m.nest(RULE_EXPRESSIONS, |m| {
                    // Each puts a value into the register, or goes on only if that is as it says. The
                    // destination port is not there in fragments but the first.
                    meta(m, META_PROTOCOL);
                    equals(m, &(ethertype as u16).to_be_bytes());
                    payload(m, NETWORK_HEADER, at, octets.len() as u32);
                    equals(m, &octets);
                    meta(m, META_L4PROTO);
                    equals(m, &[protocol as u8]);
                    if let Some((low, high)) = ports {
                        payload(m, TRANSPORT_HEADER, 2, 2);
                        between(m, &low.to_be_bytes(), &high.to_be_bytes());
                    }
                    verdict(m, DROP);
                });
            });
        }
    }
}

fn expression(m: &mut Requests, name: &[u8], fill: impl FnOnce(&mut Requests)) {
    m.nest(LIST_ELEMENT, |m| {
        m.attribute(EXPRESSION_NAME, name);
        m.nest(EXPRESSION_DATA, fill);
    });
}

fn meta(m: &mut Requests, key: u32) {
    expression(m, b"meta\0", |m| {
        m.attribute(1, &REGISTER);
        m.attribute(2, &key.to_be_bytes());
    });
}

fn payload(m: &mut Requests, base: u32, offset: u32, len: u32) {
    expression(m, b"payload\0", |m| {
        m.attribute(1, &REGISTER);
        for (kind, value) in [(2, base), (3, offset), (4, len)] {
            m.attribute(kind, &value.to_be_bytes());
        }
    });
}

fn equals(m: &mut Requests, value: &[u8]) {
    expression(m, b"cmp\0", |m| {
        m.attribute(1, &REGISTER);
        m.attribute(2, &EQUAL);
        m.nest(3, |m| m.attribute(DATA_VALUE, value));
    });
}

fn between(m: &mut Requests, low: &[u8], high: &[u8]) {
    expression(m, b"range\0", |m| {
        m.attribute(1, &REGISTER);
        m.attribute(2, &EQUAL);
        m.nest(3, |m| m.attribute(DATA_VALUE, low));
        m.nest(4, |m| m.attribute(DATA_VALUE, high));
    });
}

fn verdict(m: &mut Requests, code: u32) {
    expression(m, b"immediate\0", |m| {
        m.attribute(1, &VERDICT_REGISTER);
        m.nest(2, |m| m.nest(DATA_VERDICT, |m| m.attribute(VERDICT_CODE, &code.to_be_bytes())));
    });
}

/// The interface the socket's chain hangs on, if there still is one.
pub(super) fn ifindex(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let netfilter = sockopt::socket_domain(socket) == Ok(AddressFamily::NETLINK)
        && sockopt::socket_protocol(socket) == Ok(Some(netlink::NETFILTER));
    if !netfilter {
        return Err(not_a_guard());
    }
    let port = port_id(socket)?;
    let name = table_name(port);
    let table = ask(socket, GET_TABLE, |m| m.attribute(TABLE_NAME, &name))?;
    let owner = table.as_deref().and_then(|t| attribute(t, TABLE_OWNER));
    if owner != Some(&port.to_be_bytes()) {
        return Err(not_a_guard());
    }
    let chain = ask(socket, GET_CHAIN, |m| {
        m.attribute(CHAIN_TABLE, &name);
        m.attribute(CHAIN_NAME, CHAIN);
    })?;
    let hook = chain.as_deref().and_then(|c| attribute(c, CHAIN_HOOK));
    let Some(device) = hook.and_then(|h| attribute(h, HOOK_DEVICE)) else { return Ok(None) };
    let device = String::from_utf8_lossy(device.strip_suffix(b"\0").unwrap_or(device));
    // Newer kernels keep a name here that no interface may have any more.
    match rustix::net::netdevice::name_to_index(socket, &device) {
        Ok(index) => Ok(Some(index)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The socket's address, which nobody else in its namespace has.
fn port_id(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(SocketAddrNetlink::try_from(getsockname(socket)?)?.pid())
}

/// Usually the pid of the process that made it.
fn table_name(port: u32) -> Vec<u8> {
    terminated(&format!("trunkline-{port}"))
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// The attributes of one object; `None` when there is none.
fn ask(socket: BorrowedFd<'_>, kind: u16, fill: impl FnOnce(&mut Requests)) -> io::Result<Option<Vec<u8>>> {
    let mut request = Requests::default();
    push(&mut request, kind, 0, fill);
    send(socket, request.bytes(), SendFlags::empty())?;
    let mut object = None;
    let result = receive(socket, |answer| {
        object = Some(answer?.to_vec());
        Ok(())
    });
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(|()| object),
    }
}

/// Reads one datagram and hands over what its messages say: attributes (none: done), or the error.
fn receive(
    socket: BorrowedFd<'_>,
    mut each: impl FnMut(io::Result<&[u8]>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let (len, _) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    let mut rest = &buffer[..len];
    while let Some((kind, body, next)) = message(rest) {
        let code = body.first_chunk().map_or(0, |&c| i32::from_ne_bytes(c));
        each(match i32::from(kind) {
            libc::NLMSG_ERROR if code != 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            libc::NLMSG_ERROR => Ok(&[]),
            // Behind `nfgenmsg`.
            _ => Ok(body.get(4..).unwrap_or_default()),
        })?;
        rest = next;
    }
    Ok(())
}

/// Appends a message of the netdev family (a batch's ends name the subsystem instead).
fn push(requests: &mut Requests, kind: u16, flags: i32, fill: impl FnOnce(&mut Requests)) {
    let (family, resource) = match kind {
        BATCH_BEGIN | BATCH_END => (libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16),
        _ => (libc::NFPROTO_NETDEV, 0),
    };
    let resource = resource.to_be_bytes();
    // `nfgenmsg`
    let header = [family as u8, libc::NFNETLINK_V0 as u8, resource[0], resource[1]];
    requests.push(kind, flags, &header, fill);
}

fn explain(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        // No nf_tables, no netdev chains (ENOENT), no owners of tables.
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "dropping at ingress (nf_tables) needs Linux 5.12 or later, with nf_tables",
            )
        }
        _ => sys::context("dropping at ingress (nf_tables)", e),
    }
}
