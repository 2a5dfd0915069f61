//! The atomics in shared memory, and sleeping on them until another process wakes them.
//!
//! Everything that follows a protocol in shared memory takes its atomics, fences, spinning and sleeping
//! from here and from nowhere else, so that under `cfg(mp_loom)` the models in `models.rs` explore the
//! very same code.

pub(crate) use imp::*;

/// The largest count: wakes every sleeper.
pub(crate) const ALL: u32 = u32::MAX;

#[cfg(not(mp_loom))]
mod imp {
    #![expect(unsafe_code, reason = "the futex half of a 64-bit word")]

    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    use mp_core::Deadline;
    use mp_core::sys::futex;
    pub(crate) use mp_core::sys::futex::Woken;

    /// A word to sleep on. Of 64 bits the kernel compares the low 32.
    pub(crate) trait Word {
        type Value: Copy;
        fn futex(&self) -> &AtomicU32;
        fn low(value: Self::Value) -> u32;
    }

    impl Word for AtomicU32 {
        type Value = u32;

        fn futex(&self) -> &AtomicU32 {
            self
        }

        fn low(value: u32) -> u32 {
            value
        }
    }

    const _: () =
        assert!(cfg!(target_endian = "little"), "the low half lies at the word's address");

    impl Word for AtomicU64 {
        type Value = u64;

        fn futex(&self) -> &AtomicU32 {
            // SAFETY: the low half of a live, aligned word. No access is made through the reference:
            // its address goes to the kernel, which does its own.
            unsafe { AtomicU32::from_ptr(self.as_ptr().cast()) }
        }

        fn low(value: u64) -> u32 {
            value as u32
        }
    }

    /// Sleeps while `word` is `expected`, until woken or `until`. May return without cause.
    pub(crate) fn sleep<W: Word>(word: &W, expected: W::Value, until: Deadline) -> Woken {
        futex::wait(word.futex(), W::low(expected), until)
    }

    /// Wakes up to `count` sleepers; says how many there were.
    pub(crate) fn wake<W: Word>(word: &W, count: u32) -> u32 {
        futex::wake(word.futex(), count)
    }

    /// Which ordering a site uses; a model can weaken one of them.
    macro_rules! ordering {
        ($site:ident, $ordering:ident) => {
            crate::word::Ordering::$ordering
        };
    }
    /// A fence that a model can drop.
    macro_rules! fence_at {
        ($site:ident) => {
            crate::word::fence(crate::word::Ordering::SeqCst)
        };
    }
    /// Whether a step is taken; a model can leave one of them out.
    macro_rules! taken {
        ($site:ident) => {
            true
        };
    }
    pub(crate) use {fence_at, ordering, taken};
}

#[cfg(mp_loom)]
mod imp {
    use std::cell::Cell;

    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    use loom::sync::{Condvar, Mutex};
    use mp_core::Deadline;
    pub(crate) use mp_core::sys::futex::Woken;

    /// One thing a protocol needs. A model that runs without it must fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Site {
        Nothing,
        LockTake,
        LockRelease,
        LockWake,
        SemaphoreWake,
        SemaphoreChain,
        SemaphoreRelease,
        EventWake,
        EventSet,
        BarrierEnd,
        BarrierWake,
        ConditionMark,
        ConditionWake,
        ReaderFence,
        WriterFence,
        ReaderRelease,
        ReaderWake,
    }

    std::thread_local! {
        // loom runs all threads of a model as coroutines of one thread.
        static MUTANT: Cell<Site> = const { Cell::new(Site::Nothing) };
    }

    pub(crate) fn mutate(site: Site) {
        MUTANT.set(site);
    }

    pub(crate) fn is_mutated(site: Site) -> bool {
        MUTANT.get() == site
    }

    macro_rules! ordering {
        ($site:ident, $ordering:ident) => {
            if crate::word::is_mutated(crate::word::Site::$site) {
                crate::word::Ordering::Relaxed
            } else {
                crate::word::Ordering::$ordering
            }
        };
    }
    macro_rules! fence_at {
        ($site:ident) => {
            if !crate::word::is_mutated(crate::word::Site::$site) {
                crate::word::fence(crate::word::Ordering::SeqCst)
            }
        };
    }
    macro_rules! taken {
        ($site:ident) => {
            !crate::word::is_mutated(crate::word::Site::$site)
        };
    }
    pub(crate) use {fence_at, ordering, taken};

    pub(crate) trait Word {
        type Value: Copy + PartialEq;
        fn now(&self) -> Self::Value;
        fn low(value: Self::Value) -> u32;
        /// Whether the model says that whoever the value names has died.
        fn is_of_dead(value: Self::Value) -> bool;
    }

    impl Word for AtomicU32 {
        type Value = u32;

        fn now(&self) -> u32 {
            self.load(Ordering::SeqCst)
        }

        fn low(value: u32) -> u32 {
            value
        }

        fn is_of_dead(_: u32) -> bool {
            false
        }
    }

    impl Word for AtomicU64 {
        type Value = u64;

        fn now(&self) -> u64 {
            self.load(Ordering::SeqCst)
        }

        fn low(value: u64) -> u32 {
            value as u32
        }

        fn is_of_dead(value: u64) -> bool {
            crate::owner::is_dead(value)
        }
    }

    struct Sleeper {
        address: usize,
        number: u64,
        woken: bool,
    }

    #[derive(Default)]
    struct Kernel {
        sleepers: Vec<Sleeper>,
        next: u64,
    }

    loom::lazy_static! {
        static ref KERNEL: Mutex<Kernel> = Mutex::new(Kernel::default());
        static ref WOKEN: Condvar = Condvar::new();
    }

    /// There is no time in a model: a sleep ends when it is woken, or at once where the word's owner is
    /// dead (which stands for the end of a slice). So a lost wake-up is a deadlock that loom reports.
    pub(crate) fn sleep<W: Word>(word: &W, expected: W::Value, until: Deadline) -> Woken {
        if until == Deadline::PASSED {
            return Woken::TimedOut;
        }
        let mut kernel = KERNEL.lock().unwrap();
        let now = word.now();
        if W::low(now) != W::low(expected) {
            return Woken::LookAgain;
        }
        if W::is_of_dead(now) {
            return Woken::TimedOut;
        }
        let number = kernel.next;
        kernel.next += 1;
        let address = std::ptr::from_ref(word).addr();
        kernel.sleepers.push(Sleeper { address, number, woken: false });
        loop {
            kernel = WOKEN.wait(kernel).unwrap();
            let index =
                kernel.sleepers.iter().position(|sleeper| sleeper.number == number).unwrap();
            if kernel.sleepers[index].woken {
                kernel.sleepers.remove(index);
                return Woken::LookAgain;
            }
        }
    }

    pub(crate) fn wake<W: Word>(word: &W, count: u32) -> u32 {
        let address = std::ptr::from_ref(word).addr();
        let mut kernel = KERNEL.lock().unwrap();
        let mut woken = 0;
        for sleeper in kernel.sleepers.iter_mut().filter(|s| s.address == address && !s.woken) {
            if woken == count {
                break;
            }
            sleeper.woken = true;
            woken += 1;
        }
        WOKEN.notify_all();
        woken
    }
}
