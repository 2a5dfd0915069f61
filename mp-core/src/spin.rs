//! How long to look before sleeping.
//!
//! Two processes that look at the same word see each other's writes within a tenth of a microsecond; a
//! process that sleeps is woken in five to fifty. Whoever expects an answer soon looks for about as long
//! as a sleep and wake-up would cost, and then sleeps: never worse than twice the better choice.
//!
//! What a wake-up costs here is measured, by those who are woken: a waker leaves the time beside the word,
//! the woken reports how long it took with [`record_wake_up`], and the budget follows. Where this process
//! may use one CPU only, looking would keep the other side from running: there the budget is nothing.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::clock::monotonic_nanos;
use crate::sys::process::usable_cpus;

/// Before anything was measured: what waking a process on another core takes on a virtual machine.
const FIRST_GUESS: u64 = 25_000;
const LEAST: u64 = 2_000;
const MOST: u64 = 100_000;

/// What a wake-up costs, in nanoseconds, averaged over the last few. Plain statistics: nothing is
/// published through it, so its accesses are relaxed.
static WAKE_UP: AtomicU64 = AtomicU64::new(FIRST_GUESS);

/// Takes into account that a wake-up took `nanos`, from the waker's call until the woken ran.
///
/// Outliers count for no more than 0.1 ms: a stopped or descheduled process says nothing about the cost.
pub fn record_wake_up(nanos: u64) {
    let average = WAKE_UP.load(Ordering::Relaxed);
    let sample = nanos.clamp(LEAST, MOST);
    WAKE_UP.store(average - average / 8 + sample / 8, Ordering::Relaxed);
}

/// How long to look before sleeping; zero where this process may use one CPU only.
#[must_use]
pub fn budget() -> Duration {
    if usable_cpus() < 2 {
        return Duration::ZERO;
    }
    Duration::from_nanos(WAKE_UP.load(Ordering::Relaxed).clamp(LEAST, MOST))
}

/// Looks until `ready` gives something or the [`budget`] is used up.
///
/// # Example
///
/// ```
/// use mp_core::spin;
///
/// assert_eq!(spin::look(|| Some(7)), Some(7));
/// assert_eq!(spin::look(|| None::<i32>), None); // after some microseconds
/// ```
pub fn look<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    // About half a microsecond first: most answers come within it, and the affinity costs a call.
    for _ in 0..16 {
        if let Some(value) = ready() {
            return Some(value);
        }
        spin_loop();
    }
    let budget = budget();
    if budget.is_zero() {
        return None;
    }
    let end = monotonic_nanos() + budget.as_nanos() as u64;
    loop {
        for _ in 0..32 {
            if let Some(value) = ready() {
                return Some(value);
            }
            spin_loop();
        }
        if monotonic_nanos() >= end {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_what_was_measured_within_bounds() {
        for _ in 0..100 {
            record_wake_up(u64::MAX);
        }
        let slow = WAKE_UP.load(Ordering::Relaxed);
        assert!(slow > MOST / 2 && slow <= MOST);
        for _ in 0..100 {
            record_wake_up(0);
        }
        assert!(WAKE_UP.load(Ordering::Relaxed) < slow);
        assert!(budget() <= Duration::from_nanos(MOST));
    }
}
