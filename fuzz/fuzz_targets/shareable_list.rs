//! Shared memory that is opened as a list.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mp_shmem::fuzz_shareable_list(bytes));
