//! The words of an RwLock.

use mp_core::crash_point;

use super::lock::{LockWord, Refused};
use crate::Acquired;
use crate::owner::{self, FLAG_A};
use crate::patience::{Limit, Nap, Patience};
use mp_core::word::{self, ALL, AtomicU64, Ordering, fence_at, ordering, taken};

type Result<T> = std::result::Result<T, Refused>;

/// A lock for the writer, and a slot for each reader.
///
/// A reader writes its name into a slot and then looks whether there is a writer; a writer takes its lock
/// and then looks whether there are readers. Each is seen by the other: one of them gives way, the reader.
/// Readers do not write to a common word, and a dead one is found by its name.
#[repr(C)]
pub(crate) struct RwLockWords<const N: usize> {
    /// Held by the writer, also while it waits for readers to leave: no new ones get in then.
    writer: LockWord,
    /// Bit n: line n was used at some time.
    used: AtomicU64,
    /// 1: a writer died, and no writer had the lock since: all that come get the news, until one of them
    /// is a writer, which can repair. 0: nothing of that.
    owed: AtomicU64,
    reserved: [AtomicU64; 5],
    lines: [Line; N],
}

/// A cache line of readers: threads begin their search in different ones.
#[repr(C)]
struct Line {
    /// | value | meaning |
    /// | --- | --- |
    /// | 0 | free |
    /// | a name | that thread reads |
    /// | a name + [`WAITERS`] | it reads, and the writer sleeps until it has left |
    readers: [AtomicU64; PER_LINE],
}

const PER_LINE: usize = if cfg!(mp_loom) { 1 } else { 8 };
const WAITERS: u64 = FLAG_A;

impl<const N: usize> RwLockWords<N> {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new() -> Self {
        Self {
            writer: LockWord::new(),
            used: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
            lines: std::array::from_fn(|_| Line {
                readers: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }

    fn slot(&self, index: usize) -> Option<&AtomicU64> {
        self.lines.get(index / PER_LINE)?.readers.get(index % PER_LINE)
    }

    /// Writes `me` into a free slot.
    fn sit_down(&self, me: u64) -> Option<usize> {
        const { assert!(0 < N && N <= 64, "a bit for each line") };
        let first = me as usize % N;
        for line in (first..N).chain(0..first) {
            for (place, reader) in self.lines[line].readers.iter().enumerate() {
                if reader.load(Ordering::Relaxed) != 0 {
                    continue;
                }
                let bit = 1_u64 << line;
                if self.used.load(Ordering::Relaxed) & bit == 0 {
                    self.used.fetch_or(bit, Ordering::AcqRel);
                }
                // Acquire: pairs with the Release of who left the slot.
                if reader.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    crash_point!("rwlock: a reader sits");
                    return Some(line * PER_LINE + place);
                }
            }
        }
        None
    }

    /// Takes it for reading; gives the slot. Errors: `WouldBlock`, `TimedOut`, `Deadlock`.
    #[inline]
    pub(crate) fn read(&self, me: u64, limit: Limit) -> Result<(usize, Acquired)> {
        match self.read_now(me) {
            Some(index) => Ok((index, self.news())),
            None => self.read_slow(me, limit),
        }
    }

    #[inline]
    fn read_now(&self, me: u64) -> Option<usize> {
        let index = self.sit_down(me)?;
        // Pairs with the one in `drain`: of a reader and a writer, one sees the other.
        fence_at!(ReaderFence);
        if self.writer.is_held_by_other(0) {
            crash_point!("rwlock: a reader is about to give way");
            self.leave(index, me);
            return None;
        }
        Some(index)
    }

    #[cold]
    fn read_slow(&self, me: u64, limit: Limit) -> Result<(usize, Acquired)> {
        if self.writer.owner() == me {
            return Err(Refused::Deadlock);
        }
        let mut patience = Patience::new(limit);
        let mut nap = if let Limit::Try = limit { Nap::Deadline } else { Nap::Woken };
        loop {
            if nap != Nap::Woken {
                // Perhaps the writer is dead. Whoever takes its place may sit down before it leaves.
                if let Ok(news) = self.writer.lock(me, Limit::Try) {
                    crash_point!("rwlock: a reader has the writer's place");
                    let index = self.sit_down_somewhere(me);
                    self.note(news);
                    let _ = self.writer.unlock_waking(me, ALL);
                    if let Some(index) = index {
                        return Ok((index, self.news()));
                    }
                }
            }
            if let Some(index) = self.read_now(me) {
                return Ok((index, self.news()));
            }
            if nap == Nap::Deadline {
                return Err(match limit {
                    Limit::Try => Refused::WouldBlock,
                    _ => Refused::TimedOut,
                });
            }
            nap = if self.writer.is_held() {
                self.writer.wait_free(&mut patience)
            } else if let Some(index) = self.sit_down_somewhere(me) {
                self.leave(index, me);
                Nap::Woken
            } else {
                // Every slot is taken by a living reader: wait for one of them.
                let first = &self.lines[me as usize % N].readers[0];
                let seen = first.load(Ordering::Relaxed);
                if seen == 0 { Nap::Woken } else { patience.sleep(first, seen) }
            };
        }
    }

    /// A free slot, or that of a dead reader.
    fn sit_down_somewhere(&self, me: u64) -> Option<usize> {
        self.sit_down(me).or_else(|| {
            for reader in self.lines.iter().flat_map(|line| &line.readers) {
                let seen = reader.load(Ordering::Relaxed);
                if seen != 0 && owner::is_dead(seen) {
                    let _ = reader.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed);
                }
            }
            self.sit_down(me)
        })
    }

    /// Ends the reading of `me` in slot `index`; does nothing where another sits there.
    #[inline]
    pub(crate) fn leave(&self, index: usize, me: u64) {
        let Some(reader) = self.slot(index) else { return };
        // Release: pairs with the Acquire in `drain`, so that the writer writes after the reader read.
        let seen = match reader.compare_exchange(
            me,
            0,
            ordering!(ReaderRelease, Release),
            Ordering::Relaxed,
        ) {
            Ok(_) => return,
            Err(seen) => seen,
        };
        if owner::of(seen) == me {
            crash_point!("rwlock: a reader is about to leave, with a writer waiting");
            // Only the writer changes a living reader's slot, and only by its mark.
            reader.swap(0, ordering!(ReaderRelease, Release));
            crash_point!("rwlock: a reader has left, about to wake");
            if taken!(ReaderWake) {
                word::wake(reader, ALL);
            }
        }
    }

    /// Takes it for writing. Errors: `WouldBlock`, `TimedOut`, `Deadlock`.
    pub(crate) fn write(&self, me: u64, limit: Limit) -> Result<Acquired> {
        let mut patience = Patience::new(limit);
        let news = if self.writer.lock_free(me) {
            Acquired::Clean
        } else if self.reads(me) {
            // Whoever has it may wait for this very thread to leave.
            return Err(Refused::Deadlock);
        } else {
            self.writer.lock(me, limit)?
        };
        crash_point!("rwlock: a writer keeps readers out");
        self.note(news);
        match self.drain(me, &mut patience) {
            Ok(()) => {
                crash_point!("rwlock: no reader is left");
                let news = self.news();
                if let Acquired::OwnerDied = news {
                    // If this writer dies too, that is news of its own.
                    self.owed.store(0, Ordering::Relaxed);
                    crash_point!("rwlock: a writer has the news");
                }
                Ok(news)
            }
            Err(error) => {
                self.unlock(me);
                Err(match (error, limit) {
                    (Refused::TimedOut, Limit::Try) => Refused::WouldBlock,
                    (error, _) => error,
                })
            }
        }
    }

    /// Whether `me` is among the readers.
    #[cold]
    fn reads(&self, me: u64) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        let lines = self.lines.iter().enumerate().filter(|(line, _)| used >> line & 1 != 0);
        // Relaxed: what this thread wrote it sees.
        lines
            .flat_map(|(_, line)| &line.readers)
            .any(|reader| owner::of(reader.load(Ordering::Relaxed)) == me)
    }

    /// Waits until no reader is left. None comes, as long as the writer's lock is held.
    fn drain(&self, me: u64, patience: &mut Patience) -> Result<()> {
        // Pairs with the one in `read_now`.
        fence_at!(WriterFence);
        let mut waits = false;
        let mut used = self.used.load(Ordering::Relaxed);
        while used != 0 {
            let line = used.trailing_zeros() as usize;
            used &= used - 1;
            // A stranger's bit may be beyond the last.
            let Some(Line { readers }) = self.lines.get(line) else { break };
            for reader in readers {
                // Acquire: pairs with the Release in `leave`.
                if reader.load(Ordering::Acquire) != 0 {
                    // Before it waits for anybody.
                    if !waits && self.reads(me) {
                        return Err(Refused::Deadlock);
                    }
                    waits = true;
                    self.await_reader(reader, me, patience)?;
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn await_reader(&self, reader: &AtomicU64, me: u64, patience: &mut Patience) -> Result<()> {
        loop {
            // Acquire: pairs with the Release in `leave`.
            let seen = patience.look(
                || reader.load(Ordering::Acquire),
                |&seen| seen == 0 || owner::of(seen) == me,
            );
            if seen == 0 {
                return Ok(());
            }
            if owner::of(seen) == me {
                return Err(Refused::Deadlock);
            }
            let marked = seen | WAITERS;
            // Relaxed: the kernel compares the word again.
            if seen != marked
                && reader
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            crash_point!("rwlock: a reader is marked");
            let nap = patience.sleep(reader, marked);
            if nap == Nap::Woken {
                continue;
            }
            let is_dead = if nap == Nap::Slice { owner::is_dead } else { owner::is_dead_lately };
            if is_dead(marked) && taken!(DeadReaderLeaves) {
                let _ = reader.compare_exchange(marked, 0, Ordering::Acquire, Ordering::Relaxed);
                crash_point!("rwlock: a dead reader's seat is free");
            } else if nap == Nap::Deadline && reader.load(Ordering::Acquire) != 0 {
                return Err(Refused::TimedOut);
            }
        }
    }

    /// Ends the writing of `me`; does nothing where another writes.
    #[inline]
    pub(crate) fn unlock(&self, me: u64) {
        // Readers sleep here too, and all may go on.
        let _ = self.writer.unlock_waking(me, ALL);
    }

    /// Keeps the news of a writer's death until somebody has the lock.
    fn note(&self, news: Acquired) {
        if let Acquired::OwnerDied = news
            && taken!(DeadWriterNoted)
        {
            // Release and Acquire by way of the writer's lock, under which it is written.
            self.owed.store(1, Ordering::Relaxed);
            crash_point!("rwlock: the news is noted");
        }
    }

    /// What a reader is told.
    #[inline]
    fn news(&self) -> Acquired {
        if self.owed.load(Ordering::Relaxed) == 0 { Acquired::Clean } else { Acquired::OwnerDied }
    }

    /// Whether a writer holds it, or waits for readers to leave.
    pub(crate) fn is_write_locked(&self) -> bool {
        self.writer.is_held()
    }
}

impl<const N: usize> std::fmt::Debug for RwLockWords<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RwLockWords").field("written", &self.is_write_locked()).finish()
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    const DEAD: u64 = (1 << 22) - 1;
    const NOW: Limit = Limit::For(Duration::ZERO);

    #[test]
    fn a_dead_reader_does_not_keep_writers_out() {
        let words = RwLockWords::<2>::new();
        words.read(DEAD, Limit::Try).unwrap();
        assert!(matches!(words.write(owner::me(), Limit::Try), Ok(Acquired::Clean)));
        words.unlock(owner::me());
    }

    #[test]
    fn a_dead_writer_is_news_until_another_writes() {
        let words = RwLockWords::<2>::new();
        let me = owner::me();
        words.write(DEAD, Limit::Try).unwrap();
        let (index, news) = words.read(me, Limit::Try).unwrap();
        assert_eq!(news, Acquired::OwnerDied);
        words.leave(index, me);
        assert!(matches!(words.write(me, Limit::Try), Ok(Acquired::OwnerDied)));
        words.unlock(me);
        let (index, news) = words.read(me, Limit::Try).unwrap();
        assert_eq!(news, Acquired::Clean);
        words.leave(index, me);
    }

    #[test]
    fn the_news_is_kept_where_readers_were_in_the_way() {
        let words = RwLockWords::<2>::new();
        let me = owner::me();
        let tid = me & ((1 << 22) - 1); // Another living name.
        words.write(DEAD, Limit::Try).unwrap();
        // A reader that came in before the writer, as it were.
        words.used.store(3, Ordering::Relaxed);
        words.lines[0].readers[0].store(tid, Ordering::Relaxed);
        assert!(matches!(words.write(me, NOW), Err(Refused::TimedOut)));
        words.leave(0, tid);
        assert!(matches!(words.write(me, NOW), Ok(Acquired::OwnerDied)));
        words.unlock(me);
    }

    #[test]
    fn a_full_house_is_no_deadlock() {
        let words = RwLockWords::<1>::new();
        let me = owner::me();
        let seats: Vec<_> = (0..PER_LINE).map(|_| words.read(me, Limit::Try).unwrap().0).collect();
        assert!(matches!(words.read(me, Limit::Try), Err(Refused::WouldBlock)));
        assert!(matches!(
            words.read(me, Limit::For(Duration::from_millis(5))),
            Err(Refused::TimedOut)
        ));
        words.leave(seats[0], me);
        assert!(words.read(me, Limit::Try).is_ok());
        assert!(matches!(words.write(me, Limit::Try), Err(Refused::Deadlock)));
    }
}
