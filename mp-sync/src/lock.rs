//! A lock.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

use mp_core::Segment;

use crate::patience::{Limit, sit_out};
use crate::view::{START, View, kind, passable};
use crate::words::lock::{LockWord, PINNED, Refused};
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
/// win over one that has waited. But now and then, for a tenth of a millisecond at most, who has woken another
/// lets it come first, so that nobody waits for ever.
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
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing.
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
    /// Who took it.
    me: u64,
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

    /// Where the room of [`with_room`](Self::with_room) begins in the lock's segment.
    pub const ROOM: usize = START + size_of::<LockWord>();

    /// Makes a lock with so many bytes of room behind it, in the same segment; all zero.
    ///
    /// For types that keep what a lock guards beside it, so that both are one descriptor and, if it is
    /// little, one cache line. `name` shows in `/proc/PID/maps`. The lock behaves as any other.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where memory or descriptors are short.
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use mp_sync::Lock;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Lock::with_room("counter", 8)?;
    /// let count = lock.segment().at::<AtomicU64>(Lock::ROOM)?;
    /// let guard = lock.lock().unwrap();
    /// count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_room(name: &str, room: usize) -> Result<Self> {
        Ok(Self { view: View::create(name, kind::LOCK, room)? })
    }

    /// The segment that the lock lies in, with its [room](Self::with_room).
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        self.view.segment()
    }

    /// Takes the lock for something that lends out what the lock guards.
    ///
    /// As [`acquire`](Self::acquire), but until the pin is dropped [`release`](Self::release) is an error:
    /// code that has the lock and a reference to what it guards could release the one and keep the other.
    /// Waits no longer than `timeout`; without end for `None`, not at all for zero.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], and [`Error::Deadlock`] where this thread holds it.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_sync::{Acquired, Error, Lock};
    ///
    /// # fn main() -> mp_sync::Result<()> {
    /// let lock = Lock::new()?;
    /// let (pin, acquired) = lock.pin(None)?;
    /// assert_eq!(acquired, Acquired::Clean);
    /// assert!(matches!(lock.release(), Err(Error::NotOwner)));
    /// drop(pin);
    /// assert!(!lock.is_locked());
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn pin(&self, timeout: Option<Duration>) -> Result<(LockPin<'_>, Acquired)> {
        let limit = timeout.map_or(Limit::Forever, Limit::For);
        let me = owner::me();
        let acquired = self.word().lock(me | PINNED, limit)?;
        Ok((LockPin { word: self.word(), me, of_thread: PhantomData }, acquired))
    }

    /// A number that names the thread that holds the lock, and no other one ever; 0 where nobody does.
    ///
    /// Of use to the holder only: for others it may have changed by the time it is known.
    #[must_use]
    #[inline]
    pub fn holder(&self) -> u64 {
        self.word().owner()
    }

    #[inline]
    fn word(&self) -> &LockWord {
        &self.view
    }

    #[inline]
    fn take(&self, me: u64, limit: Limit) -> Result<Acquired, Refused> {
        patient(self.word().lock(me, limit), limit)
    }

    #[inline]
    fn guard(&self, me: u64) -> LockGuard<'_> {
        LockGuard { word: self.word(), me, of_thread: PhantomData }
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
        let me = owner::me();
        match self.take(me, Limit::Forever) {
            Ok(Acquired::Clean) => Ok(self.guard(me)),
            Ok(Acquired::OwnerDied) => Err(PoisonError::new(self.guard(me))),
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
        let me = owner::me();
        guarded(self.take(me, Limit::Try), || self.guard(me))
    }

    /// Waits for the lock no longer than `timeout`. What is to be had at once is had after any time.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], also where it is this thread that holds it;
    /// [`TryLockError::Poisoned`] with the guard where the last owner died while it held it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<LockGuard<'_>> {
        let me = owner::me();
        guarded(self.take(me, Limit::For(timeout)), || self.guard(me))
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
        Ok(self.take(owner::me(), Limit::Forever)?)
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where somebody holds it, be it this thread.
    #[inline]
    pub fn try_acquire(&self) -> Result<Acquired> {
        Ok(self.take(owner::me(), Limit::Try)?)
    }

    /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], also where it is this thread that holds it.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        Ok(self.take(owner::me(), Limit::For(timeout))?)
    }

    /// Releases the lock, however this thread took it.
    ///
    /// Python: any process may do that there. Use a [`Semaphore`](crate::Semaphore) for what one takes and
    /// another gives.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`] where this thread does not hold it, or by a [`LockPin`].
    #[inline]
    pub fn release(&self) -> Result<()> {
        Ok(self.word().unlock_unpinned(owner::me())?)
    }

    /// Whether the calling thread holds it.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.word().owner() == owner::me()
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

/// Holds a [`Lock`] that lends out what it guards; releases it when dropped. Made by [`Lock::pin`].
///
/// In a forked child that has inherited or captured it, it holds nothing: see [`is_owned`](Self::is_owned).
#[must_use = "the lock is released as soon as the pin is dropped"]
pub struct LockPin<'a> {
    word: &'a LockWord,
    me: u64,
    of_thread: PhantomData<*const ()>,
}

impl LockPin<'_> {
    /// What [`Lock::holder`] is while this lives, without a look at the lock.
    #[must_use]
    #[inline]
    pub fn holder(&self) -> u64 {
        self.me
    }

    /// Whether the calling thread holds the lock by this pin. Not so in a forked child: there it is its parent's, and to
    /// drop it does nothing, whatever the child holds itself.
    #[must_use]
    #[inline]
    pub fn is_owned(&self) -> bool {
        owner::is_me(self.me)
    }
}

impl Drop for LockPin<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_owned() {
            let _ = self.word.unlock(self.me | PINNED);
        }
    }
}

impl fmt::Debug for LockPin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockPin").finish_non_exhaustive()
    }
}

/// What a thread that has a lock already gets when it wants it once more, but not without end: what
/// anybody else would.
#[inline]
pub(crate) fn patient<T>(taken: Result<T, Refused>, limit: Limit) -> Result<T, Refused> {
    match (taken, limit) {
        (Err(Refused::Deadlock), Limit::Try) => Err(Refused::WouldBlock),
        (Err(Refused::Deadlock), Limit::For(_) | Limit::Until(_)) => {
            sit_out(limit.deadline());
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
    pub(crate) fn word(&self) -> &'a LockWord {
        self.word
    }

    /// Who took it.
    pub(crate) fn name(&self) -> u64 {
        self.me
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child it is its parent's, even where the child has the lock itself by now.
        if owner::is_me(self.me) {
            // Not the owner: released by hand, which leaves nothing to do.
            let _ = self.word.unlock_unpinned(self.me);
        }
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
