//! What can go wrong with a queue, and how an item comes back that could not be put.

use std::fmt;
use std::io;

/// What can go wrong when making, receiving or using a queue.
#[non_exhaustive]
pub enum Error {
    /// There is no room. What `try_put` gives.
    Full,
    /// There is nothing to get. What `try_get` gives.
    Empty,
    /// The time given is over.
    TimedOut,
    /// The queue is closed: nothing can be put, and all that was put has been got.
    Closed,
    /// Another process has stood still in the middle of a put or get for a second: stopped, perhaps.
    Busy,
    /// The item is larger than any the queue has room for.
    TooLarge {
        /// How many bytes it has.
        size: u64,
        /// How many it may have.
        max: u64,
    },
    /// The item's `Serialize` refused, or it has a shape that cannot be encoded.
    Encode(String),
    /// What was got is no item of the expected type. It is gone from the queue.
    Decode(String),
    /// The item has more descriptors than one item can.
    TooManyDescriptors {
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// `task_done` was called more often than items were put.
    TooManyDone,
    /// As many items are unfinished as can be counted: `task_done` is not called for what was got.
    TooManyUnfinished,
    /// A queue cannot be bounded to no item, or no byte.
    BadCapacity,
    /// It comes from another pid or time namespace, where process numbers or times mean something else.
    OtherNamespace,
    /// A faulty process wrote over the queue.
    Damaged(&'static str),
    /// What was received is no queue of the expected kind.
    BadSegment(String),
    /// The kernel refused: memory or descriptors are short.
    Io(io::Error),
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
            Self::Full => f.write_str("the queue is full"),
            Self::Empty => f.write_str("the queue is empty"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Closed => f.write_str("the queue is closed"),
            Self::Busy => f.write_str(
                "another process stands still in the middle of a put or get: was it stopped?",
            ),
            Self::TooLarge { size, max } => {
                write!(f, "an item of {size} bytes is over the queue's limit of {max}")
            }
            Self::Encode(why) => write!(f, "cannot encode the item: {why}"),
            Self::Decode(why) => write!(f, "cannot decode the item: {why}"),
            Self::TooManyDescriptors { count, max } => {
                write!(f, "an item of {count} descriptors is over the limit of {max}")
            }
            Self::TooManyDone => f.write_str("task_done was called more often than items were put"),
            Self::TooManyUnfinished => {
                f.write_str("2^30 items are unfinished: call task_done for each that was got")
            }
            Self::BadCapacity => f.write_str(
                "a queue for no item, or no byte, could never be put to: use Queue::unbounded",
            ),
            Self::OtherNamespace => f.write_str(
                "it comes from another pid or time namespace: share queues within one container only",
            ),
            Self::Damaged(how) => write!(f, "a faulty process wrote over the queue: {how}"),
            Self::BadSegment(why) => write!(f, "not a queue that can be used: {why}"),
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
            mp_core::Error::Io(error) => Self::Io(error),
            mp_core::Error::Encode(why) => Self::Encode(why),
            mp_core::Error::Decode(why) => Self::Decode(why),
            mp_core::Error::TooManyDescriptors { count, max } => {
                Self::TooManyDescriptors { count, max }
            }
            mp_core::Error::BadSegment(why) => Self::BadSegment(why),
            other => Self::BadSegment(other.to_string()),
        }
    }
}

/// Why an item was not put, and the item.
///
/// Becomes the crate's [`Error`] where the item is of no interest: `queue.put(item)?`.
///
/// # Example
///
/// ```
/// use mp_queue::{Error, Queue};
///
/// # fn main() -> mp_queue::Result<()> {
/// let queue = Queue::bounded(1)?;
/// queue.put("first".to_string())?;
/// let refused = queue.try_put("second".to_string()).unwrap_err();
/// assert!(matches!(refused.reason, Error::Full));
/// assert_eq!(refused.value, "second"); // not lost
/// # Ok(())
/// # }
/// ```
pub struct PutError<T> {
    /// The item, as it was.
    pub value: T,
    /// Why it was not put.
    pub reason: Error,
}

/// Why not all items were put, how many were, and those that were not.
///
/// Of an iterator's items, those are here that it had given already; what it has not given stays in it.
pub struct PutManyError<T> {
    /// How many items were put: the first ones.
    pub put: usize,
    /// The items that were taken from the iterator after those, in order.
    pub values: Vec<T>,
    /// Why no more were put.
    pub reason: Error,
}

/// Why an item among several could not be had, and the others.
pub struct GetManyError<T> {
    /// The items that were got, in order; all are gone from the queue.
    pub values: Vec<T>,
    /// What went wrong with the first one that is missing.
    pub reason: Error,
}

macro_rules! with_items {
    ($($type:ident)*) => {$(
        impl<T> From<$type<T>> for Error {
            fn from(error: $type<T>) -> Self {
                error.reason
            }
        }

        impl<T> fmt::Debug for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.reason, f)
            }
        }

        impl<T> fmt::Display for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.reason.fmt(f)
            }
        }

        impl<T> std::error::Error for $type<T> {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.reason.source()
            }
        }
    )*};
}

with_items! { PutError PutManyError GetManyError }
