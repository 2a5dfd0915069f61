//! Locks, semaphores, conditions, events and barriers that processes share, and that survive a SIGKILL.
//!
//! They are Python's `multiprocessing` ones, with std's call shapes. Make one, clone it, send the clone to
//! another process (as an argument of a process, through a pipe or queue, in a task: every type here is
//! serde's `Serialize` and `Deserialize` within multiprocess messages), and both have the same object. It
//! lies in a sealed memory file without a name, and is gone with the last process that has it.
//!
//! ```
//! use mp_sync::{Event, Mutex};
//!
//! # fn main() -> mp_sync::Result<()> {
//! let (total, done) = (Mutex::new(0_u64)?, Event::new()?);
//! let theirs = (total.clone(), done.clone());
//! std::thread::spawn(move || { // or a process: multiprocess::Process::new(work, theirs)
//!     let (total, done) = theirs;
//!     *total.lock().unwrap() += 42;
//!     done.set();
//! });
//! done.wait()?;
//! assert_eq!(*total.lock()?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | let one in at a time | [`Lock`]; [`RLock`] if it may come back in |
//! | keep data inside its lock | [`Mutex`], or [`RwLock`] for many readers |
//! | hand out a number of something | [`Semaphore`], [`BoundedSemaphore`]: guards by `permit`, or `acquire` and `release` |
//! | wait for what a lock guards to change | [`Condition`] |
//! | wait for something to have happened | [`Event`] |
//! | wait for each other | [`Barrier`] |
//!
//! Each call that waits has a form with a limit (`_timeout`), and where it waits for something to be had, as a lock or a
//! permit, one that does not wait (`try_`). What is to be
//! had at once is had after any time; a timeout too large for the clock waits for ever; time runs on the
//! monotonic clock, and signals do not stretch it.
//!
//! # When a process dies
//!
//! Whatever it held is had by others within about a millisecond of waiting, and a tenth of a second at
//! most. It counts as dead as soon as it cannot run any more, before the kernel has taken its memory down.
//!
//! | It died | The others |
//! | --- | --- |
//! | holding a [`Lock`], [`RLock`] or [`Mutex`] | the next gets it with the news: `Err` with the guard in it, as std's poison, or [`Acquired::OwnerDied`] |
//! | writing an [`RwLock`] | all that come get it with the news, until one of them is a writer |
//! | reading an [`RwLock`] | a writer no longer waits for it |
//! | holding a [`Permit`] | the permit is to be had again |
//! | having taken a permit by `acquire` | nobody can know whose it was: it stays taken |
//! | waiting, anywhere | nobody waits for it; a notification it could not act on goes to the next |
//! | waiting at a [`Barrier`] | the barrier breaks |
//!
//! A thread that ends counts as dead, and so does a process that turns into another program by `exec`; one
//! that is stopped does not. Forgetting a guard (`std::mem::forget`) and dropping the handles is harmless:
//! the thread holds the lock until it ends. A forked child does not hold what its parent does: guards it
//! inherited do nothing there.
//!
//! # How a dead owner is known
//!
//! The word of a lock holds the name of its owner in 62 bits: thread number, start time and a trace of the program
//! image. Another thread of that number has that start time once in 16 million times; a program that takes the place of the owner's by
//! `exec` has the same trace once in 65,536 times, or always where the system places no stacks at random, and then keeps
//! what the owner held. Taking a lock is one compare-and-swap from 0 to the own
//! name, and taking it over from a dead owner one from that name, so no step of either can be cut in two
//! by a kill. A waiter sleeps in slices, of 1 ms at first and 50 ms at most, and after each looks the
//! owner up in `/proc`, which takes 6 to 25 us; nobody else does, so owners pay nothing for it. Where many wait who
//! might all have died (at a barrier, for a permit, for a notification), one of them looks for all: so each of a hundred
//! that wait takes less than a thousandth of a CPU, and who waits alone, on a CPU that sleeps too, about three.
//!
//! What else there was, measured on the same machine:
//! - Robust pthread mutexes. The kernel wakes a waiter some 20 us after the owner's death, but to lock and
//!   unlock costs 1.8 times as much alone and three times as much contended; at most 2,048 are released when a
//!   process dies; one whose page was unmapped never is; a peer that damages the list in shared memory
//!   makes others write anywhere; and pthread's conditions, which they go with, hang when a waiter is
//!   killed.
//! - A byte of a file, locked by each process as a sign of life (`F_OFD_SETLK`). It is asked for in
//!   0.6 us and goes by itself, but takes a descriptor more for each object and process, does not see
//!   threads, and is inherited: it stays locked as long as any forked child lives.
//!
//! # What differs from Python
//!
//! - A [`Lock`] is released by the thread that took it. For what one takes and another gives, use a
//!   [`Semaphore`].
//! - Owners that die are dealt with, as above. Python's locks stay locked, its `notify` hangs.
//! - An [`Event`] that is set and cleared at once has been seen by all that waited.
//! - A [`Barrier`] for 0 parties is an error.
//!
//! # Limits
//!
//! Linux, with `/proc`. All processes that share an object have to be in the same pid and time namespace;
//! receiving one from elsewhere is an error. A process made by a bare `clone` system call, past the C
//! library, must not use this crate before it has called `exec`. Each object takes one descriptor and one
//! to eight pages for each time it was made or received. Locks and semaphores are not fair: who
//! waits may be overtaken by who comes, but not by the same ones time and again.
//!
//! Data in a [`Mutex`] or [`RwLock`] is lent as a reference into shared memory, in the trust that all who
//! have the lock use it. For the words of the protocols there is no such trust: they are read once,
//! checked, and can lead to a wrong wait or error at worst.

#![cfg_attr(mp_loom, allow(dead_code, reason = "models have no handles, which use the rest"))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(mp_loom))]
mod action;
#[cfg(not(mp_loom))]
mod barrier;
#[cfg(not(mp_loom))]
mod condition;
mod error;
#[cfg(not(mp_loom))]
mod event;
#[cfg(not(mp_loom))]
mod lock;
#[cfg(all(test, mp_loom))]
mod models;
#[cfg(not(mp_loom))]
mod mutex;
mod owner;
mod patience;
#[cfg(not(mp_loom))]
mod place;
#[cfg(not(mp_loom))]
mod raw;
#[cfg(not(mp_loom))]
mod rlock;
#[cfg(not(mp_loom))]
mod rwlock;
#[cfg(all(test, not(mp_loom)))]
mod scribble;
#[cfg(not(mp_loom))]
mod semaphore;
#[cfg(not(mp_loom))]
mod view;
mod words;

pub use error::{Acquired, Error, Result, TryLockError, TryLockResult};
pub use mp_core::{Plain, plain_struct};
#[doc(no_inline)]
pub use std::sync::{LockResult, PoisonError};
#[cfg(not(mp_loom))]
pub use {
    barrier::Barrier,
    condition::{Condition, ConditionGuard, WaitTimeoutResult},
    event::Event,
    lock::{Lock, LockGuard, LockPin},
    mutex::{Mutex, MutexGuard},
    raw::{RawLock, RawLockGuard},
    rlock::{RLock, RLockGuard},
    rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    semaphore::{BoundedSemaphore, Permit, Semaphore},
};
