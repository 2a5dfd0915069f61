//! What can go wrong with what processes share, and how a lock tells that its owner died.

use std::fmt;
use std::io;
use std::sync::PoisonError;

/// What can go wrong when making, receiving or using what this crate has.
#[non_exhaustive]
pub enum Error {
    /// The time given is over.
    TimedOut,
    /// It is not to be had at once.
    WouldBlock,
    /// The calling thread does not hold what it would release.
    NotOwner,
    /// The calling thread holds it already and would wait for itself for ever.
    Deadlock,
    /// The process or thread that held the lock ended without releasing it.
    OwnerDied,
    /// The barrier was aborted, reset while this party waited, or a party timed out or died.
    #[doc(alias = "BrokenBarrierError")]
    Broken,
    /// The semaphore would get more permits than it began with.
    TooManyReleases {
        /// How many it began with.
        initial: u32,
    },
    /// The count is beyond what its word can hold.
    Overflow {
        /// The largest count.
        max: u32,
    },
    /// As many guards as the object has places for are alive.
    TooManyGuards {
        /// How many places it has.
        max: usize,
    },
    /// A barrier cannot be for this many parties.
    BadParties {
        /// How many were asked for.
        parties: usize,
    },
    /// It comes from another pid or time namespace, where process numbers or times mean something else.
    OtherNamespace,
    /// What was received is no object of the expected type.
    BadSegment(String),
    /// The kernel refused.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::WouldBlock => f.write_str("it is taken by others: wait for it, or try again later"),
            Self::NotOwner => f.write_str(
                "only the thread that holds a lock can release it: use a Semaphore for what one takes \
                 and another gives",
            ),
            Self::Deadlock => f.write_str(
                "this thread holds it already and would wait for itself: use an RLock to lock again",
            ),
            Self::OwnerDied => f.write_str(
                "the lock's owner died while it held it: check what the lock guards before going on",
            ),
            Self::Broken => {
                f.write_str("the barrier is broken: reset it once all parties are ready again")
            }
            Self::TooManyReleases { initial } => {
                write!(f, "the semaphore began with {initial} permits and has them all")
            }
            Self::Overflow { max } => write!(f, "the count is at its largest, {max}"),
            Self::TooManyGuards { max } => {
                write!(f, "{max} guards are alive, the most there can be: drop some first")
            }
            Self::BadParties { parties } => write!(
                f,
                "a barrier is for 1 to {} parties, not {parties}",
                crate::words::barrier::MAX_PARTIES
            ),
            Self::OtherNamespace => f.write_str(
                "it comes from another pid or time namespace: share locks within one container only",
            ),
            Self::BadSegment(why) => write!(f, "not an object that can be used: {why}"),
            Self::Io(_) => f.write_str("a system call failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<mp_core::Error> for Error {
    fn from(error: mp_core::Error) -> Self {
        match error {
            mp_core::Error::Io(error) => Self::Io(error),
            mp_core::Error::BadSegment(why) => Self::BadSegment(why),
            other => Self::BadSegment(other.to_string()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<G> From<PoisonError<G>> for Error {
    /// Lets the guard go: the lock is free again afterwards.
    fn from(_: PoisonError<G>) -> Self {
        Self::OwnerDied
    }
}

impl<G> From<TryLockError<G>> for Error {
    /// Lets the guard go, where there is one.
    fn from(error: TryLockError<G>) -> Self {
        match error {
            TryLockError::Poisoned(error) => error.into(),
            TryLockError::WouldBlock => Self::WouldBlock,
            TryLockError::TimedOut => Self::TimedOut,
            TryLockError::Deadlock => Self::Deadlock,
        }
    }
}

/// Why a lock was not taken at once, or in time, or was taken with bad news.
pub enum TryLockError<G> {
    /// It was taken, but its last owner died while it held it. The guard is inside.
    Poisoned(PoisonError<G>),
    /// Somebody holds it. What the `try_` calls give.
    WouldBlock,
    /// Somebody held it all that time. What the `_timeout` calls give.
    TimedOut,
    /// This thread holds it, so waiting is of no use. For types that say so at once; the locks of this
    /// crate wait out the time, as they would for anybody else.
    Deadlock,
}

/// A guard, or [`TryLockError`].
pub type TryLockResult<G> = std::result::Result<G, TryLockError<G>>;

impl<G> TryLockError<G> {
    /// The error without a guard it may carry.
    fn plain(&self) -> Error {
        match self {
            Self::Poisoned(_) => Error::OwnerDied,
            Self::WouldBlock => Error::WouldBlock,
            Self::TimedOut => Error::TimedOut,
            Self::Deadlock => Error::Deadlock,
        }
    }
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.plain(), f)
    }
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plain().fmt(f)
    }
}

impl<G> std::error::Error for TryLockError<G> {}

impl<G> From<PoisonError<G>> for TryLockError<G> {
    fn from(error: PoisonError<G>) -> Self {
        Self::Poisoned(error)
    }
}

/// What came with a lock taken in Python's style, by `acquire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Nothing: its last owner released it.
    Clean,
    /// The news that its last owner died while it held it. It is held now all the same: check what it
    /// guards, go on, release it.
    OwnerDied,
}
