//! What can go wrong with a pipe.

use std::fmt;
use std::io;

/// What can go wrong with pipes, listeners and clients.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Every copy of the other end is closed: dropped, or its process has ended, however it did.
    ///
    /// Python: `EOFError` when receiving, `BrokenPipeError` or `ConnectionResetError` when sending.
    Disconnected,
    /// The time given is over.
    TimedOut,
    /// It would have to wait, and was asked not to.
    WouldBlock,
    /// The message is longer than the buffer given for it. It is still there to be received.
    ///
    /// Python: `BufferTooShort`.
    TooShort {
        /// How many bytes the message has.
        needed: usize,
    },
    /// The value cannot be encoded.
    Encode(String),
    /// The message is no value of the expected type. It is consumed; the next one can be received.
    Decode(String),
    /// The peer wrote what no peer of this library writes. The link is closed.
    Damaged(String),
    /// The kernel refused.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the other end is closed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::WouldBlock => f.write_str("it would have to wait"),
            Self::TooShort { needed } => {
                write!(
                    f,
                    "the message has {needed} bytes, more than the buffer: receive it with a longer one"
                )
            }
            Self::Encode(why) => write!(f, "cannot encode the value: {why}"),
            Self::Decode(why) => write!(f, "cannot decode the message: {why}"),
            Self::Damaged(why) => write!(f, "the peer is faulty, the link is closed: {why}"),
            Self::Io(_) => f.write_str("a system call failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
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

impl From<mp_core::Error> for Error {
    fn from(error: mp_core::Error) -> Self {
        match error {
            mp_core::Error::Disconnected => Self::Disconnected,
            mp_core::Error::TimedOut => Self::TimedOut,
            mp_core::Error::Encode(why) => Self::Encode(why),
            mp_core::Error::Decode(why) => Self::Decode(why),
            mp_core::Error::Io(error) => Self::Io(error),
            many @ mp_core::Error::TooManyDescriptors { .. } => Self::Encode(many.to_string()),
            other => Self::Damaged(other.to_string()),
        }
    }
}
