//! libFuzzer program for [`trunkline_fuzz::dhcp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::dhcp::target(data));
