//! What the bridge does, seen from the wire.

mod flooding;
mod forwarding;
mod garbage;
mod kit;
mod model;
mod vlans;
