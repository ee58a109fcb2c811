//! libFuzzer program for [`trunkline_fuzz::encap`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::encap::target(data));
