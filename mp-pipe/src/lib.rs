//! Pipes between processes: what one end sends, the other receives, whole and in order.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = mp_pipe::duplex::<String, usize>()?;
//! // or a process, which is given its end: multiprocess::Process::new(serve, (there,))
//! let server = std::thread::spawn(move || {
//!     for question in &there {
//!         there.send(question.len()).expect("the one who asked waits");
//!     }
//! });
//! here.send("how long is this?".to_string())?;
//! assert_eq!(here.recv()?, 17);
//! drop(here); // ends the loop over there
//! server.join().unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! # By task
//!
//! | To | Use | Python |
//! | --- | --- | --- |
//! | talk in both directions | [`duplex`], which makes two [`Connection`]s | `Pipe()` |
//! | send in one direction | [`simplex`]: a [`Receiver`] and a [`Sender`] | `Pipe(duplex=False)` |
//! | give the directions to two threads or processes | [`Connection::split`] | |
//! | send bytes as they are | [`send_bytes`](Sender::send_bytes), [`recv_bytes_into`](Receiver::recv_bytes_into) | the same |
//! | write and read them in place | [`send_with`](Sender::send_with), [`recv_with`](Receiver::recv_with) | |
//! | see whether something is there | [`poll`](Receiver::poll) | `poll` |
//! | wait for several pipes, children and files | [`wait()`] | `connection.wait` |
//! | meet a program that was started elsewhere | [`Listener`] and [`Client`], with an [`AuthKey`] | the same |
//! | wait in an event loop | [`Receiver`'s `as_fd`](Receiver#waiting-for-several) | `fileno` |
//!
//! `send`, `send_bytes`, `recv` and `recv_bytes` wait; each has a form that does not (`try_`) and one with a limit
//! (`_timeout`). Of the others that wait, `send_with`, `send_message` and `recv_message_with` have a `try_`; where one has no
//! limit of its own, [`poll`](Receiver::poll), which takes one, tells when to receive. What is there wins over a time that
//! has passed; a timeout too large for the clock waits for ever; time runs on the monotonic clock, and signals do not
//! stretch it.
//!
//! Values are whatever serde can encode, and may hold handles anywhere: locks, shared memory, queues, open files in
//! an [`Fd`](mp_core::Fd), other pipes' ends. An end that is sent is then there and no longer here; what lies in its
//! pipe goes with it.
//!
//! # When a process dies
//!
//! | It | The other end |
//! | --- | --- |
//! | had sent messages | receives them all, then [`Error::Disconnected`] |
//! | was sending one | does not see it |
//! | had not received some | cannot know; they are lost |
//! | was to receive, or to make room | has [`Error::Disconnected`] at once, if it waits or looks |
//!
//! It is all the same whether the end was dropped or closed, or its process returned, exited, panicked or was killed.
//! Who sends thousands of messages in a millisecond learns of it within a tick of the kernel's clock, 1 to 10 ms; and of a
//! kill, who has waited for less than 5 ms by then, within that time.
//!
//! # What differs from Python
//!
//! - Each direction has its type, and only those methods that it has.
//! - The end comes when the process that has the other one is gone, however many others were started meanwhile: a
//!   child has the ends that it was given, no more.
//! - A value that could not be sent [comes back](SendError). A receiver's timeout in the middle of a long message loses
//!   nothing.
//! - Sending does not return before the receiver can have the message, and never waits for it to be received unless
//!   the pipe is full.
//!
//! # Over a network
//!
//! A [`Client`] and its [`Listener`] on one machine, over a Unix socket, get a pipe as any other. Over TCP the same
//! connection goes through a socket: it carries no handles, ends of it that are split are closed together for the
//! other side (TCP cannot say that one stops receiving), and a peer whose machine vanishes is noticed after a minute of
//! silence; one that is sent to and does not answer, as late as the kernel gives up, some minutes later.
//! `try_send` does not send there what the sockets have no room for, some hundred KiB at times.
//!
//! To close or drop a connection, or the second of its halves, waits there until the other side's machine has what was
//! sent: not at all where it has it already, as it has what was answered; mostly some milliseconds after a last word; and
//! no longer than a second. What has not arrived by then still does if the other side sends nothing meanwhile. If it
//! does, the kernel resets the connection, and the rest is lost. So who sends megabytes to a slow peer, and must know that
//! they have come, waits for an answer.
//!
//! # What a peer can do
//!
//! The memory is shared, so a faulty peer can write anything there at any time. Every number read from it is read
//! once and checked; nonsense is [`Error::Damaged`] and closes the link. Messages are copied out before they are
//! decoded, except by [`recv_with`](Receiver::recv_with). A peer can always be silent: against that there are timeouts.
//!
//! # Limits
//!
//! A pipe holds some ten thousand short messages, or about 256 KiB of long ones; a longer message goes through it piece by
//! piece while it is received. For each direction there are up to 4¼ MiB of memory, taken as they are needed. A pipe
//! takes three descriptors, or five with two directions, shared by both ends while they are in one process, and two
//! more for a receiver that is waited for with others. A message can hold 65,534 descriptors, as far as both processes may
//! have so many (`RLIMIT_NOFILE`). Linux.

/// The program of the README is one of the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(mp_loom))]
mod address;
#[cfg(not(mp_loom))]
mod auth;
#[cfg(not(mp_loom))]
mod bound;
#[cfg(not(mp_loom))]
mod client;
#[cfg(not(mp_loom))]
mod connection;
#[cfg(not(mp_loom))]
mod either;
mod error;
#[cfg(not(mp_loom))]
mod greet;
#[cfg(not(mp_loom))]
mod halves;
#[cfg(not(mp_loom))]
mod link;
#[cfg(not(mp_loom))]
mod listener;
mod memory;
#[cfg(all(test, mp_loom))]
mod models;
mod ring;
#[cfg(not(mp_loom))]
mod stream;
#[cfg(not(mp_loom))]
mod wait;
#[cfg(not(mp_loom))]
mod watch;

#[cfg(not(mp_loom))]
pub use address::Address;
#[cfg(not(mp_loom))]
pub use auth::AuthKey;
#[cfg(not(mp_loom))]
pub use client::{Client, ClientBuilder};
#[cfg(not(mp_loom))]
pub use connection::{Connection, duplex};
pub use error::{Error, Result};
#[cfg(not(mp_loom))]
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
#[cfg(not(mp_loom))]
pub use listener::{Listener, ListenerBuilder, Peer};
#[cfg(not(mp_loom))]
pub use wait::{Waitable, wait};

/// Runs both ends of a ring on any bytes.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_ring(bytes: &[u8]) {
    ring::bench::run_on(bytes);
}

/// Receives any bytes as messages over a stream.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_stream(bytes: &[u8]) {
    stream::run_on(bytes);
}

/// Gives any messages to both sides of a hand-shake.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_hand_shake(bytes: &[u8]) {
    auth::run_on(bytes);
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        // Also of what is not Send itself: it is made anew on the other side.
        type NotSend = std::rc::Rc<()>;
        fn end<T: Send + std::fmt::Debug>() {}
        end::<Connection<NotSend, NotSend>>();
        end::<Sender<NotSend>>();
        end::<Receiver<NotSend>>();
        end::<IntoIter<NotSend>>();
        fn passed<T: serde::Serialize + serde::de::DeserializeOwned>() {}
        passed::<Connection<NotSend, NotSend>>();
        passed::<Sender<NotSend>>();
        passed::<Receiver<NotSend>>();
        fn error<T: std::error::Error + Send + Sync + 'static>() {}
        error::<Error>();
        error::<SendError<u8>>();
        fn waited_for(_: &dyn Waitable) {}
        let (receiver, _sender) = simplex::<u8>().unwrap();
        waited_for(&receiver);
    }

    #[test]
    fn of_the_copies_of_a_message_one_has_the_end_of_a_pipe() {
        fn copies<T: serde::Serialize>(end: T) -> [mp_core::Message; 2] {
            [(); 2].map(|()| mp_core::encode(&end).unwrap())
        }
        fn refused<T: serde::de::DeserializeOwned>(message: mp_core::Message) {
            let why = mp_core::decode::<T>(message).err().unwrap().to_string();
            assert!(why.contains("was taken from it before"), "{why}");
        }
        let (receiver, sender) = simplex::<u8>().unwrap();
        for number in 0..4 {
            sender.send(number).unwrap();
        }
        assert_eq!(receiver.recv().unwrap(), 0);
        let [first, second] = copies(receiver);
        let receiver: Receiver<u8> = mp_core::decode(first).unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
        refused::<Receiver<u8>>(second);
        assert_eq!(receiver.recv().unwrap(), 2);
        // It moves on from where it is.
        let [first, second] = copies(receiver);
        let receiver: Receiver<u8> = mp_core::decode(second).unwrap();
        refused::<Receiver<u8>>(first);

        let [first, second] = copies(sender);
        let sender: Sender<u8> = mp_core::decode(first).unwrap();
        sender.send(4).unwrap();
        refused::<Sender<u8>>(second);
        sender.send(5).unwrap();
        drop(sender);
        assert!(receiver.into_iter().eq(3..6));

        let (here, there) = duplex::<u8, u8>().unwrap();
        let [first, second] = copies(there);
        let there: Connection<u8, u8> = mp_core::decode(first).unwrap();
        refused::<Connection<u8, u8>>(second);
        here.send(1).unwrap();
        there.send(there.recv().unwrap() + 1).unwrap();
        assert_eq!(here.recv().unwrap(), 2);
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        let replay = |target: &str, run_on: fn(&[u8])| {
            mp_core::testing::replay(env!("CARGO_MANIFEST_DIR"), target, run_on)
        };
        replay("hand_shake", auth::run_on);
        replay("ring", ring::bench::run_on);
        replay("stream", stream::run_on);
    }
}
