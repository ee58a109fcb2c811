//! libFuzzer program for [`trunkline_fuzz::bfd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::bfd::target(data));
