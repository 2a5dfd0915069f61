//! Descriptors inside values.
//!
//! While a message is encoded, serializing a handle puts a duplicate of its descriptor into the message's
//! table and an index into its bytes; decoding takes the descriptor out again. Outside of an mp codec
//! there is no table, and both are an error.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Any descriptor, as a value that can be sent to another process.
///
/// Wraps whatever owns a descriptor: a file, a socket, a pipe end. It can stand anywhere in the arguments
/// of a process, in a message, a task or a result. The receiver gets a descriptor of its own for the same
/// open file, close-on-exec; the sender's is closed when its `Fd` is dropped, which is at once where the
/// value was moved into the call.
///
/// Sending never waits for the receiver. A receiver that dies takes its copy with it.
///
/// Python: `multiprocessing.reduction.DupFd` and the pickling of sockets and connections.
///
/// # Errors
///
/// Serializing it outside of a multiprocess message (with `serde_json`, say) is an error of that
/// serializer: a descriptor means nothing in a file.
///
/// # Example
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use mp_core::{Fd, decode, encode};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = UnixStream::pair()?;
/// let message = encode(&Fd::from(far))?; // what a pipe or a process start does with it
///
/// let received: Fd = decode(message)?;
/// UnixStream::from(received).write_all(b"hello")?;
/// let mut text = String::new();
/// (&near).read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "DupFd")]
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl Fd {
    /// Wraps the descriptor of `owner`.
    pub fn new(owner: impl Into<OwnedFd>) -> Self {
        Self(owner.into())
    }

    /// Makes a second descriptor for the same open file, close-on-exec.
    ///
    /// # Errors
    ///
    /// Where the process has no descriptor left (`EMFILE`).
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Gives up the wrapper.
    #[must_use]
    pub fn into_owned(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

macro_rules! convert {
    ($($type:ty)*) => {$(
        impl From<$type> for Fd {
            fn from(owner: $type) -> Self {
                Self(owner.into())
            }
        }

        impl From<Fd> for $type {
            fn from(fd: Fd) -> Self {
                fd.0.into()
            }
        }
    )*};
}

convert! {
    OwnedFd File TcpListener TcpStream UdpSocket UnixDatagram UnixListener UnixStream
    io::PipeReader io::PipeWriter
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(self.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// The table of the message this thread is working on.
pub(crate) enum Table {
    /// None: serializing a descriptor is an error.
    Absent,
    /// Descriptors the value has left so far.
    Encoding(Vec<OwnedFd>),
    /// Descriptors that came with the message; each can be taken once.
    Decoding(Vec<Option<OwnedFd>>),
}

use current::with_current;
pub(crate) use current::with_table;

mod current {
    #![expect(unsafe_code, reason = "a reference to a caller's table, for as long as it is called")]

    use std::cell::{Cell, RefCell};
    use std::ptr::NonNull;

    use super::Table;

    // A pointer, as every value that is encoded or decoded sets it and few have a descriptor: a table here
    // would be moved in and out each time.
    thread_local! {
        static TABLE: Cell<Option<NonNull<RefCell<Table>>>> = const { Cell::new(None) };
    }

    /// Puts back what was there before, also after a panic.
    struct Restore(Option<NonNull<RefCell<Table>>>);

    impl Drop for Restore {
        #[inline]
        fn drop(&mut self) {
            TABLE.set(self.0);
        }
    }

    /// Runs `work` with `table` as this thread's table and gives the table back as `work` left it.
    ///
    /// Nests: a `Serialize` that itself encodes a message gets a table of its own. After a panic the outer
    /// table is in place again.
    #[inline]
    pub(crate) fn with_table<R>(table: Table, work: impl FnOnce() -> R) -> (R, Table) {
        let table = RefCell::new(table);
        let outer = Restore(TABLE.replace(Some(NonNull::from(&table))));
        let result = work();
        drop(outer);
        (result, table.into_inner())
    }

    /// Calls `with` with this thread's table.
    pub(super) fn with_current<R>(with: impl FnOnce(&mut Table) -> R) -> R {
        match TABLE.get() {
            // SAFETY: with_table set it to its own table and sets it back before that is gone, so the table
            // lives for as long as it is found here; and no other thread finds it.
            Some(table) => with(&mut unsafe { table.as_ref() }.borrow_mut()),
            None => with(&mut Table::Absent),
        }
    }
}

/// Whether this thread encodes or decodes a multiprocess message: for handles that mean something in one only, and have no
/// descriptor for [`serialize`] to refuse elsewhere.
#[must_use]
pub fn is_in_message() -> bool {
    with_current(|table| !matches!(table, Table::Absent))
}

/// Serializes a handle's descriptor: a duplicate goes into the message's table, its index into the bytes.
///
/// For handles of your own: call it from `Serialize`, and [`deserialize`] from `Deserialize`.
///
/// # Errors
///
/// Where no mp codec runs on this thread, or the process has no descriptor left.
pub fn serialize<S: Serializer>(fd: BorrowedFd<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let index = with_current(|table| match table {
        Table::Encoding(table) => {
            let duplicate = fd
                .try_clone_to_owned()
                .map_err(|error| format!("a descriptor could not be duplicated: {error}"))?;
            table.push(duplicate);
            u32::try_from(table.len() - 1).map_err(|error| error.to_string())
        }
        Table::Absent | Table::Decoding(_) => Err(
            "a handle (descriptor, queue, lock, ...) can only be serialized into a multiprocess \
             message, as a process argument or by a pipe, queue, pool or manager"
                .to_string(),
        ),
    });
    serializer.serialize_u32(index.map_err(S::Error::custom)?)
}

/// Takes a handle's descriptor out of the message's table.
///
/// # Errors
///
/// Where no mp codec runs on this thread, or the message has no such descriptor (left).
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedFd, D::Error> {
    let index = u32::deserialize(deserializer)?;
    with_current(|table| match table {
        Table::Decoding(table) => usize::try_from(index)
            .ok()
            .and_then(|index| table.get_mut(index)?.take())
            .ok_or_else(|| D::Error::custom(format_args!("the message has no descriptor {index}"))),
        Table::Absent | Table::Encoding(_) => {
            Err(D::Error::custom("a handle can only be read from a multiprocess message"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, decode, encode};

    fn null() -> Fd {
        Fd::from(File::open("/dev/null").unwrap())
    }

    #[test]
    fn outside_of_a_message_a_descriptor_is_a_clear_error() {
        assert!(!is_in_message());
        let error = serde_json::to_string(&null()).unwrap_err();
        assert!(error.to_string().contains("multiprocess message"), "{error}");
        let error = serde_json::from_str::<Fd>("0").unwrap_err();
        assert!(error.to_string().contains("multiprocess message"), "{error}");
    }

    #[test]
    fn a_descriptor_can_be_taken_once() {
        // The second index names the first descriptor again.
        let mut message = encode(&(null(), null())).unwrap();
        message.bytes_mut()[4..8].copy_from_slice(&0_u32.to_le_bytes());
        let error = decode::<(Fd, Fd)>(message).unwrap_err();
        assert!(
            matches!(error, Error::Decode(ref why) if why.contains("no descriptor 0")),
            "{error}"
        );
    }

    #[test]
    fn a_descriptor_nobody_takes_is_refused() {
        let mut message = encode(&0_u32).unwrap();
        message.fds_mut().push(null().into_owned());
        assert!(matches!(decode::<u32>(message), Err(Error::Decode(_))));
    }

    #[test]
    fn a_message_within_a_message_has_its_own_table() {
        struct Nested(Fd);
        impl Serialize for Nested {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let inner = encode(&self.0).map_err(S::Error::custom)?;
                assert_eq!(inner.fds().len(), 1);
                self.0.serialize(serializer)
            }
        }
        let message = encode(&(Nested(null()), Nested(null()))).unwrap();
        assert_eq!(message.fds().len(), 2);
    }

    #[test]
    fn a_panic_while_encoding_leaves_no_table_behind() {
        struct Panics;
        impl Serialize for Panics {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("on purpose")
            }
        }
        let result = std::panic::catch_unwind(|| encode(&Panics));
        assert!(result.is_err());
        assert!(serde_json::to_string(&null()).is_err());
    }
}
