//! The word of an Event.

use mp_core::crash_point;

use crate::patience::{Limit, Nap, Patience};
use mp_core::word::{self, ALL, AtomicU32, Ordering, ordering, taken};

/// Whether it is set, and how often it was: so that whoever waited sees a set that was cleared at once.
#[repr(transparent)]
pub(crate) struct EventWord {
    /// | bits | content |
    /// | --- | --- |
    /// | 0 | it is set |
    /// | 1 | somebody may sleep |
    /// | 2..32 | how often it was set, wrapping |
    word: AtomicU32,
}

const SET: u32 = 1;
const WAITERS: u32 = 2;
const ONCE: u32 = 4;

impl EventWord {
    #[cfg(mp_loom)]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    pub(crate) fn is_set(&self) -> bool {
        // Acquire: pairs with the Release in `set`.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it and wakes all.
    pub(crate) fn set(&self) {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            // Set already: written again as it is, so that what this thread did before is seen too.
            let new =
                if seen & SET != 0 { seen } else { (seen & !(ONCE - 1)).wrapping_add(ONCE) | SET };
            // Release: pairs with the Acquire of who waits or asks.
            match self.word.compare_exchange_weak(
                seen,
                new,
                ordering!(EventSet, Release),
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        crash_point!("event: set, about to wake");
        if seen & WAITERS != 0 && taken!(EventWake) {
            word::wake(&self.word, ALL);
        }
    }

    pub(crate) fn clear(&self) {
        // Relaxed: clearing publishes nothing.
        self.word.fetch_and(!SET, Ordering::Relaxed);
        crash_point!("event: cleared");
    }

    /// Waits until it is set, or was; false when the time is over.
    pub(crate) fn wait(&self, limit: Limit) -> bool {
        let first = self.now();
        first & SET != 0 || self.wait_since(first, limit)
    }

    /// The word as it is.
    pub(crate) fn now(&self) -> u32 {
        // Acquire: pairs with the Release in `set`.
        self.word.load(Ordering::Acquire)
    }

    /// Waits until it is set, or was after the word was `first`.
    pub(crate) fn wait_since(&self, first: u32, limit: Limit) -> bool {
        let mut patience = Patience::for_wake_up(limit);
        let mut last_look = false;
        loop {
            let was_set = |seen: &u32| *seen & SET != 0 || *seen / ONCE != first / ONCE;
            let seen = patience.look(|| self.now(), was_set);
            if was_set(&seen) {
                return true;
            }
            if last_look {
                return false;
            }
            // Relaxed: the kernel compares the word again.
            if seen & WAITERS == 0
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            crash_point!("event: a waiter's mark is set");
            // At the end of a slice too there is nothing but the word to look at: whoever set it may
            // have been killed before waking.
            last_look = patience.sleep(&self.word, seen | WAITERS) == Nap::Deadline;
        }
    }
}
