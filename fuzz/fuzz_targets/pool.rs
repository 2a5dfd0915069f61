//! What passes between a pool and its workers, both ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_pool::fuzz_pool(bytes));
