//! What can go wrong with a pipe.

use std::fmt;
use std::io;

/// What can go wrong with pipes, listeners and clients.
#[non_exhaustive]
pub enum Error {
    /// Every copy of the other end is closed: dropped, or its process has ended, however it did.
    ///
    /// Python: `EOFError` when receiving, `BrokenPipeError` or `ConnectionResetError` when sending.
    #[doc(alias("EOFError", "BrokenPipeError", "ConnectionResetError"))]
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
    /// The two sides of a connection do not have the same authkey, or one of them is not who may be there.
    ///
    /// Both sides get this error.
    ///
    /// Python: `AuthenticationError`.
    #[doc(alias = "AuthenticationError")]
    Authentication(String),
    /// The address can be reached from other machines, or is on one, and no authkey was set.
    KeyNeeded {
        /// The address.
        address: String,
    },
    /// The authkey is empty, which would be none.
    EmptyKey,
    /// No listener can be at this address.
    InvalidAddress {
        /// The address.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A listener is at this address already, or a file that is no socket.
    AddressInUse {
        /// The address.
        address: String,
    },
    /// No connection to the address comes about.
    Connect {
        /// The address.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
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
            Self::Authentication(why) => write!(f, "authentication failed: {why}"),
            Self::KeyNeeded { address } => write!(
                f,
                "{address} is not on this machine alone: set a key, the same on both sides, by authkey"
            ),
            Self::EmptyKey => f.write_str(
                "the authkey is empty: give it some random bytes, AuthKey::random makes them",
            ),
            Self::InvalidAddress { address, why } => {
                write!(f, "no listener can be at {address}: {why}")
            }
            Self::AddressInUse { address } => write!(
                f,
                "{address} is in use: something listens there, or it is a file that is no socket"
            ),
            Self::Connect { address, .. } => write!(f, "cannot connect to {address}"),
            Self::Io(_) => f.write_str("a system call failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::Connect { source: error, .. } => Some(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_was_wrong() {
        let address = || "host:80".to_string();
        let source = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        for (error, expected) in [
            (Error::TooShort { needed: 9 }, "9 bytes"),
            (Error::Encode("no".to_string()), "encode"),
            (Error::Decode("no".to_string()), "decode"),
            (Error::Damaged("header".to_string()), "header"),
            (Error::Authentication("the keys differ".to_string()), "keys differ"),
            (Error::KeyNeeded { address: address() }, "authkey"),
            (Error::EmptyKey, "AuthKey::random"),
            (Error::InvalidAddress { address: address(), why: "it is empty" }, "empty"),
            (Error::AddressInUse { address: address() }, "host:80 is in use"),
            (Error::Connect { address: address(), source }, "host:80"),
        ] {
            let message = error.to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.ends_with('.'), "{message}");
        }
    }
}
