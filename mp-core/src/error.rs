//! What can go wrong on the ground.

use std::fmt;
use std::io;

/// What can go wrong with a message, a segment or a kernel call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The value's `Serialize` refused, or the value has a shape the codec cannot carry.
    Encode(String),
    /// The bytes are not a value of the expected type.
    Decode(String),
    /// The message would carry more descriptors than one message can.
    TooManyDescriptors {
        /// How many it would carry.
        count: usize,
        /// How many one message can carry.
        max: usize,
    },
    /// The peer sent something that is no packet of this protocol.
    Protocol(&'static str),
    /// Every copy of the other end is closed.
    Disconnected,
    /// The time given is over.
    TimedOut,
    /// The descriptor does not hold a segment that can be mapped safely.
    BadSegment(String),
    /// The kernel refused.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(why) => write!(f, "cannot encode the value: {why}"),
            Self::Decode(why) => write!(f, "cannot decode the message: {why}"),
            Self::TooManyDescriptors { count, max } => write!(
                f,
                "a message of {count} descriptors is over the limit of {max}: send it in parts"
            ),
            Self::Protocol(why) => write!(f, "the peer broke the protocol: {why}"),
            Self::Disconnected => f.write_str("the other end is closed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::BadSegment(why) => write!(f, "not a segment that can be mapped safely: {why}"),
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
