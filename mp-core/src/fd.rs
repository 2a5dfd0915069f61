//! Descriptors inside values.
//!
//! While a message is encoded, serializing a handle puts a duplicate of its descriptor into the message's
//! table and an index into its bytes; decoding takes the descriptor out again. Outside of an mp codec
//! there is no table, and both are an error.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::describe;

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
#[doc(alias("DupFd", "send_handle", "recv_handle"))]
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
pub(crate) enum Table<'m> {
    /// None: serializing a descriptor is an error.
    Absent,
    Encoding(Encoding<'m>),
    Decoding(Decoding<'m>),
}

/// The descriptors that came with the message that is being decoded.
pub(crate) struct Decoding<'m> {
    slots: &'m mut [Slot],
    /// What was short.
    short: Option<io::Error>,
}

/// What the message has that a value is being encoded into.
pub(crate) struct Encoding<'m> {
    fds: &'m mut Vec<OwnedFd>,
    /// Those of them that are there for several values: which ones they are duplicates of, and their indexes.
    shared: Vec<(RawFd, u32)>,
    /// What was short.
    short: Option<io::Error>,
}

/// One of the descriptors that came with a message.
#[derive(Debug)]
pub(crate) enum Slot {
    /// It can be taken, once.
    Here(OwnedFd),
    /// Several values share it.
    Shared(OwnedFd),
    Taken,
}

impl<'m> Table<'m> {
    /// That of a value whose descriptors go behind those of values before it.
    #[inline]
    pub(crate) fn encoding(fds: &'m mut Vec<OwnedFd>) -> Self {
        Self::Encoding(Encoding { fds, shared: Vec::new(), short: None })
    }

    /// That of a message with these.
    #[inline]
    pub(crate) fn decoding(slots: &'m mut [Slot]) -> Self {
        Self::Decoding(Decoding { slots, short: None })
    }

    /// What was short.
    #[inline]
    fn short(self) -> Option<io::Error> {
        match self {
            Self::Encoding(Encoding { short, .. }) | Self::Decoding(Decoding { short, .. }) => {
                short
            }
            Self::Absent => None,
        }
    }
}

impl Encoding<'_> {
    fn push(&mut self, fd: BorrowedFd<'_>) -> io::Result<u32> {
        self.fds.push(fd.try_clone_to_owned()?);
        u32::try_from(self.fds.len() - 1).map_err(io::Error::other)
    }

    fn push_shared(&mut self, fd: BorrowedFd<'_>) -> io::Result<u32> {
        let number = fd.as_raw_fd();
        if let Some((_, index)) = self.shared.iter().find(|(known, _)| *known == number) {
            return Ok(*index);
        }
        let index = self.push(fd)?;
        if self.shared.len() < MOST_SHARED {
            self.shared.push((number, index));
        }
        Ok(index)
    }
}

/// More that are shared are not looked for in each value.
const MOST_SHARED: usize = 16;

/// Notes that descriptors or memory are short for a handle that is serialized or deserialized; gives the text for the
/// error.
///
/// Who encodes or decodes the message gets [`Error::Io`](crate::Error::Io) then, as the value is in order.
pub fn short(error: io::Error) -> String {
    let text = format!("a handle could not be duplicated: {error}");
    note(error);
    text
}

/// The error of a `Deserialize` whose handle could not be made of what came: its text is that of `error` and of what caused it.
///
/// Where the kernel refused, as descriptors or memory are short, an [`io::Error`] is among these. Who decodes the message gets
/// [`Error::Io`](crate::Error::Io) with it then, as the value is in order.
///
/// # Example
///
/// ```
/// use std::fs::File;
/// use mp_core::{Fd, fd};
/// use serde::{Deserialize, Deserializer};
///
/// /// Travels as an open file; has a second one for itself.
/// struct Log(File, File);
///
/// impl<'de> Deserialize<'de> for Log {
///     fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
///         let file = File::from(Fd::deserialize(deserializer)?);
///         let second = file.try_clone().map_err(fd::failed)?;
///         Ok(Self(file, second))
///     }
/// }
/// ```
pub fn failed<E: serde::de::Error>(error: impl std::error::Error + 'static) -> E {
    struct Whole<'a>(&'a dyn std::error::Error);

    impl fmt::Display for Whole<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            describe(self.0, f)
        }
    }

    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            note(again(error));
            break;
        }
        cause = error.source();
    }
    E::custom(Whole(&error))
}

/// The same once more.
pub(crate) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Remembers what was short, if a message is worked on.
pub(crate) fn note(error: io::Error) {
    with_current(|table| match table {
        Table::Encoding(Encoding { short, .. }) | Table::Decoding(Decoding { short, .. }) => {
            *short = Some(error);
        }
        Table::Absent => {}
    });
}

use current::with_current;
pub(crate) use current::with_table;

mod current {
    #![expect(unsafe_code, reason = "a reference to a caller's table, for as long as it is called")]

    use std::cell::{Cell, RefCell};
    use std::io;
    use std::ptr::NonNull;

    use super::Table;

    // A pointer, as every value that is encoded or decoded sets it and few have a descriptor: a table here
    // would be moved in and out each time.
    thread_local! {
        static TABLE: Cell<Option<NonNull<RefCell<Table<'static>>>>> = const { Cell::new(None) };
    }

    /// Puts back what was there before, also after a panic.
    struct Restore(Option<NonNull<RefCell<Table<'static>>>>);

    impl Drop for Restore {
        #[inline]
        fn drop(&mut self) {
            TABLE.set(self.0);
        }
    }

    /// Runs `work` with `table` as this thread's table; gives what was short for it.
    ///
    /// Nests: a `Serialize` that itself encodes a message gets a table of its own. After a panic the outer
    /// table is in place again.
    #[inline]
    pub(crate) fn with_table<R>(
        table: Table<'_>,
        work: impl FnOnce() -> R,
    ) -> (R, Option<io::Error>) {
        let table = RefCell::new(table);
        // Whoever finds it there may use it as a table of any lifetime only, see with_current.
        let found = NonNull::from(&table).cast::<RefCell<Table<'static>>>();
        let outer = Restore(TABLE.replace(Some(found)));
        let result = work();
        drop(outer);
        (result, table.into_inner().short())
    }

    /// Calls `with` with this thread's table.
    pub(super) fn with_current<R>(with: impl FnOnce(&mut Table<'_>) -> R) -> R {
        match TABLE.get() {
            // SAFETY: with_table set it to its own table and sets it back before that is gone, so the table
            // lives for as long as it is found here; and no other thread finds it. What it borrows lives as
            // long: `with` takes a table of any lifetime, and so keeps nothing of this one.
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
    put(serializer, |table| table.push(fd))
}

/// As [`serialize`], for a descriptor that many values have: one duplicate is in the message for all of them.
///
/// It is told from others by its number, so it must stay open until the whole value is encoded. What is written is for
/// [`Shared`] to read.
///
/// # Errors
///
/// As [`serialize`].
pub fn serialize_shared<S: Serializer>(
    fd: BorrowedFd<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    put(serializer, |table| table.push_shared(fd))
}

fn put<S: Serializer>(
    serializer: S,
    push: impl FnOnce(&mut Encoding<'_>) -> io::Result<u32>,
) -> Result<S::Ok, S::Error> {
    let index = with_current(|table| match table {
        Table::Encoding(table) => Some(push(table)),
        Table::Absent | Table::Decoding(_) => None,
    });
    match index {
        Some(Ok(index)) => serializer.serialize_u32(index),
        Some(Err(error)) => Err(S::Error::custom(short(error))),
        None => Err(S::Error::custom(
            "a handle (descriptor, queue, lock, ...) can only be serialized into a multiprocess \
             message, as a process argument or by a pipe, queue, pool or manager",
        )),
    }
}

/// Takes a handle's descriptor out of the message's table.
///
/// # Errors
///
/// Where no mp codec runs on this thread, or the message has no such descriptor (left).
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedFd, D::Error> {
    at(u32::deserialize(deserializer)?, |slot| match std::mem::replace(slot, Slot::Taken) {
        Slot::Here(fd) => Some(fd),
        other => {
            *slot = other;
            None
        }
    })
}

/// Calls `with` with a descriptor of the message.
fn at<R, E: serde::de::Error>(
    index: u32,
    with: impl FnOnce(&mut Slot) -> Option<R>,
) -> Result<R, E> {
    with_current(|table| match table {
        Table::Decoding(table) => usize::try_from(index)
            .ok()
            .and_then(|index| with(table.slots.get_mut(index)?))
            .ok_or_else(|| E::custom(format_args!("the message has no descriptor {index}"))),
        Table::Absent | Table::Encoding(_) => {
            Err(E::custom("a handle can only be read from a multiprocess message"))
        }
    })
}

/// A descriptor that several values of one message have, while the message is read.
///
/// Written by [`serialize_shared`]. Who has none like it yet takes a duplicate; others leave it.
#[derive(Clone, Copy, Debug)]
pub struct Shared(u32);

impl Shared {
    /// A duplicate of the descriptor, close-on-exec.
    ///
    /// # Errors
    ///
    /// Where the process has no descriptor left (`EMFILE`), or the message is not being read any more.
    pub fn duplicate(self) -> io::Result<OwnedFd> {
        let duplicate = at(self.0, |slot| match slot {
            Slot::Shared(fd) => Some(fd.try_clone()),
            Slot::Here(_) | Slot::Taken => None,
        });
        duplicate.map_err(|error: serde::de::value::Error| io::Error::other(error.to_string()))?
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u32::deserialize(deserializer)?;
        at(index, |slot| {
            *slot = match std::mem::replace(slot, Slot::Taken) {
                Slot::Here(fd) | Slot::Shared(fd) => Slot::Shared(fd),
                Slot::Taken => return None,
            };
            Some(Self(index))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::Error as _;

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

    /// Serialized as the others of it.
    struct Door<'a>(BorrowedFd<'a>);

    impl Serialize for Door<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serialize_shared(self.0, serializer)
        }
    }

    /// Cannot be made for a reason of its own, or because the kernel refuses.
    #[derive(Debug)]
    struct Failing;

    impl<'de> Deserialize<'de> for Failing {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Err(match u32::deserialize(deserializer)? {
                0 => failed(Error::BadSegment("it is too short".to_string())),
                1 => failed(io::Error::from_raw_os_error(libc::EMFILE)),
                _ => failed(Error::Io(io::Error::from_raw_os_error(libc::ENOMEM))),
            })
        }
    }

    #[test]
    fn why_a_handle_cannot_be_made_is_told() {
        let error = |number: u32| decode::<Failing>(encode(&number).unwrap()).unwrap_err();
        let why = error(0);
        assert!(matches!(&why, Error::Decode(why) if why.contains("too short")), "{why}");
        for (number, errno) in [(1, libc::EMFILE), (2, libc::ENOMEM)] {
            let Error::Io(why) = error(number) else { panic!("the kernel refused") };
            assert_eq!(why.raw_os_error(), Some(errno));
            // Elsewhere the text tells.
            let text = serde_json::from_str::<Failing>(&number.to_string()).unwrap_err();
            assert!(text.to_string().contains(&why.to_string()), "{text}");
        }
    }

    /// Takes a duplicate.
    struct Opened(OwnedFd);

    impl<'de> Deserialize<'de> for Opened {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Shared::deserialize(deserializer)?.duplicate().map(Self).map_err(D::Error::custom)
        }
    }

    #[test]
    fn what_is_shared_is_in_the_message_once() {
        let (one, other) = (null(), null());
        let doors = || (Door(one.as_fd()), null(), Door(one.as_fd()), Door(other.as_fd()));
        let message = encode(&doors()).unwrap();
        assert_eq!(message.fds().len(), 3);
        let (first, _, second, _): (Opened, Fd, Opened, Opened) = decode(message).unwrap();
        assert_ne!(first.0.as_raw_fd(), second.0.as_raw_fd());
        // Not taken, and yet not left over.
        decode::<(Shared, Fd, Shared, Shared)>(encode(&doors()).unwrap()).unwrap();
        // Nobody takes it from the others.
        let error = decode::<(Shared, Fd, Fd, Shared)>(encode(&doors()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("no descriptor 0"), "{error}");
        let shared: Shared = decode(encode(&Door(one.as_fd())).unwrap()).unwrap();
        assert!(shared.duplicate().is_err());
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
