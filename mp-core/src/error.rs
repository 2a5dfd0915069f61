//! What can go wrong on the ground.

use std::fmt;
use std::io;

/// What can go wrong with a message, a segment or a kernel call.
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

/// Writes the text of an error and of what caused it: what `Debug` of an error type is to say.
///
/// `fn main() -> Result<..>`, `unwrap` and `expect` print an error by `Debug`. The name of a variant alone would not
/// tell what to do; the text does.
///
/// # Errors
///
/// Those of the formatter.
///
/// # Example
///
/// ```
/// let missing = std::fs::File::open("/no/such/file").unwrap_err();
/// let error = mp_core::Error::from(missing);
/// let text = format!("{error:?}"); // by `describe`
/// assert_eq!(text, "a system call failed: No such file or directory (os error 2)");
/// ```
pub fn describe(error: &dyn std::error::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(self, f)
    }
}

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
