//! Both sides of a listener's hand-shake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_pipe::fuzz_hand_shake(bytes));
