//! What one process can show: threads stand for processes, and end with locks in their hands.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mp_sync::{
    Acquired, Barrier, BoundedSemaphore, Condition, Error, Event, Lock, Mutex, MutexGuard, Permit,
    RLock, RwLock, Semaphore, TryLockError,
};

const HANG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(10);

/// Runs `body` on a thread of its own, and panics if it does not end.
fn within<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(body()));
    receiver.recv_timeout(HANG).expect("it hangs, or it panicked")
}

#[test]
fn auto_traits() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + Unpin + 'static>() {}
    shared::<Lock>();
    shared::<RLock>();
    shared::<Semaphore>();
    shared::<BoundedSemaphore>();
    shared::<Condition>();
    shared::<Event>();
    shared::<Barrier>();
    shared::<Mutex<[f64; 3]>>();
    shared::<RwLock<u8>>();
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    error::<Error>();
    fn sync<T: Sync>() {}
    sync::<MutexGuard<'static, u8>>();
    sync::<MutexGuard<'static, u32>>();
    let _: fn(Permit<'static>) = drop;
}

#[test]
fn a_lock_knows_its_owner() {
    let lock = Lock::new().unwrap();
    assert!(matches!(lock.release(), Err(Error::NotOwner)));
    let guard = lock.lock().unwrap();
    assert!(matches!(lock.acquire(), Err(Error::Deadlock)));
    assert!(matches!(lock.try_acquire(), Err(Error::WouldBlock)));
    assert!(lock.is_owned());
    assert!(matches!(lock.lock_timeout(SOON), Err(TryLockError::TimedOut)));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(lock.lock()))).is_err());
    let theirs = lock.clone();
    within(move || {
        assert!(!theirs.is_owned() && matches!(theirs.release(), Err(Error::NotOwner)));
        assert!(matches!(theirs.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(theirs.lock_timeout(SOON), Err(TryLockError::TimedOut)));
        assert!(matches!(theirs.acquire_timeout(Duration::ZERO), Err(Error::TimedOut)));
    });
    lock.release().unwrap();
    drop(guard); // Released by hand already: nothing happens.
    assert!(lock.lock_timeout(Duration::ZERO).is_ok(), "what is free is had after any time");
    assert_eq!(lock.acquire_timeout(Duration::MAX).unwrap(), Acquired::Clean);
    assert!(lock.is_locked());
    lock.release().unwrap();
}

#[test]
fn a_wait_lasts_as_long_as_it_was_given() {
    let lock = Lock::new().unwrap();
    let _guard = lock.lock().unwrap();
    let theirs = lock.clone();
    let (least, time) = (Duration::from_millis(30), Instant::now());
    within(move || assert!(theirs.lock_timeout(least).is_err()));
    assert!(time.elapsed() >= least);
    assert!(!Event::new().unwrap().wait_timeout(SOON).unwrap());
    let semaphore = Semaphore::new(0).unwrap();
    assert!(matches!(semaphore.acquire_timeout(SOON), Err(Error::TimedOut)));
    assert!(matches!(semaphore.permit_timeout(SOON), Err(Error::TimedOut)));
    assert!(matches!(semaphore.try_permit(), Err(Error::WouldBlock)));
}

#[test]
fn a_thread_that_ends_with_a_lock_is_a_dead_owner() {
    let lock = Lock::new().unwrap();
    let rlock = RLock::new().unwrap();
    let mutex = Mutex::new(1_u16).unwrap();
    let rwlock = RwLock::new(2_i64).unwrap();
    let bounded = BoundedSemaphore::new(2).unwrap();
    let theirs = (lock.clone(), rlock.clone(), mutex.clone(), rwlock.clone(), bounded.clone());
    within(move || {
        let (lock, rlock, mutex, rwlock, bounded) = theirs;
        std::mem::forget((lock.lock(), rlock.lock(), rlock.lock()));
        std::mem::forget((mutex.lock(), rwlock.write(), bounded.permit()));
        // The last handle of this thread goes while it holds all of them.
    });
    assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
    assert_eq!(rlock.acquire_timeout(HANG).unwrap(), Acquired::OwnerDied);
    let mut guard = mutex.lock().unwrap_err().into_inner();
    *guard = 5;
    drop(guard);
    assert_eq!(*mutex.lock().unwrap(), 5);
    assert_eq!(*rwlock.read().unwrap_err().into_inner(), 2, "readers are told, and cannot repair");
    assert!(rwlock.read().is_err());
    drop(rwlock.write().unwrap_err().into_inner());
    assert!(rwlock.read().is_ok());
    drop((bounded.permit_timeout(HANG).unwrap(), bounded.permit_timeout(HANG).unwrap()));
    assert_eq!(bounded.value(), 2);
}

#[test]
fn a_panic_releases_and_is_no_death() {
    let mutex = Mutex::new(0_u8).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = mutex.lock().unwrap();
        *guard = 1;
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn semaphores_count() {
    let semaphore = Semaphore::new(1).unwrap();
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 2, "above the initial value is allowed");
    let full = Semaphore::new(Semaphore::MAX_PERMITS).unwrap();
    assert!(matches!(full.release(), Err(Error::Overflow { max: Semaphore::MAX_PERMITS })));
    assert!(Semaphore::new(Semaphore::MAX_PERMITS + 1).is_err());
    let bounded = BoundedSemaphore::new(0).unwrap();
    assert!(matches!(bounded.release(), Err(Error::TooManyReleases { initial: 0 })));

    let many = Semaphore::new(2000).unwrap();
    let guards: Vec<_> = (0..Semaphore::MAX_GUARDS).map(|_| many.permit().unwrap()).collect();
    assert!(matches!(many.permit(), Err(Error::TooManyGuards { max: Semaphore::MAX_GUARDS })));
    many.acquire().unwrap();
    assert_eq!(many.value(), 999);
    drop(guards);
    assert_eq!(many.value(), 1999);
}

#[test]
fn a_semaphore_is_a_signal_from_one_to_another() {
    let semaphore = Semaphore::new(0).unwrap();
    let theirs = semaphore.clone();
    let waiter = thread::spawn(move || (0..1000).try_for_each(|_| theirs.acquire_timeout(HANG)));
    (0..1000).for_each(|_| semaphore.release().unwrap());
    waiter.join().unwrap().unwrap();
    assert_eq!(semaphore.value(), 0);
}

#[test]
fn a_condition_waits_with_every_kind_of_guard() {
    let condition = Condition::new().unwrap();
    let (lock, rlock) = (Lock::new().unwrap(), RLock::new().unwrap());
    let mutex = Mutex::new(0_u32).unwrap();

    let guard = lock.lock().unwrap();
    let (guard, result) = condition.wait_timeout(guard, SOON).unwrap();
    assert!(result.timed_out() && lock.is_locked());
    drop(guard);
    assert!(!lock.is_locked());

    // A recursive lock is released altogether, and as deep as before afterwards.
    let outer = rlock.lock().unwrap();
    let inner = rlock.lock().unwrap();
    let theirs = (rlock.clone(), condition.clone());
    let other = thread::spawn(move || {
        let _guard = theirs.0.lock().unwrap();
        theirs.1.notify_one();
    });
    let (inner, result) = condition.wait_timeout(inner, HANG).unwrap();
    assert!(!result.timed_out());
    assert_eq!(rlock.depth(), 2);
    other.join().unwrap();
    drop(inner);
    assert_eq!(rlock.depth(), 1);
    drop(outer);

    let guard = mutex.lock().unwrap();
    let (guard, result) = condition.wait_timeout_while(guard, SOON, |number| *number == 0).unwrap();
    assert!(result.timed_out());
    let (_guard, result) =
        condition.wait_timeout_while(guard, Duration::ZERO, |number| *number != 0).unwrap();
    assert!(!result.timed_out(), "what is so already is so after any time");
}

#[test]
fn notify_wakes_as_many_as_it_says() {
    let condition = Condition::new().unwrap();
    let (lock, waiting, woken) =
        (Lock::new().unwrap(), Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (condition, lock) = (condition.clone(), lock.clone());
            let (waiting, woken) = (waiting.clone(), woken.clone());
            thread::spawn(move || {
                let guard = lock.lock().unwrap();
                waiting.release().unwrap();
                let guard = condition.wait(guard).unwrap();
                woken.release().unwrap();
                drop(guard);
            })
        })
        .collect();
    (0..5).for_each(|_| waiting.acquire_timeout(HANG).unwrap());
    drop(lock.lock().unwrap());
    condition.notify_one();
    woken.acquire_timeout(HANG).unwrap();
    condition.notify(2);
    (0..2).for_each(|_| woken.acquire_timeout(HANG).unwrap());
    // Longer than the longest slice, after which a waiter looks around by itself.
    assert!(matches!(woken.acquire_timeout(Duration::from_millis(120)), Err(Error::TimedOut)));
    condition.notify_all();
    (0..2).for_each(|_| woken.acquire_timeout(HANG).unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    condition.notify_all(); // Nobody is there, and nothing stays behind.
    let (_guard, result) = condition.wait_timeout(condition.lock().unwrap(), SOON).unwrap();
    assert!(result.timed_out());
}

#[test]
fn a_condition_without_its_lock_is_a_callers_mistake() {
    let (condition, lock) = (Condition::new().unwrap(), Lock::new().unwrap());
    let guard = lock.lock().unwrap();
    lock.release().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(condition.wait(guard)))).is_err());
    assert!(lock.try_lock().is_ok());
}

#[test]
fn a_barrier_is_for_one_party_or_more() {
    assert!(matches!(Barrier::new(0), Err(Error::BadParties { parties: 0 })));
    assert!(Barrier::new(Barrier::MAX_PARTIES + 1).is_err());
    let alone = Barrier::new(1).unwrap();
    assert_eq!((alone.wait().unwrap(), alone.wait().unwrap()), (0, 0));
    assert_eq!((alone.parties(), alone.n_waiting(), alone.is_broken()), (1, 0, false));
}

#[test]
fn a_barrier_runs_its_action_once_before_anybody_goes_on() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let barrier = Barrier::new(3).unwrap().with_action(|| {
        thread::sleep(SOON);
        RUNS.fetch_add(1, SeqCst);
    });
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let barrier = barrier.clone();
            thread::spawn(move || {
                (1..=3)
                    .map(|round| {
                        let index = barrier.wait_timeout(HANG).unwrap();
                        assert!(RUNS.load(SeqCst) >= round);
                        index
                    })
                    .sum::<usize>()
            })
        })
        .collect();
    let sum: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((sum, RUNS.load(SeqCst)), (3 * (1 + 2), 3));
}

#[test]
fn a_barrier_breaks_and_can_be_reset() {
    let barrier = Barrier::new(2).unwrap();
    // One gives up.
    assert!(matches!(barrier.wait_timeout(SOON), Err(Error::TimedOut)));
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(Error::Broken)));
    barrier.reset().unwrap();

    let waiting = |barrier: &Barrier| {
        let theirs = barrier.clone();
        let thread = thread::spawn(move || theirs.wait());
        let start = Instant::now();
        while barrier.n_waiting() == 0 {
            assert!(start.elapsed() < HANG);
            thread::yield_now();
        }
        thread
    };
    let party = waiting(&barrier);
    barrier.reset().unwrap();
    assert!(matches!(party.join().unwrap(), Err(Error::Broken)));
    assert!(!barrier.is_broken() && barrier.n_waiting() == 0);

    let party = waiting(&barrier);
    barrier.abort().unwrap();
    assert!(matches!(party.join().unwrap(), Err(Error::Broken)));
    assert!(barrier.is_broken());
    barrier.reset().unwrap();

    // The action panics in the last to come.
    let party = waiting(&barrier);
    let last = barrier.clone().with_action(|| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(|| last.wait())).is_err());
    assert!(matches!(party.join().unwrap(), Err(Error::Broken)));
    barrier.reset().unwrap();

    let party = waiting(&barrier);
    assert_eq!(barrier.wait_timeout(HANG).unwrap(), 1);
    assert_eq!(party.join().unwrap().unwrap(), 0);
}

#[test]
fn readers_share_and_writers_do_not() {
    let lock = RwLock::new([1_u64; 4]).unwrap();
    let reader = lock.read().unwrap();
    let theirs = lock.clone();
    within(move || {
        assert_eq!(theirs.read().unwrap()[3], 1);
        assert!(matches!(theirs.try_write(), Err(TryLockError::WouldBlock)));
        assert!(matches!(theirs.write_timeout(SOON), Err(TryLockError::TimedOut)));
        assert!(theirs.try_read().is_ok(), "a writer that gave up is out of the way");
    });
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
    drop(reader);
    let writer = lock.write().unwrap();
    assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)));
    let theirs = lock.clone();
    within(move || assert!(matches!(theirs.read_timeout(SOON), Err(TryLockError::TimedOut))));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(lock.read()))).is_err());
    drop(writer);
    let _reader = lock.read().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(lock.write()))).is_err());
}

#[test]
fn who_reads_waits_to_write_no_longer_than_its_time() {
    let time = Duration::from_millis(300);
    // Threads have places by their numbers: as a rule the first comes before the second.
    for _ in 0..3 {
        let lock = RwLock::new(0_u64).unwrap();
        let (ready, is_ready) = mpsc::channel();
        let theirs = lock.clone();
        let other = thread::spawn(move || {
            let _guard = theirs.read().unwrap();
            ready.send(()).unwrap();
            thread::sleep(time * 9 / 10);
        });
        is_ready.recv_timeout(HANG).unwrap();
        within(move || {
            let _own = lock.read().unwrap();
            let start = Instant::now();
            assert!(matches!(lock.write_timeout(time), Err(TryLockError::TimedOut)));
            let took = start.elapsed();
            assert!((time..time * 3 / 2).contains(&took), "{took:?}");
        });
        other.join().unwrap();
    }
}

#[test]
fn who_reads_panics_when_it_writes_whoever_else_reads_or_writes() {
    for other_writes in [false, true] {
        let lock = RwLock::new(0_u64).unwrap();
        let theirs = lock.clone();
        within(move || {
            let own = theirs.read().unwrap();
            let (ready, is_ready) = mpsc::channel();
            let again = theirs.clone();
            let other = thread::spawn(move || {
                if other_writes {
                    ready.send(()).unwrap();
                    drop(again.write().unwrap());
                } else {
                    let _guard = again.read().unwrap();
                    ready.send(()).unwrap();
                    thread::sleep(HANG / 2);
                }
            });
            is_ready.recv_timeout(HANG).unwrap();
            while other_writes && theirs.try_read().is_ok() {
                thread::sleep(SOON);
            }
            let start = Instant::now();
            assert!(catch_unwind(AssertUnwindSafe(|| drop(theirs.write()))).is_err());
            assert!(start.elapsed() < HANG / 4);
            drop(own);
            if other_writes {
                other.join().unwrap();
            }
        });
    }
}

#[test]
fn what_is_outside_of_a_message_or_of_another_type_is_refused() {
    let lock = Lock::new().unwrap();
    let error = serde_json::to_string(&lock).unwrap_err();
    assert!(error.to_string().contains("multiprocess message"), "{error}");
    let message = mp_core::encode(&lock).unwrap();
    let error = mp_core::decode::<RLock>(message).unwrap_err();
    assert!(error.to_string().contains("of kind"), "{error}");
    let message = mp_core::encode(&Mutex::new(1_u32).unwrap()).unwrap();
    assert!(mp_core::decode::<Mutex<u64>>(message).is_err(), "another size");
    let message = mp_core::encode(&Semaphore::new(1).unwrap()).unwrap();
    assert!(mp_core::decode::<BoundedSemaphore>(message).is_err());
    let barrier = Barrier::new(1).unwrap();
    let captured = String::from("x");
    let barrier = barrier.with_action(move || assert_eq!(captured, "x"));
    barrier.wait().unwrap();
    let error = mp_core::encode(&barrier).unwrap_err();
    assert!(error.to_string().contains("captures"), "{error}");
}

#[test]
fn signals_do_not_end_a_wait_or_stretch_it() {
    extern "C" fn nothing(_: i32) {}
    let event = Event::new().unwrap();
    let theirs = event.clone();
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || {
        sender.send(mp_core::sys::thread::current()).unwrap();
        let start = Instant::now();
        (theirs.wait_timeout(Duration::from_millis(100)).unwrap(), start.elapsed())
    });
    let tid = receiver.recv_timeout(HANG).unwrap();
    #[expect(unsafe_code, reason = "to send signals to a thread of our own")]
    for _ in 0..50 {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as usize) };
        // SAFETY: takes numbers only; a thread that has ended gives ESRCH.
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGUSR1) };
        thread::sleep(Duration::from_millis(1));
    }
    let (was_set, time) = waiter.join().unwrap();
    assert!(!was_set && time >= Duration::from_millis(100) && time < HANG);
}

#[test]
fn signals_do_not_stretch_the_wait_of_a_thread_for_its_own_lock() {
    extern "C" fn nothing(_: i32) {}
    #[expect(unsafe_code, reason = "a handler that does nothing")]
    // SAFETY: the handler does nothing.
    unsafe {
        libc::signal(libc::SIGUSR2, nothing as *const () as usize)
    };
    let wait = || {
        let waiter = thread::spawn(|| {
            let lock = Lock::new().unwrap();
            let _guard = lock.lock().unwrap();
            let start = Instant::now();
            let time = Duration::from_millis(200);
            assert!(matches!(lock.lock_timeout(time), Err(TryLockError::TimedOut)));
            assert!(start.elapsed() >= time);
            start.elapsed()
        });
        #[expect(unsafe_code, reason = "to send signals to a thread of our own")]
        while !waiter.is_finished() {
            use std::os::unix::thread::JoinHandleExt;
            // SAFETY: a thread that was not joined.
            unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR2) };
            thread::sleep(Duration::from_micros(20));
        }
        waiter.join().unwrap()
    };
    // Three times as long where each begins it anew; a busy machine may hold up one or the other.
    assert!((0..5).any(|_| wait() < Duration::from_millis(260)));
}

#[test]
fn a_clone_keeps_the_object_and_one_descriptor_is_all_it_takes() {
    let message = mp_core::encode(&Event::new().unwrap()).unwrap();
    assert_eq!(message.fds().len(), 1);
    let event: Event = mp_core::decode(message).unwrap();
    let again = event.clone();
    drop(event);
    again.set();
    assert!(again.is_set());
}
