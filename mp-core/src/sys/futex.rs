//! Sleeping on a word of shared memory until another process wakes it.
//!
//! Never with the private flag, which would confine a wake-up to one process (futex(2), "Futex
//! operations"). Waits take an absolute time on the monotonic clock, so that retries do not stretch them.
#![expect(unsafe_code, reason = "the futex system call")]

use std::sync::atomic::AtomicU32;

use crate::Deadline;
use crate::sys::check;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody woke the word, or it had another value, or a signal came: look again.
    LookAgain,
    /// The deadline passed.
    TimedOut,
}

/// Sleeps while `word` is `expected`, until woken or the deadline passes.
///
/// May return without cause; callers look at their condition and wait again with the same deadline.
/// futex(2), `FUTEX_WAIT_BITSET`: "the timeout is interpreted as an absolute value".
///
/// # Example
///
/// ```
/// use std::sync::atomic::AtomicU32;
/// use mp_core::Deadline;
/// use mp_core::sys::futex::{Woken, wait};
///
/// let word = AtomicU32::new(1);
/// assert_eq!(wait(&word, 0, Deadline::NEVER), Woken::LookAgain); // it is 1, not 0
/// assert_eq!(wait(&word, 1, Deadline::PASSED), Woken::TimedOut);
/// ```
#[must_use]
pub fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Woken {
    let until = deadline.timespec();
    let until = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is live for the call and aligned, as an AtomicU32 is; the timespec is null or
    // a local that outlives the call (futex(2)).
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            until,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    });
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => Woken::TimedOut,
        _ => Woken::LookAgain,
    }
}

/// Wakes up to `count` sleepers on `word`, in any process; says how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    let count = count.min(i32::MAX as u32);
    // SAFETY: the word is live for the call; waking reads nothing through it (futex(2)).
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    u32::try_from(woken).unwrap_or(0)
}

/// Wakes all sleepers on `word`, in any process.
pub fn wake_all(word: &AtomicU32) -> u32 {
    wake(word, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 0 {
                    assert_eq!(
                        wait(&word, 0, Deadline::after(Duration::from_secs(60))),
                        Woken::LookAgain
                    );
                }
            });
            std::thread::sleep(Duration::from_millis(5));
            word.store(1, Ordering::Release);
            wake_all(&word);
        });
    }
}
