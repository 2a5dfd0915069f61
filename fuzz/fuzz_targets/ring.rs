//! Both ends of a connection's ring.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_pipe::fuzz_ring(bytes));
