//! Workloads that several benches share: frames, and the engine between replays and null ports. `trunkline bench`
//! uses [`scenario`] and [`measure`], which need nothing but memory.

pub mod frames;
pub mod machine;
pub mod measure;
pub mod opening;
pub mod paths;
pub mod probe;
pub mod scenario;
pub mod traffic;
