//! The monotonic clock.
#![expect(unsafe_code, reason = "clock_gettime, the timer slack")]

/// Nanoseconds on `CLOCK_MONOTONIC`: the same clock in every process, and the one timeouts run on.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours. The call cannot fail for this clock
    // (clock_gettime(2)); if it did, the time would read zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Nanoseconds on the same clock as of its last tick, 1 to 10 ms ago: cheaper, for whoever only asks whether
/// time has passed. clock_getres(2), `CLOCK_MONOTONIC_COARSE`.
#[must_use]
pub fn coarse_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Runs `work` while this thread's timed sleeps end as exactly as the kernel can, not up to 50 us late to
/// save power. prctl(2), `PR_SET_TIMERSLACK`.
pub fn with_exact_timers<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: takes numbers only; gives the thread's slack in nanoseconds.
    let before = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
    let result = work();
    if let Ok(before) = u64::try_from(before) {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, before) };
    }
    result
}
