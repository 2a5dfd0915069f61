//! A lock that its owner can take again.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use crate::lock::{caller_mistake, guarded};
use crate::patience::Limit;
use crate::view::{View, kind, passable};
use crate::words::rlock::RLockWords;
use crate::{Acquired, Result, TryLockResult, owner};

/// A lock that the thread that has it can take again.
///
/// It is free once it was released as often as it was taken. For the rest it is as a
/// [`Lock`](crate::Lock): shared by all clones, in whichever process; if its owner dies, the next to come
/// gets it with the news, within a tenth of a second at most, however deep the owner had taken it.
///
/// Python: `multiprocessing.RLock`, which stays locked when its owner dies.
///
/// # Example
///
/// ```
/// use mp_sync::RLock;
///
/// fn outer(lock: &RLock) -> mp_sync::Result<()> {
///     let _guard = lock.lock()?;
///     inner(lock) // takes it again
/// }
///
/// fn inner(lock: &RLock) -> mp_sync::Result<()> {
///     let _guard = lock.lock()?;
///     assert_eq!(lock.depth(), 2);
///     Ok(())
/// }
///
/// # fn main() -> mp_sync::Result<()> {
/// let lock = RLock::new()?;
/// outer(&lock)?;
/// assert!(!lock.is_locked());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RLock {
    view: View<RLockWords>,
}

passable!(RLock, kind::RLOCK);

/// Holds an [`RLock`]; releases it once when dropped.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct RLockGuard<'a> {
    words: &'a RLockWords,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

impl RLock {
    /// Makes a lock that nobody holds.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) where memory or descriptors are short.
    pub fn new() -> Result<Self> {
        Ok(Self { view: View::create("rlock", kind::RLOCK, 0)? })
    }

    /// Takes the lock, waiting while another thread has it.
    ///
    /// # Errors
    ///
    /// Where the last owner died while it held the lock. The lock is taken all the same; the error
    /// carries the guard ([`PoisonError::into_inner`]).
    ///
    /// # Panics
    ///
    /// Where this thread has taken it 2^32 - 1 times.
    #[inline]
    pub fn lock(&self) -> LockResult<RLockGuard<'_>> {
        locked(&self.view)
    }

    /// Takes the lock if no other thread holds it, or its owner is dead; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`](crate::TryLockError::WouldBlock);
    /// [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) with the guard where the last owner died
    /// while it held it.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<RLockGuard<'_>> {
        locked_within(&self.view, Limit::Try)
    }

    /// Takes the lock, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`](crate::TryLockError::TimedOut);
    /// [`TryLockError::Poisoned`](crate::TryLockError::Poisoned) with the guard where the last owner died
    /// while it held it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<RLockGuard<'_>> {
        locked_within(&self.view, Limit::For(timeout))
    }

    /// Takes the lock in Python's style: no guard, [`release`](Self::release) it as often.
    ///
    /// Says whether the last owner died while it held it; it is held now in both cases.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`](crate::Error::Overflow) where this thread has taken it 2^32 - 1 times.
    #[inline]
    pub fn acquire(&self) -> Result<Acquired> {
        Ok(self.view.lock(owner::me(), Limit::Forever)?)
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`](crate::Error::WouldBlock) where another thread holds it.
    #[inline]
    pub fn try_acquire(&self) -> Result<Acquired> {
        Ok(self.view.lock(owner::me(), Limit::Try)?)
    }

    /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`](crate::Error::TimedOut).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        Ok(self.view.lock(owner::me(), Limit::For(timeout))?)
    }

    /// Releases the lock once, however this thread took it.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`](crate::Error::NotOwner) where this thread does not hold it.
    #[inline]
    pub fn release(&self) -> Result<()> {
        Ok(self.view.unlock(owner::me())?)
    }

    /// How often this thread has taken it and not released it.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.view.depth(owner::me())
    }

    /// Whether anybody holds it. That may have changed by the time it is known.
    #[doc(alias = "locked")]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.view.word.is_held()
    }
}

pub(crate) fn locked(words: &RLockWords) -> LockResult<RLockGuard<'_>> {
    let me = owner::me();
    match words.lock(me, Limit::Forever) {
        Ok(Acquired::Clean) => Ok(RLockGuard::new(words, me)),
        Ok(Acquired::OwnerDied) => Err(PoisonError::new(RLockGuard::new(words, me))),
        Err(refused) => caller_mistake(refused),
    }
}

pub(crate) fn locked_within(words: &RLockWords, limit: Limit) -> TryLockResult<RLockGuard<'_>> {
    let me = owner::me();
    guarded(words.lock(me, limit), || RLockGuard::new(words, me))
}

impl<'a> RLockGuard<'a> {
    fn new(words: &'a RLockWords, me: u64) -> Self {
        Self { words, me, of_thread: PhantomData }
    }

    pub(crate) fn words(&self) -> &'a RLockWords {
        self.words
    }

    /// Who took it.
    pub(crate) fn name(&self) -> u64 {
        self.me
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child it is its parent's, even where the child has the lock itself by now.
        if owner::is_me(self.me) {
            // Not the owner: released by hand, which leaves nothing to do.
            let _ = self.words.unlock(self.me);
        }
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").field("locked", &self.is_locked()).finish()
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").finish_non_exhaustive()
    }
}
