//! Sending frames byte by byte, as a hostile or exotic container may.

use std::io;

use pnet_datalink::{Channel, Config, DataLinkSender};

use crate::Netns;

/// A raw socket on an interface.
pub struct Raw {
    tx: Box<dyn DataLinkSender>,
}

impl Raw {
    /// Opens it on an interface of a namespace.
    pub fn open(ns: &Netns, ifname: &str) -> Raw {
        ns.enter(|| {
            let interfaces = pnet_datalink::interfaces();
            let interface = interfaces
                .iter()
                .find(|i| i.name == ifname)
                .unwrap_or_else(|| panic!("no interface {ifname}"));
            match pnet_datalink::channel(interface, Config { promiscuous: false, ..Config::default() }) {
                Ok(Channel::Ethernet(tx, _)) => Raw { tx },
                Ok(_) => panic!("{ifname} is no Ethernet interface"),
                Err(e) => panic!("raw socket on {ifname}: {e}"),
            }
        })
    }

    /// Sends a frame; waits while the interface's queue is full.
    pub fn send(&mut self, frame: &[u8]) {
        loop {
            match self.try_send(frame) {
                Ok(()) => return,
                // The socket's or the device's queue is full.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(105) => {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                Err(e) => panic!("raw send of {} bytes: {e}", frame.len()),
            }
        }
    }

    /// Sends a frame that the kernel may refuse.
    pub fn try_send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.tx.send_to(frame, None).expect("pnet takes every frame")
    }
}
