//! What lies in shared memory, and the protocols on it.
//!
//! Nothing here knows about segments or handles: a protocol is atomics, the caller's name, and how long
//! to wait. The models in `models.rs` run on these very types.
//!
//! Where a step consists of several stores, their order is what another process finds after a kill: a
//! prefix of it. Those stores are Release and the swaps between them AcqRel, so that neither compiler nor
//! processor moves one before its predecessor.

pub(crate) mod barrier;
pub(crate) mod condition;
pub(crate) mod event;
pub(crate) mod lock;
pub(crate) mod rlock;
pub(crate) mod rwlock;
pub(crate) mod semaphore;

#[cfg(not(mp_loom))]
mod layout {
    #![expect(unsafe_code, reason = "promises about layouts, checked below")]

    use static_assertions::const_assert_eq;

    use super::{barrier, condition, event, lock, rlock, rwlock, semaphore};
    use crate::view::Layout;

    // SAFETY: transparent over an AtomicU64.
    unsafe impl Layout for lock::LockWord {}
    const_assert_eq!(size_of::<lock::LockWord>(), 8);

    // SAFETY: repr(C): a LockWord and two AtomicU32.
    unsafe impl Layout for rlock::RLockWords {}
    const_assert_eq!(size_of::<rlock::RLockWords>(), 8 + 2 * 4);

    // SAFETY: transparent over an AtomicU32.
    unsafe impl Layout for event::EventWord {}
    const_assert_eq!(size_of::<event::EventWord>(), 4);

    // SAFETY: repr(C): six AtomicU32, one of them as a Watch, a LockWord, and the slots, which are AtomicU64.
    unsafe impl<const N: usize> Layout for semaphore::SemaphoreWords<N> {}
    const_assert_eq!(size_of::<semaphore::SemaphoreWords<10>>(), 6 * 4 + 8 + 10 * 8);

    // SAFETY: repr(C): two AtomicU64, RLockWords, and the slots, each four AtomicU64.
    unsafe impl<const N: usize> Layout for condition::ConditionWords<N> {}
    const_assert_eq!(size_of::<condition::ConditionWords<10>>(), 2 * 8 + 16 + 10 * 4 * 8);

    // SAFETY: repr(C): an AtomicU64, two AtomicU32, one of them as a Watch, two AtomicU64 and the slots, each two of them.
    unsafe impl<const N: usize> Layout for barrier::BarrierWords<N> {}
    const_assert_eq!(size_of::<barrier::BarrierWords<10>>(), 8 + 2 * 4 + 2 * 8 + 10 * 2 * 8);

    // SAFETY: repr(C): a LockWord, AtomicU64 and the slots, which are AtomicU64.
    unsafe impl<const N: usize> Layout for rwlock::RwLockWords<N> {}
    const_assert_eq!(size_of::<rwlock::RwLockWords<10>>(), 8 * 8 + 10 * 8 * 8);
}
