//! Workloads that several benches share: frames, and the engine between a replay and a null port.

pub mod frames;
pub mod paths;
