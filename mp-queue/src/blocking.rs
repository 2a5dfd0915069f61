//! Putting and getting bytes and descriptors: the locks, the waiting, the waking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::{Deadline, Segment, crash_point};
use mp_sync::{Acquired, RawLockGuard};

use crate::commit::{MOST, Mark, Nap, NothingLeft, Patience};
use crate::parcel::{self, Sockets};
use crate::slots::{Cursor, Record, Side, Slots, UNIT, Words, units_of};
use crate::{Error, Result};
use mp_core::word::ALL;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// No longer than others who are inside at this moment.
    Try,
    /// Until then.
    Until(Deadline),
    /// As long as it takes.
    Forever,
}

/// For how long a call that does not wait waits for who is inside: thousands of times what that takes.
const INSIDE: Duration = Duration::from_secs(1);
/// The same for one whose time is over.
const LATE: Duration = Duration::from_millis(10);
/// How often one that waits behind who is inside looks whether the queue was closed.
const SLICE: Duration = Duration::from_millis(100);

impl Limit {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::Until(Deadline::after(timeout))
    }

    fn patience(self) -> Patience {
        Patience::new(match self {
            Self::Try => Deadline::PASSED,
            Self::Until(deadline) => deadline,
            Self::Forever => Deadline::NEVER,
        })
    }

    /// Whether there is no time to wait.
    fn is_over(self) -> bool {
        match self {
            Self::Try => true,
            Self::Until(deadline) => deadline.has_passed(),
            Self::Forever => false,
        }
    }

    /// What it is called when the time is over and `otherwise` is why.
    fn over(self, otherwise: Error) -> Error {
        match self {
            Self::Try => otherwise,
            Self::Until(_) | Self::Forever => Error::TimedOut,
        }
    }
}

/// How long somebody waits until the turn is his: others then leave it to him.
///
/// It needs more processes than processors. Those who wait let others run, and may come to run again only
/// when the room, or the items, have gone to the one that happens to be before them each time.
const HUNGRY: Duration = Duration::from_millis(50);
/// For how long it is his, if he does not take it: he may be dead.
const OWED: Duration = Duration::from_millis(10);
/// For how long those others stay away before they look again.
const AWAY: Duration = Duration::from_millis(1);

/// How one attempt is made.
#[derive(Clone, Copy)]
struct Attempt {
    limit: Limit,
    /// Whether the caller has waited for long.
    hungry: bool,
}

impl Attempt {
    fn first(limit: Limit) -> Self {
        Self { limit, hungry: false }
    }

    fn after(limit: Limit, patience: &Patience) -> Self {
        Self { limit, hungry: patience.age() > HUNGRY }
    }

    /// Whether the turn is somebody else's. Under the side's lock.
    #[inline]
    fn is_owed(self, side: &Side) -> bool {
        let until = side.owed.load(Ordering::Relaxed);
        until != 0 && self.is_owed_until(side, until)
    }

    #[cold]
    fn is_owed_until(self, side: &Side, until: u64) -> bool {
        let left = until.saturating_sub(monotonic_nanos());
        // A faulty process may have written anything.
        if left == 0 || left > OWED.as_nanos() as u64 {
            side.owed.store(0, Ordering::Relaxed);
            return false;
        }
        // Who may not wait has what is there: that others may be before him is no reason to say it is not.
        !self.hungry && !self.limit.is_over()
    }

    /// Claims the next turn, if it is due. Under the side's lock.
    fn refused(self, side: &Side) {
        if self.hungry {
            let until = monotonic_nanos() + OWED.as_nanos() as u64;
            side.owed.store(until, Ordering::Relaxed);
        }
    }

    /// The turn was taken. Under the side's lock.
    #[inline]
    fn served(self, side: &Side) {
        if self.hungry {
            side.owed.store(0, Ordering::Relaxed);
        }
    }
}

/// Why nothing was put.
enum Refused {
    /// There is no room, as the word of what was got says.
    Full(Mark),
    /// Too many descriptors are under way.
    Crowded(io::Error),
    /// It is somebody else's turn.
    Owed,
}

/// What came out of an attempt to get.
enum Got {
    /// Something, and what the words said then.
    Some { left: u64 },
    /// A record whose descriptors went to a process that died; it is gone.
    Lost,
    /// Nothing, but something was put meanwhile.
    Again,
    /// Nothing, as the word of what was put says.
    Nothing(Mark),
    /// It is somebody else's turn.
    Owed,
}

/// Records that were got: all their bytes in a row, where each ends, and the descriptors of the last.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<usize>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Batch {
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.fds.clear();
    }
}

/// A queue of bytes and descriptors.
pub(crate) struct Core {
    slots: Slots,
    sockets: Sockets,
    /// Whether what was got has to be done too.
    joinable: bool,
}

impl Core {
    pub(crate) fn create(kind: u64, joinable: bool, capacity: u64, max_units: u64) -> Result<Self> {
        let slots = Slots::create(kind, capacity, max_units)?;
        Ok(Self { slots, sockets: Sockets::pair()?, joinable })
    }

    /// Takes over what was received.
    pub(crate) fn over(
        segment: OwnedFd,
        near: OwnedFd,
        far: OwnedFd,
        kind: u64,
        joinable: bool,
    ) -> Result<Self> {
        let slots = Slots::over(Segment::open(segment, kind)?)?;
        Ok(Self { slots, sockets: Sockets::over(near, far)?, joinable })
    }

    /// A queue of few and small blocks, which can be used up.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn create_sized(sizes: usize, capacity: u64, max_units: u64) -> Result<Self> {
        let slots = Slots::create_sized(0, sizes, capacity, max_units)?;
        Ok(Self { slots, sockets: Sockets::pair()?, joinable: true })
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// As whoever takes a lock from the dead does.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn repair_both(&self) {
        let Words { put, got, .. } = self.words();
        self.repair(put);
        self.repair(got);
    }

    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.slots.segment().as_fd(), self.sockets.near.as_fd(), self.sockets.far.as_fd()]
    }

    #[inline]
    fn words(&self) -> &Words {
        self.slots.words()
    }

    pub(crate) fn capacity(&self) -> Option<u64> {
        (self.slots.capacity != u64::MAX).then_some(self.slots.capacity)
    }

    pub(crate) fn max_bytes(&self) -> Option<u64> {
        (self.slots.max_units < MOST).then_some(self.slots.max_units * UNIT)
    }

    pub(crate) fn len(&self) -> u64 {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        let Words { put, got, .. } = self.words();
        // Got first: it can only get fuller until put is read, and is so then.
        let gone = got.word.load();
        self.len() >= self.slots.capacity
            || put.word.load().units_since(gone) >= self.slots.max_units
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.words().put.word.load().is_closed()
    }

    /// Takes the lock of a side, and sets right what its last holder left if it died; says whether it did.
    #[inline]
    fn lock<'a>(&'a self, side: &'a Side, limit: Limit) -> Result<(RawLockGuard<'a>, bool)> {
        match side.lock.take_free() {
            Some(guard) => Ok((guard, false)),
            None => self.lock_slow(side, limit),
        }
    }

    #[cold]
    fn lock_slow<'a>(&'a self, side: &'a Side, limit: Limit) -> Result<(RawLockGuard<'a>, bool)> {
        let deadline = match limit {
            Limit::Forever => Deadline::NEVER,
            Limit::Try => Deadline::after(INSIDE),
            Limit::Until(deadline) => deadline.max(Deadline::after(LATE)),
        };
        loop {
            // In slices: whoever has it may stand still for long, and a close wakes nobody who waits here.
            let slice = deadline.min(Deadline::after(SLICE));
            match side.lock.lock(slice) {
                Ok((guard, Acquired::Clean)) => return Ok((guard, false)),
                Ok((guard, Acquired::OwnerDied)) => {
                    self.repair(side);
                    return Ok((guard, true));
                }
                Err(mp_sync::Error::TimedOut | mp_sync::Error::WouldBlock) => {
                    if self.is_over(side) {
                        return Err(Error::Closed);
                    }
                    if deadline.has_passed() {
                        return Err(limit.over(Error::Busy));
                    }
                }
                Err(_) => return Err(Error::Busy),
            }
        }
    }

    /// Whether nothing can be done on this side any more: the queue is closed and, for those who get, empty.
    fn is_over(&self, side: &Side) -> bool {
        let Words { put, got, .. } = self.words();
        let tail = put.word.load();
        tail.is_closed() && (std::ptr::eq(side, put) || tail.items_since(got.word.load()) == 0)
    }

    #[cold]
    fn repair(&self, side: &Side) {
        let Words { put, got, .. } = self.words();
        // What fails here costs memory at worst; what is damaged shows in the call itself.
        if std::ptr::eq(side, put) {
            let _ = self.slots.repair_put();
            self.drop_orphans(put.word.load());
        } else {
            let _ = self.slots.repair_got();
            // Not waited for: whoever waits for both locks has that of those who put first.
            if let Some(_guard) = put.lock.take_free() {
                self.drop_parcels(put.word.load());
            }
        }
        crash_point!("repair: about to wake");
        // It may have died before it woke whom its commit concerns, on either word.
        for word in [&put.word, &got.word] {
            let now = word.load();
            if now.has_waiters() {
                word.wake(now, ALL);
            }
        }
    }

    // Putting.

    /// Puts one record.
    #[inline]
    pub(crate) fn put(&self, bytes: &[u8], fds: &[OwnedFd], limit: Limit) -> Result<()> {
        self.check_size(bytes.len(), fds.len())?;
        match self.put_now(bytes, fds, Attempt::first(limit))? {
            Ok(now) => {
                self.wake_getters(now, 1);
                Ok(())
            }
            Err(refused) => self.put_slow(bytes, fds, limit, refused),
        }
    }

    /// Whether it can ever be put.
    #[inline]
    pub(crate) fn check_size(&self, len: usize, fds: usize) -> Result<()> {
        let extra = if fds > 0 { 8 } else { 0 };
        let (size, max) = (len as u64, self.slots.largest().saturating_sub(extra));
        if size > max {
            return Err(Error::TooLarge { size, max });
        }
        if fds > parcel::MOST {
            return Err(Error::TooManyDescriptors { count: fds, max: parcel::MOST });
        }
        Ok(())
    }

    #[inline]
    fn wake_getters(&self, now: Mark, count: u32) {
        crash_point!("put: about to wake");
        if now.has_waiters() {
            self.words().put.word.wake(now, count);
        }
    }

    #[cold]
    fn put_slow(
        &self,
        bytes: &[u8],
        fds: &[OwnedFd],
        limit: Limit,
        mut refused: Refused,
    ) -> Result<()> {
        let mut patience = limit.patience();
        loop {
            self.await_room(refused, limit, &mut patience)?;
            match self.put_now(bytes, fds, Attempt::after(limit, &patience))? {
                Ok(now) => {
                    self.wake_getters(now, 1);
                    self.hand_room_on(now, &patience);
                    return Ok(());
                }
                Err(again) => refused = again,
            }
        }
    }

    fn await_room(&self, refused: Refused, limit: Limit, patience: &mut Patience) -> Result<()> {
        if let Limit::Try = limit {
            return Err(Error::Full);
        }
        match refused {
            Refused::Full(head) => match self.words().got.word.wait(head, patience) {
                Nap::Again => Ok(()),
                Nap::Deadline => Err(Error::TimedOut),
            },
            // Nothing tells when there is room again: it may be other sockets of this user that are full.
            Refused::Crowded(error) => {
                if self.len() == 0 && patience.age() > INSIDE {
                    return Err(error.into());
                }
                patience.rest(4 * AWAY)
            }
            Refused::Owed => {
                // Also at the end of the time: the next attempt heeds nobody.
                let _ = patience.rest(AWAY);
                Ok(())
            }
        }
    }

    /// Who slept may have been woken for all of several: if there is room for more, the next is woken.
    fn hand_room_on(&self, tail: Mark, patience: &Patience) {
        let head = self.words().got.word.load();
        if patience.slept
            && head.has_waiters()
            && tail.items_since(head) < self.slots.capacity
            && tail.units_since(head) < self.slots.max_units
        {
            self.words().got.word.wake(head, 1);
        }
    }

    #[inline]
    fn may_put(&self, tail: Mark, items: u64) -> Result<()> {
        if tail.is_closed() {
            return Err(Error::Closed);
        }
        if self.joinable && tail.items_since(self.words().done.load()) + items > MOST {
            return Err(Error::TooManyUnfinished);
        }
        Ok(())
    }

    #[inline]
    fn put_now(
        &self,
        bytes: &[u8],
        fds: &[OwnedFd],
        attempt: Attempt,
    ) -> Result<std::result::Result<Mark, Refused>> {
        let units = units_of(bytes.len(), !fds.is_empty());
        let put = &self.words().put;
        let (guard, _) = self.lock(put, attempt.limit)?;
        crash_point!("put: the lock is taken");
        let (tail, mut cursor) = self.slots.tail()?;
        self.may_put(tail, 1)?;
        if attempt.is_owed(put) {
            return Ok(Err(Refused::Owed));
        }
        let (items, room, head) = self.slots.room(tail, 1, units);
        if items < 1 || room < units {
            attempt.refused(put);
            return Ok(Err(Refused::Full(head)));
        }
        self.slots.place(tail, &mut cursor, units)?;
        let parcel = if fds.is_empty() {
            None
        } else {
            match self.send(tail, fds)? {
                Ok(name) => Some((fds.len() as u16, name)),
                Err(error) => return Ok(Err(Refused::Crowded(error))),
            }
        };
        self.slots.write(&mut cursor, Record { bytes, parcel })?;
        let now = self.slots.commit_put(tail, &cursor, 1, units, || self.show())?;
        attempt.served(put);
        drop(guard);
        Ok(Ok(now))
    }

    /// Sends an item's descriptors ahead of it; gives the parcel's name.
    #[cold]
    fn send(&self, tail: Mark, fds: &[OwnedFd]) -> Result<std::result::Result<u64, io::Error>> {
        for again in [true, false] {
            let name = self.slots.new_parcel();
            crash_point!("put: the parcel has its name");
            match self.sockets.send(name, fds) {
                Ok(()) => return Ok(Ok(name)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ETOOMANYREFS) => {
                        if !(again && self.drop_orphans(tail)) {
                            return Ok(Err(error));
                        }
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Drops the parcels of those who died before their commit, where no item has any; says whether. Under the lock of
    /// those who put.
    ///
    /// As long as they are under way, they count among the descriptors that this user may have under way at all, in
    /// whichever queue: unix(7), `ETOOMANYREFS`.
    fn drop_orphans(&self, tail: Mark) -> bool {
        let Ok((_guard, _)) = self.lock(&self.words().got, Limit::after(LATE)) else {
            return false;
        };
        self.drop_parcels(tail)
    }

    /// Drops all parcels, where there are no items; says whether. Under both locks.
    fn drop_parcels(&self, tail: Mark) -> bool {
        let empty = tail.items_since(self.words().got.word.load()) == 0;
        if empty {
            self.sockets.drop_all();
        }
        empty
    }

    /// Puts records that `slots::append` wrote one behind the other, of so many units each; on failure,
    /// says how many were put.
    pub(crate) fn put_row(
        &self,
        row: &[u8],
        units: &[u64],
        limit: Limit,
    ) -> std::result::Result<(), (usize, Error)> {
        let mut patience: Option<Patience> = None;
        let (mut done, mut start) = (0, 0);
        loop {
            let attempt = match &patience {
                None => Attempt::first(limit),
                Some(patience) => Attempt::after(limit, patience),
            };
            match self.put_run(&row[start..], &units[done..], attempt) {
                Err(error) => return Err((done, error)),
                Ok(Ok((now, items, bytes))) => {
                    self.wake_getters(now, items as u32);
                    (done, start) = (done + items, start + bytes);
                    if done == units.len() {
                        if let Some(patience) = &patience {
                            self.hand_room_on(now, patience);
                        }
                        return Ok(());
                    }
                }
                Ok(Err(refused)) => {
                    let patience = patience.get_or_insert_with(|| limit.patience());
                    self.await_room(refused, limit, patience).map_err(|error| (done, error))?;
                }
            }
        }
    }

    /// Puts as many of the records as have room, in this queue and in one block; at least one.
    fn put_run(
        &self,
        row: &[u8],
        units: &[u64],
        attempt: Attempt,
    ) -> Result<std::result::Result<(Mark, usize, usize), Refused>> {
        let put = &self.words().put;
        let (guard, _) = self.lock(put, attempt.limit)?;
        let (tail, mut cursor) = self.slots.tail()?;
        let all = units.iter().sum();
        self.may_put(tail, units.len() as u64)?;
        if attempt.is_owed(put) {
            return Ok(Err(Refused::Owed));
        }
        let (items, room, head) = self.slots.room(tail, units.len() as u64, all);
        if items < 1 || room < units[0] {
            attempt.refused(put);
            return Ok(Err(Refused::Full(head)));
        }
        self.slots.place(tail, &mut cursor, units[0])?;
        let room = room.min(self.slots.left(cursor));
        let mut run = 0;
        let most = usize::try_from(items).unwrap_or(usize::MAX).min(units.len());
        let count = units[..most].iter().take_while(|&&units| {
            run += units;
            run <= room
        });
        let count = count.count();
        let run = units[..count].iter().sum::<u64>();
        self.slots.reserve_units(cursor, run)?;
        let bytes = (run * UNIT) as usize;
        self.slots.write_row(&mut cursor, &row[..bytes])?;
        let now = self.slots.commit_put(tail, &cursor, count as u64, run, || self.show())?;
        attempt.served(put);
        drop(guard);
        Ok(Ok((now, count, bytes)))
    }

    // Getting.

    /// Gets one record at least and `max` at most into `batch`, which is empty.
    #[inline]
    pub(crate) fn get(&self, max: u64, batch: &mut Batch, limit: Limit) -> Result<()> {
        match self.get_now(max, batch, Attempt::first(limit))? {
            Got::Some { .. } => Ok(()),
            refused => self.get_slow(max, batch, limit, refused),
        }
    }

    #[cold]
    fn get_slow(&self, max: u64, batch: &mut Batch, limit: Limit, mut refused: Got) -> Result<()> {
        let put = &self.words().put;
        let mut patience = limit.patience();
        loop {
            match refused {
                Got::Nothing(_) if matches!(limit, Limit::Try) => return Err(Error::Empty),
                Got::Nothing(tail) => {
                    if let Nap::Deadline = put.word.wait(tail, &mut patience) {
                        return Err(Error::TimedOut);
                    }
                }
                Got::Owed => _ = patience.rest(AWAY),
                Got::Some { .. } | Got::Lost | Got::Again => {}
            }
            refused = self.get_now(max, batch, Attempt::after(limit, &patience))?;
            if let Got::Some { left } = refused {
                // Who slept may have been woken for all of several items: the next is for the next.
                let tail = put.word.load();
                if patience.slept && left > 0 && tail.has_waiters() {
                    put.word.wake(tail, 1);
                }
                return Ok(());
            }
        }
    }

    #[inline]
    fn get_now(&self, max: u64, batch: &mut Batch, attempt: Attempt) -> Result<Got> {
        let got = &self.words().got;
        let (guard, died) = self.lock(got, attempt.limit)?;
        crash_point!("get: the lock is taken");
        let (head, mut cursor, there, seen) = self.slots.head(died)?;
        if there == 0 {
            attempt.refused(got);
            drop(guard);
            if seen.is_closed() {
                return Err(Error::Closed);
            }
            // Who was told by the descriptor may come while the item is still about to be committed.
            return Ok(if seen.is_watched() && self.hide() {
                Got::Again
            } else {
                Got::Nothing(seen)
            });
        }
        if attempt.is_owed(got) {
            return Ok(Got::Owed);
        }
        let (mut items, mut units) = (0, 0);
        while items < max.min(there) {
            match self.get_one(&mut cursor, items > 0, batch) {
                Ok(Some((found, true))) => {
                    batch.ends.push(batch.bytes.len());
                    items += 1;
                    units += found;
                }
                Ok(Some((found, false))) => {
                    self.slots.commit_got(head, &cursor, 1, found)?;
                    return Ok(Got::Lost);
                }
                Ok(None) => break,
                // What comes before it can be had.
                Err(_) if items > 0 => break,
                Err(error) => return Err(error),
            }
            if !batch.fds.is_empty() {
                break;
            }
        }
        crash_point!("get: the records are read");
        let now = self.slots.commit_got(head, &cursor, items, units)?;
        attempt.served(got);
        drop(guard);
        crash_point!("get: about to wake");
        if now.has_waiters() {
            // Of those who wait for bytes, the one that is woken may need more than are there.
            let count = if self.slots.max_units < MOST { ALL } else { items as u32 };
            got.word.wake(now, count);
        }
        let left = there - items;
        if left == 0 && seen.is_watched() {
            self.hide();
        }
        Ok(Got::Some { left })
    }

    /// Reads the record at `cursor`; gives its units, and whether it was whole. `None` where it is not for
    /// this batch, which has `others`.
    #[inline]
    fn get_one(
        &self,
        cursor: &mut Cursor,
        others: bool,
        batch: &mut Batch,
    ) -> Result<Option<(u64, bool)>> {
        let Some(found) = self.slots.find(cursor, others)? else { return Ok(None) };
        let Some((count, name)) = found.parcel else {
            self.slots.read(cursor, found, &mut batch.bytes)?;
            return Ok(Some((found.units, true)));
        };
        if others {
            return Ok(None);
        }
        let start = *cursor;
        self.slots.read(cursor, found, &mut batch.bytes)?;
        match self.sockets.take(name, usize::from(count)) {
            Ok(Some(fds)) => {
                batch.fds = fds;
                Ok(Some((found.units, true)))
            }
            Ok(None) => {
                batch.bytes.clear();
                Ok(Some((found.units, false)))
            }
            Err(error) => {
                *cursor = start;
                batch.bytes.clear();
                Err(error.into())
            }
        }
    }

    // Closing, readiness, joining.

    pub(crate) fn close(&self) {
        let Words { put, got, .. } = self.words();
        crash_point!("close: about to");
        put.word.close(|| {
            self.sockets.shut();
            crash_point!("close: the descriptor is shut");
        });
        crash_point!("close: done for those who put");
        got.word.set(Mark::CLOSED);
        crash_point!("close: about to wake");
        put.word.wake_all();
        got.word.wake_all();
    }

    /// The descriptor that is readable while there is something to get, set to how it is now.
    ///
    /// It may be readable without, for a while. The other way round never happens, whoever is killed or stands
    /// still:
    ///
    /// - What was committed before the word was marked, this finds and shows. What is committed later, its
    ///   putter has shown before, as its commit says that it has seen the mark.
    /// - What was shown is hidden with the putters' lock only, by one who finds the queue empty then. Until
    ///   that one lets go of the lock, there is nothing new to show.
    /// - The end is shown in a way that nobody can hide, before the word says it. If who closes is killed in
    ///   between, whoever comes upon it closes the queue.
    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        let Words { put, got, .. } = self.words();
        let tail = put.word.watch();
        crash_point!("watch: the word is marked");
        if tail.is_closed() {
            self.sockets.shut();
        } else if tail.items_since(got.word.load()) > 0 {
            self.sockets.show();
        } else if self.sockets.is_shown() {
            self.hide();
        }
        self.sockets.near.as_fd()
    }

    #[cold]
    fn show(&self) {
        self.sockets.show();
        crash_point!("put: the descriptor shows it");
    }

    /// Lets the descriptor not be readable, if there is nothing and nobody is about to put something for long.
    /// Says whether there is something.
    #[cold]
    fn hide(&self) -> bool {
        let Words { put, got, .. } = self.words();
        // With the lock nobody is between showing an item and committing it.
        let Ok((guard, _)) = self.lock(put, Limit::after(LATE)) else { return false };
        let tail = put.word.load();
        if tail.items_since(got.word.load()) > 0 {
            return true;
        }
        let is_shut = !tail.is_closed() && self.sockets.hide();
        crash_point!("hide: hidden");
        drop(guard);
        if is_shut {
            self.close();
        }
        is_shut
    }

    /// How many items were put and are not done.
    pub(crate) fn unfinished(&self) -> u64 {
        let Words { put, done, .. } = self.words();
        // Done first: it cannot pass what was put.
        let done = done.load();
        put.word.load().items_since(done)
    }

    pub(crate) fn task_done(&self) -> Result<()> {
        let Words { put, done, .. } = self.words();
        match done.finish_one(&put.word) {
            Ok(_) => Ok(()),
            Err(NothingLeft) => Err(Error::TooManyDone),
        }
    }

    pub(crate) fn join(&self, limit: Limit) -> Result<()> {
        let Words { put, done, .. } = self.words();
        let mut patience = limit.patience();
        loop {
            let seen = done.load();
            if put.word.load().items_since(seen) == 0 {
                return Ok(());
            }
            if let Nap::Deadline = done.wait(seen, &mut patience) {
                return Err(Error::TimedOut);
            }
        }
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    use mp_core::sys::fd::wait_readable;

    fn is_readable(core: &Core) -> bool {
        wait_readable(core.sockets.near.as_fd(), Deadline::PASSED).unwrap()
    }

    /// Calls `then` as if it were somebody else, who comes while this one is inside a put, its record written.
    fn in_the_middle_of_a_put(core: &Core, then: impl FnOnce() + Send) {
        let (guard, _) = core.lock(&core.words().put, Limit::Forever).unwrap();
        let (tail, mut cursor) = core.slots.tail().unwrap();
        let units = units_of(4, false);
        core.slots.place(tail, &mut cursor, units).unwrap();
        core.slots.write(&mut cursor, Record { bytes: b"item", parcel: None }).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(then);
        });
        let _ = core.slots.commit_put(tail, &cursor, 1, units, || core.show());
        drop(guard);
    }

    fn within_a_moment<R>(call: impl FnOnce() -> R) -> R {
        let begun = std::time::Instant::now();
        let result = call();
        assert!(begun.elapsed() < INSIDE / 2, "held up by who stands still: {:?}", begun.elapsed());
        result
    }

    #[test]
    fn who_stands_still_inside_neither_holds_up_who_watches_nor_escapes_it() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        in_the_middle_of_a_put(&core, || {
            within_a_moment(|| core.readiness());
            assert!(!is_readable(&core), "there is nothing yet");
        });
        assert!(is_readable(&core), "it was told of the watcher by its commit");
        let mut batch = Batch::default();
        in_the_middle_of_a_put(&core, || {
            core.get(1, &mut batch, Limit::Try).unwrap();
            within_a_moment(|| core.readiness());
        });
        core.readiness();
        assert!(is_readable(&core));
        core.get(1, &mut Batch::default(), Limit::Try).unwrap();
        core.readiness();
        assert!(!is_readable(&core));
    }

    #[test]
    fn who_is_told_of_an_item_gets_it_though_it_is_still_to_be_committed() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        core.readiness();
        std::thread::scope(|scope| {
            let put = &core.words().put;
            let (guard, _) = core.lock(put, Limit::Forever).unwrap();
            let (tail, mut cursor) = core.slots.tail().unwrap();
            core.slots.place(tail, &mut cursor, 1).unwrap();
            core.slots.write(&mut cursor, Record { bytes: b"item", parcel: None }).unwrap();
            let show = || {
                core.show();
                scope.spawn(|| core.get(1, &mut Batch::default(), Limit::Try).unwrap());
                std::thread::sleep(LATE / 4);
            };
            core.slots.commit_put(tail, &cursor, 1, 1, show).unwrap();
            drop(guard);
        });
        assert!(!is_readable(&core));
    }

    #[test]
    fn what_is_there_is_shown_while_somebody_stands_still_inside() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        core.put(b"first", &[], Limit::Try).unwrap();
        in_the_middle_of_a_put(&core, || {
            within_a_moment(|| core.readiness());
            assert!(is_readable(&core));
        });
    }

    #[test]
    fn a_close_is_shown_while_somebody_stands_still_inside() {
        for watched_before in [false, true] {
            let core = Core::create(0, false, u64::MAX, MOST).unwrap();
            if watched_before {
                core.readiness();
            }
            in_the_middle_of_a_put(&core, || {
                within_a_moment(|| core.close());
                within_a_moment(|| core.readiness());
                assert!(is_readable(&core));
            });
            core.readiness();
            let result = core.get(1, &mut Batch::default(), Limit::Try);
            assert!(matches!(result, Err(Error::Closed)), "put to what was closed before");
            core.hide();
            assert!(is_readable(&core), "nobody hides it");
        }
    }

    #[test]
    fn a_close_of_one_who_died_in_it_is_brought_to_an_end() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        core.readiness();
        core.put(b"item", &[], Limit::Try).unwrap();
        // As far as the dead one had come.
        core.sockets.shut();
        let mut batch = Batch::default();
        core.get(1, &mut batch, Limit::Try).unwrap();
        assert!(core.is_closed() && is_readable(&core));
        assert!(matches!(core.get(1, &mut batch, Limit::Try), Err(Error::Closed)));
    }

    #[test]
    fn a_close_ends_those_who_wait_behind_one_that_stands_still_inside() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        let closed =
            |result: Result<()>| assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        let done = std::sync::atomic::AtomicU32::new(0);
        // Held by this thread, which goes on when they have ended, or have not in time.
        let (put, got) = (&core.words().put, &core.words().got);
        let (put, got) = (core.lock(put, Limit::Forever), core.lock(got, Limit::Forever));
        std::thread::scope(|scope| {
            for limit in [Limit::Forever, Limit::after(Duration::from_secs(60))] {
                let (core, done) = (&core, &done);
                scope.spawn(move || {
                    closed(core.put(b"item", &[], limit));
                    done.fetch_add(1, Ordering::Relaxed);
                });
                scope.spawn(move || {
                    let put = core.put_row(&[0; 8], &[1], limit);
                    closed(put.map_err(|(_, error)| error));
                    done.fetch_add(1, Ordering::Relaxed);
                });
                scope.spawn(move || {
                    closed(core.get(1, &mut Batch::default(), limit));
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            std::thread::sleep(SLICE);
            assert_eq!(done.load(Ordering::Relaxed), 0);
            core.close();
            // A tenth of a second, on a machine that is not busy.
            let closed = Deadline::after(Duration::from_secs(30));
            while done.load(Ordering::Relaxed) < 6 && !closed.has_passed() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let ended = done.load(Ordering::Relaxed);
            drop((put, got));
            assert_eq!(ended, 6, "held up by who stands still");
        });
    }

    #[test]
    fn what_is_in_a_closed_queue_is_waited_for_behind_one_that_stands_still_inside() {
        let core = Core::create(0, false, u64::MAX, MOST).unwrap();
        core.put(b"item", &[], Limit::Try).unwrap();
        core.close();
        let got = core.lock(&core.words().got, Limit::Forever).unwrap();
        std::thread::scope(|scope| {
            let getter = scope.spawn(|| core.get(1, &mut Batch::default(), Limit::Forever));
            std::thread::sleep(3 * SLICE / 2);
            assert!(!getter.is_finished(), "there is an item");
            drop(got);
            getter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn parcels_of_one_who_died_in_a_put_are_dropped_by_the_next() {
        use mp_core::sys::{fd, socket};
        let parcel = || vec![fd::null().unwrap()];
        let under_way = |core: &Core| socket::peek(core.sockets.far.as_fd(), &mut [0; 16]).is_ok();
        for side in ["put", "got"] {
            let core = Core::create(0, false, u64::MAX, MOST).unwrap();
            let die = || {
                let Words { put, got, .. } = core.words();
                core.sockets.send(core.slots.new_parcel(), &parcel()).unwrap();
                let lock = if side == "put" { put } else { got };
                std::mem::forget(core.lock(lock, Limit::Forever).unwrap());
            };
            std::thread::scope(|scope| _ = scope.spawn(die));
            assert!(under_way(&core));
            if side == "put" {
                core.put(b"item", &[], Limit::Forever).unwrap();
            } else {
                let refused = core.get(1, &mut Batch::default(), Limit::Try);
                assert!(matches!(refused, Err(Error::Empty)));
            }
            assert!(!under_way(&core), "{side}");
            // But not what an item has.
            let core = Core::create(0, false, u64::MAX, MOST).unwrap();
            core.put(b"item", &parcel(), Limit::Try).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let Words { put, got, .. } = core.words();
                    let lock = if side == "put" { put } else { got };
                    std::mem::forget(core.lock(lock, Limit::Forever).unwrap());
                });
            });
            core.put(b"item", &[], Limit::Try).unwrap();
            let mut batch = Batch::default();
            core.get(1, &mut batch, Limit::Try).unwrap();
            assert_eq!(batch.fds.len(), 1);
        }
    }

    /// Has both sides' next turn be somebody else's, who has waited for long.
    fn owe(core: &Core) {
        let Words { put, got, .. } = core.words();
        let until = monotonic_nanos() + OWED.as_nanos() as u64;
        for side in [put, got] {
            side.owed.store(until, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_may_not_wait_has_what_is_there_whoever_else_waits() {
        let core = Core::create(0, false, 1, MOST).unwrap();
        for limit in [Duration::ZERO, Duration::from_millis(3), Duration::from_secs(60)] {
            let mut batch = Batch::default();
            owe(&core);
            core.put(b"item", &[], Limit::after(limit)).unwrap();
            owe(&core);
            core.get(1, &mut batch, Limit::after(limit)).unwrap();
            assert_eq!(batch.bytes, b"item");
            assert!(matches!(
                core.get(1, &mut batch, Limit::after(Duration::ZERO)),
                Err(Error::TimedOut)
            ));
        }
    }
}
