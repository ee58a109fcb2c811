//! libFuzzer program for [`trunkline_fuzz::coalesce`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::coalesce::target(data));
