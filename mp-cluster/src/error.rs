//! What can go wrong between machines.

use std::fmt;
use std::io;
use std::time::Duration;

/// What can go wrong between machines.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The URL or a name is none; the text says why.
    Address(String),
    /// The server did not answer for so long: it is away, or loads its data still.
    ///
    /// What was asked for last may have been done. See [`Cluster::patience`](crate::Cluster::patience).
    Unreachable {
        /// Which server.
        server: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt met.
        why: String,
    },
    /// The server does not let this user in, or not do this; or it is not the one that its certificate names.
    Denied(String),
    /// The server cannot do this: its memory is full, its disk does not take more, or it is too old. In its words.
    Server(String),
    /// There is something else under this name, or it was made with another capacity.
    WrongType(String),
    /// The other machines run another build of the program, so that its functions are not theirs.
    DifferentProgram {
        /// What identifies this program.
        ours: String,
        /// What identifies theirs.
        theirs: String,
    },
    /// The time given is over.
    TimedOut,
    /// It is not to be had without waiting.
    WouldBlock,
    /// The queue is full.
    Full,
    /// The queue is empty.
    Empty,
    /// The queue is closed.
    Closed,
    /// There is no such key.
    KeyMissing,
    /// There is no such place in the list.
    OutOfRange {
        /// What was asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// Released or renewed by somebody who does not hold the lock.
    NotOwner,
    /// The lock was held longer than its lease: others may have it, or have had it.
    LeaseOver,
    /// A value is longer than may be sent.
    TooLong {
        /// How many bytes it has.
        len: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A value cannot be sent.
    Encode(String),
    /// What came is no value of the expected type.
    Decode(String),
    /// The pool of a serving host cannot be.
    Pool(mp_pool::Error),
    /// What identifies this program cannot be found out.
    Program(mp_process::Error),
    /// Memory, descriptors or threads are short.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(why) => f.write_str(why),
            Self::Unreachable { server, waited, why } => {
                write!(f, "the server {server} has not answered for {waited:.1?}: {why}")
            }
            Self::Denied(why) => write!(f, "no right to this server: {why}"),
            Self::Server(why) => write!(f, "the server cannot do this: {why}"),
            Self::WrongType(why) => f.write_str(why),
            Self::DifferentProgram { ours, theirs } => write!(
                f,
                "the other machines run another build of this program ({theirs}) than this one ({ours}): copy the \
                 same executable to all"
            ),
            Self::TimedOut => f.write_str("timed out"),
            Self::WouldBlock => f.write_str("it is taken by others: wait for it, or try again later"),
            Self::Full => f.write_str("the queue is full"),
            Self::Empty => f.write_str("the queue is empty"),
            Self::Closed => f.write_str("the queue is closed"),
            Self::KeyMissing => f.write_str("there is no such key"),
            Self::OutOfRange { index, len } => {
                write!(f, "there is no place {index} among {len}")
            }
            Self::NotOwner => f.write_str("only who holds a lock can release or renew it"),
            Self::LeaseOver => f.write_str(
                "the lock was held longer than its lease, and others may have it: renew it in time, or take a \
                 longer lease",
            ),
            Self::TooLong { len, limit } => write!(
                f,
                "a value of {len} bytes is longer than the limit of {limit}: send where it lies instead, or raise \
                 the limit"
            ),
            Self::Encode(why) => write!(f, "cannot send it: {why}"),
            Self::Decode(why) => write!(f, "cannot read it: {why}"),
            Self::Pool(_) => f.write_str("the pool of this host failed"),
            Self::Program(_) => f.write_str("cannot tell which build this program is"),
            Self::Io(_) => f.write_str("memory, descriptors or threads are short"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pool(error) => Some(error),
            Self::Program(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<mp_pool::Error> for Error {
    fn from(error: mp_pool::Error) -> Self {
        Self::Pool(error)
    }
}

impl From<mp_process::Error> for Error {
    fn from(error: mp_process::Error) -> Self {
        Self::Program(error)
    }
}

impl From<mp_core::Error> for Error {
    fn from(error: mp_core::Error) -> Self {
        match error {
            mp_core::Error::Io(error) => Self::Io(error),
            mp_core::Error::Encode(why) => Self::Encode(why),
            mp_core::Error::Decode(why) => Self::Decode(why),
            other => Self::Decode(other.to_string()),
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
        f.debug_struct("PutError").field("reason", &self.reason).finish_non_exhaustive()
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
