//! The network layer, from port to port.

#[path = "../memory/mod.rs"]
mod memory;

mod errors;
mod kit;
mod loopback;
mod rules;
mod traffic;
mod workers;
