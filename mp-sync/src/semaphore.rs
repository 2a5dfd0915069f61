//! Counted permits.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::patience::Limit;
use crate::view::{View, kind, passable};
use crate::words::semaphore::{MAX, SemaphoreWords, UNBOUNDED};
use crate::{Error, Result, owner};

/// How many guards can be alive at a time: as many as fill two pages with the rest.
const GUARDS: usize = 1000;

type Words = SemaphoreWords<GUARDS>;

/// A number of permits that processes take and give.
///
/// Clone it or send it to another process: both have the same permits. Taking one that is there and
/// giving one nobody waits for takes no system call.
///
/// There are two ways to take a permit:
/// - [`permit`](Self::permit) gives a guard. It gives the permit back when dropped, and if its thread or
///   process ends without that, the permit comes back by itself: a waiter gets it within a tenth of a
///   second. At most [`MAX_GUARDS`](Self::MAX_GUARDS) can be alive at a time.
/// - [`acquire`](Self::acquire) takes one for good, until anybody, in any process, calls
///   [`release`](Self::release). Such a permit belongs to nobody, so it stays taken when its taker dies.
///   This way is a few times faster, and can be used for signals from one process to another.
///
/// Python: `multiprocessing.Semaphore`, which has the second way only.
///
/// # Example
///
/// ```
/// use mp_sync::Semaphore;
///
/// # fn main() -> mp_sync::Result<()> {
/// let connections = Semaphore::new(2)?;
/// let first = connections.permit()?;
/// connections.acquire()?;
/// assert!(connections.try_permit().is_err());
/// drop(first);
/// connections.release()?;
/// assert_eq!(connections.value(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    view: View<Words>,
}

passable!(Semaphore, kind::SEMAPHORE);

/// A [`Semaphore`] that never has more permits than it began with.
///
/// Giving back more than was taken is a bug in most programs; here it is an error.
///
/// Python: `multiprocessing.BoundedSemaphore`.
///
/// # Example
///
/// ```
/// use mp_sync::{BoundedSemaphore, Error};
///
/// # fn main() -> mp_sync::Result<()> {
/// let semaphore = BoundedSemaphore::new(1)?;
/// semaphore.acquire()?;
/// semaphore.release()?;
/// assert!(matches!(semaphore.release(), Err(Error::TooManyReleases { initial: 1 })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore {
    inner: Semaphore,
}

/// Holds one permit of a semaphore; gives it back when dropped.
///
/// Stays with its thread. If that ends with the guard forgotten, the permit comes back. A guard that a forked child has
/// inherited or captured is no permit of its own: it stays its parent's, and to drop it there does nothing.
///
/// Dropping it takes a tenth of a second where another process is stopped just while it takes or gives one; then the
/// permit comes back when that one goes on.
#[must_use = "the permit is given back as soon as the guard is dropped"]
pub struct Permit<'a> {
    words: &'a Words,
    slot: usize,
    /// Who took it.
    me: u64,
    of_thread: PhantomData<*const ()>,
}

impl Semaphore {
    /// The largest number of permits: 2^30 - 1.
    #[doc(alias = "SEM_VALUE_MAX")]
    pub const MAX_PERMITS: u32 = MAX;

    /// How many [`Permit`]s can be alive at a time, in all processes together.
    pub const MAX_GUARDS: usize = GUARDS;

    /// Makes a semaphore with `permits` to be had.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] above [`MAX_PERMITS`](Self::MAX_PERMITS), [`Error::Io`] where memory or
    /// descriptors are short.
    pub fn new(permits: u32) -> Result<Self> {
        Self::make(permits, UNBOUNDED, kind::SEMAPHORE)
    }

    fn make(permits: u32, initial: u32, kind: u64) -> Result<Self> {
        if permits > MAX {
            return Err(Error::Overflow { max: MAX });
        }
        let view: View<Words> = View::create("semaphore", kind, 0)?;
        view.begin(permits, initial);
        Ok(Self { view })
    }

    /// Takes a permit for good, waiting for one.
    ///
    /// # Errors
    ///
    /// None at present.
    #[inline]
    pub fn acquire(&self) -> Result<()> {
        self.view.acquire(owner::me, Limit::Forever)
    }

    /// Takes a permit for good if there is one; does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`].
    #[inline]
    pub fn try_acquire(&self) -> Result<()> {
        self.view.acquire(owner::me, Limit::Try)
    }

    /// Takes a permit for good, waiting for one no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<()> {
        self.view.acquire(owner::me, Limit::For(timeout))
    }

    /// Gives a permit, be it one that was taken or a new one, and wakes one that waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] at [`MAX_PERMITS`](Self::MAX_PERMITS).
    #[inline]
    pub fn release(&self) -> Result<()> {
        self.view.release()
    }

    /// Takes a permit that comes back when the guard is dropped, or its holder dies. Waits for one.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyGuards`] where [`MAX_GUARDS`](Self::MAX_GUARDS) are alive.
    ///
    /// # Example: a holder that dies
    ///
    /// ```
    /// use mp_sync::Semaphore;
    ///
    /// # fn main() -> mp_sync::Result<()> {
    /// let semaphore = Semaphore::new(1)?;
    /// let theirs = semaphore.clone();
    /// std::thread::spawn(move || std::mem::forget(theirs.permit())).join().unwrap();
    ///
    /// let permit = semaphore.permit()?; // comes back with the end of the thread
    /// # drop(permit);
    /// # Ok(())
    /// # }
    /// ```
    pub fn permit(&self) -> Result<Permit<'_>> {
        self.guarded(Limit::Forever)
    }

    /// As [`permit`](Self::permit), without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`], and as there.
    pub fn try_permit(&self) -> Result<Permit<'_>> {
        self.guarded(Limit::Try)
    }

    /// As [`permit`](Self::permit), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], and as there.
    pub fn permit_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
        self.guarded(Limit::For(timeout))
    }

    fn guarded(&self, limit: Limit) -> Result<Permit<'_>> {
        let me = owner::me();
        let slot = self.view.permit(me, limit).map_err(|error| match (error, limit) {
            (Error::TimedOut, Limit::Try) => Error::WouldBlock,
            (error, _) => error,
        })?;
        Ok(Permit { words: &self.view, slot, me, of_thread: PhantomData })
    }

    /// How many permits are to be had. That may have changed by the time it is known.
    ///
    /// Looks for dead holders of guards first, so what they held counts. That takes some microseconds for
    /// each living holder.
    #[doc(alias = "get_value")]
    #[must_use]
    pub fn value(&self) -> u32 {
        self.view.reap(owner::me(), owner::is_dead);
        self.view.value()
    }
}

impl BoundedSemaphore {
    /// Makes a semaphore with `permits` to be had, the most it will ever have.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::new`].
    pub fn new(permits: u32) -> Result<Self> {
        let inner = Semaphore::make(permits, permits, kind::BOUNDED_SEMAPHORE)?;
        Ok(Self { inner })
    }

    /// As [`Semaphore::acquire`].
    ///
    /// # Errors
    ///
    /// None at present.
    #[inline]
    pub fn acquire(&self) -> Result<()> {
        self.inner.acquire()
    }

    /// As [`Semaphore::try_acquire`].
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`].
    #[inline]
    pub fn try_acquire(&self) -> Result<()> {
        self.inner.try_acquire()
    }

    /// As [`Semaphore::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<()> {
        self.inner.acquire_timeout(timeout)
    }

    /// Gives a permit back and wakes one that waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyReleases`] where all permits are to be had already.
    #[inline]
    pub fn release(&self) -> Result<()> {
        self.inner.release()
    }

    /// As [`Semaphore::permit`].
    ///
    /// # Errors
    ///
    /// [`Error::TooManyGuards`] where [`Semaphore::MAX_GUARDS`] are alive.
    pub fn permit(&self) -> Result<Permit<'_>> {
        self.inner.permit()
    }

    /// As [`Semaphore::try_permit`].
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`], and as [`permit`](Self::permit).
    pub fn try_permit(&self) -> Result<Permit<'_>> {
        self.inner.try_permit()
    }

    /// As [`Semaphore::permit_timeout`].
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], and as [`permit`](Self::permit).
    pub fn permit_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
        self.inner.permit_timeout(timeout)
    }

    /// As [`Semaphore::value`].
    #[doc(alias = "get_value")]
    #[must_use]
    pub fn value(&self) -> u32 {
        self.inner.value()
    }
}

impl Serialize for BoundedSemaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BoundedSemaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let view = View::deserialize(deserializer, kind::BOUNDED_SEMAPHORE)?;
        Ok(Self { inner: Semaphore { view } })
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child the slot is its parent's, or the child's own by now, of another guard.
        if owner::is_me(self.me) {
            self.words.let_go(self.slot, self.me);
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("value", &self.view.value()).finish()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore").field("value", &self.inner.view.value()).finish()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
