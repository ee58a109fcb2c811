//! libFuzzer program for [`trunkline_fuzz::offload`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::offload::target(data));
