//! When to stop waiting.

use std::time::Duration;

use crate::sys::clock;

/// A moment on the monotonic clock at which a wait ends, or never.
///
/// Made once from the caller's [`Duration`] and then carried through every retry, so that signals and
/// spurious wake-ups cannot stretch a wait. Copy it freely: eight bytes.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mp_core::Deadline;
///
/// assert!(Deadline::after(Duration::ZERO).has_passed());
/// assert_eq!(Deadline::NEVER.remaining(), None);
/// // A timeout too large for the clock waits for ever.
/// assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// Nanoseconds on `CLOCK_MONOTONIC`; `u64::MAX` is never.
    nanos: u64,
}

impl Deadline {
    /// Waits without end.
    pub const NEVER: Self = Self { nanos: u64::MAX };

    /// Has passed already: looks once and does not wait.
    pub const PASSED: Self = Self { nanos: 0 };

    /// The moment `timeout` from now; [`NEVER`](Self::NEVER) where that is beyond the clock's range.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        if timeout.is_zero() {
            return Self::PASSED;
        }
        let nanos = u64::try_from(timeout.as_nanos())
            .ok()
            .and_then(|timeout| clock::monotonic_nanos().checked_add(timeout))
            // The kernel's timespec has signed seconds; what is beyond them is 292 years away.
            .filter(|&nanos| nanos < i64::MAX as u64)
            .unwrap_or(u64::MAX);
        Self { nanos }
    }

    /// [`after`](Self::after) for `Some`, [`NEVER`](Self::NEVER) for `None`.
    #[must_use]
    pub fn after_option(timeout: Option<Duration>) -> Self {
        timeout.map_or(Self::NEVER, Self::after)
    }

    /// How long until then, zero once it has passed, `None` for [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        match self.nanos {
            u64::MAX => None,
            0 => Some(Duration::ZERO),
            nanos => Some(Duration::from_nanos(nanos.saturating_sub(clock::monotonic_nanos()))),
        }
    }

    /// Whether the moment is over. Never so for [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_some_and(|left| left.is_zero())
    }

    /// The moment as an absolute `CLOCK_MONOTONIC` time, `None` for [`NEVER`](Self::NEVER).
    pub(crate) fn timespec(self) -> Option<libc::timespec> {
        (self != Self::NEVER).then(|| timespec(Duration::from_nanos(self.nanos)))
    }
}

/// `duration` as the kernel takes it.
pub(crate) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_second_has_not_passed_and_orders_before_never() {
        let soon = Deadline::after(Duration::from_secs(1000));
        assert!(!soon.has_passed());
        assert!(soon < Deadline::NEVER);
        assert!(Deadline::PASSED < soon);
        let left = soon.remaining().unwrap();
        assert!(left > Duration::from_secs(900) && left <= Duration::from_secs(1000));
    }

    #[test]
    fn a_timeout_beyond_the_clock_never_ends() {
        assert_eq!(Deadline::after(Duration::from_secs(u64::MAX / 2)), Deadline::NEVER);
        assert!(!Deadline::NEVER.has_passed());
        assert!(Deadline::NEVER.timespec().is_none());
    }
}
