//! What passes between a client's thread and the server.
//!
//! Through the front door, a socket that all clients share, come ends of pipes, one for each thread of a client that
//! calls. Down such a pipe goes one call after the other, and up come their results. A call begins with two words: the
//! number of the object, 0 for none, and the number of the function, which each connection counts for itself. The
//! first call of a function brings the function. A result begins with a word that says what it is.

/// A new connection's end comes through the front door.
pub(crate) const CONNECT: u8 = 1;
/// The server is to end.
pub(crate) const STOP: u8 = 2;

/// How long the beginning of a call is.
pub(crate) const HEADER: usize = 16;

/// Whether the function itself stands before the arguments.
const DEFINE: u64 = 1 << 32;

/// What a call begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Of which object, by its number.
    pub(crate) object: u64,
    /// The function, by its number.
    pub(crate) function: u32,
    /// Whether the function follows.
    pub(crate) define: bool,
}

impl Call {
    pub(crate) fn to_words(self) -> (u64, u64) {
        (self.object, u64::from(self.function) | if self.define { DEFINE } else { 0 })
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (object, rest) = bytes.split_first_chunk()?;
        let (word, rest) = rest.split_first_chunk()?;
        let (object, word) = (u64::from_le_bytes(*object), u64::from_le_bytes(*word));
        let call = Self { object, function: word as u32, define: word & DEFINE != 0 };
        (word & !(DEFINE | u64::from(u32::MAX)) == 0).then_some((call, rest))
    }
}

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Status {
    /// What the function left.
    Value = 0,
    /// The message of a panic.
    Panicked = 1,
    /// Why the result cannot be sent.
    Unencodable = 2,
    /// Why the arguments cannot be read.
    Undecodable = 3,
    /// There is no such object.
    NoObject = 4,
    /// The object is of another type.
    WrongType = 5,
    /// Descriptors, memory or threads are short; the text says which.
    Io = 6,
}

impl Status {
    pub(crate) fn read(word: u64) -> Option<Self> {
        [
            Self::Value,
            Self::Panicked,
            Self::Unencodable,
            Self::Undecodable,
            Self::NoObject,
            Self::WrongType,
            Self::Io,
        ]
        .into_iter()
        .find(|&status| status as u64 == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(object: u64, function: u32, define: bool) {
            let call = Call { object, function, define };
            let (first, second) = call.to_words();
            let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
            prop_assert_eq!(bytes.len(), HEADER);
            prop_assert_eq!(Call::read(&bytes), Some((call, &[][..])));
        }

        #[test]
        fn any_bytes_are_a_header_or_none(bytes: Vec<u8>) {
            let _ = Call::read(&bytes);
        }
    }

    #[test]
    fn each_status_comes_back_and_others_are_none() {
        for word in 0..7 {
            assert_eq!(Status::read(word).map(|status| status as u64), Some(word));
        }
        assert_eq!(Status::read(7), None);
    }
}
