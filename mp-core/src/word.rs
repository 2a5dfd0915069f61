//! The atomics in shared memory, and sleeping on them until another process wakes them.
//!
//! A protocol of words in shared memory takes its atomics, fences and sleep from here and from nowhere else, and
//! says at which site it needs what, so that under `cfg(mp_loom)` models explore the very same code: with
//! loom's atomics, and without one of the sites at a time (see `model`).

pub use imp::*;

/// The largest count: wakes every sleeper.
pub const ALL: u32 = u32::MAX;

#[cfg(not(mp_loom))]
mod imp {
    #![expect(unsafe_code, reason = "the futex half of a 64-bit word")]

    pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    use crate::Deadline;
    use crate::sys::futex;
    pub use crate::sys::futex::Woken;

    /// A word to sleep on. Of 64 bits the kernel compares the low 32.
    pub trait Word {
        /// What it holds.
        type Value: Copy;
        /// The half that the kernel compares.
        fn futex(&self) -> &AtomicU32;
        /// What it compares that with.
        fn low(value: Self::Value) -> u32;
        /// All of it.
        fn wide(value: Self::Value) -> u64;
    }

    impl Word for AtomicU32 {
        type Value = u32;

        fn futex(&self) -> &AtomicU32 {
            self
        }

        fn low(value: u32) -> u32 {
            value
        }

        fn wide(value: u32) -> u64 {
            value.into()
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

        fn wide(value: u64) -> u64 {
            value
        }
    }

    /// Sleeps while `word` is `expected`, until woken or `until`. May return without cause.
    pub fn sleep<W: Word>(word: &W, expected: W::Value, until: Deadline) -> Woken {
        futex::wait(word.futex(), W::low(expected), until)
    }

    /// Wakes up to `count` sleepers; says how many there were.
    pub fn wake<W: Word>(word: &W, count: u32) -> u32 {
        futex::wake(word.futex(), count)
    }

    /// Which ordering a site uses; a model can weaken one of them.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! __ordering {
        ($site:ident, $ordering:ident) => {
            $crate::word::Ordering::$ordering
        };
    }

    /// A fence that a model can drop.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! __fence_at {
        ($site:ident) => {
            $crate::word::fence($crate::word::Ordering::SeqCst)
        };
    }

    /// Whether a step is taken; a model can leave one of them out.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! __taken {
        ($site:ident) => {
            true
        };
    }

    /// Whether what runs here is not killed, but ends; in a model it can be (see `model::mortal`), and what a
    /// destructor does for others is then not done.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! __lives {
        () => {
            true
        };
    }

    pub use crate::{
        __fence_at as fence_at, __lives as lives, __ordering as ordering, __taken as taken,
    };
}

#[cfg(mp_loom)]
mod imp {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    use loom::sync::{Condvar, Mutex};

    use crate::Deadline;
    pub use crate::sys::futex::Woken;

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __ordering {
        ($site:ident, $ordering:ident) => {
            if $crate::model::is_without(stringify!($site)) {
                $crate::word::Ordering::Relaxed
            } else {
                $crate::word::Ordering::$ordering
            }
        };
    }

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __fence_at {
        ($site:ident) => {
            if !$crate::model::is_without(stringify!($site)) {
                $crate::word::fence($crate::word::Ordering::SeqCst)
            }
        };
    }

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __taken {
        ($site:ident) => {
            !$crate::model::is_without(stringify!($site))
        };
    }

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __lives {
        () => {
            $crate::model::lives()
        };
    }

    pub use crate::{
        __fence_at as fence_at, __lives as lives, __ordering as ordering, __taken as taken,
    };

    pub trait Word {
        type Value: Copy + PartialEq;
        fn now(&self) -> Self::Value;
        fn low(value: Self::Value) -> u32;
        fn wide(value: Self::Value) -> u64;
    }

    impl Word for AtomicU32 {
        type Value = u32;

        fn now(&self) -> u32 {
            self.load(Ordering::SeqCst)
        }

        fn low(value: u32) -> u32 {
            value
        }

        fn wide(value: u32) -> u64 {
            value.into()
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

        fn wide(value: u64) -> u64 {
            value
        }
    }

    struct Sleeper {
        address: usize,
        number: u64,
        woken: bool,
        /// How many deaths it knows of; one more ends its sleep. `None`: whatever dies, it sleeps.
        deaths: Option<u32>,
    }

    #[derive(Default)]
    struct Kernel {
        sleepers: Vec<Sleeper>,
        next: u64,
        deaths: u32,
    }

    loom::lazy_static! {
        /// 1: who is mortal was killed. Apart from the rest, so that to ask for it puts nothing else in order.
        static ref KILLED: AtomicU32 = AtomicU32::new(0);
        static ref KERNEL: Mutex<Kernel> = Mutex::new(Kernel::default());
        static ref WOKEN: Condvar = Condvar::new();
    }

    /// There is no time in a model: but for one that is over at once, a sleep ends when it is woken. So a lost
    /// wake-up is a deadlock that loom reports.
    pub fn sleep<W: Word>(word: &W, expected: W::Value, until: Deadline) -> Woken {
        if until == Deadline::PASSED {
            return Woken::TimedOut;
        }
        sleep_until_death(word, expected, None)
    }

    /// As [`sleep`], for who looks up now and then whether everybody still lives: its time is over once for each
    /// death beyond the `deaths` that it knows of.
    pub fn sleep_until_death<W: Word>(
        word: &W,
        expected: W::Value,
        deaths: Option<&mut u32>,
    ) -> Woken {
        let mut kernel = KERNEL.lock().unwrap();
        if W::low(word.now()) != W::low(expected) {
            return Woken::LookAgain;
        }
        let number = kernel.next;
        kernel.next += 1;
        let address = std::ptr::from_ref(word).addr();
        let known = deaths.as_ref().map(|deaths| **deaths);
        kernel.sleepers.push(Sleeper { address, number, woken: false, deaths: known });
        loop {
            let index =
                kernel.sleepers.iter().position(|sleeper| sleeper.number == number).unwrap();
            let sleeper = &kernel.sleepers[index];
            let woken = match sleeper.deaths {
                _ if sleeper.woken => Woken::LookAgain,
                Some(known) if known != kernel.deaths => Woken::TimedOut,
                _ => {
                    kernel = WOKEN.wait(kernel).unwrap();
                    continue;
                }
            };
            kernel.sleepers.remove(index);
            if let (Woken::TimedOut, Some(deaths)) = (woken, deaths) {
                *deaths = kernel.deaths;
            }
            return woken;
        }
    }

    /// Somebody died: the time of all is over who sleep and look up now and then.
    pub fn note_death() {
        KERNEL.lock().unwrap().deaths += 1;
        WOKEN.notify_all();
    }

    /// Who is mortal was killed.
    pub(crate) fn note_kill() {
        // Release: what it wrote before is seen by who sees that it is dead.
        KILLED.store(1, Ordering::Release);
        note_death();
    }

    pub(crate) fn is_killed() -> bool {
        KILLED.load(Ordering::Acquire) != 0
    }

    pub fn wake<W: Word>(word: &W, count: u32) -> u32 {
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
