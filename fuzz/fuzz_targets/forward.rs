//! libFuzzer program for [`trunkline_fuzz::forward`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::forward::target(data));
