//! What can go wrong with shared memory.

use std::fmt;
use std::io;

/// What can go wrong with shared values, arrays, memory and lists.
#[non_exhaustive]
pub enum Error {
    /// There is no such element.
    OutOfRange {
        /// The first index that was asked for and does not exist.
        index: usize,
        /// How many elements there are.
        len: usize,
    },
    /// As many elements were given as do not go there.
    WrongLength {
        /// How many elements there must be.
        expected: usize,
        /// How many there were.
        given: usize,
    },
    /// Something that needs to be aligned does not lie at a multiple of its alignment.
    Misaligned {
        /// Where it would lie.
        offset: usize,
        /// What that must be a multiple of.
        align: usize,
    },
    /// There is not so much memory, or the size is beyond what an address space holds, or what this process may give to a
    /// file (setrlimit(2), `RLIMIT_FSIZE`).
    NoMemory {
        /// How many bytes were asked for; `None` where the number itself is too large.
        needed: Option<usize>,
        /// What the kernel said.
        source: io::Error,
    },
    /// No shared memory can have this name.
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no shared memory of this name.
    NotFound {
        /// The name.
        name: String,
    },
    /// There is shared memory of this name already.
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// Shared memory of no bytes was asked for.
    ZeroSize,
    /// The shared memory of this name has no size: its creator is not done yet, or died before it was.
    Unfinished {
        /// The name.
        name: String,
    },
    /// The text or bytes are longer than the slot of the list.
    DoesNotFit {
        /// The index of the slot.
        index: usize,
        /// How many bytes the value has.
        needed: usize,
        /// How many the slot has.
        available: usize,
    },
    /// The value ends in NUL, and the list, which another program made, has no place to note that.
    TrailingNul {
        /// The index of the slot.
        index: usize,
    },
    /// What lies in the memory is not what should: another program wrote it, or a faulty peer.
    Damaged(String),
    /// The lock failed; which is not that its holder died.
    Lock(String),
    /// The kernel refused.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Tells lack of memory from the rest, where `needed` bytes were asked for.
    pub(crate) fn reserving(needed: usize, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::ENOSPC | libc::EFBIG) => {
                Self::NoMemory { needed: Some(needed), source: error }
            }
            _ => Self::Io(error),
        }
    }

    /// For a handle that is deserialized: where it is memory that is short, who decodes the message is told.
    pub(crate) fn of_handle<E: serde::de::Error>(self) -> E {
        match self {
            Self::Io(error) | Self::NoMemory { source: error, .. } => {
                E::custom(mp_core::fd::short(error))
            }
            other => E::custom(other),
        }
    }

    /// A number of bytes beyond what can be counted.
    pub(crate) fn overflow() -> Self {
        Self::NoMemory { needed: None, source: io::Error::from_raw_os_error(libc::EFBIG) }
    }
}

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { index, len } => {
                write!(f, "index {index} is out of range: there are {len} elements")
            }
            Self::WrongLength { expected, given } => {
                write!(f, "{given} elements were given where {expected} go")
            }
            Self::Misaligned { offset, align } => {
                write!(f, "offset {offset} is no multiple of the alignment, {align}")
            }
            Self::NoMemory { needed: Some(needed), .. } => {
                write!(f, "there is no shared memory for {needed} bytes")
            }
            Self::NoMemory { needed: None, .. } => {
                f.write_str("the size is beyond what an address space holds")
            }
            Self::BadName { name, why } => {
                write!(f, "shared memory cannot be named {name:?}: the name {why}")
            }
            Self::NotFound { name } => write!(
                f,
                "there is no shared memory named {name:?}: its creator has not made it yet, or it was \
                 unlinked"
            ),
            Self::AlreadyExists { name } => write!(
                f,
                "there is shared memory named {name:?} already: open it, unlink it first, or let create \
                 choose a name"
            ),
            Self::ZeroSize => f.write_str("shared memory must have at least one byte"),
            Self::Unfinished { name } => write!(
                f,
                "the shared memory named {name:?} has no size yet: try again later, or remove it if its \
                 creator died"
            ),
            Self::DoesNotFit { index, needed, available } => write!(
                f,
                "{needed} bytes do not fit into the {available} of slot {index}: make the list with a \
                 longer value there"
            ),
            Self::TrailingNul { index } => write!(
                f,
                "the list was made by another program and cannot keep the NUL at the end of the value \
                 for slot {index}"
            ),
            Self::Damaged(why) => {
                write!(f, "the shared memory does not hold what it should: {why}")
            }
            Self::Lock(why) => write!(f, "the lock failed: {why}"),
            Self::Io(_) => f.write_str("a system call failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::NoMemory { source: error, .. } => Some(error),
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
            mp_core::Error::BadSegment(why) => Self::Damaged(why),
            other => Self::Damaged(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_was_wrong() {
        let source = || io::Error::from_raw_os_error(libc::ENOSPC);
        let name = || "table".to_string();
        for (error, expected) in [
            (Error::OutOfRange { index: 7, len: 3 }, "index 7"),
            (Error::WrongLength { expected: 3, given: 4 }, "4 elements"),
            (Error::Misaligned { offset: 2, align: 4 }, "multiple"),
            (Error::reserving(10, source()), "10 bytes"),
            (Error::overflow(), "address space"),
            (Error::BadName { name: name(), why: "is empty" }, "is empty"),
            (Error::NotFound { name: name() }, "table"),
            (Error::AlreadyExists { name: name() }, "unlink it first"),
            (Error::ZeroSize, "at least one byte"),
            (Error::Unfinished { name: name() }, "table"),
            (Error::DoesNotFit { index: 1, needed: 9, available: 8 }, "slot 1"),
            (Error::TrailingNul { index: 1 }, "slot 1"),
            (Error::Damaged("magic".to_string()), "magic"),
            (Error::Lock("namespace".to_string()), "namespace"),
        ] {
            let message = error.to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with(|c: char| c.is_lowercase() || c.is_numeric()), "{message}");
            assert!(!message.ends_with('.'), "{message}");
        }
    }
}
