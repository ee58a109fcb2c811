//! libFuzzer program for [`trunkline_fuzz::guard`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::guard::target(data));
