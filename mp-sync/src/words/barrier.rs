//! The words of a Barrier.

use mp_core::crash_point;
use mp_core::sys::clock::monotonic_nanos;

use crate::owner;
use crate::patience::{Limit, Nap, Patience, Watch};
use crate::{Error, Result};
use mp_core::word::{self, ALL, AtomicU32, AtomicU64, Ordering, lives, ordering, taken};

/// How many have arrived in which round, and how the last rounds ended.
///
/// A round ends in one of two ways: the last to come ends it well, in one step; a reset breaks it first, which keeps
/// all from joining it and from ending it well, then writes so into the seats of those in it, and then ends it. So who is in
/// a round that is over finds in its own seat how it ended, however late it looks; and where who resets is killed on the
/// way, the barrier is broken, and the next who resets it does all that again.
#[repr(C)]
pub(crate) struct BarrierWords<const N: usize> {
    /// | bits | content |
    /// | --- | --- |
    /// | 0..31 | the round, wrapping |
    /// | 31 | the barrier is broken |
    /// | 32..48 | how many have arrived |
    /// | 48..64 | how the last 16 rounds ended, the latest lowest. 0: all arrived. 1: by a reset. For those without a seat |
    ///
    /// The low half changes whenever a waiter has to leave, and is what they sleep on.
    state: AtomicU64,
    /// How many have to arrive. Written once, by the creator.
    parties: AtomicU32,
    watch: Watch,
    /// When the first came to this round, or to an earlier one, in nanoseconds on the monotonic clock.
    since: AtomicU64,
    reserved: AtomicU64,
    /// Those inside, to see whether one died. Who finds no slot free is not watched.
    slots: [Slot; N],
}

#[repr(C)]
struct Slot {
    /// The name of a party that waits; 0: free.
    party: AtomicU64,
    /// In which round, with [`BROKEN`] once that has been broken and is about to end by a reset.
    ///
    /// Relaxed: the party writes it before it arrives, who resets after all have arrived and before it ends the round, and
    /// these are Release and Acquire by way of the state.
    round: AtomicU64,
}

const ROUND: u64 = BROKEN - 1;
const BROKEN: u64 = 1 << 31;
const ONE: u64 = 1 << 32;
const ENDS: u32 = 48;

/// For each party that came before the last, in nanoseconds. In a round that took less, the last does not look whether they
/// live: that takes some 7 us for each, so a twentieth of the round at most.
const SOON: u64 = 150_000;

/// The time; in a model there is none.
fn now() -> u64 {
    if cfg!(mp_loom) { 0 } else { monotonic_nanos() }
}

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

    /// Whether `round` ended well, or was broken.
    fn is_over(self, round: u64) -> bool {
        self.round() != round || self.is_broken()
    }

    /// How `round` ended for one in it; `None` while it lasts.
    fn outcome(self, round: u64, seat: &Seat<'_>) -> Option<Result<()>> {
        let ago = self.round().wrapping_sub(round) & ROUND;
        let broken = match (ago, seat.0) {
            (0, _) if self.is_broken() => true,
            (0, _) => return None,
            (_, Some(slot)) => slot.round.load(Ordering::Relaxed) & BROKEN != 0,
            (1..=16, None) => self.0 >> (u64::from(ENDS) + ago - 1) & 1 != 0,
            // It cannot tell. That so many parties went round again without this one is not likely.
            (_, None) => true,
        };
        Some(if broken { Err(Error::Broken) } else { Ok(()) })
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
            since: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
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
            if seen.is_over(round) {
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
            let broken = State(seen.0 | BROKEN);
            if !seen.is_broken() && !self.swap(seen, broken.0) {
                continue;
            }
            crash_point!("barrier: broken, about to be reset");
            self.tell_parties(seen.round());
            // Where it is not as it was, another has reset it.
            if self.swap(broken, broken.after(true)) {
                crash_point!("barrier: reset, about to wake");
                self.wake();
            }
            return;
        }
    }

    /// Writes into the seats of those in `round`, which is broken and stays so, that it was.
    fn tell_parties(&self, round: u64) {
        for slot in &self.slots {
            if slot.party.load(Ordering::Relaxed) != 0 && taken!(BarrierTells) {
                let mark = round | BROKEN;
                // Not where it is in another round by now.
                let _ =
                    slot.round.compare_exchange(round, mark, Ordering::Relaxed, Ordering::Relaxed);
                crash_point!("barrier: a party is told");
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
                    Nap::Slice => self.watch.take_turn(|| self.see_to_dead(me, seen.round())),
                    Nap::Deadline => return Err(Error::TimedOut),
                }
                continue;
            }
            // Before it arrives, so that nobody came to the round earlier.
            let start = (seen.arrived() == 0 && parties > 1).then(now);
            seat.in_round(seen.round());
            if self.swap(seen, seen.0 + ONE) {
                crash_point!("barrier: arrived");
                if let Some(start) = start
                    && !cfg!(mp_loom)
                {
                    self.since.store(start, Ordering::Relaxed);
                }
                break (seen.round(), seen.arrived());
            }
        };
        if index + 1 == parties {
            if self.is_long(index) && taken!(BarrierLastLooks) {
                // Those that wait look too, but all of them may be dead.
                self.see_to_dead(me, round);
            }
            self.finish(round, &seat, action)?;
        } else {
            self.await_end(me, round, &seat, &mut patience)?;
        }
        Ok(index as usize)
    }

    /// Whether the round has lasted for so long that the last to come looks whether those before it live.
    fn is_long(&self, before: u32) -> bool {
        // Relaxed: where that of this round is not there yet, an earlier one's is, which is longer ago.
        let lasted = || now().wrapping_sub(self.since.load(Ordering::Relaxed));
        before > 0 && (cfg!(mp_loom) || lasted() >= u64::from(before) * SOON)
    }

    fn finish(&self, round: u64, seat: &Seat<'_>, action: impl FnOnce()) -> Result<()> {
        struct BreakOnPanic<'a, const N: usize>(&'a BarrierWords<N>, u64);
        impl<const N: usize> Drop for BreakOnPanic<'_, N> {
            fn drop(&mut self) {
                // After the end of the round this does nothing.
                if lives!() {
                    self.0.break_round(self.1);
                }
            }
        }
        if let Some(outcome) = self.state().outcome(round, seat) {
            return outcome;
        }
        let unless_it_panics = BreakOnPanic(self, round);
        action();
        crash_point!("barrier: the action is done");
        loop {
            let seen = self.state();
            if let Some(outcome) = seen.outcome(round, seat) {
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

    fn await_end(
        &self,
        me: u64,
        round: u64,
        seat: &Seat<'_>,
        patience: &mut Patience,
    ) -> Result<()> {
        loop {
            let seen = patience.look(|| self.state(), |seen| seen.is_over(round));
            if let Some(outcome) = seen.outcome(round, seat) {
                return outcome;
            }
            match patience.sleep(&self.state, seen.0) {
                Nap::Woken => {}
                Nap::Slice => self.watch.take_turn(|| self.see_to_dead(me, round)),
                Nap::Deadline => {
                    let seen = self.state();
                    if let Some(outcome) = seen.outcome(round, seat) {
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
    fn see_to_dead(&self, me: u64, round: u64) {
        for slot in &self.slots {
            let party = slot.party.load(Ordering::Acquire);
            if party == 0 || party == me || !owner::is_dead(party) {
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

    /// One without a seat, in as much as it can tell.
    #[test]
    fn a_late_leaver_learns_how_its_own_round_ended() {
        let outcome = |state: State, round| state.outcome(round, &Seat(None));
        let passed = State(State(5).after(false));
        assert!(matches!(outcome(passed, 5), Some(Ok(()))));
        let reset = State(passed.after(true));
        assert!(matches!(outcome(reset, 5), Some(Ok(()))));
        assert!(matches!(outcome(reset, 6), Some(Err(Error::Broken))));
        assert!(outcome(reset, 7).is_none());
        let wrapped = State(State(ROUND | 3 << 32).after(true));
        assert_eq!((wrapped.round(), wrapped.arrived(), wrapped.is_broken()), (0, 0, false));
        assert!(matches!(outcome(wrapped, ROUND), Some(Err(Error::Broken))));
    }

    #[test]
    fn who_leaves_after_any_number_of_rounds_learns_how_its_own_ended() {
        let outcome = |words: &BarrierWords<4>, seat: &Seat<'_>| words.state().outcome(0, seat);
        for ends_well in [false, true] {
            let words = BarrierWords::<4>::new(2);
            let seat = words.take_seat(DEAD);
            seat.in_round(0);
            assert!(words.swap(words.state(), ONE));
            assert!(outcome(&words, &seat).is_none());
            if ends_well {
                assert!(words.swap(words.state(), words.state().after(false)));
            }
            for _ in 0..100 {
                words.abort();
                words.reset();
                let told = outcome(&words, &seat).unwrap();
                assert_eq!(told.is_ok(), ends_well, "{told:?}");
            }
        }
    }

    /// Nobody waits for it any more, and the last to come finds it dead.
    #[test]
    fn a_party_that_died_while_it_waited_does_not_count() {
        let words = BarrierWords::<4>::new(2);
        let seat = words.take_seat(DEAD);
        seat.in_round(0);
        assert!(words.swap(words.state(), ONE));
        words.since.store(now(), Ordering::Relaxed);
        std::mem::forget(seat);
        std::thread::sleep(Duration::from_millis(1));
        let action = || panic!("not all have come");
        assert!(matches!(words.wait(owner::me(), Limit::Forever, action), Err(Error::Broken)));
        assert!(words.is_broken());
        words.reset();
        assert!(words.slots.iter().all(|slot| slot.party.load(Ordering::Relaxed) == 0));
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
