//! How long to look before sleeping.
//!
//! Two processes that look at the same word see each other's writes within a tenth of a microsecond; a
//! process that sleeps is woken in five to fifty. Whoever expects an answer soon looks for about as long
//! as a sleep and wake-up would cost, and then sleeps: never worse than twice the better choice.
//!
//! What a wake-up costs here is measured, once for each process, when it is first about to look: it sleeps a
//! few times until a set moment and sees how much later it runs again. That is an interrupt to an idle CPU
//! and the way back from it, as when another CPU wakes it, and needs no second process or thread. (On one
//! virtual machine: 7 to 9 us by this measure, 8 us by a ping-pong of two processes on two CPUs.) A process that was
//! started by one that knows has it from there.
//!
//! Where this process may use one CPU only, looking would keep the other side from running: there the budget
//! is nothing.

use std::hint::spin_loop;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use crate::Deadline;
use crate::sys::clock::{coarse_nanos, monotonic_nanos, with_exact_timers};
use crate::sys::futex;
use crate::sys::process::{granted_cpus, usable_cpus};

const LEAST: Duration = Duration::from_micros(2);
const MOST: Duration = Duration::from_micros(100);

/// What waking a sleeper costs on this machine: the median of nine sleeps, a millisecond in all.
fn measure() -> Duration {
    const SLEEP: Duration = Duration::from_micros(100);
    let nobody_wakes = AtomicU32::new(0);
    let mut late = with_exact_timers(|| {
        [(); 9].map(|()| {
            let start = monotonic_nanos();
            let _ = futex::wait(&nobody_wakes, 0, Deadline::after(SLEEP));
            Duration::from_nanos(monotonic_nanos() - start).saturating_sub(SLEEP)
        })
    });
    late.sort_unstable();
    late[late.len() / 2].clamp(LEAST, MOST)
}

/// How long to look before sleeping: what a wake-up costs, 2 to 100 us; zero where this process may use one
/// CPU only, by its affinity now or the quota of its control group.
///
/// The first call that gives more than zero takes a millisecond, for the measurement. A change of the
/// affinity is seen within a tick of the clock, which is 1 to 10 ms.
#[must_use]
pub fn budget() -> Duration {
    if has_other_cpus() { wake_up() } else { Duration::ZERO }
}

/// Whether this process may use more than one CPU, as [`budget`] sees it: else looking keeps others from running.
///
/// # Example
///
/// ```
/// use mp_core::spin;
///
/// assert_eq!(spin::has_other_cpus(), !spin::budget().is_zero()); // but here nothing is measured
/// ```
#[must_use]
pub fn has_other_cpus() -> bool {
    several_cpus(usable_cpus, &COUNTED)
}

fn wake_up() -> Duration {
    *WAKE_UP.get_or_init(measure)
}

static WAKE_UP: OnceLock<Duration> = OnceLock::new();

/// What [`budget`] has measured, if it has: 2 to 100 us.
///
/// # Example
///
/// ```
/// use mp_core::spin;
///
/// assert_eq!(spin::measured(), None);
/// let budget = spin::budget();
/// assert!(budget.is_zero() || spin::measured() == Some(budget));
/// ```
#[must_use]
pub fn measured() -> Option<Duration> {
    WAKE_UP.get().copied()
}

/// Takes over what another process of this machine has [`measured`], unless this one has measured itself.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use mp_core::spin;
///
/// spin::take_over(Duration::from_micros(7));
/// assert_eq!(spin::measured(), Some(Duration::from_micros(7)));
/// ```
pub fn take_over(measured: Duration) {
    let _ = WAKE_UP.set(measured.clamp(LEAST, MOST));
}

/// A clock's tick, and in the lowest bit whether there was more than one CPU then.
static COUNTED: AtomicU64 = AtomicU64::new(0);
static GRANTED: AtomicU64 = AtomicU64::new(0);

/// Whether `count` gives more than one; it is asked once in each tick of the clock.
fn several_cpus(count: impl FnOnce() -> usize, counted: &AtomicU64) -> bool {
    let tick = coarse_nanos() << 1;
    // Relaxed: it guards nothing; at worst it is counted again.
    let last = counted.load(Relaxed);
    if last & !1 == tick {
        return last & 1 == 1;
    }
    let several = count() > 1;
    counted.store(tick | u64::from(several), Relaxed);
    several
}

/// Looks until `ready` gives something or the [`budget`] is used up; does not look at all where that is nothing.
///
/// # Example
///
/// ```
/// use mp_core::spin;
///
/// assert_eq!(spin::look(|| None::<i32>), None); // after some microseconds
/// ```
pub fn look<T>(ready: impl FnMut() -> Option<T>) -> Option<T> {
    look_beside(false, ready)
}

/// As [`look`], also where this thread may use one CPU only, if whoever is waited for runs `elsewhere`: on
/// another CPU than this thread.
pub fn look_beside<T>(elsewhere: bool, ready: impl FnMut() -> Option<T>) -> Option<T> {
    look_for(elsewhere, wake_up, ready)
}

/// As [`look_beside`], for as long as `time` says, which is asked only when about a microsecond of looking has found
/// nothing. It keeps its CPU meanwhile, and never sleeps.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use mp_core::spin;
///
/// let found = spin::look_for(true, || Duration::from_micros(10), || Some(1));
/// // Nothing where all that this process may use is one CPU.
/// assert!(found.is_none_or(|found| found == 1));
/// ```
pub fn look_for<T>(
    elsewhere: bool,
    time: impl FnOnce() -> Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> Option<T> {
    let several = if elsewhere { several_cpus(granted_cpus, &GRANTED) } else { has_other_cpus() };
    if !several {
        return None;
    }
    // About a microsecond first: most answers come within it, and the clock would be in their way.
    for _ in 0..32 {
        if let Some(value) = ready() {
            return Some(value);
        }
        spin_loop();
    }
    let end = monotonic_nanos() + time().as_nanos() as u64;
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

/// For how many nanoseconds [`look_yielding`] goes on: what a sleep and wake-up costs.
const YIELDING: u64 = 20_000;

/// Looks until what it sees is as hoped, or for 20 us, and gives what it saw last; others run in between, if there are any.
///
/// For waits that with more processes than CPUs are for somebody who has none at the moment: one of those that run in
/// between may be who is waited for. It may be milliseconds until this thread runs again: then it looks once more. With
/// four processes on two CPUs that count under one lock, a step took 39 ns so, and 55 ns where each looked without letting
/// go of its CPU first: that keeps fetching the word from the CPU of who works with it.
///
/// # Example
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use mp_core::spin;
///
/// let word = AtomicU32::new(1);
/// let seen = spin::look_yielding(|| word.load(Ordering::Acquire), |&seen| seen == 0);
/// assert_eq!(seen, 1); // after 20 us
/// ```
pub fn look_yielding<T>(seen: impl Fn() -> T, hoped: impl Fn(&T) -> bool) -> T {
    let mut end = 0;
    loop {
        let now = seen();
        if hoped(&now) {
            return now;
        }
        // The first look needs no clock.
        let time = monotonic_nanos();
        if end == 0 {
            end = time + YIELDING;
        } else if time > end {
            return now;
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_measured_once_and_nothing_on_one_cpu() {
        let cost = measure();
        assert!((LEAST..=MOST).contains(&cost), "{cost:?}");
        let first = budget();
        assert_eq!(first.is_zero(), usable_cpus() < 2);
        assert_eq!(budget(), first);
    }
}
