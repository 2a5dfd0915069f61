//! A lock as a word, for a segment of one's own.
#![expect(unsafe_code, reason = "the promise that it is an atomic")]

use std::marker::PhantomData;

use mp_core::{Atomic, Deadline, Plain};
use static_assertions::const_assert_eq;

use crate::patience::Limit;
use crate::words::lock::LockWord;
use crate::{Acquired, Result, owner, view};

/// The word that a [`Lock`](crate::Lock) is, to be placed in a segment of your own.
///
/// For types that need several locks, or a lock beside much else, in one segment. Eight bytes; zero is
/// free. It does all that a lock does, but has no handle: whoever receives the segment has to compare
/// [`realm`](Self::realm) with what its maker stored.
///
/// # Example
///
/// ```
/// use mp_core::{Deadline, Segment};
/// use mp_sync::{Acquired, RawLock};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let segment = Segment::create("two locks", 1, 4096)?;
/// let (first, second) = (segment.at::<RawLock>(64)?, segment.at::<RawLock>(128)?);
/// let (guard, acquired) = first.lock(Deadline::NEVER)?;
/// assert_eq!(acquired, Acquired::Clean);
/// assert!(second.lock(Deadline::PASSED).is_ok());
/// drop(guard);
/// # Ok(())
/// # }
/// ```
#[repr(transparent)]
#[derive(Debug)]
pub struct RawLock {
    word: LockWord,
}

const_assert_eq!(size_of::<RawLock>(), 8);
// SAFETY: transparent over a word that is transparent over an AtomicU64.
unsafe impl Plain for RawLock {}
// SAFETY: as above: every byte is an atomic's.
unsafe impl Atomic for RawLock {}

/// Holds a [`RawLock`]; releases it when dropped.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing.
#[must_use = "the lock is released as soon as the guard is dropped"]
#[derive(Debug)]
pub struct RawLockGuard<'a> {
    word: &'a LockWord,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

impl RawLock {
    /// A number that tells in which pid and time namespaces this process is; 0 where that is not known.
    ///
    /// The words hold thread numbers and start times, so processes with different numbers (of which none
    /// is 0) must not share a lock: they would take each other's owners for dead.
    #[must_use]
    pub fn realm() -> u64 {
        view::namespaces()
    }

    /// Takes the lock, waiting for it until the deadline; says whether its last owner died holding it.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`](crate::Error::WouldBlock) where it is held and the deadline is
    /// [`Deadline::PASSED`], [`Error::TimedOut`](crate::Error::TimedOut),
    /// [`Error::Deadlock`](crate::Error::Deadlock) where this thread holds it.
    #[inline]
    pub fn lock(&self, deadline: Deadline) -> Result<(RawLockGuard<'_>, Acquired)> {
        let limit = if deadline == Deadline::NEVER {
            Limit::Forever
        } else if deadline == Deadline::PASSED {
            Limit::Try
        } else {
            Limit::Until(deadline)
        };
        let me = owner::me();
        let acquired = self.word.lock(me, limit)?;
        Ok((self.guard(me), acquired))
    }
}

impl RawLock {
    /// Takes the lock if it is free: the shortest way, after which [`lock`](Self::lock) does the rest.
    #[must_use]
    #[inline]
    pub fn take_free(&self) -> Option<RawLockGuard<'_>> {
        let me = owner::me();
        self.word.lock_free(me).then(|| self.guard(me))
    }

    #[inline]
    fn guard(&self, me: u64) -> RawLockGuard<'_> {
        RawLockGuard { word: &self.word, me, of_thread: PhantomData }
    }
}

impl Drop for RawLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child it is its parent's, even where the child has the lock itself by now.
        if owner::is_me(self.me) {
            let _ = self.word.unlock(self.me);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use mp_core::Segment;
    use std::time::Duration;

    #[test]
    fn it_knows_its_owner_and_survives_it() {
        let segment = Segment::create("test", 0, 4096).unwrap();
        let lock = segment.at::<RawLock>(64).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(lock.lock(Deadline::NEVER)));
        });
        let (guard, acquired) = lock.lock(Deadline::NEVER).unwrap();
        assert_eq!(acquired, Acquired::OwnerDied);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let refused = lock.lock(Deadline::PASSED).unwrap_err();
                assert!(matches!(refused, Error::WouldBlock));
                let soon = Deadline::after(Duration::from_millis(5));
                assert!(matches!(lock.lock(soon).unwrap_err(), Error::TimedOut));
            });
        });
        assert!(lock.take_free().is_none());
        drop(guard);
        drop(lock.take_free().unwrap());
        assert_eq!(lock.lock(Deadline::PASSED).unwrap().1, Acquired::Clean);
    }
}
