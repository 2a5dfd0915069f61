//! How long to wait, and how often to look up meanwhile.
//!
//! A wake-up can get lost: whoever was to give it may be killed just before, whoever got it just after. So
//! nobody here sleeps without end. A wait is cut into slices, the first half a millisecond and each twice
//! the one before up to 25 ms; at the end of each the waiter looks whether things are as they should be.

use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::{Deadline, crash_point};

#[cfg(not(mp_loom))]
use mp_core::word;
use mp_core::word::{Woken, Word};

/// What the caller of a waiting function wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// Not to wait.
    Try,
    /// To wait no longer than this.
    For(Duration),
    /// To wait no longer than until then.
    Until(Deadline),
    /// To wait.
    Forever,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nap {
    /// Woken, or without cause: look at the word again.
    Woken,
    /// The slice is over: look whether everybody still lives.
    Slice,
    /// The caller's time is over: look a last time.
    Deadline,
}

/// For how many nanoseconds to look before sleeping: what a sleep and wake-up costs.
///
/// In between others run, if there are any; one of them may be who is waited for. It may be milliseconds
/// then until this thread runs again: it looks once more and sleeps. With four processes on two cores that
/// count under one lock, a step took 39 ns so, and 55 ns where each looked without letting go of the core
/// first: that keeps fetching the word from the core of who works with it.
const LOOKING: u64 = 20_000;

/// Looks for a while, before sleeping, whether `seen` is as hoped; gives what it was last.
///
/// Once in a model: who spins there lets all others go first, and would never be seen to sleep.
#[inline]
pub(crate) fn look<T>(seen: impl Fn() -> T, hoped: impl Fn(&T) -> bool) -> T {
    let mut end = 0;
    loop {
        let now = seen();
        if hoped(&now) || cfg!(mp_loom) {
            return now;
        }
        let time = monotonic_nanos();
        if end == 0 {
            end = time + LOOKING;
        } else if time > end {
            return now;
        }
        std::thread::yield_now();
    }
}

/// One wait, over all its sleeps.
pub(crate) struct Patience {
    deadline: Deadline,
    slice: Duration,
    /// In a model: how many deaths were looked for.
    #[cfg(mp_loom)]
    deaths: u32,
}

impl Patience {
    const FIRST: Duration = Duration::from_micros(500);
    const LONGEST: Duration = Duration::from_millis(25);

    /// Starts the clock.
    pub(crate) fn new(limit: Limit) -> Self {
        let deadline = match limit {
            Limit::Try => Deadline::PASSED,
            Limit::For(timeout) => Deadline::after(timeout),
            Limit::Until(deadline) => deadline,
            Limit::Forever => Deadline::NEVER,
        };
        Self {
            deadline,
            slice: Self::FIRST,
            #[cfg(mp_loom)]
            deaths: 0,
        }
    }

    /// What is left, for a wait inside of this one that should not be long; a millisecond at least.
    pub(crate) fn left(&self) -> Limit {
        match self.deadline.remaining() {
            Some(left) => Limit::For(left.max(Duration::from_millis(1))),
            None => Limit::Forever,
        }
    }

    /// Sleeps while `word` is `expected`: for a slice, or until woken, or until the deadline.
    pub(crate) fn sleep<W: Word>(&mut self, word: &W, expected: W::Value) -> Nap {
        let slice = Deadline::after(self.slice);
        crash_point!("wait: about to sleep");
        let woken = self.sleep_until(slice, word, expected);
        crash_point!("wait: no longer asleep");
        match woken {
            Woken::LookAgain if self.deadline.has_passed() => Nap::Deadline,
            Woken::LookAgain => Nap::Woken,
            Woken::TimedOut if self.deadline <= slice => Nap::Deadline,
            Woken::TimedOut => {
                self.slice = (self.slice * 2).min(Self::LONGEST);
                Nap::Slice
            }
        }
    }

    #[cfg(not(mp_loom))]
    fn sleep_until<W: Word>(&self, slice: Deadline, word: &W, expected: W::Value) -> Woken {
        word::sleep(word, expected, slice.min(self.deadline))
    }

    /// There is no time in a model: a slice ends where the word's owner is dead, and when somebody is killed.
    #[cfg(mp_loom)]
    fn sleep_until<W: Word>(&mut self, _: Deadline, word: &W, expected: W::Value) -> Woken {
        if self.deadline == Deadline::PASSED || crate::owner::is_dead(W::wide(expected)) {
            return Woken::TimedOut;
        }
        mp_core::word::sleep_until_death(word, expected, Some(&mut self.deaths))
    }
}
