//! Python's `multiprocessing` for Rust: processes, and what they share.
//!
//! ```standalone_crate
//! use multiprocess as mp;
//!
//! fn square(x: u64) -> u64 {
//!     x * x
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp::init(); // the first line of main
//!     let child = mp::Process::new(square, (12,)).start()?;
//!     assert_eq!(child.result()?, 144);
//!     Ok(())
//! }
//! ```
//!
//! This crate gathers the ones below and adds nothing of its own; each can be used alone.
//!
//! | Module | Crate | Has |
//! | --- | --- | --- |
//! | [`process`] | `mp-process` | [`Process`], its start methods, its end and its result |
//! | [`pool`] | `mp-pool` | [`Pool`], [`AsyncResult`]: `apply`, `map`, `imap` in worker processes |
//! | [`manager`] | `mp-manager` | [`Manager`] and its proxies: [`Dict`], [`List`], [`Namespace`], [`Shared`] and more |
//! | `cluster` | `mp-cluster` | the same pool on many machines, and what they share, on Redis; with the feature `cluster` |
//! | [`pipe`] | `mp-pipe` | [`duplex`], [`simplex`], [`Connection`], [`Sender`], [`Receiver`], [`wait`], [`Listener`], [`Client`] |
//! | [`queue`] | `mp-queue` | [`Queue`], [`JoinableQueue`] |
//! | [`shmem`] | `mp-shmem` | [`Value`], [`Array`], raw ones, [`SharedMemory`], [`ShareableList`] |
//! | [`sync`] | `mp-sync` | [`Lock`], [`RLock`], [`Semaphore`], [`Condition`], [`Event`], [`Barrier`], [`Mutex`], [`RwLock`] |
//! | [`core`] | `mp-core` | messages with descriptors, shared segments, kernel calls: for handles of your own |
//!
//! # Why a process
//!
//! A process may crash, leak, lock up or be killed, and the one that started it goes on and knows why.
//! Native code that is not thread-safe runs once in each; memory goes back to the system with it. For speed
//! alone, threads are cheaper.
//!
//! # What must be said once
//!
//! A process is this program, executed again or forked from it. [`init`] on the first line of `main` is where
//! a re-executed one turns off to do its work; in files of tests, [`test_support!`] does that.

#![forbid(unsafe_code)]

#[cfg(feature = "cluster")]
pub use mp_cluster as cluster;
pub use mp_core as core;
pub use mp_manager as manager;
pub use mp_pipe as pipe;
pub use mp_pool as pool;
pub use mp_process as process;
pub use mp_queue as queue;
pub use mp_shmem as shmem;
pub use mp_sync as sync;

pub use mp_core::Fd;
pub use mp_manager::{Dict, List, Manager, Namespace, Object, Shared};
pub use mp_pipe::{
    AuthKey, Client, Connection, Listener, Receiver, SendError, Sender, Waitable, duplex, simplex,
    wait,
};
pub use mp_pool::{AsyncResult, Pool, TaskError};
pub use mp_process::{
    AnyChild, Child, CurrentProcess, Error, ExitStatus, ParentProcess, Process, ProcessError,
    Result, Run, StartMethod, active_children, cpu_count, current_process, init, parent_process,
    set_start_method, start_method, test_support,
};
pub use mp_queue::{JoinableQueue, PutError, Queue};
pub use mp_shmem::{Array, RawArray, RawValue, ShareableList, SharedMemory, Value};
pub use mp_sync::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Mutex, RLock, RwLock, Semaphore,
};

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
