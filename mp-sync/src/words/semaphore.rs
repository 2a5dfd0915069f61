//! The words of a semaphore.

use std::time::Duration;

use mp_core::crash_point;

use super::lock::LockWord;
use crate::owner::{self, FLAG_A};
use crate::patience::{Limit, Nap, Patience, Watch, give_way};
use crate::{Acquired, Error, Result};
use mp_core::word::{self, AtomicU32, AtomicU64, Ordering, ordering, taken};

/// A count, and who has guards for permits.
///
/// A plain `acquire` or `release` is one compare-and-swap of the count. A permit that is held by a guard
/// also has its holder's name in a slot. Count and slot change together, under a lock that survives its
/// owner: the step to take is written down first, the swap of the count says that it was taken, and
/// whoever finds the lock's owner dead completes it, or crosses it out ([`recover`](Self::recover)).
#[repr(C)]
pub(crate) struct SemaphoreWords<const N: usize> {
    /// | bits | content |
    /// | --- | --- |
    /// | 0..30 | permits that are to be had |
    /// | 30 | the step in `journal` was taken, and is not done with yet |
    /// | 31 | somebody may sleep |
    count: AtomicU32,
    /// How many permits it began with. Written once, by the creator; [`UNBOUNDED`] where releasing above
    /// that is allowed.
    initial: AtomicU32,
    /// | value | meaning |
    /// | --- | --- |
    /// | 0 | no step |
    /// | slot + 1 | a permit moves from the count to that slot |
    /// | slot + 1 with [`GIVE`] | a permit moves from that slot to the count |
    journal: AtomicU32,
    /// Slots from here on were never used.
    used: AtomicU32,
    watch: Watch,
    reserved: AtomicU32,
    /// Held while a permit moves between count and slots.
    lock: LockWord,
    /// | value | meaning |
    /// | --- | --- |
    /// | 0 | free |
    /// | a name ([`owner`]) | that thread holds a permit by guard |
    /// | [`LEFT`] | nobody holds it any more: it is for whoever looks to give it back |
    ///
    /// Written under the lock, but for the step from the own name to `LEFT`.
    slots: [AtomicU64; N],
}

const COUNT: u32 = TAKEN - 1;
const TAKEN: u32 = 1 << 30;
const WAITERS: u32 = 1 << 31;
const GIVE: u32 = 1 << 31;

/// In a slot: no thread's name.
const LEFT: u64 = FLAG_A;

/// The largest count.
pub(crate) const MAX: u32 = COUNT;
/// How long a call that must not wait without end waits for one that is stopped in mid-step.
const A_WHILE: Limit = Limit::For(Duration::from_millis(100));

/// No bound but [`MAX`].
pub(crate) const UNBOUNDED: u32 = u32::MAX;

impl<const N: usize> SemaphoreWords<N> {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new(count: u32, initial: u32) -> Self {
        let words = Self {
            count: AtomicU32::new(0),
            initial: AtomicU32::new(0),
            journal: AtomicU32::new(0),
            used: AtomicU32::new(0),
            watch: Watch::new(),
            reserved: AtomicU32::new(0),
            lock: LockWord::new(),
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        words.begin(count, initial);
        words
    }

    /// Writes what the creator decides. Relaxed: how the segment gets to others orders it.
    pub(crate) fn begin(&self, count: u32, initial: u32) {
        self.count.store(count, Ordering::Relaxed);
        self.initial.store(initial, Ordering::Relaxed);
    }

    /// How many permits are to be had.
    pub(crate) fn value(&self) -> u32 {
        self.count.load(Ordering::Relaxed) & COUNT
    }

    /// Takes a permit. Errors: `WouldBlock`, `TimedOut`.
    #[inline]
    pub(crate) fn acquire(&self, me: impl Fn() -> u64, limit: Limit) -> Result<()> {
        let seen = self.count.load(Ordering::Relaxed);
        // Acquire: pairs with the Release in `release`, so what was done before it is seen.
        if seen & COUNT > 0
            && self
                .count
                .compare_exchange(seen, seen - 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            crash_point!("semaphore: had at once");
            return Ok(());
        }
        self.acquire_slow(me(), limit, |mark, _| Ok(self.take(mark)))
    }

    /// Takes a permit into a slot. Errors: `WouldBlock`, `TimedOut`, `TooManyGuards`.
    pub(crate) fn permit(&self, me: u64, limit: Limit) -> Result<usize> {
        self.acquire_slow(me, limit, |mark, patience| self.take_guarded(me, mark, patience.left()))
    }

    /// Takes what is to be had with `take`, waiting for it as `limit` says. `take` gets the mark it is to
    /// leave at the count.
    #[cold]
    fn acquire_slow<R>(
        &self,
        me: u64,
        limit: Limit,
        take: impl Fn(u32, &Patience) -> Result<Option<R>>,
    ) -> Result<R> {
        let mut patience = Patience::new(limit);
        if let Some(taken) = take(0, &patience)? {
            return Ok(taken);
        }
        if let Limit::Try = limit {
            self.reap(me, owner::is_dead_lately);
            return take(0, &patience)?.ok_or(Error::WouldBlock);
        }
        // Who has slept may have been woken alone among many, while more than one permit came: it keeps
        // the mark, and wakes the next if there is more.
        let mut mark = 0;
        let mut last_look = false;
        loop {
            patience.look(|| self.value(), |&value| value > 0);
            if let Some(taken) = take(mark, &patience)? {
                crash_point!("semaphore: had after a wait");
                if mark != 0 && self.value() > 0 && taken!(SemaphoreChain) {
                    word::wake(&self.count, 1);
                }
                return Ok(taken);
            }
            if last_look {
                return Err(Error::TimedOut);
            }
            let seen = self.count.load(Ordering::Relaxed);
            // Relaxed: the kernel compares the word again.
            if seen & COUNT != 0
                || seen & WAITERS == 0
                    && self
                        .count
                        .compare_exchange(
                            seen,
                            seen | WAITERS,
                            Ordering::Relaxed,
                            Ordering::Relaxed,
                        )
                        .is_err()
            {
                continue;
            }
            mark = WAITERS;
            crash_point!("semaphore: a waiter's mark is set");
            match patience.sleep(&self.count, seen | WAITERS) {
                Nap::Woken => {}
                Nap::Slice => self.watch.take_turn(|| _ = self.reap(me, owner::is_dead)),
                Nap::Deadline => {
                    self.reap(me, owner::is_dead_lately);
                    last_look = true;
                }
            }
        }
    }

    fn take(&self, mark: u32) -> Option<()> {
        self.change(|seen| (seen & COUNT > 0).then(|| (seen - 1) | mark)).map(drop)
    }

    /// Swaps the count for what `new` makes of it, and gives what it was; `None` where `new` refuses.
    fn change(&self, new: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let mut seen = self.count.load(Ordering::Relaxed);
        loop {
            // AcqRel: a taking sees what was done before the release it takes from, a release shows it;
            // and it keeps its place between the stores of a journalled step.
            match self.count.compare_exchange_weak(
                seen,
                new(seen)?,
                ordering!(SemaphoreRelease, AcqRel),
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(seen),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives a permit. Errors: `TooManyReleases`, `Overflow`.
    #[inline]
    pub(crate) fn release(&self) -> Result<()> {
        let initial = self.initial.load(Ordering::Relaxed);
        let most = initial.min(MAX);
        match self.change(|seen| (seen & COUNT < most).then_some((seen + 1) & !WAITERS)) {
            Some(seen) => {
                self.wake_if(seen);
                Ok(())
            }
            None if initial == UNBOUNDED => Err(Error::Overflow { max: MAX }),
            None => Err(Error::TooManyReleases { initial }),
        }
    }

    #[inline]
    fn wake_if(&self, seen: u32) {
        crash_point!("semaphore: given, about to wake");
        if seen & WAITERS != 0 && taken!(SemaphoreWake) {
            word::wake(&self.count, 1);
            give_way(|| self.value() == 0);
        }
    }

    /// Takes the lock, with everything in order once it is taken. It is held for an instant only; but its
    /// owner may have been stopped in just that.
    fn enter(&self, me: u64, limit: Limit) -> Result<()> {
        if let Acquired::OwnerDied = self.lock.lock(me, limit)? {
            self.recover();
        }
        Ok(())
    }

    /// Brings a step to its end that a dead owner of the lock left. It may be cut short as well.
    fn recover(&self) {
        let journal = self.journal.load(Ordering::Acquire);
        let was_taken = self.count.load(Ordering::Acquire) & TAKEN != 0;
        let slot = (journal & !GIVE).checked_sub(1).and_then(|slot| self.slots.get(slot as usize));
        if let Some(slot) = slot
            && (journal & GIVE != 0) == was_taken
        {
            // Given and not yet out of its slot, or in its slot and not taken.
            slot.store(0, Ordering::Release);
            crash_point!("permit: a dead one's slot is crossed out");
        }
        self.done();
    }

    /// The end of a step: first the journal, then the mark at the count, so that a mark without a journal
    /// means nothing but that it has to go.
    fn done(&self) {
        self.journal.store(0, Ordering::Release);
        crash_point!("permit: the journal is cleared");
        self.count.fetch_and(!TAKEN, Ordering::AcqRel);
        crash_point!("permit: the step is done with");
    }

    /// Takes a permit into a slot; `None` where there is no permit.
    fn take_guarded(&self, me: u64, mark: u32, limit: Limit) -> Result<Option<usize>> {
        if self.value() == 0 {
            return Ok(None);
        }
        let Some(index) = self.enter_with_slot(me, limit)? else {
            return Err(Error::TooManyGuards { max: N });
        };
        self.journal.store(index as u32 + 1, Ordering::Release);
        crash_point!("permit: taking is written down");
        self.slots[index].store(me, Ordering::Release);
        crash_point!("permit: in its slot");
        let seen = self.change(|seen| (seen & COUNT > 0).then(|| (seen - 1) | mark | TAKEN));
        crash_point!("permit: out of the count");
        if seen.is_some() {
            self.done();
        } else {
            self.recover();
        }
        let _ = self.lock.unlock(me);
        Ok(seen.map(|_| index))
    }

    /// Takes the lock and finds a free slot; without one, it does not keep the lock.
    fn enter_with_slot(&self, me: u64, limit: Limit) -> Result<Option<usize>> {
        for attempt in 0..2 {
            self.enter(me, limit)?;
            let free = self.slots.iter().position(|slot| slot.load(Ordering::Relaxed) == 0);
            if let Some(index) = free {
                self.used.fetch_max(index as u32 + 1, Ordering::AcqRel);
                return Ok(free);
            }
            let _ = self.lock.unlock(me);
            if attempt == 0 && !self.reap(me, owner::is_dead) {
                break;
            }
        }
        Ok(None)
    }

    /// Gives back the permit of `me` in slot `index`; does nothing where the slot is another's.
    ///
    /// Does not wait for long: what cannot be given back now, whoever looks next gives back.
    pub(crate) fn let_go(&self, index: usize, me: u64) {
        if !self.give_back(index, me, me) {
            self.leave(index, me);
        }
    }

    /// Leaves the permit of `me` in slot `index` to others.
    ///
    /// Without the lock: nobody else changes the slot of one that lives, and no step in the journal is about it.
    pub(crate) fn leave(&self, index: usize, me: u64) {
        let Some(slot) = self.slots.get(index) else { return };
        // Release: pairs with the Acquire in `give_back`.
        let _ = slot.compare_exchange(me, LEFT, ordering!(PermitLeft, Release), Ordering::Relaxed);
        crash_point!("permit: left for others to give back");
    }

    /// Gives back the permit in slot `index`, if it is (still) that of `holder`.
    ///
    /// `me` is who does it: the holder, or who found the holder dead, or the permit left.
    pub(crate) fn give_back(&self, index: usize, holder: u64, me: u64) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        if slot.load(Ordering::Relaxed) != holder || self.enter(me, A_WHILE).is_err() {
            return false;
        }
        let mut woken = 0;
        // Under the lock: whoever else found the holder dead may have been here.
        // Acquire: pairs with the Release in `leave`; the swap of the count shows it to the next.
        let given = slot.load(Ordering::Acquire) == holder || !taken!(PermitLooksAgain);
        if given {
            self.journal.store((index as u32 + 1) | GIVE, Ordering::Release);
            crash_point!("permit: giving is written down");
            // Somebody may have released what was not theirs to release. Then this one is in the count
            // already.
            let most = self.initial.load(Ordering::Relaxed).min(MAX);
            let seen = self.change(|seen| {
                let more = u32::from(seen & COUNT < most);
                Some((seen + more) & !WAITERS | TAKEN)
            });
            crash_point!("permit: in the count");
            slot.store(0, Ordering::Release);
            crash_point!("permit: out of its slot");
            self.done();
            woken = seen.unwrap_or(0);
        }
        let _ = self.lock.unlock(me);
        self.wake_if(woken);
        given
    }

    /// Gives back the permits of those that `is_dead`, and those left; says whether there were any.
    pub(crate) fn reap(&self, me: u64, is_dead: fn(u64) -> bool) -> bool {
        let used = (self.used.load(Ordering::Acquire) as usize).min(N);
        let mut any = false;
        let mut alive = 0;
        for (index, slot) in self.slots[..used].iter().enumerate() {
            let holder = slot.load(Ordering::Relaxed);
            if holder == 0 || holder == me || holder == alive {
                continue;
            }
            if holder != LEFT && !is_dead(holder) {
                alive = holder; // It often has the next slot too.
            } else if self.give_back(index, holder, me) {
                any = true;
            } else if slot.load(Ordering::Relaxed) == holder {
                break; // One is stopped in mid-step: it would be the same with the others.
            }
        }
        any
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: usize = 3;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Acquire,
        Release,
        Permit,
        /// The guard with this number is dropped.
        Drop(usize),
        /// The holder with this number dies, and somebody looks.
        Die(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0..5, 0..SLOTS).prop_map(|(kind, which)| match kind {
            0 => Step::Acquire,
            1 => Step::Release,
            2 => Step::Permit,
            3 => Step::Drop(which),
            _ => Step::Die(which),
        })
    }

    /// A name that no thread can have.
    const DEAD: u64 = (1 << 22) - 1;

    proptest! {
        #[test]
        fn it_does_as_a_counter_with_holders(
            initial in 0..5_u32,
            bounded in any::<bool>(),
            steps in proptest::collection::vec(step(), 1..100),
        ) {
            let me = owner::me();
            let bound = if bounded { initial } else { UNBOUNDED };
            let words = SemaphoreWords::<SLOTS>::new(initial, bound);
            let mut count = initial;
            let mut guards: Vec<usize> = Vec::new();
            for step in steps {
                match step {
                    Step::Acquire => {
                        let result = words.acquire(|| me, Limit::Try);
                        prop_assert_eq!(result.is_ok(), count > 0);
                        count = count.saturating_sub(1);
                    }
                    Step::Release => {
                        let result = words.release();
                        if count < bound {
                            prop_assert!(result.is_ok());
                            count += 1;
                        } else {
                            let right = matches!(result, Err(Error::TooManyReleases { initial: n }) if n == initial);
                            prop_assert!(right);
                        }
                    }
                    Step::Permit => match words.permit(me, Limit::For(std::time::Duration::ZERO)) {
                        Ok(index) => {
                            prop_assert!(count > 0 && !guards.contains(&index));
                            guards.push(index);
                            count -= 1;
                        }
                        Err(Error::TimedOut) => prop_assert_eq!(count, 0),
                        Err(Error::TooManyGuards { max }) => {
                            prop_assert_eq!((guards.len(), max), (SLOTS, SLOTS));
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                    },
                    Step::Drop(which) if which < guards.len() => {
                        prop_assert!(words.give_back(guards.remove(which), me, me));
                        count = (count + 1).min(bound);
                    }
                    Step::Die(which) if which < guards.len() => {
                        words.slots[guards.remove(which)].store(DEAD, Ordering::Relaxed);
                        prop_assert!(words.reap(me, owner::is_dead));
                        count = (count + 1).min(bound);
                    }
                    Step::Drop(_) | Step::Die(_) => {}
                }
                prop_assert_eq!(words.value(), count);
                prop_assert_eq!(words.journal.load(Ordering::Relaxed), 0);
                prop_assert!(words.count.load(Ordering::Relaxed) & TAKEN == 0);
            }
        }
    }

    #[test]
    fn what_is_dropped_while_another_is_stopped_in_mid_step_comes_back() {
        let me = owner::me();
        let other = me & ((1 << 22) - 1); // Another living name.
        let words = SemaphoreWords::<SLOTS>::new(2, 2);
        let guards = [(); 2].map(|()| words.permit(me, Limit::Try).unwrap());
        words.lock.lock(other, Limit::Try).unwrap();
        guards.iter().for_each(|&guard| words.let_go(guard, me));
        assert!(!words.reap(me, owner::is_dead));
        assert_eq!(words.value(), 0);
        words.lock.unlock(other).unwrap();
        assert!(words.reap(me, owner::is_dead));
        assert_eq!(words.value(), 2);
        words.let_go(guards[0], me);
        assert_eq!(words.value(), 2, "it is not its any more");
    }

    /// Cuts a step short after each of its stores, as a kill would, and lets the next one recover.
    #[test]
    fn a_step_cut_short_anywhere_is_completed_or_crossed_out() {
        type Cut = fn(&SemaphoreWords<SLOTS>);
        let taking: [(Cut, u32); 5] = [
            (|w| w.journal.store(1, Ordering::Relaxed), 2),
            (|w| w.slots[0].store(DEAD, Ordering::Relaxed), 2),
            (|w| _ = w.change(|seen| Some((seen - 1) | TAKEN)), 1),
            (|w| w.journal.store(0, Ordering::Relaxed), 1),
            (|w| _ = w.count.fetch_and(!TAKEN, Ordering::Relaxed), 1),
        ];
        let giving: [(Cut, u32); 5] = [
            (|w| w.journal.store(1 | GIVE, Ordering::Relaxed), 1),
            (|w| _ = w.change(|seen| Some((seen + 1) | TAKEN)), 2),
            (|w| w.slots[0].store(0, Ordering::Relaxed), 2),
            (|w| w.journal.store(0, Ordering::Relaxed), 2),
            (|w| _ = w.count.fetch_and(!TAKEN, Ordering::Relaxed), 2),
        ];
        let me = owner::me();
        for (steps, held) in [(taking, false), (giving, true)] {
            for cut in 1..=steps.len() {
                let words = SemaphoreWords::<SLOTS>::new(2, 2);
                words.used.store(1, Ordering::Relaxed);
                if held {
                    words.acquire(|| me, Limit::Try).unwrap();
                    words.slots[0].store(DEAD, Ordering::Relaxed);
                }
                words.lock.lock(DEAD, Limit::Try).unwrap();
                for (step, _) in &steps[..cut] {
                    step(&words);
                }
                words.enter(me, A_WHILE).unwrap();
                let _ = words.lock.unlock(me);
                assert_eq!(words.value(), steps[cut - 1].1, "held {held}, cut after {cut}");
                assert_eq!(words.count.load(Ordering::Relaxed) & TAKEN, 0);
                // What the dead one holds then comes back once, and no more than that.
                words.reap(me, owner::is_dead);
                assert_eq!(words.value(), 2, "held {held}, cut after {cut}");
                assert!(!words.reap(me, owner::is_dead));
            }
        }
    }
}
