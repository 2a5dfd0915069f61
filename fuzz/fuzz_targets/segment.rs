//! A memory file that somebody sent, opened as a segment.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_core::fuzz_segment(bytes));
