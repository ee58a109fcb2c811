//! libFuzzer program for [`trunkline_fuzz::router`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::router::target(data));
