//! Which tasks of its pipe a worker has begun, and which the pool has taken back.

use mp_core::crash_point;
use mp_core::word::{AtomicU64, Ordering, ordering, taken};

/// The words that a worker shares with its pool.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    /// The number of the task begun last, in the upper half, and in the lower that of the last one taken back, with
    /// all before it that were not begun.
    ///
    /// Both sides change it by compare and exchange only: so of worker and pool one gets a task.
    pub(crate) last: &'a AtomicU64,
    /// The time at which that task was begun.
    pub(crate) since: &'a AtomicU64,
}

/// Whether `a` comes after `b`, of numbers that go around.
pub(crate) fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Words<'_> {
    /// The worker begins a task, `now` where that matters. Whether it still may.
    pub(crate) fn begin(self, number: u32, now: Option<u64>) -> bool {
        if let Some(now) = now {
            // Before the claim, whose Release makes it visible with that.
            self.since.store(now, Ordering::Relaxed);
            crash_point!("worker: the time of a task is noted");
        }
        let mut seen = self.last.load(Ordering::Acquire);
        loop {
            if !is_after(number, seen as u32) && taken!(ClaimLooks) {
                return false;
            }
            // None before it will be asked for, so it is as good as taken back: the halves stay close together
            // however often the numbers go around.
            let mine = u64::from(number) << 32 | u64::from(number);
            let order = ordering!(ClaimShows, AcqRel);
            match self.last.compare_exchange_weak(seen, mine, order, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// The number of the task begun last.
    pub(crate) fn begun(self) -> u32 {
        (self.last.load(Ordering::Acquire) >> 32) as u32
    }

    /// The time at which it was begun, or that of a later one. For tasks of which it matters.
    pub(crate) fn since(self) -> u64 {
        self.since.load(Ordering::Acquire)
    }

    /// Takes back all tasks up to `last` that are not begun. Gives the number of the last one that is.
    pub(crate) fn take_back(self, last: u32) -> u32 {
        let mut seen = self.last.load(Ordering::Acquire);
        loop {
            let wanted = seen & !u64::from(u32::MAX) | u64::from(last);
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self.last.compare_exchange_weak(seen, wanted, success, failure) {
                Err(now) if taken!(TakeBackLooksAgain) => seen = now,
                _ => return (seen >> 32) as u32,
            }
        }
    }
}

#[cfg(not(mp_loom))]
pub(crate) use shared::Claims;

#[cfg(not(mp_loom))]
mod shared {
    use mp_core::word::{AtomicU64, Ordering};
    use mp_shmem::RawArray;

    use super::Words;

    /// A whole line, so that nothing else lies beside the words.
    const LEN: usize = 16;

    /// [`Words`] in memory that worker and pool share.
    #[derive(Clone, Debug)]
    pub(crate) struct Claims {
        words: RawArray<AtomicU64>,
    }

    impl Claims {
        pub(crate) fn new() -> mp_shmem::Result<Self> {
            Ok(Self { words: RawArray::zeroed(LEN)? })
        }

        /// Those in memory that the pool sent; `None` where it is something else.
        pub(crate) fn of(words: RawArray<AtomicU64>) -> Option<Self> {
            (words.len() == LEN).then_some(Self { words })
        }

        pub(crate) fn memory(&self) -> &RawArray<AtomicU64> {
            &self.words
        }

        fn words(&self) -> Words<'_> {
            Words { last: &self.words[0], since: &self.words[1] }
        }

        /// As [`Words::begin`].
        pub(crate) fn begin(&self, number: u32, now: Option<u64>) -> bool {
            self.words().begin(number, now)
        }

        /// As [`Words::begun`].
        pub(crate) fn begun(&self) -> u32 {
            self.words().begun()
        }

        /// As [`Words::since`].
        pub(crate) fn since(&self) -> u64 {
            self.words().since()
        }

        /// As [`Words::take_back`].
        pub(crate) fn take_back(&self, last: u32) -> u32 {
            self.words().take_back(last)
        }

        /// The worker has sent what became of a task.
        pub(crate) fn end(&self, number: u32) {
            self.words[2].store(u64::from(number), Ordering::Release);
        }

        /// The worker has come to a task that was taken back.
        pub(crate) fn pass(&self) {
            // The worker alone changes it.
            let passed = self.words[3].load(Ordering::Relaxed);
            self.words[3].store(passed.wrapping_add(1), Ordering::Release);
        }

        /// How many it has come to: it has done something since where that is another number, or [`begun`](Self::begun).
        pub(crate) fn passed(&self) -> u64 {
            self.words[3].load(Ordering::Acquire)
        }

        /// The number of the task of which it was sent last. Its report, and those before it, can be received by who
        /// has looked here first (Acquire): one that cannot is lost.
        pub(crate) fn ended(&self) -> u32 {
            self.words[2].load(Ordering::Acquire) as u32
        }
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn of_worker_and_pool_one_gets_a_task() {
        let claims = Claims::new().unwrap();
        assert!(claims.begin(1, None));
        assert!(claims.begin(2, Some(7)));
        assert_eq!((claims.begun(), claims.since()), (2, 7));
        assert_eq!(claims.take_back(4), 2);
        assert!(!claims.begin(3, None) && !claims.begin(4, None));
        assert_eq!(claims.begun(), 2);
        assert!(claims.begin(5, None));
        assert_eq!(claims.take_back(5), 5);
        claims.end(5);
        assert_eq!((claims.ended(), claims.begun()), (5, 5));
        claims.pass();
        assert_eq!((claims.passed(), claims.ended(), claims.begun()), (1, 5, 5));
    }

    #[test]
    fn numbers_go_around() {
        assert!(is_after(1, u32::MAX) && !is_after(u32::MAX, 1) && !is_after(3, 3));
        let claims = Claims::new().unwrap();
        for number in [1 << 30, 2 << 30, 3 << 30, u32::MAX] {
            claims.take_back(number);
        }
        assert!(claims.begin(0, None) && !claims.begin(u32::MAX, None));
    }

    #[test]
    fn two_threads_never_get_the_same_task() {
        let claims = Claims::new().unwrap();
        let worker = claims.clone();
        let begun = std::thread::spawn(move || {
            (1..=20_000).filter(|&number| worker.begin(number, None)).collect::<Vec<u32>>()
        });
        let mut taken = Vec::new();
        let mut last = 0;
        while last < 20_000 {
            let upper = last + 7;
            let begun = claims.take_back(upper);
            taken.extend((last + 1..=upper).filter(|&number| is_after(number, begun)));
            last = upper.max(begun);
        }
        let begun = begun.join().unwrap();
        let both: Vec<_> =
            taken.iter().filter(|number| begun.binary_search(number).is_ok()).collect();
        assert!(both.is_empty(), "{both:?}");
    }
}
