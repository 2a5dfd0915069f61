//! The two ends of one direction, as the user has them.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mp_core::{Deadline, Decoder, Encoder, Message};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::either::{RxLink, TxLink};
use crate::link::{self, RingReceiver, RingSender};
use crate::{Error, Result};

/// Makes a pipe with one direction: what its [`Sender`] sends, its [`Receiver`] receives.
///
/// The receiving end comes first, as in Python. Hand one of them to another process: as an argument when it
/// is started, or in a message.
///
/// Python: `multiprocessing.Pipe(duplex=False)`. There the wrong direction is an error when it is used; here it
/// does not compile:
///
/// ```compile_fail,E0599
/// let (receiver, _sender) = mp_pipe::simplex::<String>().unwrap();
/// receiver.send("hello".to_string());
/// ```
///
/// # Errors
///
/// [`Error::Io`] where memory or descriptors are short.
///
/// # Example
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (receiver, sender) = mp_pipe::simplex()?;
/// sender.send(("yuan".to_string(), 12))?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, ("yuan".to_string(), 12));
/// assert!(matches!(receiver.recv(), Err(mp_pipe::Error::Disconnected)));
/// # Ok(())
/// # }
/// ```
#[doc(alias("Pipe", "pipe", "channel"))]
pub fn simplex<T>() -> Result<(Receiver<T>, Sender<T>)> {
    let segment = link::segment(1)?;
    let (one, two) = mp_core::sys::socket::pair()?;
    let receiver = Receiver::new(RingReceiver::new(&segment, 0, one)?);
    Ok((receiver, Sender::new(RingSender::new(&segment, 0, two, 0)?)))
}

/// A value that could not be sent, and why.
///
/// Turns into the [`Error`] alone with `?` or `From`.
pub struct SendError<T> {
    /// What was to be sent.
    pub value: T,
    /// Why it was not.
    pub reason: Error,
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.reason, f)
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)
    }
}

impl<T> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(error: SendError<T>) -> Self {
        error.reason
    }
}

/// A call that does not wait says so differently.
fn would_block(error: Error) -> Error {
    match error {
        Error::TimedOut => Error::WouldBlock,
        other => other,
    }
}

/// Buffers up to this long are kept for the next message.
const KEPT: usize = 1 << 20;

/// The end of a pipe that sends values of type `T`.
///
/// Made by [`simplex`], or by [`Connection::split`](crate::Connection::split). It can be sent to another
/// process: as an argument when that is started, or in a message; then it is there and no longer here.
///
/// A message is there for the receiver as soon as it is sent, whole or not at all, also if this process is
/// killed meanwhile. While the pipe is full, with some ten thousand small messages, sending waits for the receiver. A
/// message may be of any length: one longer than the pipe has room for goes through it piece by piece.
///
/// Once the receiver is gone, dropped or with its process, sending is [`Error::Disconnected`]. What was sent
/// before and not received is lost then.
///
/// It belongs to one thread at a time (it is `Send`, not `Sync`). Give each its own, or use a queue.
pub struct Sender<T> {
    link: TxLink,
    /// Where values are encoded.
    buffer: RefCell<Message>,
    of: PhantomData<fn(T)>,
}

impl<T> Sender<T> {
    pub(crate) fn new(link: impl Into<TxLink>) -> Self {
        Self { link: link.into(), buffer: RefCell::default(), of: PhantomData }
    }

    pub(crate) fn link(&self) -> &TxLink {
        &self.link
    }

    /// Sends a message that is these bytes, as they are.
    ///
    /// Waits while the pipe is full. An empty message is a message. The other end receives it with
    /// [`recv_bytes`](Receiver::recv_bytes) and the like.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] once the receiver is gone, [`Error::Io`] where memory is short.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex::<()>()?;
    /// sender.send_bytes(b"")?;
    /// sender.send_bytes(b"hello")?;
    /// assert_eq!(receiver.recv_bytes()?, b"");
    /// assert_eq!(receiver.recv_bytes()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.link.send(bytes, &[], Deadline::NEVER)
    }

    /// Sends these bytes if that can be done without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] while the pipe is full; else as [`send_bytes`](Self::send_bytes).
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.link.send(bytes, &[], Deadline::PASSED).map_err(would_block)
    }

    /// Sends these bytes, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] where the pipe was full for so long; else as [`send_bytes`](Self::send_bytes).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<()> {
        self.link.send(bytes, &[], Deadline::after(timeout))
    }

    /// Sends a message of `len` bytes that `write` writes in place, in the memory that the receiver reads it from.
    ///
    /// Waits while the pipe is full; then calls `write` with the bytes, which hold anything. If `write` panics,
    /// nothing is sent. A message of more than 2 MiB is written elsewhere and copied: `write` is called once there is room
    /// for its beginning.
    ///
    /// # Panics
    ///
    /// Where `write` uses this sender.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](Self::send_bytes).
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex::<()>()?;
    /// sender.send_with(3, |bytes| bytes.copy_from_slice(b"abc"))?;
    /// assert_eq!(receiver.recv_with(|bytes| bytes.len())?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_with<Out>(&self, len: usize, write: impl FnOnce(&mut [u8]) -> Out) -> Result<Out> {
        self.link.send_with(len, Deadline::NEVER, write)
    }

    /// Sends a message of `len` bytes that `write` writes in place, if that can be done without waiting.
    ///
    /// # Panics
    ///
    /// Where `write` uses this sender.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] while the pipe is full, and `write` is not called then (over TCP it may be, as nobody knows how
    /// much there is room for); else as [`send_bytes`](Self::send_bytes).
    pub fn try_send_with<Out>(
        &self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Out,
    ) -> Result<Out> {
        self.link.send_with(len, Deadline::PASSED, write).map_err(would_block)
    }

    /// Sends a message as it was encoded: bytes and descriptors.
    ///
    /// For those who encode for themselves, several values in one message say; others use [`send`](Self::send).
    /// Waits while the pipe is full.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`] for more descriptors than a message can carry; else as [`send_bytes`](Self::send_bytes).
    ///
    /// # Example
    ///
    /// ```
    /// use mp_core::{Decoder, Encoder};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (receiver, sender) = mp_pipe::simplex::<()>()?;
    /// let mut encoder = Encoder::new();
    /// encoder.put("squares")?.put(&vec![1, 4, 9])?;
    /// sender.send_message(&encoder.finish())?;
    ///
    /// let (name, squares) = receiver.recv_message_with(|bytes, descriptors| {
    ///     let mut decoder = Decoder::new(bytes, descriptors);
    ///     Ok::<_, mp_core::Error>((decoder.get::<String>()?, decoder.get::<Vec<i32>>()?))
    /// })??;
    /// assert_eq!((name.as_str(), squares.len()), ("squares", 3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_message(&self, message: &Message) -> Result<()> {
        self.link.send(message.bytes(), message.fds(), Deadline::NEVER)
    }

    /// Sends a message as it was encoded, if that can be done without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] while the pipe is full; else as [`send_message`](Self::send_message).
    pub fn try_send_message(&self, message: &Message) -> Result<()> {
        self.link.send(message.bytes(), message.fds(), Deadline::PASSED).map_err(would_block)
    }

    /// Closes this end: the other one receives what was sent before, and then the end.
    ///
    /// Dropping it does the same. Sending afterwards is [`Error::Disconnected`]. Never waits, but for up to a second
    /// [over a network](crate#over-a-network).
    pub fn close(&self) {
        self.link.close();
    }

    /// Whether this end was closed, or has found the other one closed. Does not look.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.link.is_open()
    }
}

impl<T: Serialize> Sender<T> {
    #[inline]
    fn send_until(&self, value: T, deadline: Deadline) -> Result<(), SendError<T>> {
        match self.send_encoded(&value, deadline) {
            Ok(()) => Ok(()),
            Err(reason) => Err(SendError { value, reason }),
        }
    }

    #[inline]
    fn send_encoded(&self, value: &T, deadline: Deadline) -> Result<()> {
        if let Some((bytes, len)) = mp_core::encode_number(value) {
            return self.link.send(&bytes[..len], &[], deadline);
        }
        // Taken, not borrowed: encoding calls the user's code.
        let mut encoder = Encoder::reuse(self.buffer.take());
        encoder.put(value)?;
        let message = encoder.finish();
        let result = self.link.send(message.bytes(), message.fds(), deadline);
        if message.bytes().len() <= KEPT && message.fds().is_empty() {
            self.buffer.replace(message);
        }
        result
    }

    /// Sends a value.
    ///
    /// Waits while the pipe is full. When it returns, the receiver can have the value, whatever becomes of this
    /// process.
    ///
    /// Python: `Connection.send`.
    ///
    /// # Errors
    ///
    /// The value comes back, with [`Error::Encode`] where it cannot be encoded, [`Error::Disconnected`] once the
    /// receiver is gone, [`Error::Io`] where memory or descriptors are short.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// sender.send(1)?;
    /// assert_eq!(receiver.recv()?, 1);
    ///
    /// drop(receiver);
    /// let error = sender.send(2).unwrap_err();
    /// assert_eq!(error.value, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_until(value, Deadline::NEVER)
    }

    /// Sends a value if that can be done without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] while the pipe is full; else as [`send`](Self::send).
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_until(value, Deadline::PASSED)
            .map_err(|error| SendError { value: error.value, reason: would_block(error.reason) })
    }

    /// Sends a value, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] where the pipe was full for so long; else as [`send`](Self::send).
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.send_until(value, Deadline::after(timeout))
    }
}

/// The end of a pipe that receives values of type `T`.
///
/// Made by [`simplex`], or by [`Connection::split`](crate::Connection::split). It can be sent to another
/// process, with all that is in the pipe: as an argument when that is started, or in a message; then it is there
/// and no longer here.
///
/// Once the sender is gone, dropped or with its process, be it killed, what it has sent can still be received,
/// then receiving is [`Error::Disconnected`]: at once, also for one that waits.
///
/// It belongs to one thread at a time (it is `Send`, not `Sync`).
///
/// # Waiting for several
///
/// [`wait`](crate::wait()) waits for many receivers at a time. For poll(2), epoll(7) or an event loop there is
/// `as_fd()`: that descriptor can be read while a message is there or none will come any more. Never read from
/// it; receive, with `try_recv` if other things are waited for too, until it is [`Error::WouldBlock`]. Now and
/// then it is readable and there is nothing.
pub struct Receiver<T> {
    link: RxLink,
    of: PhantomData<fn() -> T>,
}

impl<T> Receiver<T> {
    pub(crate) fn new(link: impl Into<RxLink>) -> Self {
        Self { link: link.into(), of: PhantomData }
    }

    pub(crate) fn link(&self) -> &RxLink {
        &self.link
    }

    /// Waits no longer than `timeout` for a message; says whether receiving would return at once.
    ///
    /// That is so when a message is there, and also when none will come any more, because the sender is gone.
    /// The message stays.
    ///
    /// Python: `Connection.poll`, whose timeout of `None` is `Duration::MAX` here.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where the peer is faulty.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex::<i32>()?;
    /// assert!(!receiver.poll(Duration::ZERO)?);
    /// drop(sender);
    /// assert!(receiver.poll(Duration::ZERO)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll(&self, timeout: Duration) -> Result<bool> {
        self.link.poll(Deadline::after(timeout))
    }

    /// Waits until receiving would return at once, as [`poll`](Self::poll) does, but sleeps at once.
    ///
    /// Other waits look for a message for about as long as waking up takes, before they sleep. This one is for those
    /// who have looked already, with [`is_empty`](Self::is_empty).
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// sender.send(7)?;
    /// if receiver.is_empty() {
    ///     receiver.sleep()?;
    /// }
    /// assert_eq!(receiver.recv()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sleep(&self) -> Result<()> {
        self.link.sleep()
    }

    /// Whether no message is there.
    ///
    /// A look at memory that both ends have, which asks the kernel nothing and so costs next to nothing: for those who
    /// look often before they wait. It does not see that the sender is gone; [`poll`](Self::poll) does.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// assert!(receiver.is_empty());
    /// sender.send(7)?;
    /// assert!(!receiver.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.link.is_empty()
    }

    /// What to wait for until receiving would not wait; `None` where it would not.
    ///
    /// For those who receive from many, with [`try_recv`](Self::try_recv) and the like, and wait only now and then:
    /// asked each time before a wait with poll(2), and good for that one wait, it costs less than
    /// [`as_fd`](AsFd::as_fd), which any event loop can keep. That it can be read does not promise a message.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_core::Deadline;
    /// use mp_core::sys::fd::{PollFd, poll};
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// let bell = receiver.bell().expect("nothing was sent");
    /// sender.send(7)?;
    /// poll(&mut [PollFd::readable(bell)], Deadline::NEVER)?;
    /// assert!(receiver.bell().is_none());
    /// assert_eq!(receiver.try_recv()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.link.bell()
    }

    /// The socket to the other end, by which epoll(7) and poll(2) tell when that is closed: `EPOLLRDHUP`, `POLLRDHUP`.
    ///
    /// Also while there are messages to receive. For nothing else: what comes through it is this end's own affair.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_core::sys::fd::Epoll;
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// let ended = Epoll::new()?;
    /// ended.add_hang_up(receiver.peer(), 7)?;
    /// sender.send(1)?;
    /// assert!(ended.some()?.is_empty());
    /// drop(sender);
    /// assert_eq!(ended.some()?, [7]);
    /// assert_eq!(receiver.recv()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn peer(&self) -> BorrowedFd<'_> {
        self.link.peer()
    }

    /// Receives one message as bytes: as [`send_bytes`](Sender::send_bytes) sent it, or the encoding of a value.
    ///
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), but for `Decode`.
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.link.recv_bytes(Deadline::NEVER)
    }

    /// Receives one message as bytes, if one is there.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where none is; else as [`recv_bytes`](Self::recv_bytes).
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>> {
        self.link.recv_bytes(Deadline::PASSED).map_err(would_block)
    }

    /// Receives one message as bytes, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; else as [`recv_bytes`](Self::recv_bytes).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>> {
        self.link.recv_bytes(Deadline::after(timeout))
    }

    /// Receives one message into `buffer`; says how long it is.
    ///
    /// Waits for it. A message longer than the buffer stays: receive it with a longer one.
    ///
    /// # Errors
    ///
    /// [`Error::TooShort`] with the length that is needed; else as [`recv_bytes`](Self::recv_bytes).
    ///
    /// # Example
    ///
    /// ```
    /// use mp_pipe::Error;
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex::<()>()?;
    /// sender.send_bytes(b"hello")?;
    /// let mut buffer = [0; 8];
    /// assert!(matches!(receiver.recv_bytes_into(&mut buffer[..3]), Err(Error::TooShort { needed: 5 })));
    /// let len = receiver.recv_bytes_into(&mut buffer)?;
    /// assert_eq!(&buffer[..len], b"hello");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "BufferTooShort")]
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.link.recv_into(buffer, Deadline::NEVER)
    }

    /// Receives one message by looking at its bytes in place, in the memory that the sender wrote them to.
    ///
    /// Waits for it; then calls `read`, and gives the place back when that returns or panics. A message that was
    /// sent with [`send_with`](Sender::send_with), or has no more than 64 KiB, is not copied.
    ///
    /// This trusts the sender's process to leave alone what it has sent, as every copy of this library does. For a
    /// peer that may be hostile use [`recv_bytes_into`](Self::recv_bytes_into).
    ///
    /// # Panics
    ///
    /// Where `read` uses this receiver.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Self::recv_bytes).
    pub fn recv_with<Out>(&self, read: impl FnOnce(&[u8]) -> Out) -> Result<Out> {
        self.link.recv_with(Deadline::NEVER, read)
    }

    /// Receives one message as it was encoded: `read` gets its bytes, a copy that nobody else can write to, and
    /// its descriptors.
    ///
    /// Waits for it. The other end of [`send_message`](Sender::send_message). `read` may use this receiver.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Self::recv_bytes); [`Error::Io`] with `EMFILE` where this process has no numbers left for
    /// the descriptors that it has: such a message is lost.
    pub fn recv_message_with<Out>(
        &self,
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Out,
    ) -> Result<Out> {
        self.link.recv(Deadline::NEVER, read)
    }

    /// Receives one message as it was encoded, if one is there.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where none is; else as [`recv_message_with`](Self::recv_message_with).
    pub fn try_recv_message_with<Out>(
        &self,
        read: impl FnOnce(&[u8], Vec<OwnedFd>) -> Out,
    ) -> Result<Out> {
        self.link.recv(Deadline::PASSED, read).map_err(would_block)
    }

    /// Closes this end: sending is [`Error::Disconnected`] then, and so is receiving.
    ///
    /// Dropping it does the same. Never waits, but for up to a second [over a network](crate#over-a-network).
    pub fn close(&self) {
        self.link.close();
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    #[inline]
    fn recv_until(&self, deadline: Deadline) -> Result<T> {
        self.link.recv(deadline, |bytes, fds| {
            let mut decoder = Decoder::new(bytes, fds);
            let value = decoder.get()?;
            decoder.finish()?;
            Ok(value)
        })?
    }

    /// Receives a value.
    ///
    /// Waits for it. One call receives what one call sent.
    ///
    /// Python: `Connection.recv`.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] once the sender is gone and nothing is left (Python: `EOFError`).
    /// [`Error::Decode`] where the message is no `T`: it is consumed. [`Error::Io`] with `EMFILE` where the value
    /// holds handles and this process has no descriptors left for them: it is lost. A value without handles is not: where
    /// `EMFILE` comes for one, as [`try_send`](Sender::try_send) sent it and it is long, it is there to be received again.
    /// [`Error::Io`] also where memory is short for a handle that came; that is lost with its message.
    /// [`Error::Damaged`] where the peer is faulty.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_pipe::Result<()> {
    /// let (receiver, sender) = mp_pipe::simplex()?;
    /// std::thread::spawn(move || (1..=3).try_for_each(|n| sender.send(n)));
    /// assert_eq!(receiver.recv()?, 1);
    /// assert_eq!(receiver.iter().collect::<Vec<_>>(), [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn recv(&self) -> Result<T> {
        self.recv_until(Deadline::NEVER)
    }

    /// Receives a value, if one is there.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where none is; else as [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<T> {
        self.recv_until(Deadline::PASSED).map_err(would_block)
    }

    /// Receives a value, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; else as [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T> {
        self.recv_until(Deadline::after(timeout))
    }

    /// Receives value after value, until the sender is gone.
    ///
    /// Waits for each. Ends at the first error too; who needs to know it calls [`recv`](Self::recv).
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }

    /// Receives the values that are there, without waiting.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { receiver: self }
    }
}

impl<T> AsFd for Receiver<T> {
    /// A descriptor to wait for with poll(2) or epoll(7): see [waiting](Self#waiting-for-several).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.watched()
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.link.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TxLink::deserialize(deserializer).map(Self::new)
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.link.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RxLink::deserialize(deserializer).map(Self::new)
    }
}

/// The values of a [`Receiver`], each waited for. Made by [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// The values that are there. Made by [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// The values of a [`Receiver`] that it has. Made by its `into_iter`.
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<T: DeserializeOwned> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

impl<T: DeserializeOwned> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T: DeserializeOwned> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self }
    }
}
