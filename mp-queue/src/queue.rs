//! The queue that users have, and all that the joinable one has in common with it.

use std::cell::Cell;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::LocalKey;
use std::time::Duration;

use mp_core::{Decoder, Encoder, Fd, Message};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::blocking::{Batch, Core, Limit};
use crate::slots::{append, units_of};
use crate::{Error, GetManyError, PutError, PutManyError, Result};

/// What each type's segments are of; part of the check when one is received.
pub(crate) mod kind {
    pub(crate) const QUEUE: u64 = 0x4D50_5101;
    pub(crate) const JOINABLE: u64 = 0x4D50_5102;
}

/// A queue that processes share: what any of them puts, any of them gets, once and in order.
///
/// Any number of processes and threads may put and get at the same time. Clone it or send it to another
/// process, as an argument, through a pipe, in a task, or in an item of a queue: all have the same queue.
/// It goes when the last of them is dropped, with what is still in it.
///
/// An item is anything that serde can serialize, and may hold handles (descriptors, locks, queues, pipe
/// ends). It is encoded by the caller of [`put`](Self::put) and lies in shared memory when `put` returns.
/// There is no thread in between. So what was put can be got at once, [`len`](Self::len) and its like are
/// exact, an item that cannot be encoded is the caller's error, and a process that ends leaves what it had put.
///
/// Items of one producer arrive in the order in which it put them. No producer or consumer is served before
/// others for ever; it is not in turn either.
///
/// # When a process dies
///
/// Whatever it was doing, by `kill -9` or otherwise, the queue stays usable for all others, within a
/// millisecond or so, and:
///
/// - an item whose `put` has returned is got by exactly one, in its place;
/// - one whose `put` has not returned arrives whole or not at all;
/// - one that it had got is gone with it. Send back what has to be done, or see
///   [`JoinableQueue`](crate::JoinableQueue).
///
/// # Memory
///
/// An unbounded queue grows as needed, up to 16 GiB, and its memory goes back to the system as it is got;
/// up to 2 MiB stay for what comes next, and 6 more while items of 64 KiB and more come now and then. Where memory is
/// short, `put` fails. The queue takes three descriptors, and 16 GiB of addresses for each time it was made or received
/// (less where `RLIMIT_AS` is low).
///
/// Python: `multiprocessing.Queue` has a thread in each process that puts, which encodes and writes later.
/// Items are lost when that process is killed, and it cannot end before they are read; its `qsize`, `empty`
/// and `full` disagree meanwhile; it can be given to a process at its start only, and not to a pool.
///
/// # Example
///
/// ```
/// use mp_queue::Queue;
///
/// # fn main() -> mp_queue::Result<()> {
/// let tasks = Queue::bounded(100)?;
/// let theirs = tasks.clone();
/// let worker = std::thread::spawn(move || { // or a process: multiprocess::Process::new(work, (theirs,))
///     theirs.iter().map(|number: mp_queue::Result<u64>| number.unwrap()).sum::<u64>()
/// });
/// for number in 1..=4 {
///     tasks.put(number)?;
/// }
/// tasks.close(); // the worker's iterator ends when it has got them all
/// assert_eq!(worker.join().unwrap(), 10);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SimpleQueue")]
pub struct Queue<T> {
    pub(crate) core: Arc<Core>,
    pub(crate) of: PhantomData<fn(T) -> T>,
}

/// What limits a queue is to have, where they are more than a number of items.
///
/// # Example
///
/// ```
/// use mp_queue::{Builder, Error};
///
/// # fn main() -> mp_queue::Result<()> {
/// let images = Builder::new().capacity(1000).max_bytes(1 << 20).queue::<Vec<u8>>()?;
/// images.put(vec![7; 700_000])?;
/// assert!(matches!(images.try_put(vec![7; 700_000]).unwrap_err().reason, Error::Full));
/// assert!(images.is_empty() == false && images.max_bytes() == Some(1 << 20));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "ends in queue() or joinable_queue(), which make one"]
pub struct Builder {
    capacity: Option<usize>,
    max_bytes: Option<u64>,
}

impl Builder {
    /// Starts without limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets it have so many items at most.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = Some(items);
        self
    }

    /// Lets its items take so many bytes at most, rounded up to a multiple of 16.
    ///
    /// An item takes what it has encoded and 8 bytes more, rounded up to a multiple of 16. One that is larger
    /// than the limit is an error.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// [`Error::BadCapacity`] where a limit is 0, [`Error::Io`] where memory or descriptors are short.
    pub fn queue<T>(&self) -> Result<Queue<T>> {
        Ok(Queue { core: self.core(kind::QUEUE, false)?, of: PhantomData })
    }

    pub(crate) fn core(&self, kind: u64, joinable: bool) -> Result<Arc<Core>> {
        use crate::{commit::MOST, slots::UNIT};
        if self.capacity == Some(0) || self.max_bytes == Some(0) {
            return Err(Error::BadCapacity);
        }
        let capacity = self.capacity.map_or(u64::MAX, |capacity| capacity as u64);
        let max_units = self.max_bytes.map_or(MOST, |bytes| bytes.div_ceil(UNIT).min(MOST));
        Ok(Arc::new(Core::create(kind, joinable, capacity, max_units)?))
    }
}

/// A buffer keeps its storage for the next call, if it is no larger.
const KEPT: usize = 2 << 20;

thread_local! {
    static ENCODED: Cell<Option<Box<Encoder>>> = const { Cell::new(None) };
    static TAKEN: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// What this thread keeps there; a new one where a call within a call has it, or the thread ends.
#[inline]
fn kept<B: Default>(key: &'static LocalKey<Cell<Option<Box<B>>>>) -> Box<B> {
    key.try_with(Cell::take).ok().flatten().unwrap_or_default()
}

#[inline]
fn keep<B>(key: &'static LocalKey<Cell<Option<Box<B>>>>, buffer: Box<B>) {
    let _ = key.try_with(|cell| cell.set(Some(buffer)));
}

#[inline]
fn encode<T: Serialize>(value: &T) -> Result<Box<Encoder>> {
    let mut encoder = kept(&ENCODED);
    match encoder.put(value) {
        Ok(_) => Ok(encoder),
        Err(error) => {
            keep_encoded(encoder);
            Err(error.into())
        }
    }
}

#[inline]
fn keep_encoded(mut encoder: Box<Encoder>) {
    if encoder.message().bytes().len() <= KEPT {
        encoder.clear();
        keep(&ENCODED, encoder);
    }
}

#[inline]
fn keep_taken(mut batch: Box<Batch>) {
    if batch.bytes.capacity() <= KEPT && batch.ends.capacity() <= KEPT {
        batch.clear();
        keep(&TAKEN, batch);
    }
}

#[inline]
fn decode<T: DeserializeOwned>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T> {
    let mut decoder = Decoder::new(bytes, fds);
    let value = decoder.get()?;
    decoder.finish()?;
    Ok(value)
}

#[inline]
pub(crate) fn put<T: Serialize>(core: &Core, value: T, limit: Limit) -> Result<(), PutError<T>> {
    let encoder = match encode(&value) {
        Ok(encoder) => encoder,
        Err(reason) => return Err(PutError { value, reason }),
    };
    let result = core.put(encoder.message().bytes(), encoder.message().fds(), limit);
    keep_encoded(encoder);
    result.map_err(|reason| PutError { value, reason })
}

#[inline]
pub(crate) fn get<T: DeserializeOwned>(core: &Core, limit: Limit) -> Result<T> {
    let mut batch = kept(&TAKEN);
    let result = match core.get(1, &mut batch, limit) {
        Ok(()) => decode(&batch.bytes, std::mem::take(&mut batch.fds)),
        Err(error) => Err(error),
    };
    keep_taken(batch);
    result
}

/// How much of a row of items is put at once.
const ROW: usize = 32 << 10;
/// An item of more bytes is put by itself, without a copy to the row.
const ROW_ITEM: usize = 4 << 10;

fn is_small(message: &Message) -> bool {
    message.fds().is_empty() && message.bytes().len() <= ROW_ITEM
}

/// Small items that go together, as they will lie in the queue, and how many units each takes.
struct Row<'a> {
    core: &'a Core,
    limit: Limit,
    bytes: Vec<u8>,
    units: Vec<u64>,
    /// Whether the caller's code runs, which may panic.
    is_filled: bool,
}

impl Row<'_> {
    fn put(&self) -> Result<(), (usize, Error)> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        self.core.put_row(&self.bytes, &self.units, self.limit)
    }
}

impl Drop for Row<'_> {
    /// What the iterator gave before it panicked is in nobody's hands but these.
    fn drop(&mut self) {
        if self.is_filled {
            let _ = self.put();
        }
    }
}

pub(crate) fn put_many<T: Serialize>(
    core: &Core,
    items: impl IntoIterator<Item = T>,
    limit: Limit,
) -> Result<usize, PutManyError<T>> {
    let mut values = Vec::new();
    let mut row = Row { core, limit, bytes: Vec::new(), units: Vec::new(), is_filled: false };
    let mut put = 0;
    let mut items = items.into_iter();
    loop {
        let mut alone = None;
        let mut failed = None;
        let mut end = true;
        row.is_filled = true;
        for value in items.by_ref() {
            let encoded = encode(&value).and_then(|encoder| {
                let message = encoder.message();
                core.check_size(message.bytes().len(), message.fds().len())?;
                Ok(encoder)
            });
            values.push(value);
            end = false;
            match encoded {
                Ok(encoder) if is_small(encoder.message()) => {
                    let bytes = encoder.message().bytes();
                    append(bytes, &mut row.bytes);
                    row.units.push(units_of(bytes.len(), false));
                    keep_encoded(encoder);
                    if row.bytes.len() >= ROW {
                        break;
                    }
                }
                Ok(single) => alone = Some(single),
                Err(reason) => failed = Some(reason),
            }
            if alone.is_some() || failed.is_some() {
                break;
            }
        }
        row.is_filled = false;
        let in_row = row.units.len();
        let result = match (row.put(), alone) {
            (Ok(()), Some(encoder)) => {
                let result = core.put(encoder.message().bytes(), encoder.message().fds(), limit);
                keep_encoded(encoder);
                result.map(|()| in_row + 1).map_err(|reason| (in_row, reason))
            }
            (result, _) => result.map(|()| in_row),
        };
        match (result, failed) {
            (Ok(done), None) => put += done,
            (Ok(done), Some(reason)) => {
                values.drain(..done);
                return Err(PutManyError { put: put + done, values, reason });
            }
            (Err((done, reason)), _) => {
                values.drain(..done);
                return Err(PutManyError { put: put + done, values, reason });
            }
        }
        if end {
            return Ok(put);
        }
        row.bytes.clear();
        row.units.clear();
        values.clear();
    }
}

pub(crate) fn get_many<T: DeserializeOwned>(
    core: &Core,
    max: usize,
    limit: Limit,
) -> Result<Vec<T>, GetManyError<T>> {
    let Some(max) = NonZero::new(max as u64) else { return Ok(Vec::new()) };
    let mut batch = kept(&TAKEN);
    let (mut values, mut failed) = (Vec::new(), None);
    match core.get(max.get(), &mut batch, limit) {
        Ok(()) => {
            values.reserve(batch.ends.len());
            let mut start = 0;
            for &end in &batch.ends {
                // Only the last one has any.
                let last = end == batch.bytes.len();
                let fds = if last { std::mem::take(&mut batch.fds) } else { Vec::new() };
                match decode(&batch.bytes[start..end], fds) {
                    Ok(value) => values.push(value),
                    Err(error) => failed = failed.or(Some(error)),
                }
                start = end;
            }
        }
        Err(error) => failed = Some(error),
    }
    keep_taken(batch);
    match failed {
        None => Ok(values),
        Some(reason) => Err(GetManyError { values, reason }),
    }
}

struct Borrowed<'a>(BorrowedFd<'a>);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        mp_core::fd::serialize(self.0, serializer)
    }
}

pub(crate) fn serialize<S: Serializer>(core: &Core, serializer: S) -> Result<S::Ok, S::Error> {
    core.fds().map(Borrowed).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    kind: u64,
    joinable: bool,
) -> Result<Arc<Core>, D::Error> {
    let [segment, near, far] = <[Fd; 3]>::deserialize(deserializer)?.map(Fd::into_owned);
    let core = Core::over(segment, near, far, kind, joinable).map_err(|error| match error {
        Error::Io(error) => D::Error::custom(mp_core::fd::short(error)),
        other => D::Error::custom(other),
    });
    core.map(Arc::new)
}

/// Gives what is put, until the queue is closed and empty. Made by `iter`.
///
/// An item that fails to decode is an `Err`, and the iterator goes on.
#[must_use = "iterators are lazy"]
pub struct Iter<'a, T> {
    core: &'a Core,
    ended: bool,
    of: PhantomData<fn(T) -> T>,
}

/// Gives what is put, until the queue is closed and empty. Made by `into_iter`.
///
/// As [`Iter`], and has the queue.
#[must_use = "iterators are lazy"]
pub struct IntoIter<T> {
    core: Arc<Core>,
    ended: bool,
    of: PhantomData<fn(T) -> T>,
}

impl<'a, T> Iter<'a, T> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core, ended: false, of: PhantomData }
    }
}

impl<T> IntoIter<T> {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, ended: false, of: PhantomData }
    }
}

macro_rules! iterator {
    ($name:ident $(, $lifetime:lifetime)?) => {
        impl<T: DeserializeOwned> Iterator for $name<$($lifetime,)? T> {
            type Item = Result<T>;

            fn next(&mut self) -> Option<Result<T>> {
                if self.ended {
                    return None;
                }
                match get(&self.core, Limit::Forever) {
                    Err(Error::Closed) => {
                        self.ended = true;
                        None
                    }
                    // Would come again for ever.
                    Err(error @ Error::Damaged(_)) => {
                        self.ended = true;
                        Some(Err(error))
                    }
                    result => Some(result),
                }
            }
        }

        impl<T: DeserializeOwned> FusedIterator for $name<$($lifetime,)? T> {}

        impl<T> fmt::Debug for $name<$($lifetime,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("ended", &self.ended).finish_non_exhaustive()
            }
        }
    };
}

iterator!(Iter, '_);
iterator!(IntoIter);

/// Implements what a [`Queue`] and a [`JoinableQueue`](crate::JoinableQueue) have in common.
macro_rules! surface {
    ($type:ident, $kind:expr, $joinable:expr, $build:ident) => {
        impl<T> $type<T> {
            /// Makes a queue that grows as needed.
            ///
            /// # Errors
            ///
            /// [`Error::Io`] where memory or descriptors are short.
            pub fn unbounded() -> Result<Self> {
                crate::Builder::new().$build()
            }

            /// Makes a queue for `capacity` items at most.
            ///
            /// Python: `Queue(maxsize)`, where 0 means unbounded.
            ///
            /// # Errors
            ///
            /// [`Error::BadCapacity`] where that is 0, [`Error::Io`] where memory or descriptors are short.
            #[doc(alias = "maxsize")]
            pub fn bounded(capacity: usize) -> Result<Self> {
                crate::Builder::new().capacity(capacity).$build()
            }

            /// How many items there are; exactly so at some moment within the call.
            ///
            /// Python: `qsize()`.
            #[doc(alias = "qsize")]
            #[must_use]
            pub fn len(&self) -> usize {
                self.core.len() as usize
            }

            /// Whether there is none; exactly so at some moment within the call.
            ///
            /// While nobody else gets, `while !queue.is_empty() { queue.get()?; }` gets them all.
            ///
            /// Python: `empty()`, which may be true for a moment after a `put`.
            #[doc(alias = "empty")]
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.core.len() == 0
            }

            /// Whether a limit is reached. Never so for one that is unbounded.
            #[doc(alias = "full")]
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.core.is_full()
            }

            /// How many items it may have; `None`: any number.
            #[must_use]
            pub fn capacity(&self) -> Option<usize> {
                self.core.capacity().map(|capacity| capacity as usize)
            }

            /// How many bytes its items may take; `None`: any number.
            #[must_use]
            pub fn max_bytes(&self) -> Option<u64> {
                self.core.max_bytes()
            }

            /// Closes the queue for all processes: nothing can be put any more.
            ///
            /// It waits for nobody. Whoever waits to put gets [`Error::Closed`] at once; or within a tenth of a second, where it
            /// waits behind a process that was stopped while it put something. What was put before can still be got; then
            /// [`get`](Self::get) gives `Closed` too. Closing it again does nothing. Dropping handles, or the
            /// death of whoever has them, closes nothing.
            ///
            /// Python: `close()` concerns the calling process only, and its buffer; `join_thread()` and
            /// `cancel_join_thread()` are about that buffer as well. There is none here.
            pub fn close(&self) {
                self.core.close();
            }

            /// Whether somebody has closed it.
            #[must_use]
            pub fn is_closed(&self) -> bool {
                self.core.is_closed()
            }
        }

        impl<T: Serialize> $type<T> {
            /// Puts an item at the end, waiting while there is no room.
            ///
            /// When it returns, the item is in the queue, whatever becomes of this process. In a queue without
            /// limits it waits for nothing, unless the item holds descriptors and some hundred of those are
            /// under way already.
            ///
            /// # Errors
            ///
            /// [`Error::Closed`]; [`Error::Encode`] where the item's `Serialize` refuses; [`Error::TooLarge`],
            /// [`Error::TooManyDescriptors`]; [`Error::Io`] where memory or descriptors are short;
            /// [`Error::TooManyUnfinished`] of a joinable queue; [`Error::Damaged`]. The item comes back in
            /// the [`PutError`].
            #[inline]
            pub fn put(&self, value: T) -> Result<(), PutError<T>> {
                put(&self.core, value, Limit::Forever)
            }

            /// Puts an item if there is room; does not wait for any.
            ///
            /// It waits for others that are inside, which takes microseconds.
            ///
            /// # Errors
            ///
            /// As [`put`](Self::put), [`Error::Full`], and [`Error::Busy`] where another process stands
            /// still inside.
            #[doc(alias = "put_nowait")]
            #[inline]
            pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
                put(&self.core, value, Limit::Try)
            }

            /// Puts an item, waiting for room no longer than `timeout` in all.
            ///
            /// # Errors
            ///
            /// As [`put`](Self::put), and [`Error::TimedOut`].
            pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutError<T>> {
                put(&self.core, value, Limit::after(timeout))
            }

            /// Puts all items, in order; waits while there is no room. Says how many there were.
            ///
            /// Several times faster than one by one. Others' items may come in between, and what is put is
            /// seen in parts: when 32 KiB are together, when an item is large or holds descriptors, and at
            /// the end. So do not let the iterator wait for what becomes of the items that it gave, which
            /// may be for ever; and where it takes its time, put one by one. If it panics, what it gave
            /// before is put first, waiting for room as ever.
            ///
            /// # Errors
            ///
            /// As [`put`](Self::put); the [`PutManyError`] says how many were put and has those that were
            /// not.
            pub fn put_many(
                &self,
                items: impl IntoIterator<Item = T>,
            ) -> Result<usize, PutManyError<T>> {
                put_many(&self.core, items, Limit::Forever)
            }

            /// Puts items, in order, as long as there is room; does not wait for any.
            ///
            /// # Errors
            ///
            /// As [`put_many`](Self::put_many), and [`Error::Full`].
            pub fn try_put_many(
                &self,
                items: impl IntoIterator<Item = T>,
            ) -> Result<usize, PutManyError<T>> {
                put_many(&self.core, items, Limit::Try)
            }

            /// Puts all items, in order, waiting for room no longer than `timeout` in all.
            ///
            /// # Errors
            ///
            /// As [`put_many`](Self::put_many), and [`Error::TimedOut`].
            pub fn put_many_timeout(
                &self,
                items: impl IntoIterator<Item = T>,
                timeout: Duration,
            ) -> Result<usize, PutManyError<T>> {
                put_many(&self.core, items, Limit::after(timeout))
            }
        }

        impl<T: DeserializeOwned> $type<T> {
            /// Gets the first item, waiting for one.
            ///
            /// The item is the caller's then: it is gone if this process dies.
            ///
            /// # Errors
            ///
            /// [`Error::Closed`] where the queue is closed and empty; [`Error::Decode`] where what was put is
            /// no `T`, and is gone now; [`Error::Io`] where memory or descriptors are short: for the item,
            /// which stays, or for a handle in it, and then it is gone; [`Error::Damaged`].
            #[inline]
            pub fn get(&self) -> Result<T> {
                get(&self.core, Limit::Forever)
            }

            /// Gets the first item if there is one; does not wait for any.
            ///
            /// It waits for others that are inside, which takes microseconds.
            ///
            /// # Errors
            ///
            /// As [`get`](Self::get), [`Error::Empty`], and [`Error::Busy`] where another process stands still
            /// inside.
            #[doc(alias = "get_nowait")]
            #[inline]
            pub fn try_get(&self) -> Result<T> {
                get(&self.core, Limit::Try)
            }

            /// Gets the first item, waiting for one no longer than `timeout` in all.
            ///
            /// # Errors
            ///
            /// As [`get`](Self::get), and [`Error::TimedOut`].
            ///
            /// Python: `get(timeout=t)`, which raises `Empty`.
            pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
                get(&self.core, Limit::after(timeout))
            }

            /// Gets the first items, `max` at most, waiting for one.
            ///
            /// Several times faster than one by one. There may be more left than `max` says.
            ///
            /// # Errors
            ///
            /// As [`get`](Self::get). Where one of them cannot be decoded, the [`GetManyError`] has the
            /// others.
            pub fn get_many(&self, max: usize) -> Result<Vec<T>, GetManyError<T>> {
                get_many(&self.core, max, Limit::Forever)
            }

            /// Gets the first items, `max` at most, if there is one; does not wait for any.
            ///
            /// # Errors
            ///
            /// As [`get_many`](Self::get_many), and [`Error::Empty`].
            pub fn try_get_many(&self, max: usize) -> Result<Vec<T>, GetManyError<T>> {
                get_many(&self.core, max, Limit::Try)
            }

            /// Gets the first items, `max` at most, waiting for one no longer than `timeout` in all.
            ///
            /// # Errors
            ///
            /// As [`get_many`](Self::get_many), and [`Error::TimedOut`].
            pub fn get_many_timeout(
                &self,
                max: usize,
                timeout: Duration,
            ) -> Result<Vec<T>, GetManyError<T>> {
                get_many(&self.core, max, Limit::after(timeout))
            }

            /// Gets item after item, waiting for each, until the queue is closed and empty.
            pub fn iter(&self) -> Iter<'_, T> {
                Iter::new(&self.core)
            }
        }

        impl<'a, T: DeserializeOwned> IntoIterator for &'a $type<T> {
            type Item = Result<T>;
            type IntoIter = Iter<'a, T>;

            fn into_iter(self) -> Iter<'a, T> {
                self.iter()
            }
        }

        impl<T: DeserializeOwned> IntoIterator for $type<T> {
            type Item = Result<T>;
            type IntoIter = IntoIter<T>;

            fn into_iter(self) -> IntoIter<T> {
                IntoIter::new(self.core)
            }
        }

        impl<T> AsFd for $type<T> {
            /// A descriptor that can be read, as poll(2) and epoll(7) say, while the queue is not empty or is
            /// closed.
            ///
            /// Only wait on it: do not read it. Somebody else may get the item first, and it may be readable
            /// for nothing while somebody is in the middle of a put, so use `try_get` then. From the first
            /// call on, for any of the processes, a put costs a system call more. Call it anew before each
            /// wait: that makes sure that the descriptor shows how things are. The call waits for nobody, but
            /// for a hundredth of a second where the descriptor is readable for nothing and somebody stands
            /// still in the middle of a put.
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.core.readiness()
            }
        }

        impl<T> Clone for $type<T> {
            /// The same queue, for another owner.
            fn clone(&self) -> Self {
                Self { core: Arc::clone(&self.core), of: PhantomData }
            }
        }

        impl<T> fmt::Debug for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("len", &self.len())
                    .field("capacity", &self.capacity())
                    .field("closed", &self.is_closed())
                    .finish()
            }
        }

        impl<T> Serialize for $type<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serialize(&self.core, serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $type<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self { core: deserialize(deserializer, $kind, $joinable)?, of: PhantomData })
            }
        }
    };
}
pub(crate) use surface;

surface!(Queue, kind::QUEUE, false, queue);
