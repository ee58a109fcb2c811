//! libFuzzer program for [`trunkline_fuzz::reassemble`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::reassemble::target(data));
