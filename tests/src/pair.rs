//! Two containers of every sort: a scenario written once runs over all of them.

use crate::{Container, Kind, Lab, Opts};

/// What the two ports of a scenario are, and whether they take superframes.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Sort of port, and whether `--offload off` is given.
    pub a: (Kind, bool),
    /// The same for the other.
    pub b: (Kind, bool),
}

impl Pair {
    /// Makes containers `a` and `b` on `br0`.
    pub fn containers(&self, lab: &Lab, mtu: u32) -> (Container, Container) {
        let make = |(kind, off): (Kind, bool), port| {
            let args = if off { vec!["--offload", "off"] } else { vec![] };
            lab.container_with(kind, port, &Opts { args, mtu, ..Opts::default() })
        };
        (make(self.a, "a"), make(self.b, "b"))
    }
}

/// Makes a test of `scenario: fn(Pair)` for each pair of port types and offload settings:
/// `scenario::tap_tap`, `scenario::tap_afpacket_off` and so on.
#[macro_export]
macro_rules! over_pairs {
    ($scenario:ident) => {
        $crate::over_pairs!(@ $scenario,
            tap_tap (Tap, false) (Tap, false),
            tap_tap_off (Tap, true) (Tap, true),
            tap_tap_one_off (Tap, false) (Tap, true),
            afpacket_afpacket (Afpacket, false) (Afpacket, false),
            afpacket_afpacket_off (Afpacket, true) (Afpacket, true),
            tap_afpacket (Tap, false) (Afpacket, false),
            tap_afpacket_off (Tap, true) (Afpacket, true),
        );
    };
    (@ $scenario:ident, $($name:ident ($a:ident, $a_off:literal) ($b:ident, $b_off:literal),)*) => {
        mod $scenario {
            use $crate::Kind::*;
            $(#[test]
            fn $name() {
                super::$scenario($crate::pair::Pair { a: ($a, $a_off), b: ($b, $b_off) });
            })*
        }
    };
}

/// Makes a test of `scenario: fn(Kind)` for each sort of port: `scenario::tap`, `scenario::afpacket`.
#[macro_export]
macro_rules! over_kinds {
    ($scenario:ident) => {
        mod $scenario {
            #[test]
            fn tap() {
                super::$scenario($crate::Kind::Tap);
            }
            #[test]
            fn afpacket() {
                super::$scenario($crate::Kind::Afpacket);
            }
        }
    };
}
