//! A network made of memory under tunnels: hosts that send each other datagrams, with an MTU and cuts.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam::queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};
use trunkline_engine::{OpenSockets, Opened};
use trunkline_packet::{Batch, DropReason, Pool};
use trunkline_ports::underlay::{Arrival, DatagramRx, DatagramTx, Datagrams, Family, Outer, UdpOptions};
use trunkline_ports::{RecvEnd, RecvStats, SendStats};

const UDP: u8 = 17;
const GRE: u8 = 47;

/// What carries datagrams between hosts.
pub(crate) struct Net {
    /// By address and UDP port (0: GRE).
    inboxes: Mutex<Inboxes>,
    pub(crate) mtu: AtomicUsize,
    /// Nothing arrives.
    pub(crate) cut: AtomicBool,
    /// Runs stay merged.
    pub(crate) gro: AtomicBool,
    /// Of so many runs, one is not sent; 0: all are.
    pub(crate) refuse: AtomicUsize,
    turn: AtomicUsize,
}

type Inboxes = HashMap<(IpAddr, u16), Vec<Arc<Inbox>>>;

/// Where datagrams wait for a receiver.
struct Inbox {
    queue: SegQueue<(Vec<u8>, Arrival)>,
    ready: OwnedFd,
}

impl Net {
    pub(crate) fn new() -> Arc<Net> {
        Arc::new(Net {
            inboxes: Mutex::default(),
            mtu: AtomicUsize::new(1500),
            cut: AtomicBool::new(false),
            gro: AtomicBool::new(true),
            refuse: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        })
    }

    /// A host on the network.
    pub(crate) fn host(self: &Arc<Net>, address: &str) -> Arc<Host> {
        let address = address.parse().unwrap();
        Arc::new(Host { address, net: Arc::clone(self), sent: SegQueue::new(), opened: AtomicUsize::new(0) })
    }

    /// A datagram arrives at the address in `arrival`.
    pub(crate) fn deliver(&self, bytes: Vec<u8>, arrival: Arrival) {
        self.put(bytes, arrival);
        self.ring();
    }

    /// Wakes all receivers.
    fn ring(&self) {
        for inbox in self.inboxes.lock().unwrap().values().flatten() {
            rustix::io::write(&inbox.ready, &1u64.to_ne_bytes()).unwrap();
        }
    }

    fn put(&self, bytes: Vec<u8>, arrival: Arrival) {
        if self.cut.load(Ordering::Relaxed) {
            return;
        }
        let inboxes = self.inboxes.lock().unwrap();
        let mut hit: Vec<&Vec<Arc<Inbox>>> = Vec::new();
        for (&(address, port), list) in inboxes.iter() {
            let ours = address == arrival.outer.dst
                || arrival.outer.dst.is_multicast() && address != arrival.outer.src;
            if ours && port == arrival.outer.dst_port {
                hit.push(list);
            }
        }
        for list in hit.into_iter().filter(|list| !list.is_empty()) {
            let inbox = &list[usize::from(arrival.outer.src_port) % list.len()];
            inbox.queue.push((bytes.clone(), arrival));
        }
    }

    fn open(self: &Arc<Net>, address: IpAddr, port: u16, count: usize) -> Vec<Box<dyn DatagramRx>> {
        let made: Vec<_> = (0..count)
            .map(|_| {
                let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
                Arc::new(Inbox { queue: SegQueue::new(), ready })
            })
            .collect();
        self.inboxes.lock().unwrap().insert((address, port), made.clone());
        let rx = |inbox| {
            Box::new(Rx { inbox, net: Arc::clone(self), key: (address, port) }) as Box<dyn DatagramRx>
        };
        made.into_iter().map(rx).collect()
    }

    /// Ports that are open on a host.
    pub(crate) fn open_ports(&self, host: &Host) -> Vec<u16> {
        let mut ports: Vec<u16> =
            self.inboxes.lock().unwrap().keys().filter(|k| k.0 == host.address).map(|k| k.1).collect();
        ports.sort_unstable();
        ports
    }
}

/// A host: what its engine opens sockets with.
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    net: Arc<Net>,
    /// What was sent, in runs.
    pub(crate) sent: SegQueue<Datagrams>,
    /// How often sockets were opened.
    pub(crate) opened: AtomicUsize,
}

/// One of a host's sets of sockets.
struct Tx {
    host: IpAddr,
    net: Arc<Net>,
    proto: u8,
    of: Arc<Host>,
}

struct Opener(Arc<Host>);

impl Host {
    /// For [`trunkline_engine::Engine::start_with`].
    pub(crate) fn opener(self: &Arc<Host>) -> Arc<dyn OpenSockets> {
        Arc::new(Opener(Arc::clone(self)))
    }
}

impl Opener {
    fn tx(&self, proto: u8) -> Arc<dyn DatagramTx> {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Arc::new(Tx { host: self.0.address, net: Arc::clone(&self.0.net), proto, of: Arc::clone(&self.0) })
    }
}

impl OpenSockets for Opener {
    fn udp(&self, options: &UdpOptions) -> io::Result<Opened> {
        // Taken by somebody else.
        if options.port == 666 {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let rx = self.0.net.open(self.0.address, options.port, options.queues);
        Ok(Opened { rx, tx: self.tx(UDP), groups: None })
    }

    fn gre(&self, _: Family) -> io::Result<Opened> {
        let rx = self.0.net.open(self.0.address, 0, 1);
        Ok(Opened { rx, tx: self.tx(GRE), groups: None })
    }

    fn path_mtu(&self, _: IpAddr, _: Option<IpAddr>) -> io::Result<u32> {
        // The first link takes more than the path does.
        Ok(1500.max(self.0.net.mtu.load(Ordering::Relaxed) as u32))
    }
}

impl DatagramTx for Tx {
    fn sockets(&self) -> usize {
        if self.proto == UDP { 16 } else { 1 }
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, what: &[Datagrams], stats: &mut SendStats) {
        let headers = if self.proto == UDP { 28 } else { 20 };
        let mut named = 0;
        for d in what {
            self.of.sent.push(*d);
            assert_eq!(d.first, named, "each packet is named once, in order");
            named += d.count;
            let packets = &batch[d.first..named];
            assert!(packets.iter().take(d.count - 1).all(|p| p.len() == d.size));
            let arrival = Arrival {
                outer: Outer {
                    src: self.host,
                    dst: d.dst,
                    src_port: if self.proto == UDP { 50000 + (d.socket % 16) as u16 } else { 0 },
                    dst_port: d.dst_port,
                    tos: d.tos,
                    ttl: d.ttl,
                    proto: self.proto,
                },
                gro: None,
            };
            let turn = self.net.turn.fetch_add(1, Ordering::Relaxed);
            if turn.checked_rem(self.net.refuse.load(Ordering::Relaxed)) == Some(0) {
                let lost = packets.iter().filter(|p| p.meta().frames > 0).count();
                stats.drops[DropReason::EgressFull.index()] += lost as u32;
                continue;
            }
            let fits = |len: usize| !d.df || len + headers <= self.net.mtu.load(Ordering::Relaxed);
            let mut merged = Vec::new();
            for packet in packets {
                if packet.len() + headers > 1500.max(self.net.mtu.load(Ordering::Relaxed)) && d.df {
                    stats.drops[DropReason::Mtu.index()] += u32::from(packet.meta().frames > 0);
                    continue;
                }
                stats.packets += 1;
                stats.bytes += packet.len() as u64;
                if !fits(packet.len()) {
                    continue;
                }
                if self.net.gro.load(Ordering::Relaxed) && d.count > 1 {
                    merged.extend(packet.to_vec());
                } else {
                    self.net.put(packet.to_vec(), arrival);
                }
            }
            if !merged.is_empty() {
                self.net.put(merged, Arrival { gro: Some(d.size as u16), ..arrival });
            }
        }
        assert_eq!(named, batch.len());
        self.net.ring();
        pool.put_all(batch);
    }
}

struct Rx {
    inbox: Arc<Inbox>,
    net: Arc<Net>,
    key: (IpAddr, u16),
}

impl Drop for Rx {
    fn drop(&mut self) {
        let mut inboxes = self.net.inboxes.lock().unwrap();
        if let Some(list) = inboxes.get_mut(&self.key) {
            list.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
            if list.is_empty() {
                inboxes.remove(&self.key);
            }
        }
    }
}

impl DatagramRx for Rx {
    fn poll_fd(&self) -> RawFd {
        self.inbox.ready.as_raw_fd()
    }

    fn recv(
        &mut self,
        pool: &mut Pool,
        out: &mut Batch,
        arrivals: &mut Vec<Arrival>,
        budget: usize,
        _: &mut RecvStats,
    ) -> RecvEnd {
        let _ = rustix::io::read(&self.inbox.ready, &mut [0u8; 8]);
        for _ in 0..budget {
            let Some((bytes, arrival)) = self.inbox.queue.pop() else { return RecvEnd::Drained };
            let mut packet = pool.get();
            packet.set_bytes(&bytes, pool).unwrap();
            out.push(packet);
            arrivals.push(arrival);
        }
        RecvEnd::More
    }
}
