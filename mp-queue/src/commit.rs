//! The words that say what is in a queue, and sleeping until one of them changes.
//!
//! A queue has three: what was put, what was got, and what was done (by `task_done`). Each counts up, and
//! one compare-and-swap of it is what makes a put, a get or a done happen: before it there was nothing, after
//! it there is all of it, whoever is killed when. What else a side keeps (where its next record goes) lies in
//! two slots, of which the word names the one that holds; the other is free to be filled for the next commit.
//!
//! # Sleeping
//!
//! Who finds a queue empty sleeps on the word of what was put; who finds it full, on what was got; who
//! joins, on what was done. Before, it marks the word. So whoever changes the word learns from the very same
//! step whether anybody sleeps, and without the mark there is no system call and no fence. The mark stays
//! until a wake-up finds nobody; then it is taken away, and whoever went to sleep on it in between is woken
//! once more.

use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::{Deadline, crash_point, spin};

use mp_core::word::{self, ALL, AtomicU64, Ordering, Woken, ordering, taken};

/// What a [`CommitWord`] says.
///
/// | bits | content |
/// | --- | --- |
/// | 0 | [`WAITERS`](Self::WAITERS): somebody may sleep on the word |
/// | 1 | which of the two slots holds |
/// | 2 | [`CLOSED`](Self::CLOSED): nothing can be put any more |
/// | 3 | [`WATCHED`](Self::WATCHED): the descriptor has to show whether there is something |
/// | 4..34 | how many items, modulo 2^30 |
/// | 34..64 | how many units of 16 bytes they take, modulo 2^30 |
///
/// A queue has room for less than 2^30 units, and so for fewer items, which makes differences exact. The half
/// that a futex compares changes with each commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u64);

/// The largest difference there can be of two counts.
pub(crate) const MOST: u64 = (1 << 30) - 1;

impl Mark {
    pub(crate) const WAITERS: u64 = 1;
    const SLOT: u64 = 1 << 1;
    pub(crate) const CLOSED: u64 = 1 << 2;
    pub(crate) const WATCHED: u64 = 1 << 3;
    /// What may change without the lock of the word's side.
    const FLAGS: u64 = Self::WAITERS | Self::CLOSED | Self::WATCHED;
    const ITEMS: u32 = 4;
    const UNITS: u32 = 34;

    pub(crate) fn has_waiters(self) -> bool {
        self.0 & Self::WAITERS != 0
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    pub(crate) fn is_watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    /// The slot that holds: 0 or 1.
    #[inline]
    pub(crate) fn slot(self) -> usize {
        usize::from(self.0 & Self::SLOT != 0)
    }

    /// How many items more than `other` it counts.
    #[inline]
    pub(crate) fn items_since(self, other: Self) -> u64 {
        (self.0 >> Self::ITEMS).wrapping_sub(other.0 >> Self::ITEMS) & MOST
    }

    /// How many units more than `other` it counts.
    #[inline]
    pub(crate) fn units_since(self, other: Self) -> u64 {
        (self.0 >> Self::UNITS).wrapping_sub(other.0 >> Self::UNITS) & MOST
    }

    /// After so many more items of so many units: the other slot, the same flags.
    #[inline]
    pub(crate) fn advanced(self, items: u64, units: u64) -> Self {
        let items = (self.0 >> Self::ITEMS).wrapping_add(items) & MOST;
        let units = (self.0 >> Self::UNITS).wrapping_add(units) & MOST;
        let flags = self.0 & Self::FLAGS;
        Self(
            items << Self::ITEMS
                | units << Self::UNITS
                | (self.0 & Self::SLOT ^ Self::SLOT)
                | flags,
        )
    }

    /// Whether something else happened than that somebody went to sleep.
    #[inline]
    fn differs(self, other: Self) -> bool {
        (self.0 ^ other.0) & !Self::WAITERS != 0
    }
}

/// Why a commit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCommit {
    /// It was closed meanwhile.
    Closed,
    /// The word was changed by somebody who does not hold the lock: a faulty peer.
    Damaged,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nap {
    /// The word changed, or perhaps not: look again.
    Again,
    /// The caller's time is over.
    Deadline,
}

#[repr(transparent)]
pub(crate) struct CommitWord {
    word: AtomicU64,
}

impl CommitWord {
    #[cfg(mp_loom)]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// What it says now.
    ///
    /// Acquire: pairs with the Release in `commit`, so what was committed is seen.
    #[inline]
    pub(crate) fn load(&self) -> Mark {
        Mark(self.word.load(ordering!(LookAcquires, Acquire)))
    }

    /// Lets so many items and units be, whose slot is filled, after `seen`; gives what the word says then.
    ///
    /// For who holds the side's lock. Flags that others set meanwhile stay. With `unless_closed`, fails
    /// where the queue is closed. Where it is watched, calls `show` before.
    #[inline]
    pub(crate) fn commit(
        &self,
        mut seen: Mark,
        items: u64,
        units: u64,
        unless_closed: bool,
        show: impl Fn(),
    ) -> Result<Mark, NoCommit> {
        let mut shown = false;
        // Each round but the first stands for a flag that somebody changed; a peer that does nothing else
        // is a faulty one.
        for _ in 0..10_000 {
            if unless_closed && seen.is_closed() {
                return Err(NoCommit::Closed);
            }
            // In each round, as somebody may have begun to watch since the last. Before the commit: who is
            // killed in between has shown what is not there, which is found out, not hidden what is.
            if seen.is_watched() && !shown && taken!(CommitShows) {
                show();
                shown = true;
            }
            let new = seen.advanced(items, units);
            let stored = if taken!(CommitKeepsMark) { new.0 } else { new.0 & !Mark::WAITERS };
            // Release: publishes the record and the slot. Acquire, on failure: as `load`.
            match self.word.compare_exchange(
                seen.0,
                stored,
                ordering!(CommitPublishes, Release),
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(new),
                Err(now) if (now ^ seen.0) & !Mark::FLAGS == 0 => seen = Mark(now),
                Err(_) => break,
            }
        }
        Err(NoCommit::Damaged)
    }

    /// Sets a flag for good; gives what the word said before.
    pub(crate) fn set(&self, flag: u64) -> Mark {
        // AcqRel: who sees the flag sees what was before it, and the other way round.
        Mark(self.word.fetch_or(flag, Ordering::AcqRel))
    }

    /// Has each commit from now on shown; gives what the word says.
    ///
    /// What was committed before was not shown, perhaps: it is in what this gives.
    pub(crate) fn watch(&self) -> Mark {
        let seen = self.load();
        if seen.is_watched() { seen } else { Mark(self.set(Mark::WATCHED).0 | Mark::WATCHED) }
    }

    /// Closes it for those who put. Where it is watched, calls `shut` before.
    pub(crate) fn close(&self, shut: impl Fn()) {
        let mut seen = self.load();
        // Each round but the first stands for a commit that came in between. After so many it is shut in any
        // case, which does no harm.
        for _ in 0..1000 {
            if seen.is_watched() {
                break;
            }
            // As `set`.
            match self.word.compare_exchange(
                seen.0,
                seen.0 | Mark::CLOSED,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(now) => seen = Mark(now),
            }
        }
        if taken!(CloseShuts) {
            shut();
        }
        self.set(Mark::CLOSED);
    }

    /// Wakes up to `count` of those who sleep, after a commit that gave `now` with their mark.
    #[cold]
    pub(crate) fn wake(&self, mut now: Mark, count: u32) {
        if !taken!(CommitWakes) {
            return;
        }
        if word::wake(&self.word, count) > 0 {
            return;
        }
        // Nobody: the mark is old. Whoever went to sleep on it until it was gone is not told of by anything
        // any more, so all are woken once, to mark it anew.
        for _ in 0..3 {
            if !now.has_waiters() {
                return;
            }
            match self.word.compare_exchange(
                now.0,
                now.0 & !Mark::WAITERS,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    crash_point!("wake: the mark is gone");
                    if taken!(ClearWakesAll) {
                        word::wake(&self.word, ALL);
                    }
                    return;
                }
                Err(seen) => now = Mark(seen),
            }
        }
    }

    /// Wakes all, after something that all have to look at.
    pub(crate) fn wake_all(&self) {
        if taken!(CloseWakes) {
            word::wake(&self.word, ALL);
        }
    }

    /// Waits until the word says something else than `seen`, for a slice at most.
    pub(crate) fn wait(&self, seen: Mark, patience: &mut Patience) -> Nap {
        let now = patience.look(|| self.load(), |now| now.differs(seen));
        if now.differs(seen) {
            return Nap::Again;
        }
        if patience.has_passed() {
            return Nap::Deadline;
        }
        // Relaxed: the mark publishes nothing; that it is there before the sleep is the kernel's compare to
        // see.
        if taken!(MarkBeforeSleep)
            && !now.has_waiters()
            && self
                .word
                .compare_exchange(
                    now.0,
                    now.0 | Mark::WAITERS,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_err()
        {
            return Nap::Again;
        }
        let asleep = if taken!(MarkBeforeSleep) { now.0 | Mark::WAITERS } else { now.0 };
        patience.sleep(&self.word, asleep)
    }

    /// Counts one item that is done, if `put` counts more; gives whether it was the last, or fails.
    pub(crate) fn finish_one(&self, put: &CommitWord) -> Result<bool, NothingLeft> {
        let mut seen = self.load();
        for _ in 0..1_000_000 {
            // After the load above: there can only be more by now.
            let all = put.load();
            if all.items_since(seen) == 0 {
                return Err(NothingLeft);
            }
            let new = seen.advanced(1, 0);
            let last = all.items_since(new) == 0;
            // AcqRel: what was done before is seen by who joins.
            match self.word.compare_exchange(seen.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    crash_point!("done: counted");
                    if last && new.has_waiters() && taken!(DoneWakes) {
                        self.wake(new, ALL);
                    }
                    return Ok(last);
                }
                Err(now) => seen = Mark(now),
            }
        }
        Err(NothingLeft)
    }
}

/// All that was put is done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NothingLeft;

impl std::fmt::Debug for CommitWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.load().fmt(f)
    }
}

/// One wait, over all its sleeps.
///
/// A wake-up can get lost: whoever was to give it may be killed just before, whoever got it just after. So
/// nobody sleeps without end, but in slices, and looks after each. They grow to a tenth of a second: that is
/// how long an item can lie unnoticed where that happened and nobody else comes by, and what it costs is
/// ten looks a second.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Deadline,
    slice: Duration,
    #[cfg(not(mp_loom))]
    began: u64,
    /// Whether it has slept: then somebody's wake-up may have been meant for more than one.
    pub(crate) slept: bool,
    /// Whether the last sleep ended because its slice was over.
    in_vain: bool,
}

impl Patience {
    const FIRST: Duration = Duration::from_millis(2);
    const LONGEST: Duration = Duration::from_millis(100);

    pub(crate) fn new(deadline: Deadline) -> Self {
        Self {
            deadline,
            slice: Self::FIRST,
            #[cfg(not(mp_loom))]
            began: monotonic_nanos(),
            slept: false,
            in_vain: false,
        }
    }

    fn has_passed(&self) -> bool {
        self.deadline.has_passed()
    }

    /// For how long it has lasted.
    #[cfg(not(mp_loom))]
    pub(crate) fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_nanos().saturating_sub(self.began))
    }

    /// Sleeps where nobody wakes, for so long at most; fails where the caller's time is over.
    #[cfg(not(mp_loom))]
    pub(crate) fn rest(&self, most: Duration) -> crate::Result<()> {
        let nobody_wakes = AtomicU64::new(0);
        let _ = word::sleep(&nobody_wakes, 0, Deadline::after(most).min(self.deadline));
        if self.has_passed() { Err(crate::Error::TimedOut) } else { Ok(()) }
    }

    /// Looks for a while, before sleeping, whether `seen` is as hoped; gives what it was last.
    ///
    /// Once where a slice of sleep was in vain: nobody is about to come, and a long wait is to cost next to nothing.
    /// Once in a model, too: who spins there lets all others go first, and would never be seen to sleep.
    fn look<T>(&self, seen: impl Fn() -> T, hoped: impl Fn(&T) -> bool) -> T {
        let at_once = self.in_vain || cfg!(mp_loom);
        spin::look_yielding(seen, |now| hoped(now) || at_once || self.has_passed())
    }

    fn sleep(&mut self, word: &AtomicU64, expected: u64) -> Nap {
        let slice = if cfg!(mp_loom) { Deadline::NEVER } else { Deadline::after(self.slice) };
        self.slept = true;
        crash_point!("wait: about to sleep");
        let woken = word::sleep(word, expected, slice.min(self.deadline));
        self.in_vain = woken == Woken::TimedOut;
        match woken {
            Woken::TimedOut if self.deadline <= slice => Nap::Deadline,
            Woken::TimedOut => {
                self.slice = (self.slice * 4).min(Self::LONGEST);
                Nap::Again
            }
            Woken::LookAgain => Nap::Again,
        }
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_wrap_and_differences_stay_exact(
            start: u64,
            steps in proptest::collection::vec((0_u64..1 << 20, 0_u64..1 << 20), 0..50),
        ) {
            let start = Mark(start);
            let (mut now, mut items, mut units) = (start, 0, 0);
            for (more_items, more_units) in steps {
                let next = now.advanced(more_items, more_units);
                prop_assert_ne!(next.slot(), now.slot());
                prop_assert_eq!(next.0 & Mark::FLAGS, now.0 & Mark::FLAGS);
                now = next;
                items += more_items;
                units += more_units;
            }
            prop_assert_eq!(now.items_since(start), items);
            prop_assert_eq!(now.units_since(start), units);
        }
    }

    #[test]
    fn a_commit_keeps_the_flags_that_others_set_and_heeds_the_close() {
        let word = CommitWord { word: AtomicU64::new(0) };
        let (seen, shown) = (word.load(), std::cell::Cell::new(0));
        word.set(Mark::WATCHED | Mark::WAITERS);
        let now = word.commit(seen, 1, 3, true, || shown.set(shown.get() + 1)).unwrap();
        assert!(now.is_watched() && now.has_waiters() && now.slot() == 1);
        assert_eq!(shown.get(), 1, "watched only since it was seen");
        assert_eq!((now.items_since(seen), now.units_since(seen)), (1, 3));
        assert_eq!(word.load(), now);
        word.set(Mark::CLOSED);
        assert_eq!(word.commit(now, 1, 1, true, || {}), Err(NoCommit::Closed));
        assert!(word.commit(now, 1, 1, false, || {}).unwrap().is_closed());
        assert_eq!(word.commit(now, 1, 1, false, || {}), Err(NoCommit::Damaged));
    }

    #[test]
    fn a_mark_that_nobody_sleeps_on_goes() {
        let word = CommitWord { word: AtomicU64::new(Mark::WAITERS) };
        word.wake(word.load(), 1);
        assert!(!word.load().has_waiters());
    }
}
