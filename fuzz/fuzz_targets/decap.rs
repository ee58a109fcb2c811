//! libFuzzer program for [`trunkline_fuzz::decap`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::decap::target(data));
