//! A lock.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use crate::patience::Limit;
use crate::view::{View, kind, passable};
use crate::words::lock::{LockWord, Refused};
use crate::{Acquired, Error, Result, TryLockError, TryLockResult, owner};

/// A lock that processes share.
///
/// One thread of one process has it at a time, from [`lock`](Self::lock) until the guard is dropped, or
/// from [`acquire`](Self::acquire) until [`release`](Self::release). Clone it or send it to another
/// process: both have the same lock.
///
/// If its owner dies, be it killed, be it a thread that ends, the next to come gets the lock together with
/// the news: typically within a millisecond, while it waits, never after more than a tenth of a second.
///
/// Taking a free lock and releasing one nobody waits for takes no system call. Whoever waits looks for
/// some microseconds and then sleeps. It is not fair: a thread that releases and takes again at once may
/// win over one that has waited.
///
/// Python: `multiprocessing.Lock`, which any process may release, and which stays locked when its owner
/// dies.
///
/// # Example
///
/// ```
/// use mp_sync::Lock;
///
/// # fn main() -> mp_sync::Result<()> {
/// let lock = Lock::new()?;
/// {
///     let _guard = lock.lock()?;
///     println!("one process at a time prints this");
/// }
/// assert!(lock.try_lock().is_ok());
/// # Ok(())
/// # }
/// ```
///
/// # Example: an owner that dies
///
/// ```
/// use mp_sync::Lock;
///
/// # fn main() -> mp_sync::Result<()> {
/// let lock = Lock::new()?;
/// let careless = lock.clone();
/// std::thread::spawn(move || std::mem::forget(careless.lock())).join().unwrap();
///
/// let guard = match lock.lock() {
///     Ok(guard) => guard,
///     Err(poisoned) => {
///         println!("repairing what the lock guards");
///         poisoned.into_inner()
///     }
/// };
/// drop(guard);
/// assert!(lock.lock().is_ok()); // the news comes once
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    view: View<LockWord>,
}

passable!(Lock, kind::LOCK);

/// Holds a [`Lock`]; releases it when dropped.
///
/// Stays with its thread, as the lock is that thread's:
///
/// ```compile_fail,E0277
/// # let lock = mp_sync::Lock::new().unwrap();
/// let guard = lock.lock().unwrap();
/// std::thread::scope(|scope| { scope.spawn(move || drop(guard)); });
/// ```
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct LockGuard<'a> {
    word: &'a LockWord,
    of_thread: PhantomData<*const ()>,
}

impl Lock {
    /// Makes a lock that nobody holds.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where memory or descriptors are short.
    pub fn new() -> Result<Self> {
        Ok(Self { view: View::create("lock", kind::LOCK, 0)? })
    }

    fn word(&self) -> &LockWord {
        &self.view
    }

    #[inline]
    fn take(&self, limit: Limit) -> Result<Acquired, Refused> {
        patient(self.word().lock(owner::me(), limit), limit)
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
    pub fn lock(&self) -> LockResult<LockGuard<'_>> {
        match self.take(Limit::Forever) {
            Ok(Acquired::Clean) => Ok(LockGuard::new(self.word())),
            Ok(Acquired::OwnerDied) => Err(PoisonError::new(LockGuard::new(self.word()))),
            Err(refused) => caller_mistake(refused),
        }
    }

    /// Takes the lock if nobody holds it, or its owner is dead; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] where it is held, [`TryLockError::Poisoned`] with the guard where the
    /// last owner died while it held it.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<LockGuard<'_>> {
        guarded(self.take(Limit::Try), || LockGuard::new(self.word()))
    }

    /// Waits for the lock no longer than `timeout`. What is to be had at once is had after any time.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], also where it is this thread that holds it;
    /// [`TryLockError::Poisoned`] with the guard where the last owner died while it held it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<LockGuard<'_>> {
        guarded(self.take(Limit::For(timeout)), || LockGuard::new(self.word()))
    }

    /// Waits for the lock and takes it, in Python's style: no guard, [`release`](Self::release) it.
    ///
    /// Says whether the last owner died while it held it; it is held now in both cases.
    ///
    /// # Errors
    ///
    /// [`Error::Deadlock`] where this thread holds it already.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_sync::{Acquired, Lock};
    ///
    /// # fn main() -> mp_sync::Result<()> {
    /// let lock = Lock::new()?;
    /// assert_eq!(lock.acquire()?, Acquired::Clean);
    /// lock.release()?;
    /// assert!(lock.release().is_err()); // nobody holds it
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn acquire(&self) -> Result<Acquired> {
        Ok(self.take(Limit::Forever)?)
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where somebody holds it, be it this thread.
    #[inline]
    pub fn try_acquire(&self) -> Result<Acquired> {
        Ok(self.take(Limit::Try)?)
    }

    /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], also where it is this thread that holds it.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        Ok(self.take(Limit::For(timeout))?)
    }

    /// Releases the lock, however this thread took it.
    ///
    /// Python: any process may do that there. Use a [`Semaphore`](crate::Semaphore) for what one takes and
    /// another gives.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`] where this thread does not hold it.
    #[inline]
    pub fn release(&self) -> Result<()> {
        Ok(self.word().unlock(owner::me())?)
    }

    /// Whether anybody holds it. That may have changed by the time it is known.
    ///
    /// A dead owner still counts: the next to take the lock learns of it.
    #[doc(alias = "locked")]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.word().is_held()
    }
}

/// What a thread that has a lock already gets when it wants it once more, but not without end: what
/// anybody else would.
#[inline]
pub(crate) fn patient<T>(taken: Result<T, Refused>, limit: Limit) -> Result<T, Refused> {
    match (taken, limit) {
        (Err(Refused::Deadlock), Limit::Try) => Err(Refused::WouldBlock),
        (Err(Refused::Deadlock), Limit::For(timeout)) => {
            std::thread::sleep(timeout);
            Err(Refused::TimedOut)
        }
        (taken, _) => taken,
    }
}

/// Puts the guard of what was taken in its place.
#[inline]
pub(crate) fn guarded<G>(
    taken: Result<Acquired, Refused>,
    guard: impl FnOnce() -> G,
) -> TryLockResult<G> {
    match taken {
        Ok(Acquired::Clean) => Ok(guard()),
        Ok(Acquired::OwnerDied) => Err(TryLockError::Poisoned(PoisonError::new(guard()))),
        Err(Refused::TimedOut) => Err(TryLockError::TimedOut),
        Err(Refused::WouldBlock) => Err(TryLockError::WouldBlock),
        Err(refused) => caller_mistake(refused),
    }
}

/// For calls that cannot return an error, where the caller's own mistake is all that can be wrong.
#[cold]
#[track_caller]
pub(crate) fn caller_mistake(refused: Refused) -> ! {
    panic!("{}", Error::from(refused))
}

impl<'a> LockGuard<'a> {
    fn new(word: &'a LockWord) -> Self {
        Self { word, of_thread: PhantomData }
    }

    pub(crate) fn word(&self) -> &'a LockWord {
        self.word
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Not the owner: released by hand, or this is a forked child and the lock its parent's. Both
        // leave nothing to do.
        let _ = self.word.unlock(owner::me());
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("locked", &self.is_locked()).finish()
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").finish_non_exhaustive()
    }
}
