//! How long to wait, and how often to look up meanwhile.
//!
//! A wake-up can get lost: whoever was to give it may be killed just before, whoever got it just after. So
//! nobody here sleeps without end. A wait is cut into slices, of 1, 4, 16 and from then on 50 ms; at the end
//! of each the waiter looks whether things are as they should be. Where all that can have happened is that a
//! wake-up got lost, they are longer: hundreds may wait, and what each costs should not be seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::{Deadline, crash_point, spin};

#[cfg(not(mp_loom))]
use mp_core::word;
use mp_core::word::{AtomicU32, Woken, Word};

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

impl Limit {
    /// When the time is over that begins now.
    pub(crate) fn deadline(self) -> Deadline {
        match self {
            Self::Try => Deadline::PASSED,
            Self::For(timeout) => Deadline::after(timeout),
            Self::Until(deadline) => deadline,
            Self::Forever => Deadline::NEVER,
        }
    }

    /// The same with a time that has begun, for several waits that share it.
    pub(crate) fn begun(self) -> Self {
        if let Self::For(timeout) = self { Self::Until(Deadline::after(timeout)) } else { self }
    }
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

/// How long a process goes on, in nanoseconds, before it gives way again.
const TURN: u64 = 500_000;

/// How long it waits for who was woken to come: a few wake-ups' time.
const WAY: u64 = 100_000;

/// After a wake-up: lets who was woken come, now and then.
///
/// Who releases and takes again at once is there before anybody that has yet to wake up: a waiter beside three
/// processes that did so waited for seconds. Handing over every time would cost each step a wake-up; so a process
/// stands back twice in a millisecond or less, and for no longer than until `come`.
pub(crate) fn give_way(come: impl Fn() -> bool) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let start = monotonic_nanos();
    // Relaxed: several threads may stand back at a time.
    if cfg!(mp_loom) || start < NEXT.load(Ordering::Relaxed) {
        return;
    }
    let mut now = start;
    while now < start + WAY && !come() {
        std::thread::yield_now();
        now = monotonic_nanos();
    }
    NEXT.store(now + TURN, Ordering::Relaxed);
}

/// Waits until then, for nothing; signals do not stretch it.
#[cfg(not(mp_loom))]
pub(crate) fn sit_out(deadline: Deadline) {
    let nobody_wakes = AtomicU32::new(0);
    while !deadline.has_passed() {
        let _ = word::sleep(&nobody_wakes, 0, deadline);
    }
}

/// One wait, over all its sleeps.
pub(crate) struct Patience {
    deadline: Deadline,
    slice: Duration,
    longest: Duration,
    /// Whether the last sleep ended because its slice was over.
    in_vain: bool,
    /// In a model: how many deaths were looked for.
    #[cfg(mp_loom)]
    deaths: u32,
}

impl Patience {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(50);
    const LONGEST_ALONE: Duration = Duration::from_millis(100);

    /// Starts the clock.
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            deadline: limit.deadline(),
            slice: Self::FIRST,
            longest: Self::LONGEST,
            in_vain: false,
            #[cfg(mp_loom)]
            deaths: 0,
        }
    }

    /// The same for a wait that depends on nobody's life but that of who ends it.
    pub(crate) fn for_wake_up(limit: Limit) -> Self {
        Self { slice: Self::LONGEST, longest: Self::LONGEST_ALONE, ..Self::new(limit) }
    }

    /// What is left, for a wait inside of this one that should not be long; a millisecond at least.
    pub(crate) fn left(&self) -> Limit {
        match self.deadline.remaining() {
            Some(left) => Limit::For(left.max(Duration::from_millis(1))),
            None => Limit::Forever,
        }
    }

    /// Looks for a while, before sleeping, whether `seen` is as hoped; gives what it was last.
    ///
    /// Once where a slice of sleep was in vain: nobody is about to come, and a long wait is to cost next to nothing,
    /// as hundreds may wait. Once in a model, too: who spins there lets all others go first, and would never be seen
    /// to sleep.
    #[inline]
    pub(crate) fn look<T>(&self, seen: impl Fn() -> T, hoped: impl Fn(&T) -> bool) -> T {
        spin::look_yielding(seen, |now| hoped(now) || self.in_vain || cfg!(mp_loom))
    }

    /// Sleeps while `word` is `expected`: for a slice, or until woken, or until the deadline.
    pub(crate) fn sleep<W: Word>(&mut self, word: &W, expected: W::Value) -> Nap {
        let slice = Deadline::after(self.slice);
        crash_point!("wait: about to sleep");
        let woken = self.sleep_until(slice, word, expected);
        crash_point!("wait: no longer asleep");
        self.in_vain = woken == Woken::TimedOut;
        match woken {
            Woken::LookAgain if self.deadline.has_passed() => Nap::Deadline,
            Woken::LookAgain => Nap::Woken,
            Woken::TimedOut if self.deadline <= slice => Nap::Deadline,
            Woken::TimedOut => {
                self.slice = (self.slice * 4).min(self.longest);
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

/// When the dead are to be looked for next among many, by whoever of those who wait comes by then: so that it costs the
/// same however many do. A look at one takes 6 to 25 us.
#[repr(transparent)]
pub(crate) struct Watch {
    /// Milliseconds on the monotonic clock, wrapping.
    next: AtomicU32,
}

impl Watch {
    /// For one part in so many of the time somebody looks.
    const SHARE: u64 = 40;
    /// The longest pause in milliseconds, also where who looks is killed.
    const LONGEST: u32 = 100;

    #[cfg(any(test, mp_loom))]
    pub(crate) fn new() -> Self {
        Self { next: AtomicU32::new(0) }
    }

    /// Has the caller `look`, if it is time to.
    pub(crate) fn take_turn(&self, look: impl FnOnce()) {
        if cfg!(mp_loom) {
            return look();
        }
        let millis = |nanos: u64| (nanos / 1_000_000) as u32;
        let start = monotonic_nanos();
        let next = self.next.load(Ordering::Relaxed);
        // What lies further ahead nobody here wrote: it is time then.
        let ahead = next.wrapping_sub(millis(start));
        if (1..=Self::LONGEST).contains(&ahead) {
            return;
        }
        // Relaxed: it orders nothing; at worst two look.
        let last = millis(start).wrapping_add(Self::LONGEST);
        let turn = self.next.compare_exchange(next, last, Ordering::Relaxed, Ordering::Relaxed);
        if turn.is_err() {
            return;
        }
        crash_point!("watch: about to look for the dead");
        look();
        let end = monotonic_nanos();
        let pause = millis((end - start) * Self::SHARE).clamp(1, Self::LONGEST);
        self.next.store(millis(end).wrapping_add(pause), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn many_who_watch_look_as_often_as_one() {
        let (watch, looks) = (Watch::new(), Cell::new(0));
        let look = || {
            looks.set(looks.get() + 1);
            std::thread::sleep(Duration::from_millis(1));
        };
        let start = monotonic_nanos();
        (0..1000).for_each(|_| watch.take_turn(look));
        let millis = (monotonic_nanos() - start) / 1_000_000;
        assert!((1..=1 + millis / 40).contains(&looks.get()), "{} in {millis} ms", looks.get());
    }

    #[test]
    fn what_a_stranger_wrote_keeps_nobody_from_looking() {
        let now = (monotonic_nanos() / 1_000_000) as u32;
        for next in [0, u32::MAX, now, now.wrapping_sub(1), now.wrapping_add(10_000)] {
            let (watch, looked) = (Watch { next: AtomicU32::new(next) }, Cell::new(false));
            watch.take_turn(|| looked.set(true));
            assert!(looked.get(), "{next}, {now}");
        }
    }
}
