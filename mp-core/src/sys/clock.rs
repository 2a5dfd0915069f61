//! The monotonic clock.
#![expect(unsafe_code, reason = "clock_gettime")]

/// Nanoseconds on `CLOCK_MONOTONIC`: the same clock in every process, and the one timeouts run on.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours. The call cannot fail for this clock
    // (clock_gettime(2)); if it did, the time would read zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}
