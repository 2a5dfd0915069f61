//! The words of a Condition.

use mp_core::crash_point;

use super::rlock::RLockWords;
use crate::owner::{self, FLAG_A, FLAG_B};
use crate::patience::{Nap, Patience};
use mp_core::word::{self, AtomicU32, AtomicU64, Ordering, ordering, taken};

/// Who waits, in the order they came, and who of them was notified.
///
/// Each waiter has a slot and sleeps on that, so a notification goes to one waiter and is kept there until
/// that one has its lock back. If it dies before, the notification is passed on by whoever finds it.
#[repr(C)]
pub(crate) struct ConditionWords<const N: usize> {
    /// The number the next waiter gets.
    next: AtomicU64,
    /// Slots from here on were never used.
    used: AtomicU32,
    reserved: AtomicU32,
    /// The lock that the condition has of its own.
    pub(crate) lock: RLockWords,
    slots: [Slot; N],
}

#[repr(C)]
struct Slot {
    /// | value | meaning |
    /// | --- | --- |
    /// | 0 | free |
    /// | a name + [`FLAG_B`] | that thread is writing its number |
    /// | a name | it waits |
    /// | a name + [`FLAG_A`] | it was notified |
    word: AtomicU64,
    /// The waiter's number: the lower has waited longer. Relaxed: read after an Acquire of `word`.
    number: AtomicU64,
    /// What the next number was when the waiter was notified: who came later has no claim to it.
    notified_at: AtomicU64,
    reserved: AtomicU64,
}

const NOTIFIED: u64 = FLAG_A;
const WRITING: u64 = FLAG_B;

impl Slot {
    fn waits(word: u64) -> bool {
        word != 0 && word & (NOTIFIED | WRITING) == 0
    }

    /// Whether somebody waits here who did so when the next number was `notified_at`.
    fn waited_at(&self, notified_at: u64) -> bool {
        Self::waits(self.word.load(Ordering::Acquire))
            && self.number.load(Ordering::Relaxed) < notified_at
    }

    /// Release and Acquire: a notification shows what the notifier did before; taking the slot over
    /// shows what its last user wrote there.
    fn swap(&self, seen: u64, new: u64) -> bool {
        self.word
            .compare_exchange(seen, new, ordering!(ConditionMark, AcqRel), Ordering::Relaxed)
            .is_ok()
    }
}

impl<const N: usize> ConditionWords<N> {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            used: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            lock: RLockWords::new(),
            slots: std::array::from_fn(|_| Slot {
                word: AtomicU64::new(0),
                number: AtomicU64::new(0),
                notified_at: AtomicU64::new(0),
                reserved: AtomicU64::new(0),
            }),
        }
    }

    fn used(&self) -> &[Slot] {
        let used = self.used.load(Ordering::Acquire) as usize;
        &self.slots[..used.min(N)]
    }

    /// Puts `me` among the waiters: to be called while the lock is held, so that whoever has it later
    /// finds the waiter. `None` where all slots are taken.
    pub(crate) fn enter(&self, me: u64) -> Option<usize> {
        for attempt in 0..2 {
            for (index, slot) in self.slots.iter().enumerate() {
                if slot.word.load(Ordering::Relaxed) == 0 && slot.swap(0, me | WRITING) {
                    crash_point!("condition: a slot is taken");
                    self.used.fetch_max(index as u32 + 1, Ordering::AcqRel);
                    let number = self.next.fetch_add(1, Ordering::Relaxed);
                    slot.number.store(number, Ordering::Relaxed);
                    // Release: pairs with the Acquire of the notifier, which reads the number.
                    slot.word.store(me, Ordering::Release);
                    crash_point!("condition: it waits");
                    return Some(index);
                }
            }
            if attempt == 0 {
                for slot in &self.slots {
                    let seen = slot.word.load(Ordering::Relaxed);
                    if seen != 0 && owner::is_dead(seen) {
                        slot.swap(seen, 0);
                    }
                }
            }
        }
        None
    }

    /// Waits in slot `index` until notified: true; or until the time is over: false.
    ///
    /// After true, the slot is still taken: [`leave`](Self::leave) it once the lock is had again.
    pub(crate) fn wait(&self, index: usize, me: u64, patience: &mut Patience) -> bool {
        let Some(slot) = self.slots.get(index) else { return true };
        loop {
            // Acquire: pairs with the notifier's swap.
            let seen = slot.word.load(Ordering::Acquire);
            if !Slot::waits(seen) {
                crash_point!("condition: notified");
                return true;
            }
            match patience.sleep(&slot.word, seen) {
                Nap::Woken => {}
                Nap::Slice => self.see_to_dead(slot, me),
                Nap::Deadline => return !slot.swap(me, 0),
            }
        }
    }

    /// Frees the slot.
    pub(crate) fn leave(&self, index: usize) {
        if let Some(slot) = self.slots.get(index) {
            // Release: whoever takes the slot next does so after what was done with it.
            crash_point!("condition: about to leave its slot");
            slot.word.store(0, Ordering::Release);
        }
    }

    /// In a model: who has slot `index` is notified, and has not seen it yet.
    #[cfg(mp_loom)]
    pub(crate) fn notify_as_others_do(&self, index: usize) {
        let slot = &self.slots[index];
        assert!(Self::mark(
            slot,
            slot.word.load(Ordering::Relaxed),
            self.next.load(Ordering::Relaxed)
        ));
    }

    /// In a model: what `me`, which waits in slot `index`, does at the end of a slice.
    #[cfg(mp_loom)]
    pub(crate) fn find_dead(&self, index: usize, me: u64) {
        self.see_to_dead(&self.slots[index], me);
    }

    /// Who has waited longest of those with a number below `end`, and what its slot says.
    fn longest(&self, end: u64) -> Option<(&Slot, u64)> {
        let waiting = self.used().iter().filter_map(|slot| {
            // Acquire: pairs with the Release in `enter`.
            let seen = slot.word.load(Ordering::Acquire);
            let number = slot.number.load(Ordering::Relaxed);
            (Slot::waits(seen) && number < end).then_some((number, slot, seen))
        });
        waiting.min_by_key(|&(number, ..)| number).map(|(_, slot, seen)| (slot, seen))
    }

    /// Has the dead looked for by who has waited longest, whose a notification is that one of them left. The others
    /// only see to it that this one lives: so what it costs to look does not grow with the square of those who wait.
    fn see_to_dead(&self, own: &Slot, me: u64) {
        // As many as there can be, whatever a faulty process writes meanwhile.
        for _ in 0..N {
            match self.longest(u64::MAX) {
                Some((slot, _)) if std::ptr::eq(slot, own) => return self.take_from_dead(own, me),
                Some((slot, seen)) if owner::is_dead(seen) => _ = slot.swap(seen, 0),
                _ => return,
            }
        }
    }

    /// Passes on to `own` a notification that a dead waiter left, or takes it away where nobody waits for it any more.
    /// Who died before it was notified is let lie, for whoever needs its slot or would notify it.
    fn take_from_dead(&self, own: &Slot, me: u64) {
        let number = own.number.load(Ordering::Relaxed);
        for slot in self.used() {
            let seen = slot.word.load(Ordering::Acquire);
            if seen & NOTIFIED == 0 || owner::of(seen) == me || !owner::is_dead(seen) {
                continue;
            }
            let notified_at = slot.notified_at.load(Ordering::Relaxed);
            if number >= notified_at {
                // It is for those that waited then, if there are any left.
                if !self.used().iter().any(|slot| slot.waited_at(notified_at)) {
                    slot.swap(seen, 0);
                }
                continue;
            }
            // In one's own name at first, so that it is found there if this one dies before it has it.
            if taken!(ConditionClaim) && !slot.swap(seen, me | NOTIFIED) {
                continue;
            }
            crash_point!("condition: a dead waiter's notification is taken over");
            // So that it can be passed on again. Not lowered, where somebody else notifies meanwhile.
            own.notified_at.fetch_max(notified_at, Ordering::Relaxed);
            // Notified by somebody else meanwhile: then this one is for the next.
            if !own.swap(me, me | NOTIFIED) {
                self.notify(1);
            }
            crash_point!("condition: it has the notification twice");
            slot.swap(me | NOTIFIED, 0);
            return;
        }
    }

    /// Notifies the `count` that have waited longest, or all there are.
    pub(crate) fn notify(&self, count: usize) {
        let now = self.next.load(Ordering::Relaxed);
        let mut left = count;
        while left > 0 {
            let Some((slot, seen)) = self.longest(now) else { return };
            if Self::mark(slot, seen, now) {
                crash_point!("condition: one is marked, about to be woken");
                // Nobody slept there: it is about to, or never will.
                if Self::wake(slot) == 0 && owner::is_dead(seen) {
                    slot.swap(seen | NOTIFIED, 0);
                } else {
                    left -= 1;
                }
            }
        }
    }

    /// Notifies all that wait.
    pub(crate) fn notify_all(&self) {
        let now = self.next.load(Ordering::Relaxed);
        for slot in self.used() {
            let seen = slot.word.load(Ordering::Acquire);
            if Slot::waits(seen) && Self::mark(slot, seen, now) {
                crash_point!("condition: each is marked, about to be woken");
                Self::wake(slot);
            }
        }
    }

    /// Says how many slept there.
    fn wake(slot: &Slot) -> u32 {
        if taken!(ConditionWake) { word::wake(&slot.word, 1) } else { 0 }
    }

    fn mark(slot: &Slot, seen: u64, now: u64) -> bool {
        slot.notified_at.store(now, Ordering::Relaxed);
        slot.swap(seen, seen | NOTIFIED)
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use crate::patience::Limit;
    use std::time::Duration;

    const DEAD: u64 = (1 << 22) - 1;
    const HANG: Limit = Limit::For(Duration::from_secs(20));

    #[test]
    fn the_longest_waiting_is_notified_first_and_alone() {
        let words = ConditionWords::<3>::new();
        let me = owner::me();
        let slots: Vec<_> = (0..3).map(|_| words.enter(me).unwrap()).collect();
        assert!(words.enter(me).is_none(), "full");
        words.leave(slots[0]);
        let again = words.enter(me).unwrap();
        words.notify(2);
        let notified =
            |index: usize| words.slots[index].word.load(Ordering::Relaxed) & NOTIFIED != 0;
        assert!(notified(slots[1]) && notified(slots[2]) && !notified(again));
        assert!(words.wait(slots[1], me, &mut Patience::new(HANG)));
        assert!(!words.wait(again, me, &mut Patience::new(Limit::For(Duration::ZERO))));
        words.notify_all();
    }

    #[test]
    fn a_notification_that_a_dead_waiter_got_is_passed_on() {
        let words = ConditionWords::<3>::new();
        let me = owner::me();
        let dead = words.enter(DEAD).unwrap();
        let own = words.enter(me).unwrap();
        let slot = &words.slots[dead];
        assert!(ConditionWords::<3>::mark(slot, DEAD, 2), "notified, killed before it woke");
        assert!(words.wait(own, me, &mut Patience::new(HANG)));
        assert_eq!(slot.word.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_came_after_the_notification_does_not_get_it() {
        let words = ConditionWords::<3>::new();
        let me = owner::me();
        let dead = words.enter(DEAD).unwrap();
        assert!(ConditionWords::<3>::mark(&words.slots[dead], DEAD, 1));
        let own = words.enter(me).unwrap();
        let soon = Limit::For(Duration::from_millis(20));
        assert!(!words.wait(own, me, &mut Patience::new(soon)));
    }

    #[test]
    fn a_dead_waiter_is_not_notified_instead_of_a_living_one() {
        let words = ConditionWords::<3>::new();
        let me = owner::me();
        words.enter(DEAD).unwrap();
        let own = words.enter(me).unwrap();
        words.notify(1);
        assert!(words.wait(own, me, &mut Patience::new(Limit::For(Duration::ZERO))));
    }
}
