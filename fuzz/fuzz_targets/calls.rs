//! Calls of a manager's objects, as another program sends them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_manager::fuzz_calls(bytes));
