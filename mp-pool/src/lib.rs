//! A pool of worker processes, as Python's `multiprocessing.Pool`: tasks go in, results come out, and whatever
//! becomes of a worker, every task ends.
//!
//! ```standalone_crate
//! use mp_pool::Pool;
//!
//! fn square(x: u64) -> u64 {
//!     x * x
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp_pool::init(); // the first line of main
//!     let pool = Pool::new(2)?;
//!     assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
//!     Ok(())
//! }
//! ```
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | make a pool | [`Pool::new`], [`Pool::builder`] |
//! | run one task and wait, or not | [`Pool::apply`], [`Pool::apply_async`] |
//! | run a function on many items | [`Pool::map`], [`Pool::starmap`], [`Pool::map_chunked`] |
//! | the same without waiting | [`Pool::map_async`], [`Pool::starmap_async`] |
//! | go on with each result as it comes | [`Pool::imap`], [`Pool::imap_unordered`] |
//! | wait for a result, ask, be called, cancel | [`AsyncResult`] |
//! | limit how long a task may run | [`Builder::task_timeout`] |
//! | have them run elsewhere | [`Builder::engine`], [`engine`] |
//! | prepare each worker | [`Builder::initializer`] |
//! | end it | [`Pool::close`], [`Pool::join`], [`Pool::terminate`], or drop it |
//!
//! # What becomes of a task
//!
//! It ends, with its value or a [`TaskError`]: [`Panicked`], and its worker goes on; [`WorkerDied`], where the process
//! was killed or ended itself; [`TimedOut`] and [`Cancelled`], for which its worker is killed if it was running;
//! [`Terminated`], with the pool; [`Encode`] and [`Decode`], where it could not travel. Each costs that one task:
//! others that were on their way to the same worker are run by another. A chunk of [`Pool::map`] is one task.
//!
//! A task that began is never run a second time.
//!
//! [`Panicked`]: TaskError::Panicked
//! [`WorkerDied`]: TaskError::WorkerDied
//! [`TimedOut`]: TaskError::TimedOut
//! [`Cancelled`]: TaskError::Cancelled
//! [`Terminated`]: TaskError::Terminated
//! [`Encode`]: TaskError::Encode
//! [`Decode`]: TaskError::Decode
//!
//! # What differs from Python
//!
//! - There, a task whose worker dies is never ready, nor is what is pending when the pool is terminated.
//! - `imap` and `imap_unordered` take a bounded part of their input ahead.
//! - A callback may wait, use the pool, and panic.
//! - An initializer that fails is an error, and not tried for ever.
//! - Interrupts from the terminal do nothing in a worker: its parent's end is its end. A program that handles them
//!   can let its tasks end.
//!
//! # Threads and processes
//!
//! A pool has one thread of its own, which sleeps while nothing happens, and one for callbacks once there is one. The
//! workers are daemons. Of this process's descriptors they have none but what tasks send them. A program that has a
//! pool has threads, and cannot start processes by [`Fork`](mp_process::StartMethod::Fork) any more.
#![forbid(unsafe_code)]

#[cfg(not(mp_loom))]
mod body;
#[cfg(not(mp_loom))]
mod builder;
#[cfg(not(mp_loom))]
mod call;
#[cfg(not(mp_loom))]
mod callbacks;
#[cfg(not(mp_loom))]
mod chunk;
mod claims;
#[cfg(not(mp_loom))]
pub mod engine;
#[cfg(not(mp_loom))]
mod error;
#[cfg(all(any(test, fuzzing), not(mp_loom)))]
mod fuzz;
#[cfg(not(mp_loom))]
mod iter;
#[cfg(not(mp_loom))]
mod local;
#[cfg(all(test, mp_loom))]
mod models;
#[cfg(not(mp_loom))]
mod pool;
#[cfg(not(mp_loom))]
mod result;
#[cfg(not(mp_loom))]
mod wire;
#[cfg(not(mp_loom))]
mod worker;

#[cfg(not(mp_loom))]
pub use builder::Builder;
#[cfg(not(mp_loom))]
pub use engine::Engine;
#[cfg(not(mp_loom))]
pub use error::{Error, Panic, Result, Task, TaskError};
#[cfg(not(mp_loom))]
pub use iter::{Imap, ImapUnordered};
#[cfg(not(mp_loom))]
pub use pool::Pool;
#[cfg(not(mp_loom))]
pub use result::AsyncResult;

// What every program with a pool needs.
#[cfg(not(mp_loom))]
pub use mp_process::{StartMethod, init, test_support};

/// Has a pool and a worker receive any bytes.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_pool(bytes: &[u8]) {
    fuzz::run_on(bytes);
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Pool>();
        is_send_and_sync::<Error>();
        is_send_and_sync::<TaskError>();
        is_send_and_sync::<engine::Submitted>();
        is_send_and_sync::<engine::Call>();
        // Whatever the result is: it is decoded by whoever gets it.
        is_send_and_sync::<AsyncResult<std::rc::Rc<()>>>();
        fn is_send<T: Send>() {}
        is_send::<Builder>();
        is_send::<engine::Job>();
        is_send::<Imap<std::vec::IntoIter<u8>, fn(u8), ()>>();
        is_send::<ImapUnordered<std::vec::IntoIter<u8>, fn(u8), ()>>();
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        mp_core::testing::replay(env!("CARGO_MANIFEST_DIR"), "pool", fuzz::run_on);
    }
}

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
