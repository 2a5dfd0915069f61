//! Messages over a TCP connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_pipe::fuzz_stream(bytes));
