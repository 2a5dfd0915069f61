//! What passes between a client's thread and the server.
//!
//! Through the front door, a socket that all clients share, come ends of pipes, one for each thread of a client that
//! calls. Down such a pipe goes one call after the other, and up come their results. A call begins with two words: the
//! number of the object, 0 for none, and what is called. Within one program that is a function, by its number, which
//! each connection counts for itself; the first call of a function brings the function. Another program says an
//! operation of the object's, by its number. The second word also says whether the caller has seen a process end, and whether it
//! is the server itself, on behalf of calls whose objects follow then. A result begins with a word that says what it is;
//! a refusal goes on with a text and the kernel's number of what is short.

use mp_core::{Encoder, Result};

/// A new connection's end comes through the front door.
pub(crate) const CONNECT: u8 = 1;
/// The server is to end.
pub(crate) const STOP: u8 = 2;

/// How long the beginning of a call is.
pub(crate) const HEADER: usize = 16;

/// The function itself stands before the arguments.
const DEFINE: u64 = 1 << 32;
/// It is called by its number among the object's operations; the fingerprint of the proxy's kind follows.
const OPERATION: u64 = 1 << 33;
/// The client has seen a process end since its last call.
const AFTER_END: u64 = 1 << 34;
/// The numbers of the objects whose locks the caller has stand before all else.
const WITHIN: u64 = 1 << 35;
/// The caller does little but call.
const EAGER: u64 = 1 << 36;

/// What a call begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Of which object, by its number.
    pub(crate) object: u64,
    pub(crate) what: What,
    /// The caller knows of an end of a process that the server may not have seen yet: nothing is to be done any more
    /// for clients that have ended.
    pub(crate) after_end: bool,
    /// It is made by a function in the server; the objects that are held until it has ended follow.
    pub(crate) is_within: bool,
    /// The client does little but call.
    pub(crate) is_eager: bool,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The function of that number of this connection.
    Known(u32),
    /// The function that follows, which gets that number.
    New(u32),
    /// The operation of that number of the object.
    Operation(u32),
}

impl Call {
    pub(crate) fn put(self, to: &mut Encoder) -> Result<()> {
        let (object, what) = self.to_words();
        to.put(&object)?.put(&what).map(drop)
    }

    pub(crate) fn to_words(self) -> (u64, u64) {
        let word = match self.what {
            What::Known(number) => u64::from(number),
            What::New(number) => u64::from(number) | DEFINE,
            What::Operation(number) => u64::from(number) | OPERATION,
        };
        let after_end = if self.after_end { AFTER_END } else { 0 };
        let is_within = if self.is_within { WITHIN } else { 0 };
        let is_eager = if self.is_eager { EAGER } else { 0 };
        (self.object, word | after_end | is_within | is_eager)
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (object, rest) = bytes.split_first_chunk()?;
        let (word, rest) = rest.split_first_chunk()?;
        let (object, word) = (u64::from_le_bytes(*object), u64::from_le_bytes(*word));
        let number = word as u32;
        let (after_end, is_within) = (word & AFTER_END != 0, word & WITHIN != 0);
        let is_eager = word & EAGER != 0;
        let what = match word & !AFTER_END & !WITHIN & !EAGER & !u64::from(u32::MAX) {
            0 => What::Known(number),
            DEFINE => What::New(number),
            OPERATION => What::Operation(number),
            _ => return None,
        };
        Some((Self { object, what, after_end, is_within, is_eager }, rest))
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
    /// Descriptors, memory or threads are short; the number that comes along says which, errno(3).
    Io = 6,
    /// It has no such operation for other programs.
    NoOperation = 7,
    /// As [`Io`](Self::Io), for what came with the call: the server has seen nothing of it, no new function either.
    Lost = 8,
    /// The call would wait for itself.
    Deadlock = 9,
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
            Self::NoOperation,
            Self::Lost,
            Self::Deadlock,
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
        fn headers_come_back(object: u64, number: u32, which in 0..3, flags: [bool; 3]) {
            let whats = [What::Known(number), What::New(number), What::Operation(number)];
            let [after_end, is_within, is_eager] = flags;
            let call = Call { object, what: whats[which as usize], after_end, is_within, is_eager };
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
        for word in 0..10 {
            assert_eq!(Status::read(word).map(|status| status as u64), Some(word));
        }
        assert_eq!(Status::read(10), None);
    }
}
