//! Control messages, read field by field.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_core::fuzz_fields(bytes));
