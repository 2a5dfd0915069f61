//! How many clients are served at the same time.
//!
//! A client that does little but call is served fastest where its thread of the server runs too: each sees what the other
//! has written within a tenth of a microsecond, and a call takes a third of one. That takes two CPUs. With more such pairs
//! than that the scheduler, which knows nothing of pairs, seldom has both of one on CPUs at once; the more there are, the
//! more seldom. So of such clients one for two CPUs is active. The others sleep, their calls unread, until it is their
//! turn.
//!
//! Clients that call now and then, or some of whose calls take their time or wait for others, are served at once: they have
//! no use for a second CPU, and others are not to wait for them. So is who holds what others may wait for. Nor do these
//! wait for long where one of the active makes no calls after all.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::sys::process::usable_cpus;

use crate::wait::lock;

/// How long a turn is where others wait for theirs, in nanoseconds.
const TURN: u64 = 3_000_000;
/// What takes so long, in nanoseconds, is long beside a call: two CPUs have better uses for it.
const LONG: u64 = 10_000;
/// As long is a call that comes after others had the CPU: all that it needs has to be fetched again, though the next is quick.
const FIRST_LONG: u64 = 4 * LONG;
/// Once in so many calls it is looked how long they take, and how long the client takes between them.
const SAMPLE: u64 = 16;
/// Whose calls have made others wait takes turns again after so many that were quick at the most: about half a turn.
const MANY: u64 = 4096;
/// Who is active and makes fewer calls than that in this time is not any more, if others wait.
const SLOW: Duration = Duration::from_millis(20);

/// Whether a thread that calls does little else.
#[derive(Default)]
pub(crate) struct Pace {
    calls: u64,
    /// When the last answer came, where the time from then to the next call is taken.
    answered: Option<u64>,
    is_eager: bool,
}

impl Pace {
    /// It calls.
    pub(crate) fn is_eager(&mut self) -> bool {
        if let Some(answered) = self.answered.take() {
            self.is_eager = monotonic_nanos() - answered < LONG;
        }
        self.is_eager
    }

    /// It has its answer.
    pub(crate) fn is_answered(&mut self) {
        self.calls += 1;
        if self.calls.is_multiple_of(SAMPLE) || !self.is_eager {
            self.answered = Some(monotonic_nanos());
        }
    }
}

/// Those who are active, and those who wait to be.
pub(crate) struct Active {
    state: Mutex<State>,
    /// There are some that wait. A hint: who does not see it after one call will after another.
    contended: AtomicBool,
    /// How many may be active.
    most: fn() -> usize,
}

#[derive(Default)]
struct State {
    active: Vec<Arc<Seat>>,
    /// Those that wait and have not used up their turns. They are first; each has a turn's worth of that.
    early: VecDeque<Arc<Seat>>,
    /// Those that wait for another turn.
    late: VecDeque<Arc<Seat>>,
    /// One of those that wait, who looks whether the active make calls if nothing else comes about.
    watcher: Option<Arc<Seat>>,
    /// What calls the active had made when that was looked at last, and when.
    seen: Vec<(Arc<Seat>, u64)>,
    looked: u64,
}

/// What others know of a thread.
#[derive(Default)]
struct Seat {
    /// How many calls it has begun.
    calls: AtomicU64,
    /// Written with the state locked.
    place: AtomicU8,
    changed: Arc<Condvar>,
}

/// Neither active nor waiting for that.
const OUT: u8 = 0;
const WAITS: u8 = 1;
const ACTIVE: u8 = 2;

/// A thread that serves a client.
pub(crate) struct Member {
    seat: Arc<Seat>,
    /// The client does little but call.
    is_eager: Cell<bool>,
    /// How many calls in a row were quick, counted up to how many are to be. All are timed until then.
    quick: Cell<u64>,
    needed: Cell<u64>,
    /// The call that it makes has waited for what others do.
    has_waited: Cell<bool>,
    /// When it was looked last how long its calls take, and whether they took too long.
    looked: Cell<u64>,
    was_slow: Cell<bool>,
    /// It is active, unless others have ended that.
    is_active: Cell<bool>,
    /// Since when, how much of its turn was used up before, and whether all of it is.
    since: Cell<u64>,
    used: Cell<u64>,
    is_over: Cell<bool>,
}

impl Default for Member {
    fn default() -> Self {
        let seat = Arc::default();
        let flag = || Cell::new(false);
        let (is_eager, has_waited, was_slow) = (flag(), flag(), flag());
        let (is_active, is_over) = (flag(), flag());
        let number = || Cell::new(0);
        // Nothing is known of its calls.
        let (quick, looked, since, used) = (number(), number(), number(), number());
        let needed = Cell::new(SAMPLE);
        Self {
            seat,
            is_eager,
            quick,
            needed,
            has_waited,
            looked,
            was_slow,
            is_active,
            since,
            used,
            is_over,
        }
    }
}

impl Member {
    /// Makes a call.
    pub(crate) fn call<R>(&self, call: impl FnOnce() -> R) -> R {
        // Relaxed: others want to see that it changes.
        let calls = self.seat.calls.load(Relaxed) + 1;
        self.seat.calls.store(calls, Relaxed);
        if self.is_quick() {
            let result = call();
            if self.has_waited.replace(false) {
                self.quick.set(0);
            }
            if calls.is_multiple_of(SAMPLE) {
                self.look_back();
            }
            return result;
        }
        self.looked.set(monotonic_nanos());
        let result = call();
        let is_quick = monotonic_nanos() - self.looked.get() < FIRST_LONG;
        let is_quick = !self.has_waited.replace(false) && is_quick;
        self.quick.set(if is_quick { self.quick.get() + 1 } else { 0 });
        result
    }

    /// In a call: waits for a lock. That does not count: it says more of how others call than of this one, and as soon as
    /// those who want the lock are active one after the other, nobody waits for it.
    pub(crate) fn waits_for_lock<R>(&self, wait: impl FnOnce() -> R) -> R {
        let had_waited = self.has_waited.replace(false);
        let result = wait();
        if self.has_waited.replace(had_waited) {
            self.looked.set(monotonic_nanos());
        }
        result
    }

    fn look_back(&self) {
        let now = monotonic_nanos();
        // All of them together: a long one among them is one that others wait for. What this thread waits for its turn is
        // not counted.
        self.was_slow.set(now - self.looked.replace(now) >= SAMPLE * LONG);
        self.is_over.set(self.used.get() + (now - self.since.get()) >= TURN);
    }

    fn is_quick(&self) -> bool {
        self.quick.get() >= self.needed.get()
    }

    /// The client says of itself whether it does little but call.
    pub(crate) fn is_called(&self, eagerly: bool) {
        self.is_eager.set(eagerly);
    }

    /// Whether it is to be active, to be served.
    pub(crate) fn takes_turns(&self) -> bool {
        self.is_eager.get() && self.is_quick()
    }

    /// What wakes it while it waits for its turn.
    pub(crate) fn changed(&self) -> &Arc<Condvar> {
        &self.seat.changed
    }

    /// Before a call is looked for: whether it is active, which it becomes if there is room.
    pub(crate) fn goes_on(&self, active: &Active) -> bool {
        if self.is_active.get() {
            let is_contended = active.contended.load(Relaxed);
            let is_over = self.is_over.get() && is_contended;
            if self.was_slow.get() && is_contended {
                self.made_others_wait();
            } else if is_over {
                self.needed.set(SAMPLE.max(self.needed.get() / 2));
            }
            let goes_on = self.takes_turns() && !is_over;
            if !goes_on || self.seat.place.load(Relaxed) != ACTIVE {
                self.leave(active);
            }
        } else if self.takes_turns() && active.try_enter(&self.seat) {
            self.begin();
        }
        self.is_active.get()
    }

    /// It takes no turns for a while, and the longer the more often.
    fn made_others_wait(&self) {
        self.quick.set(0);
        self.needed.set(MANY.min(2 * self.needed.get()));
    }

    /// Its call waits for what others do: it is not active meanwhile, nor afterwards if that goes on.
    pub(crate) fn waits_for_others(&self, active: &Active) {
        self.leave(active);
        self.has_waited.set(true);
    }

    /// Waits until it is active, or until `is_over`, at which what waits for [`changed`](Self::changed) is to be woken.
    pub(crate) fn enter(&self, active: &Active, is_over: impl Fn() -> bool) {
        let is_late = self.used.get() >= TURN;
        if is_late {
            self.used.set(0);
        }
        active.enter(&self.seat, is_late, is_over);
        self.begin();
    }

    fn begin(&self) {
        self.is_active.set(true);
        self.was_slow.set(false);
        self.is_over.set(false);
        let now = monotonic_nanos();
        self.since.set(now);
        self.looked.set(now);
    }

    /// It is not active any more.
    pub(crate) fn leave(&self, active: &Active) {
        if !self.is_active.replace(false) {
            return;
        }
        self.used.set(self.used.get() + (monotonic_nanos() - self.since.get()));
        if !active.leave(&self.seat) {
            self.made_others_wait();
        }
    }
}

impl Default for Active {
    fn default() -> Self {
        // One for two CPUs: the client takes the other.
        Self::new(|| usable_cpus() / 2)
    }
}

impl Active {
    fn new(most: fn() -> usize) -> Self {
        Self { state: Mutex::default(), contended: AtomicBool::new(false), most }
    }

    fn try_enter(&self, seat: &Arc<Seat>) -> bool {
        let mut state = lock(&self.state);
        let is_free = !state.is_contended() && state.has_room(self.most);
        if is_free {
            state.admit(Arc::clone(seat));
        }
        is_free
    }

    /// Waits until it is active; at most once for each `leave`.
    fn enter(&self, seat: &Arc<Seat>, is_late: bool, is_over: impl Fn() -> bool) {
        if self.try_enter(seat) {
            return;
        }
        let mut state = lock(&self.state);
        seat.place.store(WAITS, Relaxed);
        let queue = if is_late { &mut state.late } else { &mut state.early };
        queue.push_back(Arc::clone(seat));
        let mut woken = self.settle(&mut state);
        loop {
            if !woken.is_empty() {
                drop(state);
                wake(woken);
                state = lock(&self.state);
            }
            woken = Vec::new();
            if seat.place.load(Relaxed) != WAITS {
                return;
            }
            if is_over() {
                seat.place.store(OUT, Relaxed);
                state.early.retain(|other| !Arc::ptr_eq(other, seat));
                state.late.retain(|other| !Arc::ptr_eq(other, seat));
                woken = self.settle(&mut state);
            } else if state.is_watcher(seat) {
                let nap = seat.changed.wait_timeout(state, SLOW);
                state = nap.unwrap_or_else(PoisonError::into_inner).0;
                woken = self.settle(&mut state);
            } else {
                state = seat.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Whether it was active, and others have not ended that.
    fn leave(&self, seat: &Arc<Seat>) -> bool {
        let mut state = lock(&self.state);
        let was_active = seat.place.swap(OUT, Relaxed) == ACTIVE;
        if was_active {
            state.active.retain(|other| !Arc::ptr_eq(other, seat));
            let woken = self.settle(&mut state);
            drop(state);
            wake(woken);
        }
        was_active
    }

    /// Lets in those who are next, as far as there is room, and has one of the others watch. Gives who is to be woken once
    /// the state is unlocked: else they would wait for that.
    fn settle(&self, state: &mut State) -> Vec<Arc<Seat>> {
        let mut woken = Vec::new();
        state.look_after_the_active();
        while state.is_contended() && state.has_room(self.most) {
            let Some(next) = state.early.pop_front().or_else(|| state.late.pop_front()) else {
                break;
            };
            woken.push(Arc::clone(&next));
            state.admit(next);
        }
        let watches = |seat: &Arc<Seat>| seat.place.load(Relaxed) == WAITS;
        if !state.watcher.as_ref().is_some_and(watches) {
            // The one that will wait longest: each change of watchers wakes one.
            state.watcher = state.late.back().or(state.early.back()).cloned();
            woken.extend(state.watcher.clone());
        }
        self.contended.store(state.is_contended(), Relaxed);
        woken
    }
}

fn wake(seats: Vec<Arc<Seat>>) {
    seats.iter().for_each(|seat| seat.changed.notify_all());
}

impl State {
    fn is_contended(&self) -> bool {
        !self.early.is_empty() || !self.late.is_empty()
    }

    fn has_room(&self, most: fn() -> usize) -> bool {
        // One may always, which takes no system call.
        self.active.is_empty() || self.active.len() < most()
    }

    fn admit(&mut self, seat: Arc<Seat>) {
        seat.place.store(ACTIVE, Relaxed);
        self.active.push(seat);
    }

    fn is_watcher(&self, seat: &Arc<Seat>) -> bool {
        self.watcher.as_ref().is_some_and(|watcher| Arc::ptr_eq(watcher, seat))
    }

    /// Now and then: ends the turns of those that have made few calls since the last time.
    fn look_after_the_active(&mut self) {
        let now = monotonic_nanos();
        if u128::from(now - self.looked) < SLOW.as_nanos() {
            return;
        }
        self.looked = now;
        for (seat, before) in self.seen.drain(..) {
            let is_slow = seat.calls.load(Relaxed) - before < SAMPLE;
            if is_slow && seat.place.load(Relaxed) == ACTIVE {
                seat.place.store(OUT, Relaxed);
                self.active.retain(|other| !Arc::ptr_eq(other, &seat));
            }
        }
        let seen = |seat: &Arc<Seat>| (Arc::clone(seat), seat.calls.load(Relaxed));
        self.seen.extend(self.active.iter().map(seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp_core::testing::watchdog;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Instant;

    /// A hang ends the tests.
    fn active_set(most: fn() -> usize) -> Active {
        watchdog(Duration::from_secs(60));
        Active::new(most)
    }

    fn eager() -> Member {
        let member = Member::default();
        member.is_called(true);
        make_quick(&member);
        member
    }

    /// Gives how many calls it took: more where this thread had no CPU meanwhile.
    fn make_quick(member: &Member) -> u64 {
        let rounds = (1..).find(|_| {
            calls(member, SAMPLE);
            member.is_quick()
        });
        rounds.unwrap() * SAMPLE
    }

    /// Makes quick calls.
    fn calls(member: &Member, count: u64) {
        (0..count).for_each(|_| member.call(|| ()));
    }

    fn calls_for_long(member: &Member) {
        member.call(|| thread::sleep(Duration::from_nanos(SAMPLE * LONG)));
    }

    /// Has somebody wait for a turn while that is tried with who is active.
    fn with_one_that_waits(active: &Active, tries: impl FnOnce()) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let waits = eager();
                waits.enter(active, || over.load(Relaxed));
                waits.leave(active);
            });
            while !active.contended.load(Relaxed) {
                thread::yield_now();
            }
            tries();
            over.store(true, Relaxed);
            while !waits.is_finished() {
                // It may have been about to sleep.
                wake(lock(&active.state).watcher.iter().cloned().collect());
                thread::yield_now();
            }
        });
    }

    /// Uses up its turn.
    fn work(member: &Member) {
        let begin = Instant::now();
        while begin.elapsed().as_nanos() <= u128::from(TURN) {
            calls(member, SAMPLE);
        }
    }

    #[test]
    fn a_turn_is_over_only_where_others_wait() {
        let active = active_set(|| 1);
        let first = eager();
        assert!(first.goes_on(&active));
        work(&first);
        assert!(first.goes_on(&active));
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let other = eager();
                assert!(!other.goes_on(&active));
                other.enter(&active, || false);
                assert!(other.goes_on(&active));
                other.leave(&active);
            });
            while !active.contended.load(Relaxed) {
                thread::yield_now();
            }
            work(&first);
            assert!(!first.goes_on(&active));
            first.enter(&active, || false);
            other.join().unwrap();
        });
        // It may have had no CPU for a part of its turn.
        make_quick(&first);
        assert!(first.goes_on(&active));
    }

    #[test]
    fn who_calls_now_and_then_or_for_long_takes_no_turns() {
        let active = active_set(|| 1);
        let member = eager();
        member.is_called(false);
        assert!(!member.goes_on(&active));
        member.is_called(true);
        assert!(member.goes_on(&active));
        member.leave(&active);

        let member = Member::default();
        member.is_called(true);
        calls(&member, SAMPLE - 1);
        calls_for_long(&member);
        assert!(!member.goes_on(&active));
        assert!(lock(&active.state).active.is_empty());
        make_quick(&member);
        assert!(member.goes_on(&active));
    }

    #[test]
    fn who_has_its_cpu_for_one_call_at_a_time_takes_turns_too() {
        let member = Member::default();
        member.is_called(true);
        let call = || {
            let begin = monotonic_nanos();
            while monotonic_nanos() - begin < 2 * LONG {}
        };
        let takes_turns = (0..1000).any(|_| {
            (0..SAMPLE).for_each(|_| member.call(call));
            member.takes_turns()
        });
        assert!(takes_turns);
    }

    #[test]
    fn one_long_call_among_quick_ones_is_too_many_where_others_wait() {
        let active = active_set(|| 1);
        let member = eager();
        let one_is_long = || {
            calls(&member, 1);
            calls_for_long(&member);
            calls(&member, SAMPLE - 2);
        };
        assert!(member.goes_on(&active));
        one_is_long();
        assert!(member.goes_on(&active));
        with_one_that_waits(&active, || {
            one_is_long();
            assert!(!member.goes_on(&active));
        });
        assert!(make_quick(&member) >= 2 * SAMPLE, "the more often, the longer");
    }

    #[test]
    fn who_waits_for_others_is_served_at_once_for_a_while() {
        let active = active_set(|| 1);
        let member = eager();
        assert!(member.goes_on(&active));
        member.call(|| member.waits_for_lock(|| member.waits_for_others(&active)));
        assert!(lock(&active.state).active.is_empty());
        assert!(member.goes_on(&active));
        member.call(|| member.waits_for_others(&active));
        calls(&member, 2);
        assert!(!member.takes_turns());
    }

    #[test]
    fn nobody_waits_for_who_makes_no_calls() {
        let active = active_set(|| 1);
        let (stuck, other) = (eager(), eager());
        assert!(stuck.goes_on(&active));
        other.enter(&active, || false);
        assert!(other.goes_on(&active));
        assert!(!stuck.goes_on(&active));
        assert!(!stuck.takes_turns(), "others are not to wait for it again");
    }

    #[test]
    fn who_has_ended_waits_no_longer() {
        let active = active_set(|| 1);
        let (first, over) = (eager(), AtomicBool::new(false));
        assert!(first.goes_on(&active));
        thread::scope(|scope| {
            let gone = scope.spawn(|| {
                let gone = eager();
                gone.enter(&active, || over.load(Relaxed));
            });
            while !active.contended.load(Relaxed) {
                thread::yield_now();
            }
            over.store(true, Relaxed);
            while !gone.is_finished() {
                // It may have been about to sleep.
                wake(lock(&active.state).watcher.iter().cloned().collect());
                first.call(|| ());
            }
        });
        let state = lock(&active.state);
        assert!(!state.is_contended() && state.watcher.is_none());
        assert_eq!(state.active.len(), 1);
    }

    #[test]
    fn no_more_are_active_than_may_be_and_all_come_to_their_turn() {
        let active = active_set(|| 2);
        let now = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let member = eager();
                    for turn in 0..200 {
                        if !member.goes_on(&active) {
                            member.enter(&active, || false);
                        }
                        assert!(now.fetch_add(1, Relaxed) < 2);
                        member.call(thread::yield_now);
                        now.fetch_sub(1, Relaxed);
                        if turn % 3 == 0 {
                            member.leave(&active);
                        }
                    }
                    member.leave(&active);
                });
            }
        });
        let state = lock(&active.state);
        assert!(state.active.is_empty() && !state.is_contended());
    }
}
