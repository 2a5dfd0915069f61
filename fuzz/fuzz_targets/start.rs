//! What a process, its child and the fork server say to each other around a start.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_process::fuzz_start(bytes));
