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
//! A [`Process`] is a function that runs in a process of its own, and whose result comes back. It may crash, leak, lock
//! up or be killed: the one that started it goes on, and knows why. Native code that is not thread-safe runs once in
//! each; memory goes back to the system with it. For speed alone, threads are cheaper.
//!
//! Those who come from Python find every name of its module in the [guide](guide::from_python), beside the one here.
//!
//! # What must be said once
//!
//! A process is this program, executed again or forked from it. [`init`] on the first line of `main` is where
//! a re-executed one turns off to do its work; in files of tests, [`test_support!`] does that. All else is the same
//! under each [`StartMethod`].
//!
//! # Hand things over
//!
//! Arguments, results and messages are whatever serde can encode, and may hold what this crate has: queues, ends of
//! pipes, locks, shared memory, open files in an [`Fd`]. The other process then has the same queue, lock or file.
//! Messages do not name their fields, so types with serde's `flatten`, `tag`, `untagged` or `skip_serializing_if` are an
//! error; such values travel as a text, of JSON say.
//!
//! ```standalone_crate
//! use multiprocess as mp;
//! use mp::{Process, Queue, Sender};
//!
//! fn worker(jobs: Queue<String>, answers: Sender<usize>) {
//!     for job in jobs {
//!         answers.send(job.expect("a whole job").len()).expect("somebody listens");
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp::init();
//!     let jobs = Queue::unbounded()?; // for any number of processes
//!     let (answers, theirs) = mp::simplex()?; // for two
//!     let child = Process::new(worker, (jobs.clone(), theirs)).start()?;
//!     jobs.put("first".to_string())?;
//!     jobs.put("second".to_string())?;
//!     jobs.close();
//!     assert_eq!(answers.iter().collect::<Vec<_>>(), [5, 6]); // ends when the worker does
//!     child.result()?;
//!     Ok(())
//! }
//! ```
//!
//! # Share memory
//!
//! A [`Value`] or an [`Array`] is memory with a lock, a [`Mutex`] or [`RwLock`] is a lock with memory, a [`RawArray`] of
//! atomics needs none. A lock whose holder dies goes to the next, with the news.
//!
//! ```standalone_crate
//! use multiprocess as mp;
//! use mp::{Barrier, Process, Value};
//!
//! fn add(total: Value<u64>, start: Barrier, n: u64) {
//!     start.wait().expect("all come");
//!     total.update(|total| *total += n);
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp::init();
//!     let (total, start) = (Value::new(0)?, Barrier::new(3)?);
//!     let adder = |n| Process::new(add, (total.clone(), start.clone(), n)).start();
//!     let children: Vec<_> = [1, 10, 100].into_iter().map(adder).collect::<Result<_, _>>()?;
//!     for child in children {
//!         child.result()?;
//!     }
//!     assert_eq!(total.get(), 111);
//!     Ok(())
//! }
//! ```
//!
//! # Let a pool work
//!
//! A [`Pool`] keeps its workers. Every task ends: with its value, or a [`TaskError`] that says what became of it.
//!
//! ```standalone_crate
//! use multiprocess as mp;
//! use mp::{Pool, TaskError};
//!
//! fn halve(n: u32) -> u32 {
//!     assert!(n % 2 == 0, "{n} is odd");
//!     n / 2
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp::init();
//!     let pool = Pool::new(2)?;
//!     assert_eq!(pool.map(halve, [2, 4, 6])?, [1, 2, 3]);
//!     let result = pool.apply_async(halve, (7,));
//!     assert!(matches!(result.get(), Err(TaskError::Panicked(panic)) if panic == "7 is odd"));
//!     Ok(())
//! }
//! ```
//!
//! # Keep objects in one place
//!
//! A [`Manager`] is a process that owns dicts, lists and what else you give it. Others use them by proxies, and can have
//! functions of theirs run there: so a counter in a dict is one call, and loses nothing.
//!
//! ```standalone_crate
//! use multiprocess as mp;
//! use mp::{Dict, Manager, Process};
//!
//! fn vote(votes: Dict<String, u32>, name: String) {
//!     let add = |count: &mut u32| *count += 1;
//!     votes.update_or_insert(name, 0, add, ()).expect("the manager lives");
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp::init();
//!     let manager = Manager::new()?;
//!     let votes = manager.dict()?;
//!     for name in ["Ada", "Bob", "Ada"] {
//!         Process::new(vote, (votes.clone(), name.to_string())).start()?.result()?;
//!     }
//!     assert_eq!(votes.to_string(), "{'Ada': 2, 'Bob': 1}");
//!     Ok(())
//! }
//! ```
//!
//! # The crates
//!
//! This crate gathers the ones below and adds nothing of its own; each can be used alone. How they hang together is
//! drawn in the guide's page on their [architecture](guide::architecture).
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
//! # Where things stand
//!
//! Whatever waits has a form that does not (`try_`) and one with a limit (`_timeout`), in monotonic time. What a process
//! that dies costs the others is in the documentation of each crate. Linux 5.4 or newer, on x86-64 and aarch64.

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
pub use mp_manager::{Dict, List, Manager, Namespace, Object, Set, Shared};
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
pub use mp_shmem::{
    Array, Plain, RawArray, RawValue, ShareableList, SharedMemory, Value, plain_struct,
};
pub use mp_sync::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Mutex, RLock, RwLock, Semaphore,
};

#[cfg(any(doc, doctest))]
pub mod guide;

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
