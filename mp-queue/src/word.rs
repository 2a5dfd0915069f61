//! The atomics in shared memory, and sleeping on them until another process wakes them.
//!
//! What follows the protocol of [`commit`](crate::commit) takes its atomics and its sleep from here and from
//! nowhere else, so that under `cfg(mp_loom)` the models in `models.rs` explore the very same code.

pub(crate) use imp::*;

/// The largest count: wakes every sleeper.
pub(crate) const ALL: u32 = u32::MAX;

#[cfg(not(mp_loom))]
mod imp {
    #![expect(unsafe_code, reason = "the futex half of a 64-bit word")]

    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

    use std::sync::atomic::AtomicU32;

    use mp_core::Deadline;
    use mp_core::sys::futex;
    pub(crate) use mp_core::sys::futex::Woken;

    const _: () =
        assert!(cfg!(target_endian = "little"), "the low half lies at the word's address");

    fn low(word: &AtomicU64) -> &AtomicU32 {
        // SAFETY: the low half of a live, aligned word. No access is made through the reference: its
        // address goes to the kernel, which does its own.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    /// Sleeps while the low half of `word` is that of `expected`, until woken or `until`. May return
    /// without cause.
    pub(crate) fn sleep(word: &AtomicU64, expected: u64, until: Deadline) -> Woken {
        futex::wait(low(word), expected as u32, until)
    }

    /// Wakes up to `count` sleepers; says how many there were.
    pub(crate) fn wake(word: &AtomicU64, count: u32) -> u32 {
        futex::wake(low(word), count)
    }

    /// Which ordering a site uses; a model can weaken one of them.
    macro_rules! ordering {
        ($site:ident, $ordering:ident) => {
            crate::word::Ordering::$ordering
        };
    }
    /// Whether a step is taken; a model can leave one of them out.
    macro_rules! taken {
        ($site:ident) => {
            true
        };
    }
    pub(crate) use {ordering, taken};
}

#[cfg(mp_loom)]
mod imp {
    use std::cell::Cell;

    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex};
    use mp_core::Deadline;
    pub(crate) use mp_core::sys::futex::Woken;

    /// One thing the protocol needs. A model that runs without it must fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Site {
        Nothing,
        CommitPublishes,
        CommitKeepsMark,
        CommitWakes,
        LookAcquires,
        MarkBeforeSleep,
        ClearWakesAll,
        CloseWakes,
        DoneWakes,
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
    macro_rules! taken {
        ($site:ident) => {
            !crate::word::is_mutated(crate::word::Site::$site)
        };
    }
    pub(crate) use {ordering, taken};

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

    /// There is no time in a model, so slices do not end: a lost wake-up is a deadlock that loom reports.
    pub(crate) fn sleep(word: &AtomicU64, expected: u64, _: Deadline) -> Woken {
        let mut kernel = KERNEL.lock().unwrap();
        if word.load(Ordering::SeqCst) as u32 != expected as u32 {
            return Woken::LookAgain;
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

    pub(crate) fn wake(word: &AtomicU64, count: u32) -> u32 {
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
