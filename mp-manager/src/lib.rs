//! Objects that live in a server process and are used from any other, as with Python's `multiprocessing.Manager`.
//!
//! ```standalone_crate
//! use mp_manager::{Dict, Manager};
//! use mp_process::Process;
//!
//! fn square(results: Dict<u64, u64>, n: u64) {
//!     results.insert(n, n * n).expect("the manager lives");
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp_process::init(); // the first line of main
//!     let manager = Manager::new()?;
//!     let results = manager.dict()?;
//!     let start = |n| Process::new(square, (results.clone(), n)).start();
//!     let children: Vec<_> = (1..4).map(start).collect::<Result<_, _>>()?;
//!     for child in children {
//!         child.result()?;
//!     }
//!     assert_eq!(results.get(&3)?, Some(9));
//!     Ok(())
//! }
//! ```
//!
//! A [`Manager`] is the server; it makes objects there and gives proxies of them. A proxy can be cloned, used by any
//! thread, and sent to any process: as an argument, through a pipe or a queue, in a task, as a value of another object
//! of a manager. An object lives for as long as a proxy of it does anywhere, or is under way.
//!
//! # By task
//!
//! | To share | Use |
//! | --- | --- |
//! | rows, items | [`Dict`], [`List`], [`Set`], [`Array`] |
//! | one value | [`Value`] |
//! | settings by name | [`Namespace`] |
//! | what you have a type for | [`Shared`], whose [`call`](Shared::call) runs your functions in the server |
//! | items to work on | [`Queue`], [`JoinableQueue`] |
//! | turns and news | [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`], [`Condition`], [`Event`], [`Barrier`] |
//! | something with processes that are no children | [`Manager::serve`], [`Manager::connect`] |
//! | values of some type or other | [`Object`], in a dict or list |
//!
//! # How it works
//!
//! All is one mechanism. The server has objects, each behind a lock of its own; a call sends a function, by its address
//! as a process's target is sent, and its arguments, and the server runs it with the object. Other programs, which have
//! no such functions, say the number of an operation that the built-in types have, and send elements encoded, which the
//! server need not look into. Each thread that calls has
//! a connection of its own, made at its first call, and a thread in the server that serves it: so what waits there, for
//! an item or a lock, holds up nobody else. Connections are pipes in shared memory: while both sides run, neither has to be
//! woken for a call. To a server at an address on the network they are TCP.
//!
//! Where more threads do nothing but call than there are pairs of CPUs, they take turns of some milliseconds: each then has
//! a CPU for itself and one for its thread of the server, and the calls of all take as long as those of one. Who calls now
//! and then, or something that takes its time, is served at once.
//!
//! # Calls within calls
//!
//! A function of yours that runs in the server may have proxies, of what it is called with or of what that contains, and
//! use them. Its own object it has as an argument: a call by a proxy of that would wait for itself, and is
//! [`Error::Deadlock`] instead, also where it comes by way of other objects whose functions call on. What an object does
//! with its elements counts too, as it compares them, say. Two objects whose functions call each other wait for each other
//! for ever if both are called at the same time, as with any two locks: have one order for them. So does a function that
//! waits for another thread that calls its object.
//!
//! # Errors
//!
//! Each call that goes to the server can fail with
//! - [`Error::ServerDied`], at once, where the server has ended or ends while it waits;
//! - [`Error::Encode`] and [`Error::Decode`] for what does not travel;
//! - [`Error::Refused`] and [`Error::Io`] where descriptors, memory or threads are short;
//! - [`Error::WrongType`] where a proxy was received as one of another type than it is, which is kept in another way;
//! - [`Error::OtherProgram`] for what calls a function of yours in the server of another program;
//! - [`Error::Deadlock`] from within a function that runs in the server and [has the object](#calls-within-calls);
//! - [`Error::Nested`] from within the `Serialize` or `Deserialize` of what another call sends.
//!
//! # When a process dies
//!
//! | It died | The others |
//! | --- | --- |
//! | in the middle of a call | the server makes it to its end, or not at all, and [not later](#after-a-death) |
//! | holding a lock or a [`Permit`] | get it; of a lock with the news: [`LockGuard::owner_died`] |
//! | waiting | nobody waits for it; a [notification](Condition) goes to the next. So does an item, unless it was [just coming](Queue). A barrier breaks |
//! | having the last proxy of an object | the object goes |
//! | the server | every call is [`Error::ServerDied`] |
//! | the process that made the manager | the server ends |
//!
//! # After a death
//!
//! On a busy machine the last call of a process that was killed may lie there for a while before the server comes to it.
//! Whoever knows of the end need not fear that it comes later, and undoes what was done since: once a process has seen a
//! child of its own end (by `join`, say), its next call, and the first call of every process and thread that calls from
//! then on, finds that call made or dropped, and what the dead held free. Only a function of yours that takes longer than
//! a second in the server is not waited for. Who learns of the end in another way, by word of a third process say, and has
//! called before, has no such promise.
//!
//! # What differs from Python
//!
//! - Locks of a client that dies are free again; in Python they stay locked.
//! - The last call of a client that dies does not come after what others do who have seen its end.
//! - A function of yours runs in the server, so that read-modify-write is one call: [`Dict::update`],
//!   [`Value::update`], [`Shared::call`].
//! - Nothing need be registered.
//! - A panic in the server is [`Error::Panicked`] for its caller.
//!
//! # Limits
//!
//! Functions are sent by address, so where they are called is of the same program, which is checked. Each object takes a
//! descriptor in the server and one in each process that has proxies of it; each thread that calls takes a few, and a
//! thread in the server. A child of `Process::fork`, a copy of its parent, has the parent's connections open: what the
//! parent held is free once both have ended. The arguments of a call, or its result, hold up to 65,000 proxies, or half
//! as many in a call by another program; more are [`Error::Encode`]. While they travel, each takes a descriptor more on
//! both sides.

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod active;
mod array;
mod barrier;
mod call;
mod condition;
mod dict;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod link;
mod list;
mod listen;
mod lock;
mod look;
mod makers;
mod manager;
mod namespace;
mod object;
mod operation;
mod ordered;
mod protocol;
mod queue;
mod remote;
mod semaphore;
mod server;
mod set;
mod shared;
mod value;
mod wait;
mod wire;

pub use array::Array;
pub use barrier::Barrier;
pub use call::Method;
pub use condition::Condition;
pub use dict::{Dict, Element, Key};
pub use error::{Error, PutError, Result};
pub use event::Event;
pub use list::List;
pub use lock::{Lock, LockGuard, RLock};
pub use manager::Manager;
pub use namespace::Namespace;
pub use object::{Object, Repr};
pub use queue::{JoinableQueue, Queue};
pub use semaphore::{BoundedSemaphore, Permit, Semaphore};
pub use set::Set;
pub use shared::Shared;
pub use value::Value;

// What every program with a manager needs.
pub use mp_process::{init, test_support};

/// Has a server answer any bytes.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_calls(bytes: &[u8]) {
    fuzz::run_on(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        type Local = std::rc::Rc<()>;
        is_send_and_sync::<Manager>();
        // Proxies may be used by any thread, whatever they are of.
        is_send_and_sync::<Shared<Local>>();
        is_send_and_sync::<Dict<Local, Local>>();
        is_send_and_sync::<List<Local>>();
        is_send_and_sync::<Set<Local>>();
        is_send_and_sync::<Array<Local>>();
        is_send_and_sync::<Value<Local>>();
        is_send_and_sync::<Queue<Local>>();
        is_send_and_sync::<JoinableQueue<Local>>();
        is_send_and_sync::<Namespace>();
        is_send_and_sync::<Lock>();
        is_send_and_sync::<RLock>();
        is_send_and_sync::<Semaphore>();
        is_send_and_sync::<BoundedSemaphore>();
        is_send_and_sync::<Condition>();
        is_send_and_sync::<Event>();
        is_send_and_sync::<Barrier>();
        is_send_and_sync::<Object>();
        is_send_and_sync::<Error>();
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        mp_core::testing::replay(env!("CARGO_MANIFEST_DIR"), "calls", fuzz::run_on);
    }
}
