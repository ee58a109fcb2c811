//! GRE, VXLAN and Geneve encapsulation. Sans-IO.
//!
//! Not written yet: this crate holds the place that the design gives it (see `docs/architecture.md`), and
//! nothing uses it.
