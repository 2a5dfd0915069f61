//! Data inside a lock for one writer or many readers.
#![expect(unsafe_code, reason = "references into shared memory, under the lock")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::LockResult;
use std::time::Duration;

use mp_core::Plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lock::{guarded, patient};
use crate::patience::Limit;
use crate::place::Place;
use crate::view::kind;
use crate::words::rwlock::RwLockWords;
use crate::{Error, Result, TryLockError, TryLockResult, owner};

/// How many lines of readers, of eight each: as many as fill a page with the rest.
const LINES: usize = 60;

type Words = RwLockWords<LINES>;

/// Data that processes share, for one to write or many to read at a time.
///
/// As [`std::sync::RwLock`], for data that may lie in shared memory ([`Plain`]). Clone it or send it to
/// another process: both have the same data.
///
/// Readers do not get in each other's way: each has a place of its own in the lock, up to 480 at a time,
/// more wait. A writer that waits keeps new readers out, so a thread that reads must not read again before
/// it is done, or the two may wait for each other.
///
/// A reader that dies is gone: a writer waits for it a tenth of a second at most. If a writer dies,
/// all that come get their guard together with the news, until one of them is a writer, which can repair
/// what is inside. The guards lend out memory that
/// others can write to: they rely on all processes that have the lock to use it through this type.
///
/// # Example
///
/// ```
/// use mp_sync::RwLock;
///
/// # fn main() -> mp_sync::Result<()> {
/// let settings = RwLock::new([1_i64, 2])?;
/// let theirs = settings.clone(); // or sent to another process
/// {
///     let one = settings.read()?;
///     assert!(theirs.try_read().is_ok() && theirs.try_write().is_err());
///     assert_eq!(one[1], 2);
/// }
/// theirs.write()?[1] = 3;
/// assert_eq!(*settings.read()?, [1, 3]);
/// # Ok(())
/// # }
/// ```
pub struct RwLock<T: Plain> {
    place: Place<Words, T>,
}

/// Lends the data of an [`RwLock`] for reading.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing. But it still leads to the data, which others may hold by then: do not use it there, take the lock.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct RwLockReadGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    slot: usize,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

/// Lends the data of an [`RwLock`] for writing.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing. But it still leads to the data, which others may hold by then: do not use it there, take the lock.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct RwLockWriteGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives out &T and no more.
unsafe impl<T: Plain + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: a shared guard gives out &T and no more.
unsafe impl<T: Plain + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T: Plain> RwLock<T> {
    /// Makes a lock with `value` inside.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where memory or descriptors are short.
    pub fn new(value: T) -> Result<Self> {
        Ok(Self { place: Place::create("rwlock", kind::RWLOCK, value)? })
    }

    fn words(&self) -> &Words {
        self.place.words()
    }

    fn write_guard(&self, me: u64) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard { lock: self, me, of_thread: PhantomData }
    }

    fn read_guard(&self, slot: usize, me: u64) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard { lock: self, slot, me, of_thread: PhantomData }
    }

    fn read_limited(&self, limit: Limit) -> TryLockResult<RwLockReadGuard<'_, T>>
    where
        T: Sync,
    {
        let (mut slot, me) = (0, owner::me());
        let taken = self.words().read(me, limit).map(|(taken, news)| {
            slot = taken;
            news
        });
        guarded(patient(taken, limit), || self.read_guard(slot, me))
    }

    fn write_limited(&self, limit: Limit) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        // One time for all that it waits for.
        let limit = limit.begun();
        let me = owner::me();
        let taken = self.words().write(me, limit);
        guarded(patient(taken, limit), || self.write_guard(me))
    }

    /// Waits while another writes, and takes the lock for reading.
    ///
    /// # Errors
    ///
    /// Where the last writer died while it held the lock, until another writes. The lock is taken all the
    /// same; the error carries the guard ([`PoisonError::into_inner`](std::sync::PoisonError::into_inner)).
    ///
    /// # Panics
    ///
    /// Where this thread writes, and would wait for itself for ever.
    #[inline]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>>
    where
        T: Sync,
    {
        or_panic(self.read_limited(Limit::Forever))
    }

    /// Takes the lock for reading if nobody writes or waits to write; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`]; [`TryLockError::Poisoned`] with the guard where the last writer died while it held it.
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>>
    where
        T: Sync,
    {
        self.read_limited(Limit::Try)
    }

    /// As [`read`](Self::read), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and as [`try_read`](Self::try_read).
    pub fn read_timeout(&self, timeout: Duration) -> TryLockResult<RwLockReadGuard<'_, T>>
    where
        T: Sync,
    {
        self.read_limited(Limit::For(timeout))
    }

    /// Waits until nobody else reads or writes, and takes the lock for writing.
    ///
    /// # Errors
    ///
    /// Where the last writer died while it held the lock. The lock is taken all the same; the error
    /// carries the guard ([`PoisonError::into_inner`](std::sync::PoisonError::into_inner)).
    ///
    /// # Panics
    ///
    /// Where this thread reads or writes, and would wait for itself for ever; whoever else reads or writes.
    #[inline]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        or_panic(self.write_limited(Limit::Forever))
    }

    /// Takes the lock for writing if nobody reads or writes; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`]; [`TryLockError::Poisoned`] with the guard where the last writer died while it held it.
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        self.write_limited(Limit::Try)
    }

    /// As [`write`](Self::write), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and as [`try_write`](Self::try_write).
    pub fn write_timeout(&self, timeout: Duration) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        self.write_limited(Limit::For(timeout))
    }
}

/// For calls that wait without end, where all that is left is the caller's own mistake.
fn or_panic<G>(taken: TryLockResult<G>) -> LockResult<G> {
    match taken {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(died)) => Err(died),
        Err(other) => panic!("{}", Error::from(other)),
    }
}

impl<T: Plain> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place holds a T for as long as it is mapped; while this thread reads, nobody that
        // uses the lock writes. Several threads may have such a &T: read() asks for T: Sync.
        unsafe { self.lock.place.data().as_ref() }
    }
}

impl<T: Plain> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as above; this thread writes, so nobody else reads or writes.
        unsafe { self.lock.place.data().as_ref() }
    }
}

impl<T: Plain> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and &mut self is the only guard there is.
        unsafe { self.lock.place.data().as_mut() }
    }
}

impl<T: Plain> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child the slot is its parent's, or the child's own by now, of another guard.
        if owner::is_me(self.me) {
            self.lock.words().leave(self.slot, self.me);
        }
    }
}

impl<T: Plain> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child it is its parent's, even where the child has the lock itself by now.
        if owner::is_me(self.me) {
            self.lock.words().unlock(self.me);
        }
    }
}

impl<T: Plain> Clone for RwLock<T> {
    /// Gives another handle for the same data.
    fn clone(&self) -> Self {
        Self { place: self.place.clone() }
    }
}

impl<T: Plain> Serialize for RwLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.place.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RwLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { place: Place::deserialize(deserializer, kind::RWLOCK)? })
    }
}

impl<T: Plain> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock")
            .field("written", &self.words().is_write_locked())
            .finish_non_exhaustive()
    }
}

impl<T: Plain> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLockReadGuard").finish_non_exhaustive()
    }
}

impl<T: Plain> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLockWriteGuard").finish_non_exhaustive()
    }
}
