//! Data inside a lock.
#![expect(unsafe_code, reason = "references into shared memory, under the lock")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use mp_core::Plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lock::{caller_mistake, guarded, patient};
use crate::patience::Limit;
use crate::place::Place;
use crate::view::kind;
use crate::words::lock::LockWord;
use crate::{Acquired, Result, TryLockResult, owner};

/// Data that processes share, inside the lock that guards it.
///
/// As [`std::sync::Mutex`], for data that may lie in shared memory ([`Plain`]: numbers, arrays, structs of
/// those). Clone it or send it to another process: both have the same data. It is reached through the
/// guard of [`lock`](Self::lock) only.
///
/// If the owner dies, the next to come gets the lock and the guard together with the news, within a tenth
/// of a second at most: what is inside may be half of a change. A panic, on the other hand, releases the
/// lock as the end of a block does. The guard lends out memory that others can write to: it relies on all
/// processes that have the mutex to use it through this type.
///
/// Python: `multiprocessing.Value` with its lock; there, reading and writing take the lock each for
/// themselves.
///
/// # Example
///
/// ```
/// use mp_sync::Mutex;
///
/// # fn main() -> mp_sync::Result<()> {
/// let totals = Mutex::new([0_u64; 4])?;
/// let theirs = totals.clone(); // or sent to another process
/// std::thread::spawn(move || theirs.lock().unwrap()[2] += 5).join().unwrap();
/// assert_eq!(*totals.lock()?, [0, 0, 5, 0]);
/// # Ok(())
/// # }
/// ```
pub struct Mutex<T: Plain> {
    place: Place<LockWord, T>,
}

/// Lends the data of a [`Mutex`]; releases it when dropped.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing. But it still leads to the data, which others may hold by then: do not use it there, take the lock.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct MutexGuard<'a, T: Plain> {
    mutex: &'a Mutex<T>,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives out &T and no more.
unsafe impl<T: Plain + Sync> Sync for MutexGuard<'_, T> {}

impl<T: Plain> Mutex<T> {
    /// Makes a mutex with `value` inside.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) where memory or descriptors are short.
    pub fn new(value: T) -> Result<Self> {
        Ok(Self { place: Place::create("mutex", kind::MUTEX, value)? })
    }

    fn word(&self) -> &LockWord {
        self.place.words()
    }

    fn guard(&self, me: u64) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, me, of_thread: PhantomData }
    }

    #[inline]
    fn limited(&self, limit: Limit) -> TryLockResult<MutexGuard<'_, T>> {
        let me = owner::me();
        guarded(patient(self.word().lock(me, limit), limit), || self.guard(me))
    }

    /// Waits for the lock and takes it.
    ///
    /// # Errors
    ///
    /// Where the last owner died while it held the lock. The lock is taken all the same; the error
    /// carries the guard ([`PoisonError::into_inner`]).
    ///
    /// # Panics
    ///
    /// Where this thread holds the lock already, and would wait for itself for ever.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let me = owner::me();
        match self.word().lock(me, Limit::Forever) {
            Ok(Acquired::Clean) => Ok(self.guard(me)),
            Ok(Acquired::OwnerDied) => Err(PoisonError::new(self.guard(me))),
            Err(refused) => caller_mistake(refused),
        }
    }

    /// Takes the lock if nobody holds it, or its owner is dead; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`](crate::TryLockError::WouldBlock);
    /// [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) with the guard where the last owner died
    /// while it held it.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        self.limited(Limit::Try)
    }

    /// Waits for the lock no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`](crate::TryLockError::TimedOut), also where it is this thread that holds
    /// it; [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) with the guard where the last owner
    /// died while it held it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<MutexGuard<'_, T>> {
        self.limited(Limit::For(timeout))
    }

    /// Whether anybody holds it. That may have changed by the time it is known.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.word().is_held()
    }
}

impl<'a, T: Plain> MutexGuard<'a, T> {
    pub(crate) fn word(this: &Self) -> &'a LockWord {
        this.mutex.word()
    }

    /// Who took it.
    pub(crate) fn name(this: &Self) -> u64 {
        this.me
    }
}

impl<T: Plain> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place holds a T for as long as it is mapped; this thread has the lock, and all
        // that have the mutex write to it under the lock only.
        unsafe { self.mutex.place.data().as_ref() }
    }
}

impl<T: Plain> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and &mut self is the only guard there is.
        unsafe { self.mutex.place.data().as_mut() }
    }
}

impl<T: Plain> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child it is its parent's, even where the child has the lock itself by now.
        if owner::is_me(self.me) {
            let _ = self.mutex.word().unlock(self.me);
        }
    }
}

impl<T: Plain> Clone for Mutex<T> {
    /// Gives another handle for the same data.
    fn clone(&self) -> Self {
        Self { place: self.place.clone() }
    }
}

impl<T: Plain> Serialize for Mutex<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.place.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Mutex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { place: Place::deserialize(deserializer, kind::MUTEX)? })
    }
}

impl<T: Plain> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("locked", &self.is_locked()).finish_non_exhaustive()
    }
}

impl<T: Plain> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").finish_non_exhaustive()
    }
}
