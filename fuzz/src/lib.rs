//! Fuzz targets: plain functions that panic when something is wrong. `fuzz_targets/` makes libFuzzer
//! programs of them; `tests/replay.rs` runs them on the committed corpora with an ordinary toolchain.

pub mod bfd;
pub mod coalesce;
pub mod decap;
pub mod dhcp;
pub mod encap;
pub mod forward;
pub mod guard;
pub mod headers;
pub mod input;
pub mod nat;
pub mod offload;
pub mod pcap;
pub mod reassemble;
pub mod router;
pub mod tags;
pub mod tunnels;

/// A target by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("bfd", bfd::target),
    ("coalesce", coalesce::target),
    ("decap", decap::target),
    ("encap", encap::target),
    ("dhcp", dhcp::target),
    ("forward", forward::target),
    ("guard", guard::target),
    ("headers", headers::target),
    ("nat", nat::target),
    ("offload", offload::target),
    ("pcap", pcap::target),
    ("reassemble", reassemble::target),
    ("router", router::target),
    ("tags", tags::target),
];
