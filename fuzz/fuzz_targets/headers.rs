//! libFuzzer program for [`trunkline_fuzz::headers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::headers::target(data));
