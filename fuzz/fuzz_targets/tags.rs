//! libFuzzer program for [`trunkline_fuzz::tags`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::tags::target(data));
