//! A peer that writes anything anywhere: no call may panic, hang or do worse than err.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::owner;
use crate::patience::{Limit, Patience};
use crate::view::{Layout, START, View};
use crate::words::barrier::BarrierWords;
use crate::words::condition::ConditionWords;
use crate::words::event::EventWord;
use crate::words::lock::LockWord;
use crate::words::rlock::RLockWords;
use crate::words::rwlock::RwLockWords;
use crate::words::semaphore::SemaphoreWords;

const NOW: Limit = Limit::For(Duration::ZERO);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Something that may mean something.
    fn word(&mut self) -> u64 {
        let me = owner::me();
        let flags = self.next() & !owner::OWNER;
        match self.next() % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => me,
            3 => me | flags,
            4 => flags,
            5 => self.next() % 4,
            6 => (self.next() % 4) << 32,
            _ => self.next(),
        }
    }
}

/// Scribbles over the words of an `L` and then does `calls` on it, over and over.
fn scribbled<L: Layout>(rounds: usize, calls: impl Fn(&L, u64)) {
    let view: View<L> = View::create("test", 0, 0).unwrap();
    let count = size_of::<L>().div_ceil(8);
    let words = view.segment().slice_at::<AtomicU64>(START, count).unwrap();
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for _ in 0..rounds {
        for word in words {
            word.store(random.word(), Ordering::Relaxed);
        }
        calls(&view, owner::me());
    }
}

#[test]
fn lock() {
    scribbled(2000, |word: &LockWord, me| {
        if word.lock(me, Limit::Try).is_ok() {
            word.unlock(me).unwrap();
        }
        let _ = word.lock(me, NOW);
        let _ = word.unlock(me);
    });
}

#[test]
fn rlock() {
    scribbled(2000, |words: &RLockWords, me| {
        let _ = words.lock(me, NOW);
        let _ = words.lock(me, Limit::Try);
        let _ = words.unlock(me);
        let depth = words.unlock_all(me);
        assert_eq!(words.depth(me), 0, "{depth:?}");
    });
}

#[test]
fn semaphore() {
    scribbled(100, |words: &SemaphoreWords<8>, me| {
        let _ = words.acquire(|| me, NOW);
        if let Ok(slot) = words.permit(me, NOW) {
            words.let_go(slot, me);
        }
        words.reap(me, owner::is_dead);
        let _ = words.release();
    });
}

#[test]
fn condition() {
    scribbled(500, |words: &ConditionWords<8>, me| {
        if let Some(slot) = words.enter(me) {
            words.notify(1);
            words.wait(slot, me, &mut Patience::new(NOW));
            words.leave(slot);
        }
        words.notify(3);
        words.notify_all();
    });
}

#[test]
fn event() {
    scribbled(1000, |word: &EventWord, _| {
        word.wait(NOW);
        word.set();
        assert!(word.is_set());
        word.clear();
    });
}

#[test]
fn barrier() {
    scribbled(1000, |words: &BarrierWords<8>, me| {
        let _ = words.wait(me, NOW, || ());
        words.reset();
        let _ = words.wait(me, NOW, || ());
        words.abort();
        assert!(words.is_broken());
    });
}

#[test]
fn rwlock() {
    scribbled(200, |words: &RwLockWords<2>, me| {
        if let Ok((slot, _)) = words.read(me, NOW) {
            words.leave(slot, me);
        }
        if words.write(me, NOW).is_ok() {
            words.unlock(me);
        }
        let _ = words.read(me, Limit::Try);
        let _ = words.write(me, Limit::Try);
    });
}
