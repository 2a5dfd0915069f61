//! The words of a Barrier.

use mp_core::crash_point;

use crate::owner;
use crate::patience::{Limit, Nap, Patience, Watch};
use crate::{Error, Result};
use mp_core::word::{self, ALL, AtomicU32, AtomicU64, Ordering, lives, ordering, taken};

/// How many have arrived in which round, and how the last rounds ended.
#[repr(C)]
pub(crate) struct BarrierWords<const N: usize> {
    /// | bits | content |
    /// | --- | --- |
    /// | 0..31 | the round, wrapping |
    /// | 31 | the barrier is broken |
    /// | 32..48 | how many have arrived |
    /// | 48..64 | how the last 16 rounds ended, the latest lowest. 0: all arrived. 1: by a reset |
    ///
    /// The low half changes whenever a waiter has to leave, and is what they sleep on.
    state: AtomicU64,
    /// How many have to arrive. Written once, by the creator.
    parties: AtomicU32,
    watch: Watch,
    /// Those inside, to see whether one died. Who finds no slot free is not watched.
    slots: [Slot; N],
}

#[repr(C)]
struct Slot {
    /// The name of a party that waits; 0: free.
    party: AtomicU64,
    /// In which round. Relaxed: at worst a death is noticed a slice later.
    round: AtomicU64,
}

const ROUND: u64 = BROKEN - 1;
const BROKEN: u64 = 1 << 31;
const ONE: u64 = 1 << 32;
const ENDS: u32 = 48;

pub(crate) const MAX_PARTIES: usize = u16::MAX as usize;

#[derive(Clone, Copy)]
struct State(u64);

impl State {
    fn round(self) -> u64 {
        self.0 & ROUND
    }

    fn is_broken(self) -> bool {
        self.0 & BROKEN != 0
    }

    fn arrived(self) -> u32 {
        (self.0 >> 32) as u32 & 0xFFFF
    }

    /// The next round, nobody there yet.
    fn after(self, reset: bool) -> u64 {
        let ends = self.0 >> ENDS << 1 | u64::from(reset);
        (self.round() + 1) & ROUND | ends << ENDS
    }

    /// How `round` ended for those in it; `None` while it lasts.
    fn outcome(self, round: u64) -> Option<Result<()>> {
        let ago = self.round().wrapping_sub(round) & ROUND;
        match ago {
            0 if self.is_broken() => Some(Err(Error::Broken)),
            0 => None,
            1..=16 if self.0 >> (u64::from(ENDS) + ago - 1) & 1 != 0 => Some(Err(Error::Broken)),
            // Beyond 16, others have gone round without this party, so it is not one of a fixed set.
            _ => Some(Ok(())),
        }
    }
}

/// A party's slot, free again once it has left.
struct Seat<'a>(Option<&'a Slot>);

impl Seat<'_> {
    fn in_round(&self, round: u64) {
        if let Some(slot) = self.0 {
            slot.round.store(round, Ordering::Relaxed);
            crash_point!("barrier: the seat has its round");
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0
            && lives!()
        {
            crash_point!("barrier: about to leave its seat");
            slot.party.store(0, Ordering::Release);
        }
    }
}

impl<const N: usize> BarrierWords<N> {
    #[cfg(any(test, mp_loom))]
    pub(crate) fn new(parties: u32) -> Self {
        let words = Self {
            state: AtomicU64::new(0),
            parties: AtomicU32::new(0),
            watch: Watch::new(),
            slots: std::array::from_fn(|_| Slot {
                party: AtomicU64::new(0),
                round: AtomicU64::new(0),
            }),
        };
        words.begin(parties);
        words
    }

    /// Arrives as `me`, and stays.
    #[cfg(mp_loom)]
    pub(crate) fn sit_as_others_do(&self, me: u64) {
        let seat = self.take_seat(me);
        let seen = self.state();
        seat.in_round(seen.round());
        assert!(self.swap(seen, seen.0 + ONE), "alone");
        std::mem::forget(seat);
    }

    /// Writes what the creator decides. Relaxed: how the segment gets to others orders it.
    pub(crate) fn begin(&self, parties: u32) {
        self.parties.store(parties, Ordering::Relaxed);
    }

    pub(crate) fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    fn state(&self) -> State {
        // Acquire: pairs with the AcqRel swaps; what every party did before it arrived is seen by all
        // that leave.
        State(self.state.load(Ordering::Acquire))
    }

    /// Swaps the state if it is still `seen`.
    fn swap(&self, seen: State, new: u64) -> bool {
        self.state
            .compare_exchange(seen.0, new, ordering!(BarrierEnd, AcqRel), Ordering::Relaxed)
            .is_ok()
    }

    fn wake(&self) {
        if taken!(BarrierWake) {
            word::wake(&self.state, ALL);
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state().is_broken()
    }

    pub(crate) fn waiting(&self) -> u32 {
        let state = self.state();
        if state.is_broken() { 0 } else { state.arrived() }
    }

    /// Breaks the barrier for all that are in it or come.
    pub(crate) fn abort(&self) {
        self.state.fetch_or(BROKEN, Ordering::AcqRel);
        crash_point!("barrier: aborted, about to wake");
        self.wake();
    }

    /// Breaks `round` if it still lasts.
    fn break_round(&self, round: u64) {
        loop {
            let seen = self.state();
            if seen.outcome(round).is_some() {
                return;
            }
            if self.swap(seen, seen.0 | BROKEN) {
                crash_point!("barrier: broken, about to wake");
                return self.wake();
            }
        }
    }

    /// Makes it whole again; those in it leave with `Broken`.
    pub(crate) fn reset(&self) {
        loop {
            let seen = self.state();
            if seen.arrived() == 0 && !seen.is_broken() {
                return;
            }
            if self.swap(seen, seen.after(true)) {
                crash_point!("barrier: reset, about to wake");
                return self.wake();
            }
        }
    }

    /// Waits until all have arrived; gives the caller's place in the order of arrival.
    ///
    /// The last runs `action` before the others may leave. Errors: `Broken`, `TimedOut`.
    pub(crate) fn wait(&self, me: u64, limit: Limit, action: impl FnOnce()) -> Result<usize> {
        // A stranger's number: loaded once. The creator never writes 0.
        let parties = self.parties().max(1);
        let mut patience = Patience::new(limit);
        let seat = self.take_seat(me);
        let (round, index) = loop {
            let seen = self.state();
            if seen.is_broken() {
                return Err(Error::Broken);
            }
            if seen.arrived() >= parties {
                // All are there and the action runs: this is for the next round.
                match patience.sleep(&self.state, seen.0) {
                    Nap::Woken => {}
                    Nap::Slice => self.watch.take_turn(|| self.see_to_dead(seen.round())),
                    Nap::Deadline => return Err(Error::TimedOut),
                }
                continue;
            }
            seat.in_round(seen.round());
            if self.swap(seen, seen.0 + ONE) {
                crash_point!("barrier: arrived");
                break (seen.round(), seen.arrived());
            }
        };
        if index + 1 == parties {
            self.finish(round, action)?;
        } else {
            self.await_end(round, &mut patience)?;
        }
        Ok(index as usize)
    }

    fn finish(&self, round: u64, action: impl FnOnce()) -> Result<()> {
        struct BreakOnPanic<'a, const N: usize>(&'a BarrierWords<N>, u64);
        impl<const N: usize> Drop for BreakOnPanic<'_, N> {
            fn drop(&mut self) {
                // After the end of the round this does nothing.
                if lives!() {
                    self.0.break_round(self.1);
                }
            }
        }
        let unless_it_panics = BreakOnPanic(self, round);
        action();
        crash_point!("barrier: the action is done");
        loop {
            let seen = self.state();
            if let Some(outcome) = seen.outcome(round) {
                return outcome;
            }
            if self.swap(seen, seen.after(false)) {
                crash_point!("barrier: the round is over, about to wake");
                if seen.arrived() > 1 {
                    self.wake();
                }
                drop(unless_it_panics);
                return Ok(());
            }
        }
    }

    fn await_end(&self, round: u64, patience: &mut Patience) -> Result<()> {
        loop {
            let seen = patience.look(|| self.state(), |seen| seen.outcome(round).is_some());
            if let Some(outcome) = seen.outcome(round) {
                return outcome;
            }
            match patience.sleep(&self.state, seen.0) {
                Nap::Woken => {}
                Nap::Slice => self.watch.take_turn(|| self.see_to_dead(round)),
                Nap::Deadline => {
                    let seen = self.state();
                    if let Some(outcome) = seen.outcome(round) {
                        return outcome;
                    }
                    if self.swap(seen, seen.0 | BROKEN) {
                        crash_point!("barrier: broken for lack of time, about to wake");
                        self.wake();
                        return Err(Error::TimedOut);
                    }
                }
            }
        }
    }

    fn take_seat(&self, me: u64) -> Seat<'_> {
        Seat(self.slots.iter().find(|slot| {
            // AcqRel: whoever frees a slot is done with it.
            slot.party.load(Ordering::Relaxed) == 0
                && slot.party.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }))
    }

    /// Breaks `round` if a party in it died, and frees the slots of the dead.
    fn see_to_dead(&self, round: u64) {
        for slot in &self.slots {
            let party = slot.party.load(Ordering::Acquire);
            if party == 0 || !owner::is_dead(party) {
                continue;
            }
            // First what its death means: who does this may die as well, and the seat is what shows it.
            if slot.round.load(Ordering::Relaxed) == round && taken!(BarrierWatch) {
                self.break_round(round);
            }
            crash_point!("barrier: a dead party's seat is about to be free");
            let _ = slot.party.compare_exchange(party, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    const DEAD: u64 = (1 << 22) - 1;

    #[test]
    fn a_late_leaver_learns_how_its_own_round_ended() {
        let passed = State(State(5).after(false));
        assert!(matches!(passed.outcome(5), Some(Ok(()))));
        let reset = State(passed.after(true));
        assert!(matches!(reset.outcome(5), Some(Ok(()))));
        assert!(matches!(reset.outcome(6), Some(Err(Error::Broken))));
        assert!(reset.outcome(7).is_none());
        let wrapped = State(State(ROUND | 3 << 32).after(true));
        assert_eq!((wrapped.round(), wrapped.arrived(), wrapped.is_broken()), (0, 0, false));
        assert!(matches!(wrapped.outcome(ROUND), Some(Err(Error::Broken))));
    }

    #[test]
    fn a_party_that_dies_while_it_waits_breaks_its_round_and_no_other() {
        let words = BarrierWords::<4>::new(2);
        let seat = words.take_seat(DEAD);
        seat.in_round(0);
        std::mem::forget(seat);
        let hang = Limit::For(Duration::from_secs(20));
        assert!(matches!(words.wait(owner::me(), hang, || ()), Err(Error::Broken)));
        words.reset();

        // One that died after its round had ended breaks none.
        let seat = words.take_seat(DEAD);
        seat.in_round(0);
        std::mem::forget(seat);
        let soon = Limit::For(Duration::from_millis(20));
        assert!(matches!(words.wait(owner::me(), soon, || ()), Err(Error::TimedOut)));
    }
}
