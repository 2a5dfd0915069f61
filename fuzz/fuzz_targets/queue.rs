//! A queue's segment that a peer writes over between calls.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_queue::fuzz_queue(bytes));
