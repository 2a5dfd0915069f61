//! Packets of the socket that start requests and results travel by, with their descriptors.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_core::fuzz_packet(bytes));
