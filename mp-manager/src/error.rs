//! What can go wrong with a manager and what it has.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What can go wrong with a manager, and with the objects it has.
#[non_exhaustive]
pub enum Error {
    /// The server cannot be started.
    Start(mp_process::Error),
    /// The server has ended: shut down, killed, or with the process that made it.
    ///
    /// Python: `BrokenPipeError`, `ConnectionRefusedError` or `EOFError`.
    ServerDied,
    /// The server cannot listen at the address, or no connection to it comes about; the text says why.
    Address(String),
    /// The server is of another program, in which a function of this one cannot be called.
    ///
    /// What proxies do without a function of yours works.
    OtherProgram,
    /// The manager was not made to be connected to, so that nobody could find what is published.
    NotServed,
    /// The server runs and does not take this thread's connection: it is short of descriptors or threads.
    Refused,
    /// What was called in the server panicked, with this message. The object is still there.
    #[doc(alias = "RemoteError")]
    Panicked(String),
    /// An earlier call panicked, and this one asked not to be made then.
    Poisoned,
    /// There is no such key; no such attribute of a namespace; nothing is published by that name.
    ///
    /// Python: `KeyError`; of a namespace, `AttributeError`.
    #[doc(alias("KeyError", "AttributeError"))]
    KeyMissing,
    /// There is no such place.
    ///
    /// Python: `IndexError`.
    OutOfRange {
        /// The place.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// The object is of another type than the proxy.
    WrongType {
        /// What the object is.
        object: String,
    },
    /// The server has no such object.
    NoObject,
    /// The time given is over.
    TimedOut,
    /// It is not to be had at once.
    WouldBlock,
    /// The queue has no room, and the call was not to wait.
    Full,
    /// The queue has no item, and the call was not to wait.
    Empty,
    /// The calling thread does not hold what it would release, or wait with.
    NotOwner,
    /// The calling thread holds it already and would wait for itself for ever: a lock, or an object that it calls from
    /// [within a call](crate#calls-within-calls).
    Deadlock,
    /// The barrier was aborted, reset while this party waited, or a party timed out or died.
    #[doc(alias = "BrokenBarrierError")]
    Broken,
    /// The semaphore would get more permits than it began with.
    TooManyReleases {
        /// How many it began with.
        initial: u32,
    },
    /// The semaphore would get more permits than can be counted.
    Overflow,
    /// [`task_done`](crate::JoinableQueue::task_done) was called more often than items were put.
    TooManyDone,
    /// A barrier is for one party at least.
    NoParties,
    /// The lock is of another manager than the condition.
    OtherManager,
    /// A call was made while another of this thread was encoded or decoded.
    Nested,
    /// The arguments cannot be sent, or the result cannot be sent back.
    Encode(String),
    /// The arguments or the result are no values of the expected type.
    Decode(String),
    /// Memory, descriptors or threads are short, in this process or in the server: the text says which and where, and
    /// the kernel's own error is the [`source`](std::error::Error::source).
    ///
    /// Both go on. How many descriptors a process may have is its `RLIMIT_NOFILE` (`ulimit -n`); the server raises its
    /// own to the hard limit.
    Io(io::Error),
}

/// What the kernel refused the server.
#[derive(Debug)]
pub(crate) struct InServer {
    text: String,
    source: Option<io::Error>,
}

impl InServer {
    pub(crate) fn error(text: String, errno: i32) -> io::Error {
        let source = Some(errno).filter(|errno| *errno > 0).map(io::Error::from_raw_os_error);
        let kind = source.as_ref().map_or(io::ErrorKind::Other, io::Error::kind);
        io::Error::new(kind, Self { text, source })
    }
}

impl fmt::Display for InServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in the manager's server: {}", self.text)
    }
}

impl std::error::Error for InServer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

fn in_server(error: &io::Error) -> Option<&InServer> {
    error.get_ref()?.downcast_ref()
}

/// What the kernel said to the server, if it did.
fn of_kernel(error: &io::Error) -> Option<&io::Error> {
    in_server(error)?.source.as_ref()
}

/// What is short, and where.
fn what_is_short(error: &io::Error) -> String {
    let place = if in_server(error).is_some() { "the manager's server" } else { "this process" };
    match of_kernel(error).unwrap_or(error).raw_os_error() {
        // errno(3).
        Some(24) => format!("{place} has no descriptors left"),
        Some(23) => format!("the machine has no descriptors left for {place}"),
        Some(109) => format!("too many descriptors of this user are on their way, for {place}"),
        Some(12 | 105) => format!("there is no memory left for {place}"),
        _ => format!("the kernel refused {place} what it needs"),
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(_) => f.write_str("cannot start the manager's server"),
            Self::ServerDied => f.write_str("the manager's server has ended"),
            Self::Address(why) => f.write_str(why),
            Self::OtherProgram => f.write_str(
                "the manager's server is of another program, which has no such function: use the proxy's own \
                 methods, or connect by the program that made the manager",
            ),
            Self::NotServed => {
                f.write_str("nobody can connect to this manager: make it by Manager::serve")
            }
            Self::Refused => f.write_str(
                "the manager's server does not take the connection: it is short of descriptors or threads",
            ),
            Self::Panicked(message) => write!(f, "the call panicked in the server: {message}"),
            Self::Poisoned => f.write_str(
                "an earlier call panicked and may have left the object half changed: put it in order and clear_poison",
            ),
            Self::KeyMissing => f.write_str("there is no such key, attribute or published name"),
            Self::OutOfRange { index, len } => {
                write!(f, "there is no place {index} among {len}")
            }
            Self::WrongType { object } => {
                write!(f, "the object is of another type than the proxy: it is a {object}")
            }
            Self::NoObject => f.write_str("the server has no such object"),
            Self::TimedOut => f.write_str("timed out"),
            Self::WouldBlock => f.write_str("it is taken by others: wait for it, or try again later"),
            Self::Full => f.write_str("the queue is full"),
            Self::Empty => f.write_str("the queue is empty"),
            Self::NotOwner => f.write_str(
                "only the thread that holds a lock can release it or wait with it: use a Semaphore for what \
                 one takes and another gives",
            ),
            Self::Deadlock => f.write_str(
                "this thread holds it already and would wait for itself: use an RLock to lock again, and in a \
                 function in the server the object that it is given, not a proxy of it",
            ),
            Self::Broken => {
                f.write_str("the barrier is broken: reset it once all parties are ready again")
            }
            Self::TooManyReleases { initial } => {
                write!(f, "the semaphore began with {initial} permits and has them all")
            }
            Self::Overflow => f.write_str("the semaphore has as many permits as can be counted"),
            Self::TooManyDone => f.write_str("task_done was called more often than items were put"),
            Self::NoParties => f.write_str("a barrier is for one party at least"),
            Self::OtherManager => f.write_str("lock and condition must be of one manager"),
            Self::Nested => f.write_str(
                "a value called a manager's object while it was encoded or decoded for another call: call it \
                 before or afterwards",
            ),
            Self::Encode(why) => write!(f, "cannot send it: {why}"),
            Self::Decode(why) => write!(f, "cannot read it: {why}"),
            Self::Io(error) => f.write_str(&what_is_short(error)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            Self::Io(error) => Some(of_kernel(error).unwrap_or(error)),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<mp_core::Error> for Error {
    fn from(error: mp_core::Error) -> Self {
        match error {
            mp_core::Error::Io(error) => Self::Io(error),
            mp_core::Error::Disconnected => Self::ServerDied,
            mp_core::Error::Encode(why) => Self::Encode(why),
            mp_core::Error::Decode(why) => Self::Decode(why),
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<mp_pipe::Error> for Error {
    fn from(error: mp_pipe::Error) -> Self {
        match error {
            mp_pipe::Error::Io(error) => Self::Io(error),
            mp_pipe::Error::Disconnected => Self::ServerDied,
            mp_pipe::Error::Encode(why) => Self::Encode(why),
            mp_pipe::Error::Decode(why) => Self::Decode(why),
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

/// What a call in the server can refuse, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    KeyMissing,
    OutOfRange(usize, usize),
    WrongType,
    NoObject,
    TimedOut,
    WouldBlock,
    Full,
    Empty,
    NotOwner,
    Deadlock,
    Broken,
    TooManyReleases(u32),
    Overflow,
    TooManyDone,
    Poisoned,
    /// The client has ended while it waited: nobody reads this.
    ClientGone,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::KeyMissing => Self::KeyMissing,
            Fault::OutOfRange(index, len) => Self::OutOfRange { index, len },
            Fault::WrongType => Self::WrongType { object: "thing that is no lock".to_string() },
            Fault::NoObject => Self::NoObject,
            Fault::TimedOut => Self::TimedOut,
            Fault::WouldBlock => Self::WouldBlock,
            Fault::Full => Self::Full,
            Fault::Empty => Self::Empty,
            Fault::NotOwner => Self::NotOwner,
            Fault::Deadlock => Self::Deadlock,
            Fault::Broken => Self::Broken,
            Fault::TooManyReleases(initial) => Self::TooManyReleases { initial },
            Fault::Overflow => Self::Overflow,
            Fault::TooManyDone => Self::TooManyDone,
            Fault::Poisoned => Self::Poisoned,
            Fault::ClientGone => Self::ServerDied,
        }
    }
}

/// Why an item was not put, and the item.
///
/// Becomes the crate's [`Error`] where the item is of no interest: `queue.put(item)?`.
pub struct PutError<T> {
    /// The item, as it was.
    pub value: T,
    /// Why it was not put.
    pub reason: Error,
}

impl<T> From<PutError<T>> for Error {
    fn from(error: PutError<T>) -> Self {
        error.reason
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.reason, f)
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T> std::error::Error for PutError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.reason)
    }
}
