//! Queues between processes, for any number of producers and consumers, that lose nothing to a SIGKILL.
//!
//! They are Python's `multiprocessing.Queue` and `JoinableQueue`, with the call shapes of Rust's channels.
//! Make one, clone it, send the clone to another process (as an argument of a process, through a pipe or
//! another queue, in a task of a pool), and both have the same queue. It lies in a sealed memory file without a
//! name, and is gone with the last process that has it.
//!
//! ```
//! use mp_queue::Queue;
//!
//! # fn main() -> mp_queue::Result<()> {
//! let (words, lengths) = (Queue::unbounded()?, Queue::unbounded()?);
//! let theirs = (words.clone(), lengths.clone());
//! std::thread::spawn(move || { // or a process: multiprocess::Process::new(work, theirs)
//!     let (words, lengths): (Queue<String>, Queue<usize>) = theirs;
//!     for word in words {
//!         lengths.put(word.unwrap().len()).unwrap();
//!     }
//! });
//! words.put("multiprocess".to_string())?;
//! assert_eq!(lengths.get()?, 12);
//! # words.close();
//! # Ok(())
//! # }
//! ```
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | hand items from process to process | [`Queue`] |
//! | wait until all of them are done | [`JoinableQueue`] |
//! | keep producers from running ahead | [`Queue::bounded`], or [`Builder`] for a limit in bytes |
//! | not wait, or not for long | the `try_` and `_timeout` forms |
//! | hand many small items over at a time | [`Queue::put_many`], [`Queue::get_many`] |
//! | end the consumers | [`Queue::close`]; their iterators end |
//! | wait for several queues, or a queue and something else | [`AsFd`](Queue#impl-AsFd-for-Queue<T>), with poll(2) |
//!
//! What is to be had at once is had after any time; a timeout too large for the clock waits for ever; time
//! runs on the monotonic clock, and signals do not stretch it.
//!
//! # How it survives
//!
//! There are two locks, one for those who put and one for those who get, which know their owner and pass on
//! when it is dead (see [`mp_sync`]). Under its lock, a put writes where nobody looks; then one
//! compare-and-swap of one word makes the item, and its count, and where the next one goes, be there. A get
//! reads, and then one compare-and-swap makes the item be gone. Whatever was not so completed is not there,
//! and who takes the lock over starts from what is.
//!
//! A wake-up that is lost with the process that was to give it is made up for: nobody sleeps longer than a
//! tenth of a second without looking.
//!
//! # What it costs
//!
//! No system call, unless somebody has to wait or be woken, memory grows, or an item has descriptors. What
//! waits yields the processor for 20 us and then sleeps. `cargo bench -p mp-queue` compares with bare rings
//! and with CPython.
//!
//! # What differs from Python
//!
//! - No thread feeds a pipe. So `put` is done when it returns, its errors are its caller's, counts are exact,
//!   and a process may end at any time after. `join_thread` and `cancel_join_thread` have nothing to do.
//! - [`close`](Queue::close) is for all processes, and lets consumers end.
//! - A queue can be sent at any time and anywhere, also to the workers of a pool and in its own items.
//! - A timeout is [`Error::TimedOut`], never [`Error::Empty`] or [`Error::Full`].
//! - [`JoinableQueue::task_done`] too often is an error, as there.
//!
//! # Limits
//!
//! Linux, with `/proc`. All processes that share a queue have to be in the same pid and time namespace;
//! receiving one from elsewhere is an error. A queue has room for 16 GiB; one item for 4 GiB, and while it is
//! copied in or out (a second for a GiB or so), others wait. Some hundred items with
//! descriptors can be in a queue at a time: the kernel limits what is under way, also by `RLIMIT_NOFILE`.
//! A process that is stopped (`SIGSTOP`) in the middle of a put or get stops the others, for it may go on.
//! Processes that write over the segment can make calls fail, and items be lost, no more.

#![cfg_attr(mp_loom, allow(dead_code, reason = "models have no handles, which use the rest"))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(mp_loom))]
mod blocking;
mod commit;
#[cfg(not(mp_loom))]
mod copy;
mod error;
#[cfg(not(mp_loom))]
mod joinable;
#[cfg(all(test, mp_loom))]
mod models;
#[cfg(not(mp_loom))]
mod parcel;
#[cfg(not(mp_loom))]
mod queue;
#[cfg(all(any(test, fuzzing), not(mp_loom)))]
mod scribble;
#[cfg(not(mp_loom))]
mod slots;

pub use error::{Error, GetManyError, PutError, PutManyError, Result};
#[cfg(not(mp_loom))]
pub use {
    joinable::JoinableQueue,
    queue::{Builder, IntoIter, Iter, Queue},
};

/// Uses a queue that any bytes are written over, between the calls.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_queue(bytes: &[u8]) {
    scribble::run_on(bytes);
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        // Whatever the items are: they are encoded by whoever puts them.
        is_send_and_sync::<Queue<*const u8>>();
        is_send_and_sync::<JoinableQueue<std::rc::Rc<u8>>>();
        is_send_and_sync::<Builder>();
        is_send_and_sync::<Iter<'_, *const u8>>();
        is_send_and_sync::<IntoIter<*const u8>>();
        is_send_and_sync::<Error>();
        is_send_and_sync::<PutError<u8>>();
    }

    #[test]
    fn outside_of_a_message_a_queue_is_a_clear_error() {
        let queue = Queue::<u8>::unbounded().unwrap();
        let error = serde_json::to_string(&queue).unwrap_err();
        assert!(error.to_string().contains("multiprocess message"), "{error}");
    }

    #[test]
    fn a_queue_of_another_kind_is_refused() {
        let queue = Queue::<u8>::unbounded().unwrap();
        let message = mp_core::encode(&queue).unwrap();
        assert!(mp_core::decode::<JoinableQueue<u8>>(message).is_err());
    }

    #[test]
    fn what_an_iterator_gave_before_it_panicked_is_put() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        /// Panics where it is to be serialized, if it is negative.
        struct Touchy(i32);
        impl serde::Serialize for Touchy {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                assert!(self.0 >= 0, "on purpose");
                self.0.serialize(serializer)
            }
        }

        let queue = Queue::<i32>::unbounded().unwrap();
        let touchy = mp_core::encode(&queue).and_then(mp_core::decode::<Queue<Touchy>>).unwrap();
        for panics in [
            &(|| {
                queue
                    .put_many((0..9).inspect(|number| assert_ne!(*number, 3, "on purpose")))
                    .is_ok()
            }) as &dyn Fn() -> bool,
            &|| queue.try_put_many((0..9).inspect(|number| assert_ne!(*number, 3))).is_ok(),
            &|| touchy.put_many([0, 1, 2, -1, 4].map(Touchy)).is_ok(),
        ] {
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            assert_eq!(queue.try_get_many(10).unwrap(), [0, 1, 2]);
        }
        // And once only, also where a row is full, or an item goes alone.
        let texts = || (0..3000).map(|number| "x".repeat(if number == 1000 { 5000 } else { 20 }));
        let queue = Queue::<String>::unbounded().unwrap();
        let panics =
            || queue.put_many(texts().chain(std::iter::once_with(|| panic!("on purpose"))));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert!(texts().all(|text| queue.try_get().unwrap() == text));
        assert!(queue.is_empty());
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        let replay = |target: &str, run_on: fn(&[u8])| {
            mp_core::testing::replay(env!("CARGO_MANIFEST_DIR"), target, run_on)
        };
        replay("queue", scribble::run_on);
    }
}
