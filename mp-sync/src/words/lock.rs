//! The word that Lock, RLock, Mutex and the writers of an RwLock are.

use crate::owner::{self, FLAG_A};
use mp_core::crash_point;

use crate::patience::{Limit, Nap, Patience, give_way};
use crate::{Acquired, Error};
use mp_core::word::{self, AtomicU64, Ordering, ordering, taken};

type Result<T> = std::result::Result<T, Refused>;

/// A lock that knows its owner and survives it.
///
/// Taking it is one compare-and-swap from nobody to the caller's name, releasing it one back. Whatever
/// happens in between is seen from the name: if its thread has ended, the next to come swaps its own
/// name in, and has the lock and the news. There is no step at which that could be interrupted, as the
/// word is all there is.
#[repr(transparent)]
pub(crate) struct LockWord {
    /// | value | meaning |
    /// | --- | --- |
    /// | 0 | free, nobody sleeps that nobody was sent to wake |
    /// | a name ([`owner`]) | held by that thread |
    /// | a name + [`WAITERS`] | held, and somebody may sleep on the low half |
    /// | either of these + `PINNED` | held by something that lends out what the lock guards |
    /// | [`WAITERS`] alone | by a faulty peer only; taken as free |
    word: AtomicU64,
}

/// Somebody may sleep: whoever releases has to wake.
const WAITERS: u64 = FLAG_A;

/// What an owner adds to its name to take and to release what `unlock_unpinned` must not release.
#[cfg(not(mp_loom))]
pub(crate) const PINNED: u64 = owner::FLAG_B;

/// Why a lock was not taken, or not released: [`Error`], small enough for a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    TimedOut,
    WouldBlock,
    Deadlock,
    NotOwner,
    /// A recursive lock was taken 2^32 - 1 times.
    TooDeep,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TimedOut => Self::TimedOut,
            Refused::WouldBlock => Self::WouldBlock,
            Refused::Deadlock => Self::Deadlock,
            Refused::NotOwner => Self::NotOwner,
            Refused::TooDeep => Self::Overflow { max: u32::MAX },
        }
    }
}

impl LockWord {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Takes the lock for `me`.
    ///
    /// Errors: `Deadlock` where `me` has it, `WouldBlock` and `TimedOut` as `limit` says.
    #[inline]
    pub(crate) fn lock(&self, me: u64, limit: Limit) -> Result<Acquired> {
        // Acquire: pairs with the Release in `unlock`, so what the last owner wrote is seen.
        match self.word.compare_exchange(0, me, ordering!(LockTake, Acquire), Ordering::Relaxed) {
            Ok(_) => {
                crash_point!("lock: taken");
                Ok(Acquired::Clean)
            }
            Err(_) => self.lock_slow(me, limit),
        }
    }

    /// Takes the lock for `me` if nobody holds it and nobody sleeps.
    #[inline]
    pub(crate) fn lock_free(&self, me: u64) -> bool {
        self.take(0, me)
    }

    #[cold]
    fn lock_slow(&self, me: u64, limit: Limit) -> Result<Acquired> {
        let seen = self.word.load(Ordering::Relaxed);
        if owner::of(seen) == owner::of(me) {
            return Err(Refused::Deadlock);
        }
        if let Limit::Try = limit {
            return self.try_slow(me);
        }
        let mut patience = Patience::new(limit);
        // What the word gets beside the name. Who has slept may have been woken alone among many: the
        // others are for the next release to wake, so they have to stay marked.
        let mut mark = 0;
        loop {
            let seen = self.look(&patience);
            if owner::of(seen) == 0 {
                if self.take(seen, me | seen & WAITERS | mark) {
                    crash_point!("lock: taken after a wait");
                    return Ok(Acquired::Clean);
                }
                continue;
            }
            // Relaxed: the mark publishes nothing; that it is there before the sleep is the kernel's
            // compare to see.
            if seen & WAITERS == 0
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            mark = WAITERS;
            crash_point!("lock: a waiter's mark is set");
            match patience.sleep(&self.word, seen | WAITERS) {
                Nap::Woken => {}
                Nap::Slice => {
                    if self.take_from_dead(seen | WAITERS, me | WAITERS) {
                        crash_point!("lock: taken from the dead");
                        return Ok(Acquired::OwnerDied);
                    }
                }
                Nap::Deadline => {
                    let result = self.try_slow(me);
                    if result.is_err() {
                        return Err(Refused::TimedOut);
                    }
                    crash_point!("lock: taken at the last moment");
                    // Others may sleep; this thread's release has to wake them.
                    self.word.fetch_or(WAITERS, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    /// Takes it if it is free, or its owner dead.
    fn try_slow(&self, me: u64) -> Result<Acquired> {
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if owner::of(seen) == 0 {
                if self.take(seen, me | seen & WAITERS) {
                    return Ok(Acquired::Clean);
                }
            } else if owner::is_dead_lately(seen) {
                if self.take(seen, me | seen & WAITERS) {
                    crash_point!("lock: taken from the dead at once");
                    return Ok(Acquired::OwnerDied);
                }
            } else {
                return Err(Refused::WouldBlock);
            }
        }
    }

    #[inline]
    fn take(&self, seen: u64, new: u64) -> bool {
        // Acquire: as in `lock`. From a dead owner there is no Release to pair with; that it was seen
        // to have ended, by way of the kernel, puts all it wrote before.
        self.word.compare_exchange(seen, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn take_from_dead(&self, seen: u64, new: u64) -> bool {
        // The name in `seen` stands for one thread for ever, so the swap cannot hit a later owner.
        owner::is_dead(seen) && self.take(seen, new)
    }

    /// Looks for a while whether the lock gets free; gives the word's last value.
    fn look(&self, patience: &Patience) -> u64 {
        patience.look(|| self.word.load(Ordering::Relaxed), |&seen| owner::of(seen) == 0)
    }

    /// Releases what `me` holds.
    ///
    /// Errors: `NotOwner`, and then nothing is changed.
    #[inline]
    pub(crate) fn unlock(&self, me: u64) -> Result<()> {
        self.unlock_waking(me, 1)
    }

    /// As [`unlock`](Self::unlock), but leaves alone what `me` took pinned.
    #[cfg(not(mp_loom))]
    #[inline]
    pub(crate) fn unlock_unpinned(&self, me: u64) -> Result<()> {
        match self.word.compare_exchange(me, 0, ordering!(LockRelease, Release), Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(seen) if seen & PINNED != 0 => Err(Refused::NotOwner),
            Err(seen) => self.unlock_slow(seen, me, 1),
        }
    }

    /// As [`unlock`](Self::unlock), waking up to `count` of those who sleep.
    #[inline]
    pub(crate) fn unlock_waking(&self, me: u64, count: u32) -> Result<()> {
        // Release: pairs with the Acquire of whoever takes it next.
        match self.word.compare_exchange(me, 0, ordering!(LockRelease, Release), Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(seen) => self.unlock_slow(seen, me, count),
        }
    }

    #[cold]
    fn unlock_slow(&self, seen: u64, me: u64, count: u32) -> Result<()> {
        if owner::of(seen) != owner::of(me) {
            return Err(Refused::NotOwner);
        }
        // Only waiters change the word of a living owner, and only by their mark.
        crash_point!("lock: about to be released, with waiters");
        self.word.swap(0, ordering!(LockRelease, Release));
        crash_point!("lock: released, about to wake");
        if taken!(LockWake) {
            word::wake(&self.word, count);
        }
        // Who has slept keeps the mark when it takes the lock.
        give_way(|| self.word.load(Ordering::Relaxed) & WAITERS != 0);
        Ok(())
    }

    /// Whose name the word has; 0 for none.
    #[inline]
    pub(crate) fn owner(&self) -> u64 {
        owner::of(self.word.load(Ordering::Relaxed))
    }

    /// Whether somebody holds it: at least then, and dead or alive.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.owner() != 0
    }

    /// Whether somebody other than `me` held it just now.
    ///
    /// Acquire: pairs with the Release of `unlock`, for readers that find it free.
    #[inline]
    pub(crate) fn is_held_by_other(&self, me: u64) -> bool {
        let owner = owner::of(self.word.load(Ordering::Acquire));
        owner != 0 && owner != me
    }

    /// Sleeps until it may be free, or the owner's death shows.
    pub(crate) fn wait_free(&self, patience: &mut Patience) -> Nap {
        let seen = self.look(patience);
        if owner::of(seen) == 0 {
            return Nap::Woken;
        }
        if seen & WAITERS == 0
            && self
                .word
                .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return Nap::Woken;
        }
        patience.sleep(&self.word, seen | WAITERS)
    }
}

impl std::fmt::Debug for LockWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockWord").field("held", &self.is_held()).finish()
    }
}
