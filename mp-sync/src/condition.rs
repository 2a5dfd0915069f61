//! Waiting for what a lock guards to change.

use std::fmt;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use mp_core::{Deadline, Plain, crash_point};

use crate::lock::LockGuard;
use crate::mutex::MutexGuard;
use crate::patience::{Limit, Patience};
use crate::rlock::{RLockGuard, locked, locked_within};
use crate::view::{View, kind, passable};
use crate::words::condition::ConditionWords;
use crate::{Acquired, Error, Result, TryLockResult, owner};

/// How many can wait at a time: as many as fill eight pages with the rest.
const WAITERS: usize = 1000;

/// A place to wait, with a lock released, until another process says that something changed.
///
/// As [`std::sync::Condvar`]: hold a [`Lock`](crate::Lock), an [`RLock`](crate::RLock) or a
/// [`Mutex`](crate::Mutex), look at what it guards, and [`wait`](Self::wait) with the guard while it is not
/// as you need it. Whoever changes it calls [`notify_one`](Self::notify_one) or
/// [`notify_all`](Self::notify_all). All parties use the same lock with one condition. For those who need
/// no lock besides, the condition has an [`RLock`](crate::RLock) of its own ([`lock`](Self::lock)).
///
/// Notifying never waits for the notified, and a waiter that is killed neither hangs anybody nor takes a
/// notification with it: one it got and could not act on goes to another that waited then, within a tenth
/// of a second. Waiters are woken in the order they came. A wait can end without cause, as std's can, so
/// look again: [`wait_while`](Self::wait_while) does. It does so where more than
/// [`MAX_WAITERS`](Self::MAX_WAITERS) wait: those above look every millisecond.
///
/// Python: `multiprocessing.Condition`, whose `notify` waits until the notified have woken, and hangs if
/// one was killed. `wait_for(predicate)` is [`wait_while`](Self::wait_while) of the opposite.
///
/// # Example
///
/// ```
/// use mp_sync::{Condition, Mutex};
///
/// # fn main() -> mp_sync::Result<()> {
/// let (stock, changed) = (Mutex::new(0_u32)?, Condition::new()?);
/// let (theirs, told) = (stock.clone(), changed.clone()); // or sent to another process
/// let consumer = std::thread::spawn(move || -> mp_sync::Result<u32> {
///     let mut stock = told.wait_while(theirs.lock()?, |stock| *stock == 0)?;
///     *stock -= 1;
///     Ok(*stock)
/// });
///
/// *stock.lock()? += 3;
/// changed.notify_one();
/// assert_eq!(consumer.join().unwrap()?, 2);
/// # Ok(())
/// # }
/// ```
///
/// # Example: the condition's own lock
///
/// ```
/// use std::time::Duration;
/// use mp_sync::Condition;
///
/// # fn main() -> mp_sync::Result<()> {
/// let condition = Condition::new()?;
/// let guard = condition.lock()?;
/// let (guard, result) = condition.wait_timeout(guard, Duration::from_millis(1))?;
/// assert!(result.timed_out()); // nobody notified
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "Condvar")]
#[derive(Clone)]
pub struct Condition {
    view: View<ConditionWords<WAITERS>>,
}

passable!(Condition, kind::CONDITION);

/// Whether a wait with a timeout ended because the time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over before a notification came.
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

/// A guard that a [`Condition`] can wait with: that of a `Lock`, `RLock` or `Mutex`.
///
/// Sealed: only this crate implements it.
pub trait ConditionGuard: sealed::Guard {
    /// What [`Condition::wait_while`] shows its closure: what the guard derefs to, or nothing.
    type Data;

    /// What the lock guards.
    #[doc(hidden)]
    fn data(&mut self) -> &mut Self::Data;
}

mod sealed {
    use crate::{Acquired, Result};

    #[expect(unnameable_types, reason = "that is what seals it")]
    pub trait Guard {
        /// Who took it.
        fn name(&self) -> u64;
        /// Releases the lock, however often it was taken, and says how often.
        fn unlock_all(&self, me: u64) -> Result<u32>;
        /// Takes it again as often.
        fn lock_all(&self, me: u64, depth: u32) -> Result<Acquired>;
    }
}

impl sealed::Guard for LockGuard<'_> {
    fn name(&self) -> u64 {
        LockGuard::name(self)
    }

    fn unlock_all(&self, me: u64) -> Result<u32> {
        self.word().unlock_unpinned(me)?;
        Ok(1)
    }

    fn lock_all(&self, me: u64, _: u32) -> Result<Acquired> {
        Ok(self.word().lock(me, Limit::Forever)?)
    }
}

impl sealed::Guard for RLockGuard<'_> {
    fn name(&self) -> u64 {
        RLockGuard::name(self)
    }

    fn unlock_all(&self, me: u64) -> Result<u32> {
        Ok(self.words().unlock_all(me)?)
    }

    fn lock_all(&self, me: u64, depth: u32) -> Result<Acquired> {
        Ok(self.words().lock_all(me, depth)?)
    }
}

impl<T: Plain> sealed::Guard for MutexGuard<'_, T> {
    fn name(&self) -> u64 {
        MutexGuard::name(self)
    }

    fn unlock_all(&self, me: u64) -> Result<u32> {
        MutexGuard::word(self).unlock(me)?;
        Ok(1)
    }

    fn lock_all(&self, me: u64, _: u32) -> Result<Acquired> {
        Ok(MutexGuard::word(self).lock(me, Limit::Forever)?)
    }
}

/// What a guard without data derefs to. A value of no size, so one for all is as good as one for each.
fn nothing<'a>() -> &'a mut () {
    Box::leak(Box::new(()))
}

impl ConditionGuard for LockGuard<'_> {
    type Data = ();

    fn data(&mut self) -> &mut () {
        nothing()
    }
}

impl ConditionGuard for RLockGuard<'_> {
    type Data = ();

    fn data(&mut self) -> &mut () {
        nothing()
    }
}

impl<T: Plain> ConditionGuard for MutexGuard<'_, T> {
    type Data = T;

    fn data(&mut self) -> &mut T {
        self
    }
}

impl Condition {
    /// How many waiters are kept in order and notified one by one; more may wait, and look by themselves.
    pub const MAX_WAITERS: usize = WAITERS;

    /// Makes a condition, with a lock of its own that nobody holds.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) where memory or descriptors are short.
    pub fn new() -> Result<Self> {
        Ok(Self { view: View::create("condition", kind::CONDITION, 0)? })
    }

    /// Takes the condition's own lock, as [`RLock::lock`](crate::RLock::lock).
    ///
    /// # Errors
    ///
    /// Where its last owner died while it held it; the error carries the guard.
    pub fn lock(&self) -> LockResult<RLockGuard<'_>> {
        locked(&self.view.lock)
    }

    /// Takes the condition's own lock, as [`RLock::try_lock`](crate::RLock::try_lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_lock(&self) -> TryLockResult<RLockGuard<'_>> {
        locked_within(&self.view.lock, Limit::Try)
    }

    /// Takes the condition's own lock, as [`RLock::lock_timeout`](crate::RLock::lock_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<RLockGuard<'_>> {
        locked_within(&self.view.lock, Limit::For(timeout))
    }

    /// Releases the lock, waits for a notification, and takes the lock again.
    ///
    /// A recursive lock is released altogether, and taken again as deep as it was.
    ///
    /// # Errors
    ///
    /// Where an owner of the lock died meanwhile. The lock is taken all the same; the error carries the
    /// guard.
    ///
    /// # Panics
    ///
    /// Where this thread does not hold the lock: it was released by hand, or the guard came into this
    /// process by `fork`.
    pub fn wait<G: ConditionGuard>(&self, guard: G) -> LockResult<G> {
        self.wait_limited(guard, Limit::Forever, Deadline::NEVER).0
    }

    /// As [`wait`](Self::wait), for no longer than `timeout`, plus what it takes to get the lock again.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<G: ConditionGuard>(
        &self,
        guard: G,
        timeout: Duration,
    ) -> LockResult<(G, WaitTimeoutResult)> {
        let (guard, notified) =
            self.wait_limited(guard, Limit::For(timeout), Deadline::after(timeout));
        with_result(guard, WaitTimeoutResult(!notified))
    }

    /// Waits for as long as `condition` says so: looks, waits for a notification, looks again.
    ///
    /// The closure gets what the guard derefs to: the data of a `Mutex`, `()` for the other locks.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and then without looking on.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    #[doc(alias = "wait_for")]
    pub fn wait_while<G, F>(&self, mut guard: G, mut condition: F) -> LockResult<G>
    where
        G: ConditionGuard,
        F: FnMut(&mut G::Data) -> bool,
    {
        while condition(guard.data()) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait_while`](Self::wait_while), for no longer than `timeout`. It has timed out if `condition`
    /// still says to wait at the end.
    ///
    /// # Errors
    ///
    /// As [`wait_while`](Self::wait_while).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    #[doc(alias = "wait_for")]
    pub fn wait_timeout_while<G, F>(
        &self,
        mut guard: G,
        timeout: Duration,
        mut condition: F,
    ) -> LockResult<(G, WaitTimeoutResult)>
    where
        G: ConditionGuard,
        F: FnMut(&mut G::Data) -> bool,
    {
        let deadline = Deadline::after(timeout);
        while condition(guard.data()) {
            let left = match deadline.remaining() {
                Some(Duration::ZERO) => return Ok((guard, WaitTimeoutResult(true))),
                Some(left) => Limit::For(left),
                None => Limit::Forever,
            };
            guard = match self.wait_limited(guard, left, deadline).0 {
                Ok(guard) => guard,
                Err(died) => return with_result(Err(died), WaitTimeoutResult(false)),
            };
        }
        Ok((guard, WaitTimeoutResult(false)))
    }

    /// Waits; says whether there was a notification.
    fn wait_limited<G: ConditionGuard>(
        &self,
        guard: G,
        limit: Limit,
        deadline: Deadline,
    ) -> (LockResult<G>, bool) {
        let me = owner::me();
        let mut patience = Patience::new(limit);
        let slot = self.view.enter(me);
        // What a forked child has inherited is its parent's, even where the child has the lock itself by now.
        let mine = if guard.name() == me { Ok(()) } else { Err(Error::NotOwner) };
        let depth = match mine.and_then(|()| guard.unlock_all(me)) {
            Ok(depth) => depth,
            Err(error) => {
                if let Some(slot) = slot {
                    self.view.leave(slot);
                }
                panic!("{error}");
            }
        };
        crash_point!("condition: its lock is released");
        let notified = match slot {
            Some(slot) => self.view.wait(slot, me, &mut patience),
            None => {
                let look = Duration::from_millis(1);
                std::thread::sleep(deadline.remaining().map_or(look, |left| left.min(look)));
                !deadline.has_passed()
            }
        };
        let news = guard.lock_all(me, depth);
        // Only now: until the lock is had, a notification can still be passed on.
        if let Some(slot) = slot.filter(|_| notified) {
            self.view.leave(slot);
        }
        let guard = match news {
            Ok(Acquired::OwnerDied) => Err(PoisonError::new(guard)),
            _ => Ok(guard),
        };
        (guard, notified)
    }

    /// Wakes the one that has waited longest, if any. Never waits.
    #[doc(alias = "notify")]
    pub fn notify_one(&self) {
        self.view.notify(1);
    }

    /// Wakes the `count` that have waited longest, or all if there are no more. Never waits.
    pub fn notify(&self, count: usize) {
        self.view.notify(count);
    }

    /// Wakes all that wait. Never waits.
    pub fn notify_all(&self) {
        self.view.notify_all();
    }
}

fn with_result<G>(
    guard: LockResult<G>,
    result: WaitTimeoutResult,
) -> LockResult<(G, WaitTimeoutResult)> {
    match guard {
        Ok(guard) => Ok((guard, result)),
        Err(died) => Err(PoisonError::new((died.into_inner(), result))),
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}
