//! Both directions in one.

use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::either::{self, Both, deserialize_both};
use crate::link::{self, RingReceiver, RingSender};
use crate::stream::{StreamReceiver, StreamSender};
use crate::{Receiver, Result, SendError, Sender};

/// Makes a pipe with two directions: the first end sends `A` and receives `B`, the second the other way round.
///
/// Hand one of them to another process: as an argument when it is started, or in a message.
///
/// Python: `multiprocessing.Pipe()`.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) where memory or descriptors are short.
///
/// # Example
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (parent, child) = mp_pipe::duplex::<String, u64>()?;
/// parent.send("how long?".to_string())?;
/// let question = child.recv()?;
/// child.send(question.len() as u64)?;
/// assert_eq!(parent.recv()?, 9);
/// # Ok(())
/// # }
/// ```
#[doc(alias("Pipe", "pipe", "socketpair"))]
pub fn duplex<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
    let segment = link::segment(2)?;
    let (one, two) = (mp_core::sys::socket::pair()?, mp_core::sys::socket::pair()?);
    let first = Connection {
        sender: Sender::new(RingSender::new(&segment, 0, one.0, 0)?),
        receiver: Receiver::new(RingReceiver::new(&segment, 1, two.0)?),
        settled: Cell::new(false),
    };
    let second = Connection {
        sender: Sender::new(RingSender::new(&segment, 1, two.1, 0)?),
        receiver: Receiver::new(RingReceiver::new(&segment, 0, one.1)?),
        settled: Cell::new(false),
    };
    Ok((first, second))
}

/// One end of a pipe with two directions: sends values of type `S` and receives values of type `R`.
///
/// Made by [`duplex`]. All that is said of [`Sender`] and [`Receiver`] holds for it; [`split`](Self::split) makes
/// it the two, for two threads or two processes.
///
/// Python: `multiprocessing.connection.Connection`.
///
/// # Example: a peer that is gone
///
/// ```
/// use mp_pipe::Error;
///
/// # fn main() -> mp_pipe::Result<()> {
/// let (here, there) = mp_pipe::duplex::<i32, i32>()?;
/// there.send(1)?;
/// drop(there); // or its process is killed
/// assert_eq!(here.recv()?, 1);
/// assert!(matches!(here.recv(), Err(Error::Disconnected)));
/// assert!(matches!(here.send(2).unwrap_err().reason, Error::Disconnected));
/// # Ok(())
/// # }
/// ```
pub struct Connection<S, R> {
    sender: Sender<S>,
    receiver: Receiver<R>,
    settled: Cell<bool>,
}

impl<S, R> Connection<S, R> {
    pub(crate) fn from_stream(sender: StreamSender, receiver: StreamReceiver) -> Self {
        let (sender, receiver) = (Sender::new(sender), Receiver::new(receiver));
        Self { sender, receiver, settled: Cell::new(false) }
    }

    /// Makes of it its two halves.
    ///
    /// Each is closed by itself: the other end's receiver sees the end of this sender when that is dropped.
    #[must_use]
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// The half that sends.
    #[must_use]
    pub fn sender(&self) -> &Sender<S> {
        &self.sender
    }

    /// The half that sends, to send through.
    ///
    /// If nothing more comes from the other end, its process most likely ends, and what it has is closed one thing
    /// after the other: to send right then would seem to work. So it is given a moment, once.
    #[inline]
    fn out(&self) -> &Sender<S> {
        if self.receiver.link().has_ended() && !self.settled.replace(true) {
            self.sender.link().settle();
        }
        &self.sender
    }

    /// Whether the other end, when it last asked this or waited, ran on the CPU that this thread runs on. A hint.
    ///
    /// For those who look often before they wait: while both have one CPU, nothing comes however often one looks, and it
    /// is better to give way. Asks the kernel nothing; `false` where it is not known, as through a [`Client`](crate::Client).
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (here, there) = mp_pipe::duplex::<u32, u32>()?;
    /// let doubles = std::thread::spawn(move || {
    ///     let number = there.recv().unwrap();
    ///     there.send(number * 2).unwrap();
    /// });
    /// here.send(21)?;
    /// for _ in 0..100 {
    ///     if !here.receiver().is_empty() {
    ///         break;
    ///     } else if here.shares_cpu() {
    ///         std::thread::yield_now();
    ///     } else {
    ///         std::hint::spin_loop();
    ///     }
    /// }
    /// assert_eq!(here.recv()?, 42); // which waits, if that was not enough
    /// # doubles.join().unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shares_cpu(&self) -> bool {
        either::share_cpu(self.sender.link(), self.receiver.link())
    }

    /// The half that receives.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<R> {
        &self.receiver
    }

    /// As [`Sender::send_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.out().send_bytes(bytes)
    }

    /// As [`Sender::try_send_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.out().try_send_bytes(bytes)
    }

    /// As [`Sender::send_bytes_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<()> {
        self.out().send_bytes_timeout(bytes, timeout)
    }

    /// As [`Sender::send_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_with<Out>(&self, len: usize, write: impl FnOnce(&mut [u8]) -> Out) -> Result<Out> {
        self.out().send_with(len, write)
    }

    /// As [`Sender::try_send_with`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (here, there) = mp_pipe::duplex::<(), ()>()?;
    /// here.try_send_with(3, |bytes| bytes.copy_from_slice(b"abc"))?;
    /// assert_eq!(there.recv_bytes()?, b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send_with<Out>(
        &self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Out,
    ) -> Result<Out> {
        self.out().try_send_with(len, write)
    }

    /// As [`Receiver::poll`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn poll(&self, timeout: Duration) -> Result<bool> {
        self.receiver.poll(timeout)
    }

    /// As [`Receiver::recv_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.receiver.recv_bytes()
    }

    /// As [`Receiver::try_recv_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>> {
        self.receiver.try_recv_bytes()
    }

    /// As [`Receiver::recv_bytes_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>> {
        self.receiver.recv_bytes_timeout(timeout)
    }

    /// As [`Receiver::recv_bytes_into`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.receiver.recv_bytes_into(buffer)
    }

    /// As [`Receiver::recv_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn recv_with<Out>(&self, read: impl FnOnce(&[u8]) -> Out) -> Result<Out> {
        self.receiver.recv_with(read)
    }

    /// Closes both directions. Dropping it does the same.
    ///
    /// Never waits, but for up to a second [over a network](crate#over-a-network).
    pub fn close(&self) {
        self.sender.close();
        self.receiver.close();
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// Sends a value: [`Sender::send`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn send(&self, value: S) -> Result<(), SendError<S>> {
        self.out().send(value)
    }

    /// As [`Sender::try_send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_send(&self, value: S) -> Result<(), SendError<S>> {
        self.out().try_send(value)
    }

    /// As [`Sender::send_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_timeout(&self, value: S, timeout: Duration) -> Result<(), SendError<S>> {
        self.out().send_timeout(value, timeout)
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// Receives a value: [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn recv(&self) -> Result<R> {
        self.receiver.recv()
    }

    /// As [`Receiver::try_recv`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_recv(&self) -> Result<R> {
        self.receiver.try_recv()
    }

    /// As [`Receiver::recv_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R> {
        self.receiver.recv_timeout(timeout)
    }

    /// Receives value after value: [`Receiver::iter`].
    pub fn iter(&self) -> crate::Iter<'_, R> {
        self.receiver.iter()
    }
}

impl<'a, S, R: DeserializeOwned> IntoIterator for &'a Connection<S, R> {
    type Item = R;
    type IntoIter = crate::Iter<'a, R>;

    fn into_iter(self) -> crate::Iter<'a, R> {
        self.iter()
    }
}

impl<S, R> AsFd for Connection<S, R> {
    /// A descriptor to wait for with poll(2) or epoll(7): see [`Receiver`](Receiver#waiting-for-several).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("closed", &self.sender.is_closed()).finish()
    }
}

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        Both(self.sender.link(), self.receiver.link()).serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (sender, receiver) = deserialize_both(deserializer)?;
        let (sender, receiver) = (Sender::new(sender), Receiver::new(receiver));
        Ok(Self { sender, receiver, settled: Cell::new(false) })
    }
}
