//! libFuzzer program for [`trunkline_fuzz::pcap`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::pcap::target(data));
