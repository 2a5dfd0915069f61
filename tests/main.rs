//! The cross-process suite: one list of tests, each run under every start method it is meant for.
//!
//! A test is a program of its own: the harness starts this binary again for it, with one thread, and
//! watches it from outside. A hang is found within the test's limit and reported with what each process
//! waits for; what a test leaves behind (descriptors, threads, children, mappings, processes) fails it.
//!
//! `cargo test --test main`, after a `cargo build --examples` for those that are run, or `cargo nextest run`; a
//! name as argument selects.
#![allow(unsafe_code, reason = "signals and forks for the tests' own processes")]

mod builtins;
mod crash;
mod engine;
mod examples;
mod faults;
mod guide;
mod listener;
mod manager;
mod notes;
mod pipe;
mod pool;
mod queue;
mod reexports;
mod shmem;
mod start;
mod strangers;
mod support;
mod sync;

fn main() -> std::process::ExitCode {
    support::main(&[
        start::CASES,
        crash::CASES,
        faults::CASES,
        sync::CASES,
        queue::CASES,
        shmem::CASES,
        pool::CASES,
        engine::CASES,
        engine::own::CASES,
        engine::relay::CASES,
        manager::CASES,
        strangers::CASES,
        listener::CASES,
        pipe::CASES,
        notes::CASES,
        examples::CASES,
        reexports::CASES,
        guide::CASES,
    ])
}
