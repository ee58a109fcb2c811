//! libFuzzer program for [`trunkline_fuzz::nat`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::nat::target(data));
