//! Every order in which the protocols' steps can happen, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-sync --lib --release`. Each model is also run with one thing
//! missing that the protocol needs (an ordering, a fence, a wake-up), and then has to fail: a model that
//! passes in that case would prove nothing.

use loom::sync::Arc;
use loom::thread;
use mp_core::model::{Data, explore as explore_within, explore_killing, mortal, point};

use crate::patience::{Limit, Patience};
use crate::words::barrier::BarrierWords;
use crate::words::condition::ConditionWords;
use crate::words::event::EventWord;
use crate::words::lock::LockWord;
use crate::words::rlock::RLockWords;
use crate::words::rwlock::RwLockWords;
use crate::words::semaphore::{SemaphoreWords, UNBOUNDED};
use crate::{Acquired, Error};

const ONE: u64 = 1;
const TWO: u64 = 2;
/// A name that `owner` takes for dead.
const DEAD: u64 = 1 << 20;
/// One that it takes for dead as soon as who is mortal is killed.
const MORTAL: u64 = 1 << 19;

/// With no more than three preemptions.
fn explore(model: fn(), needed: &[&'static str]) {
    explore_within(3, model, needed);
}

/// Runs `other` beside `this`, both on `shared`; then gives `shared` back.
fn beside<T: 'static>(shared: T, this: fn(&T), other: fn(&T)) -> Arc<T> {
    let shared = Arc::new(shared);
    let theirs = Arc::clone(&shared);
    let thread = thread::spawn(move || other(&theirs));
    this(&shared);
    thread.join().unwrap();
    shared
}

#[test]
fn lock_lets_one_in_at_a_time_and_wakes_the_other() {
    fn step((word, data): &(LockWord, Data), me: u64) {
        for _ in 0..2 {
            assert_eq!(word.lock(me, Limit::Forever).unwrap(), Acquired::Clean);
            data.add();
            word.unlock(me).unwrap();
        }
    }
    explore(
        || {
            let shared = beside((LockWord::new(), Data::new()), |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!(shared.1.get(), 4);
            assert!(!shared.0.is_held());
        },
        &["LockTake", "LockRelease", "LockWake"],
    );
}

#[test]
fn lock_wakes_each_of_several_sleepers() {
    fn step((word, data): &(LockWord, Data), me: u64) {
        word.lock(me, Limit::Forever).unwrap();
        data.add();
        word.unlock(me).unwrap();
    }
    explore(
        || {
            let shared = Arc::new((LockWord::new(), Data::new()));
            let threads: Vec<_> = [ONE, TWO]
                .map(|me| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || step(&shared, me))
                })
                .into();
            step(&shared, 3);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(shared.1.get(), 3);
        },
        &["LockWake"],
    );
}

#[test]
fn lock_of_a_dead_owner_is_news_for_one() {
    fn step((word, data, news): &(LockWord, Data, Data), me: u64) {
        let taken = word.lock(me, Limit::Forever).unwrap();
        data.add();
        if taken == Acquired::OwnerDied {
            news.add();
        }
        word.unlock(me).unwrap();
    }
    explore(
        || {
            let word = LockWord::new();
            word.lock(DEAD, Limit::Try).unwrap();
            let shared =
                beside((word, Data::new(), Data::new()), |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!((shared.1.get(), shared.2.get()), (2, 1));
        },
        &["LockRelease", "LockWake"],
    );
}

#[test]
fn rlock_is_released_as_often_as_it_was_taken() {
    fn step((words, data): &(RLockWords, Data), me: u64) {
        words.lock(me, Limit::Forever).unwrap();
        words.lock(me, Limit::Forever).unwrap();
        words.unlock(me).unwrap();
        data.add();
        assert_eq!(words.depth(me), 1);
        words.unlock(me).unwrap();
        assert_eq!(words.depth(me), 0);
    }
    explore(
        || {
            let shared =
                beside((RLockWords::new(), Data::new()), |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!(shared.1.get(), 2);
        },
        &["LockTake", "LockRelease"],
    );
}

#[test]
fn semaphore_orders_what_is_between_its_permits() {
    type Words = SemaphoreWords<2>;
    fn step((words, data): &(Words, Data), me: u64) {
        words.acquire(|| me, Limit::Forever).unwrap();
        data.add();
        words.release().unwrap();
    }
    explore(
        || {
            let words = Words::new(1, 1);
            let shared = beside((words, Data::new()), |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!((shared.0.value(), shared.1.get()), (1, 2));
        },
        &["SemaphoreRelease", "SemaphoreWake"],
    );
}

#[test]
fn semaphore_wakes_one_waiter_for_each_permit() {
    explore_within(
        2,
        || {
            let words = Arc::new(SemaphoreWords::<2>::new(0, UNBOUNDED));
            let threads = [ONE, TWO].map(|me| {
                let words = Arc::clone(&words);
                thread::spawn(move || words.acquire(|| me, Limit::Forever).unwrap())
            });
            words.release().unwrap();
            words.release().unwrap();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(words.value(), 0);
        },
        &["SemaphoreWake", "SemaphoreChain"],
    );
}

#[test]
fn semaphore_guards_give_back_what_they_took() {
    type Words = SemaphoreWords<2>;
    fn step((words, data): &(Words, Data), me: u64) {
        let slot = words.permit(me, Limit::Forever).unwrap();
        data.add();
        assert!(words.give_back(slot, me, me));
    }
    explore(
        || {
            let words = Words::new(1, 1);
            let shared = beside((words, Data::new()), |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!((shared.0.value(), shared.1.get()), (1, 2));
        },
        &["SemaphoreWake"],
    );
}

#[test]
fn semaphore_permits_of_the_dead_come_back_once() {
    type Words = SemaphoreWords<2>;
    explore(
        || {
            let words = Words::new(1, UNBOUNDED);
            words.permit(DEAD, Limit::Try).unwrap();
            let shared = beside(
                words,
                |words| _ = words.reap(ONE, crate::owner::is_dead),
                |words| _ = words.reap(TWO, crate::owner::is_dead),
            );
            assert_eq!(shared.value(), 1);
        },
        &["PermitLooksAgain"],
    );
}

#[test]
fn semaphore_permits_that_were_left_come_back_once_with_what_was_done_before() {
    type Shared = (SemaphoreWords<2>, Data);
    explore(
        || {
            let words = SemaphoreWords::new(1, UNBOUNDED);
            let slot = words.permit(ONE, Limit::Try).unwrap();
            assert_eq!(slot, 0);
            let shared = beside(
                (words, Data::new()),
                |(words, data): &Shared| {
                    data.add();
                    words.leave(0, ONE);
                    words.reap(ONE, crate::owner::is_dead);
                },
                |(words, data)| {
                    words.reap(TWO, crate::owner::is_dead);
                    if let Ok(slot) = words.permit(TWO, Limit::Try) {
                        data.add();
                        words.let_go(slot, TWO);
                    }
                },
            );
            assert_eq!(shared.0.value(), 1);
        },
        &["PermitLooksAgain", "PermitLeft"],
    );
}

#[test]
fn event_shows_what_was_before_it_and_wakes() {
    type Shared = (EventWord, Data);
    explore(
        || {
            beside(
                (EventWord::new(), Data::new()),
                |(word, data): &Shared| {
                    assert!(word.wait(Limit::Forever));
                    assert_eq!(data.get(), 1);
                },
                |(word, data)| {
                    data.add();
                    word.set();
                },
            );
        },
        &["EventSet", "EventWake"],
    );
}

#[test]
fn event_that_is_cleared_at_once_wakes_who_waited() {
    explore(
        || {
            let word = Arc::new(EventWord::new());
            let first = word.now();
            let theirs = Arc::clone(&word);
            let waiter = thread::spawn(move || assert!(theirs.wait_since(first, Limit::Forever)));
            word.set();
            word.clear();
            waiter.join().unwrap();
        },
        &["EventWake"],
    );
}

#[test]
fn condition_notification_reaches_who_waited() {
    type Shared = (ConditionWords<2>, Data);
    explore(
        || {
            let words = ConditionWords::new();
            // The waiter has the lock first, so it waits before the other notifies.
            words.lock.lock(ONE, Limit::Try).unwrap();
            beside(
                (words, Data::new()),
                |(words, data): &Shared| {
                    let slot = words.enter(ONE).unwrap();
                    let depth = words.lock.unlock_all(ONE).unwrap();
                    assert!(words.wait(slot, ONE, &mut Patience::new(Limit::Forever)));
                    // Before the lock is had again: the notification alone has to show it.
                    assert_eq!(data.get(), 1);
                    words.lock.lock_all(ONE, depth).unwrap();
                    words.leave(slot);
                    words.lock.unlock(ONE).unwrap();
                },
                |(words, data)| {
                    words.lock.lock(TWO, Limit::Forever).unwrap();
                    words.lock.unlock(TWO).unwrap();
                    data.add();
                    words.notify(1);
                },
            );
        },
        &["ConditionMark", "ConditionWake"],
    );
}

#[test]
fn condition_notification_of_a_dead_waiter_goes_to_one_living() {
    type Words = ConditionWords<3>;
    explore(
        || {
            let words = Words::new();
            // All wait, and the one that was notified dies.
            let [dead, one, two] = [DEAD, ONE, TWO].map(|name| words.enter(name).unwrap());
            assert_eq!((dead, one, two), (0, 1, 2));
            words.notify_as_others_do(dead);
            let words = beside(
                words,
                |words: &Words| words.find_dead(1, ONE),
                |words| words.find_dead(2, TWO),
            );
            let now = || Patience::new(Limit::Try);
            let notified = words.wait(1, ONE, &mut now()) ^ words.wait(2, TWO, &mut now());
            assert!(notified, "one of them, and one only");
        },
        &["ConditionClaim"],
    );
}

/// Who has waited longest looks for the dead. Where it is killed at that, it is the next one's turn.
#[test]
fn condition_notification_is_not_lost_with_who_takes_it_from_the_dead() {
    type Words = ConditionWords<3>;
    let steps = explore_killing(
        3,
        || {
            let words = Words::new();
            let [dead, ..] = [DEAD, MORTAL, TWO].map(|name| words.enter(name).unwrap());
            words.notify_as_others_do(dead);
            mp_core::word::note_death();
            beside(
                words,
                |words: &Words| assert!(words.wait(2, TWO, &mut Patience::new(Limit::Forever))),
                |words| {
                    let has_it = mortal(|| {
                        words.find_dead(1, MORTAL);
                        point();
                    });
                    if has_it {
                        // So that the other gets one too.
                        words.notify(1);
                    }
                },
            );
        },
        &["ConditionWake"],
    );
    assert!(steps >= 3, "{steps}");
}

#[test]
fn barrier_lets_go_when_all_have_come_round_after_round() {
    type Shared = (BarrierWords<2>, [Data; 2], Data);
    fn step((words, data, action): &Shared, me: u64) {
        data[me as usize - 1].add();
        words.wait(me, Limit::Forever, || action.add()).unwrap();
        assert_eq!((data[2 - me as usize].get(), action.get()), (1, 1));
        // The second round: nobody is let go by the first.
        words.wait(me, Limit::Forever, || ()).unwrap();
    }
    explore_within(
        2,
        || {
            let shared = (BarrierWords::new(2), [Data::new(), Data::new()], Data::new());
            let shared = beside(shared, |s| step(s, ONE), |s| step(s, TWO));
            assert_eq!(shared.0.waiting(), 0);
        },
        &["BarrierEnd", "BarrierWake"],
    );
}

#[test]
fn barrier_that_is_reset_ends_the_wait_of_all_in_it() {
    explore(
        || {
            let words = Arc::new(BarrierWords::<2>::new(2));
            let theirs = Arc::clone(&words);
            let party = thread::spawn(move || theirs.wait(ONE, Limit::Forever, || ()));
            words.abort();
            assert!(party.join().unwrap().is_err());
            words.reset();
            assert!(!words.is_broken() && words.waiting() == 0);
        },
        &["BarrierWake"],
    );
}

/// One party of a barrier, which tells how its round ended: `true` where all came.
fn party(words: &BarrierWords<3>, me: u64) -> bool {
    match words.wait(me, Limit::Forever, || ()) {
        Ok(_) => true,
        Err(Error::Broken) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Who resets may be killed on the way, and others do so too.
#[test]
fn barrier_tells_who_is_late_that_its_round_was_reset() {
    type Words = BarrierWords<2>;
    fn told(words: &Words) {
        assert!(!matches!(words.wait(ONE, Limit::Forever, || ()), Ok(_)), "it was alone");
    }
    let steps = explore_killing(
        3,
        || {
            beside(Words::new(2), told, |words| {
                mortal(|| {
                    words.reset();
                    words.reset();
                });
                words.abort();
                words.reset();
                words.abort();
            });
        },
        &["BarrierTells", "BarrierEnd"],
    );
    assert!(steps >= 3, "{steps}");
}

#[test]
fn barrier_tells_who_is_late_where_two_reset() {
    explore(
        || {
            let words = Arc::new(BarrierWords::<2>::new(2));
            let [late, other] = [true, false].map(|waits| {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    if waits {
                        words.wait(ONE, Limit::Forever, || ()).is_ok()
                    } else {
                        words.reset();
                        false
                    }
                })
            });
            words.reset();
            other.join().unwrap();
            words.abort();
            assert!(!late.join().unwrap(), "it was alone");
        },
        &["BarrierTells"],
    );
}

/// Who is told that all came was not alone.
#[test]
fn barrier_parties_agree_how_a_round_ended_that_another_resets() {
    explore_within(
        2,
        || {
            let words = Arc::new(BarrierWords::<2>::new(2));
            let [resetting, one] = [0, ONE].map(|me| {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    if me == 0 {
                        words.reset();
                        words.abort();
                    }
                    me != 0 && words.wait(me, Limit::Forever, || ()).is_ok()
                })
            });
            let two = words.wait(TWO, Limit::Forever, || ()).is_ok();
            resetting.join().unwrap();
            assert_eq!(one.join().unwrap(), two, "they agree");
        },
        &["BarrierTells"],
    );
}

#[test]
fn barrier_does_not_end_well_with_a_dead_party() {
    explore(
        || {
            let words = BarrierWords::<2>::new(2);
            words.sit_as_others_do(DEAD);
            assert!(words.wait(ONE, Limit::Forever, || ()).is_err());
        },
        &["BarrierLastLooks"],
    );
}

/// Where one is killed, at whatever step, each of the others comes out.
#[test]
fn barrier_keeps_nobody_whose_party_is_killed() {
    type Shared = (BarrierWords<3>, Data);
    let steps = explore_killing(
        3,
        || {
            let shared = beside(
                (BarrierWords::new(2), Data::new()),
                |(words, data): &Shared| {
                    if party(words, ONE) {
                        assert_eq!(data.get(), 1, "it came, and before that did its work");
                    }
                },
                |(words, data)| {
                    mortal(|| {
                        data.add();
                        party(words, MORTAL);
                    });
                },
            );
            shared.0.reset();
            assert!(!shared.0.is_broken() && shared.0.waiting() == 0);
        },
        &["BarrierWatch", "BarrierEnd"],
    );
    assert!(steps >= 6, "{steps}");
}

#[test]
fn barrier_parties_agree_how_a_round_with_one_killed_ended() {
    explore_killing(
        1,
        || {
            let words = Arc::new(BarrierWords::<3>::new(3));
            let [one, killed] = [ONE, MORTAL].map(|me| {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    if me == ONE {
                        return party(&words, me);
                    }
                    mortal(|| _ = party(&words, me))
                })
            });
            let two = party(&words, TWO);
            assert_eq!(one.join().unwrap(), two, "the others agree");
            assert!(killed.join().unwrap() <= two, "it ends well where none is killed");
        },
        &["BarrierWatch"],
    );
}

/// Who finds a party dead may die before it has told the others.
#[test]
fn barrier_keeps_nobody_where_who_finds_a_dead_party_is_killed() {
    explore_killing(
        2,
        || {
            // One more than come: it cannot end well.
            let words = BarrierWords::<3>::new(4);
            words.sit_as_others_do(DEAD);
            mp_core::word::note_death();
            beside(
                words,
                |words: &BarrierWords<3>| assert!(!party(words, ONE)),
                |words| _ = mortal(|| assert!(!party(words, MORTAL))),
            );
        },
        &["BarrierWatch"],
    );
}

/// What an RwLock guards: two numbers that are the same, but while a writer is at them.
///
/// A seat for each: who finds none free looks again by the clock, which models do not have.
type Guarded = (RwLockWords<2>, [Data; 2]);

fn guarded() -> Guarded {
    (RwLockWords::new(), [Data::new(), Data::new()])
}

/// Writes as `me`; whoever finds the numbers torn was told of a death.
fn write((words, [first, second]): &Guarded, me: u64) -> Acquired {
    let news = words.write(me, Limit::Forever).unwrap();
    assert!(first.get() == second.get() || news == Acquired::OwnerDied, "torn, and not told");
    first.add();
    point();
    // Mended, where it was torn.
    while second.get() < first.get() {
        second.add();
    }
    point();
    words.unlock(me);
    news
}

fn read((words, [first, second]): &Guarded, me: u64) -> Acquired {
    let (slot, news) = words.read(me, Limit::Forever).unwrap();
    assert!(first.get() == second.get() || news == Acquired::OwnerDied, "torn, and not told");
    point();
    words.leave(slot, me);
    news
}

/// After all is over it can be written, and is as new.
fn is_whole(guarded: &Guarded) {
    write(guarded, ONE);
    assert_eq!(read(guarded, ONE), Acquired::Clean);
}

#[test]
fn rwlock_of_a_killed_writer_lets_a_reader_in_and_tells_it() {
    let steps = explore_killing(
        3,
        || {
            let shared =
                beside(guarded(), |s| _ = read(s, ONE), |s| _ = mortal(|| _ = write(s, MORTAL)));
            is_whole(&shared);
        },
        &["DeadWriterNoted", "LockRelease"],
    );
    assert!(steps >= 5, "{steps}");
}

#[test]
fn rwlock_of_a_killed_writer_lets_a_writer_in_and_tells_it() {
    explore_killing(
        3,
        || {
            let shared =
                beside(guarded(), |s| _ = write(s, ONE), |s| _ = mortal(|| _ = write(s, MORTAL)));
            is_whole(&shared);
        },
        &["DeadWriterNoted", "LockRelease"],
    );
}

#[test]
fn rwlock_of_a_killed_reader_lets_a_writer_in() {
    let steps = explore_killing(
        3,
        || {
            let shared =
                beside(guarded(), |s| _ = write(s, ONE), |s| _ = mortal(|| _ = read(s, MORTAL)));
            is_whole(&shared);
        },
        &["DeadReaderLeaves", "ReaderFence", "WriterFence", "ReaderRelease"],
    );
    assert!(steps >= 5, "{steps}");
}

/// As a dead writer leaves it.
fn torn() -> Guarded {
    let guarded = guarded();
    guarded.0.write(DEAD, Limit::Try).unwrap();
    guarded.1[0].add();
    guarded
}

/// Who comes upon a dead writer, and has the news, may die with it.
#[test]
fn rwlock_news_of_a_dead_writer_outlives_a_reader_who_had_it() {
    explore_killing(
        2,
        || {
            let shared =
                beside(torn(), |s| _ = read(s, ONE), |s| _ = mortal(|| _ = read(s, MORTAL)));
            assert_eq!(read(&shared, ONE), Acquired::OwnerDied, "until somebody writes");
            is_whole(&shared);
        },
        &["DeadWriterNoted"],
    );
}

#[test]
fn rwlock_news_of_a_dead_writer_outlives_a_writer_who_had_it() {
    explore_killing(
        2,
        || {
            let shared =
                beside(torn(), |s| _ = read(s, ONE), |s| _ = mortal(|| _ = write(s, MORTAL)));
            is_whole(&shared);
        },
        &["DeadWriterNoted"],
    );
}

#[test]
fn rwlock_keeps_reader_and_writer_apart() {
    type Shared = (RwLockWords<1>, Data);
    explore(
        || {
            beside(
                (RwLockWords::new(), Data::new()),
                |(words, data): &Shared| {
                    let (slot, _) = words.read(ONE, Limit::Forever).unwrap();
                    data.get();
                    words.leave(slot, ONE);
                },
                |(words, data)| {
                    words.write(TWO, Limit::Forever).unwrap();
                    data.add();
                    words.unlock(TWO);
                },
            );
        },
        &["ReaderFence", "WriterFence", "ReaderRelease", "ReaderWake", "LockRelease", "LockWake"],
    );
}
