//! Processes that are killed with locks in their hands, and what becomes of the others.
//!
//! A program of its own, as it forks: `cargo test -p mp-sync --test storm`. All tests run on the main
//! thread, one after the other, each under an alarm that ends the program.
#![expect(unsafe_code, reason = "system calls that harm this process")]

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mp_core::sys::process;
use mp_core::testing::{self, Child, HANG, Random, busy, test, wait_until};
use mp_core::{decode, encode};
use mp_sync::{
    Acquired, Barrier, BoundedSemaphore, Condition, Error, Event, Lock, Mutex, RLock, RwLock,
    Semaphore, TryLockError,
};

fn main() {
    let tests = [
        test("kills_lock", || storm("Lock", LockKind(Lock::new().unwrap()))),
        test("kills_rlock", || storm("RLock", RLockKind(RLock::new().unwrap()))),
        test("kills_mutex", || storm("Mutex", MutexKind(Mutex::new([0; 3]).unwrap()))),
        test("kills_rwlock", || storm("RwLock", RwLockKind(RwLock::new([0; 3]).unwrap()))),
        test("kills_semaphore_permit", || {
            storm("Semaphore", PermitKind(Semaphore::new(1).unwrap()))
        }),
        test("kills_condition_lock", || {
            storm("Condition", ConditionKind(Condition::new().unwrap()))
        }),
        test("counts_are_exact", counts_are_exact),
        test("a_waiter_gets_the_lock_of_a_killed_owner", latency),
        test("a_large_owner_is_dead_before_its_memory_is_gone", a_large_owner),
        test("the_news_survives_whoever_had_it", the_news_survives_whoever_had_it),
        test("an_owner_that_becomes_another_program_is_dead", exec_is_death),
        test("a_stopped_owner_is_alive", a_stopped_owner_is_alive),
        test("a_dead_owner_is_known_without_descriptors", dead_without_descriptors),
        test("a_forked_child_owns_nothing", a_forked_child_owns_nothing),
        test("a_guard_of_the_parent_releases_nothing_of_its_child", inherited_guards),
        test("no_room_for_a_file_is_an_error", no_room_for_a_file),
        test("nothing_that_need_not_wait_makes_a_system_call", no_system_calls),
        test("handles_work_in_another_process", handles_work_in_another_process),
        test("permits_of_the_killed_come_back", permits_of_the_killed_come_back),
        test("dead_readers_let_writers_in", dead_readers_let_writers_in),
        test("a_killed_waiter_passes_its_notification_on", notification_is_passed_on),
        test("killed_waiters_of_a_condition_hang_nobody", condition_waiters),
        test("killed_waiters_of_an_event_hang_nobody", event_waiters),
        test("a_set_that_is_cleared_at_once_wakes_all", set_and_clear),
        test("a_killed_party_breaks_the_barrier", a_killed_party_breaks_the_barrier),
        test("barriers_keep_step_and_survive_kills", barrier_storm),
    ];
    testing::run(tests.into());
}

/// Numbers that all processes of a test share.
fn numbers() -> &'static [AtomicU64] {
    testing::numbers(8000)
}

/// Something that lets one in at a time.
trait Kind {
    /// Whether the next to come learns of an owner's death.
    const TELLS: bool = true;
    /// Runs `inside` with the news, within [`HANG`].
    fn with(&self, random: &mut Random, inside: impl FnOnce(Acquired));
    /// At the end, with all others dead.
    fn check(&self) {}
}

macro_rules! news {
    ($taken:expr) => {
        match $taken {
            Ok(guard) => (guard, Acquired::Clean),
            Err(TryLockError::Poisoned(died)) => (died.into_inner(), Acquired::OwnerDied),
            Err(error) => panic!("{error}"),
        }
    };
}

struct LockKind(Lock);
impl Kind for LockKind {
    fn with(&self, random: &mut Random, inside: impl FnOnce(Acquired)) {
        if random.below(2) == 0 {
            let (_guard, news) = news!(self.0.lock_timeout(HANG));
            inside(news);
        } else {
            let news = self.0.acquire_timeout(HANG).unwrap();
            inside(news);
            self.0.release().unwrap();
        }
    }
}

struct RLockKind(RLock);
impl Kind for RLockKind {
    fn with(&self, random: &mut Random, inside: impl FnOnce(Acquired)) {
        let (_guard, news) = news!(self.0.lock_timeout(HANG));
        if random.below(2) == 0 {
            let _again = self.0.lock().unwrap();
            let _and_again = self.0.try_lock().unwrap();
            inside(news);
        } else {
            inside(news);
        }
        assert_eq!(self.0.depth(), 1);
    }
}

struct MutexKind(Mutex<[u64; 3]>);
impl Kind for MutexKind {
    fn with(&self, _: &mut Random, inside: impl FnOnce(Acquired)) {
        let (mut guard, news) = news!(self.0.lock_timeout(HANG));
        if news == Acquired::OwnerDied {
            *guard = [guard[0]; 3];
        }
        assert!(guard[0] == guard[1] && guard[1] == guard[2], "{guard:?}");
        guard[0] += 1;
        guard[1] += 1;
        inside(news);
        guard[2] += 1;
    }
}

struct RwLockKind(RwLock<[u64; 3]>);
impl Kind for RwLockKind {
    fn with(&self, random: &mut Random, inside: impl FnOnce(Acquired)) {
        if random.below(2) == 0 {
            let (guard, news) = news!(self.0.read_timeout(HANG));
            busy(Duration::from_micros(random.below(50)));
            if news == Acquired::Clean {
                assert!(guard[0] == guard[1] && guard[1] == guard[2], "{:?}", *guard);
            }
        }
        let (mut guard, news) = news!(self.0.write_timeout(HANG));
        if news == Acquired::OwnerDied {
            *guard = [guard[0]; 3];
        }
        assert!(guard[0] == guard[1] && guard[1] == guard[2], "{:?}", *guard);
        guard[0] += 1;
        guard[1] += 1;
        inside(news);
        guard[2] += 1;
    }
}

struct PermitKind(Semaphore);
impl Kind for PermitKind {
    const TELLS: bool = false;

    fn with(&self, _: &mut Random, inside: impl FnOnce(Acquired)) {
        let _permit = self.0.permit_timeout(HANG).unwrap();
        inside(Acquired::Clean);
    }

    fn check(&self) {
        assert_eq!(self.0.value(), 1, "no permit lost, none too many");
    }
}

struct ConditionKind(Condition);
impl Kind for ConditionKind {
    fn with(&self, random: &mut Random, inside: impl FnOnce(Acquired)) {
        let (guard, mut news) = news!(self.0.lock_timeout(HANG));
        let guard = if news == Acquired::Clean && random.below(4) == 0 {
            // In and out of the lock by way of a wait; with bad news, what is inside has to be repaired
            // before the lock is released.
            let soon = Duration::from_micros(random.below(300));
            match self.0.wait_timeout(guard, soon) {
                Ok((guard, _)) => guard,
                Err(died) => {
                    news = Acquired::OwnerDied;
                    died.into_inner().0
                }
            }
        } else {
            guard
        };
        inside(news);
        self.0.notify_one();
        drop(guard);
    }
}

/// Three processes take `kind` and hold it for a random time, over and over; one after the other is
/// killed, and at once this process takes it too.
///
/// Inside, three numbers go up one after the other. Whoever finds them different has to have heard that
/// the last owner died. And whoever finds somebody else inside has to find it killed.
fn storm<K: Kind>(name: &str, kind: K) {
    const KILLS: u64 = 350;
    const AT_ONCE: u64 = 3;
    let numbers = numbers();
    let (inside, repaired, sections) = (&numbers[3], &numbers[4], &numbers[5]);
    // Bit n of word n / 64: worker n was killed, or is about to be.
    let killed = &numbers[100..];
    let was_killed = |n: u64| killed[(n / 64) as usize].load(SeqCst) >> (n % 64) & 1 == 1;
    let section = |who: u64, news: Acquired, random: &mut Random| {
        let before = inside.swap(who, SeqCst);
        assert!(before == 0 || was_killed(before), "{before} is inside and alive");
        let mut seen = [0, 1, 2].map(|n| numbers[n].load(SeqCst));
        if news == Acquired::OwnerDied || !K::TELLS {
            if seen[2] != seen[0] {
                repaired.fetch_add(1, SeqCst);
            }
            numbers[1].store(seen[0], SeqCst);
            numbers[2].store(seen[0], SeqCst);
            seen = [seen[0]; 3];
        }
        assert!(seen[0] == seen[1] && seen[1] == seen[2], "half a change, and no news: {seen:?}");
        for number in &numbers[..3] {
            number.store(seen[0] + 1, SeqCst);
            if random.below(3) == 0 {
                busy(Duration::from_micros(random.below(60)));
            }
        }
        sections.fetch_add(1, SeqCst);
        let after = inside.swap(0, SeqCst);
        assert_eq!(after, who, "somebody came in");
    };
    let worker = |n: u64| {
        Child::new(|| {
            let mut random = Random::new(0x9E37_79B9 + n * 0x1234_5677);
            loop {
                kind.with(&mut random, |news| section(n, news, &mut Random::new(n + 77)));
                busy(Duration::from_micros(random.below(30)));
            }
        })
    };
    let mut random = Random::new(0xC0FF_EE00 + KILLS);
    let mut waits = Vec::new();
    let mut workers: Vec<(u64, Child)> = (1..=AT_ONCE).map(|n| (n, worker(n))).collect();
    for next in AT_ONCE + 1..=AT_ONCE + KILLS {
        std::thread::sleep(Duration::from_micros(100 + random.below(900)));
        let (number, child) = workers.swap_remove(random.below(AT_ONCE) as usize);
        killed[(number / 64) as usize].fetch_or(1 << (number % 64), SeqCst);
        child.signal(libc::SIGKILL);
        let start = Instant::now();
        kind.with(&mut random, |news| {
            waits.push(start.elapsed());
            section(u64::MAX >> 1, news, &mut Random::new(99));
        });
        child.kill();
        workers.push((next, worker(next)));
    }
    for (number, child) in workers {
        killed[(number / 64) as usize].fetch_or(1 << (number % 64), SeqCst);
        child.kill();
    }
    kind.with(&mut random, |news| section(u64::MAX >> 1, news, &mut Random::new(99)));
    kind.check();
    // Nothing was lost: each section that ended counted, and each that was cut short was made whole.
    let (count, sections) = (numbers[0].load(SeqCst), sections.load(SeqCst));
    assert!(
        count >= sections && count - sections <= KILLS + AT_ONCE,
        "{count} counted, {sections} done"
    );
    waits.sort();
    eprintln!(
        "{name}: {KILLS} kills, {} of them inside, {sections} sections; the next had it after {:?} \
         (median), {:?} (p99), {:?} (most)",
        repaired.load(SeqCst),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1],
    );
}

fn counts_are_exact() {
    const EACH: u64 = 100_000;
    const PROCESSES: u64 = 4;
    fn run(step: impl Fn()) {
        let children: Vec<_> = (0..PROCESSES)
            .map(|_| {
                Child::new(|| {
                    for _ in 0..EACH {
                        step();
                    }
                })
            })
            .collect();
        children.into_iter().for_each(Child::succeed);
    }
    let numbers = numbers();
    // Not atomic, though made of atomics: two that do it at the same time lose a count.
    let add = |number: usize| numbers[number].store(numbers[number].load(SeqCst) + 1, SeqCst);
    let all = EACH * PROCESSES;

    let lock = Lock::new().unwrap();
    run(|| {
        let _guard = lock.lock().unwrap();
        add(0);
    });
    assert_eq!(numbers[0].load(SeqCst), all, "Lock");

    let rlock = RLock::new().unwrap();
    run(|| {
        let _guard = rlock.lock().unwrap();
        let _again = rlock.lock().unwrap();
        add(1);
    });
    assert_eq!(numbers[1].load(SeqCst), all, "RLock");

    let mutex = Mutex::new(0_u64).unwrap();
    run(|| *mutex.lock().unwrap() += 1);
    assert_eq!(*mutex.lock().unwrap(), all, "Mutex");

    let rwlock = RwLock::new(0_u64).unwrap();
    run(|| {
        let before = *rwlock.read().unwrap();
        let mut guard = rwlock.write().unwrap();
        assert!(*guard >= before);
        *guard += 1;
    });
    assert_eq!(*rwlock.read().unwrap(), all, "RwLock");

    let semaphore = BoundedSemaphore::new(1).unwrap();
    run(|| {
        semaphore.acquire().unwrap();
        add(2);
        semaphore.release().unwrap();
    });
    assert_eq!(numbers[2].load(SeqCst), all, "BoundedSemaphore");

    let semaphore = Semaphore::new(1).unwrap();
    run(|| {
        let _permit = semaphore.permit().unwrap();
        add(3);
    });
    assert_eq!(numbers[3].load(SeqCst), all, "Semaphore::permit");
    assert_eq!(semaphore.value(), 1);
}

/// Starts a child that runs `body` and then stays as it is until it is killed.
fn holder(body: impl FnOnce()) -> Child {
    let numbers = numbers();
    let child = Child::new(|| {
        body();
        numbers[0].store(1, SeqCst);
        std::thread::sleep(HANG * 2);
    });
    wait_until(|| numbers[0].load(SeqCst) == 1);
    child
}

fn hold(lock: &Lock) -> Child {
    holder(|| std::mem::forget(lock.lock()))
}

fn latency() {
    let mut waits = Vec::new();
    for _ in 0..200 {
        let lock = Lock::new().unwrap();
        let child = hold(&lock);
        child.signal(libc::SIGKILL);
        let start = Instant::now();
        assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
        waits.push(start.elapsed());
        child.kill();
        assert!(lock.try_lock().is_ok(), "the news comes once");
    }
    waits.sort();
    eprintln!("the lock of a killed owner: {:?} (median), {:?} (most)", waits[100], waits[199]);
}

fn a_large_owner() {
    let lock = Lock::new().unwrap();
    let mut waits = Vec::new();
    for _ in 0..10 {
        let child = holder(|| {
            std::mem::forget(vec![1_u8; 256 << 20]);
            std::mem::forget(lock.lock().unwrap_or_else(|died| died.into_inner()));
        });
        child.signal(libc::SIGKILL);
        let start = Instant::now();
        assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
        waits.push(start.elapsed());
        child.kill();
    }
    waits.sort();
    eprintln!("the lock of an owner of 256 MiB: {:?} (median), {:?} (most)", waits[5], waits[9]);
}

fn the_news_survives_whoever_had_it() {
    let lock = Lock::new().unwrap();
    for _ in 0..50 {
        hold(&lock).kill();
        // Takes it over, and is killed before it could repair anything.
        holder(|| std::mem::forget(lock.lock().unwrap_err().into_inner())).kill();
        let guard = match lock.try_lock() {
            Err(TryLockError::Poisoned(died)) => died.into_inner(),
            other => panic!("{other:?}"),
        };
        drop(guard);
        drop(lock.try_lock().unwrap());
    }
    let rlock = RLock::new().unwrap();
    holder(|| {
        std::mem::forget(rlock.lock());
        std::mem::forget(rlock.lock());
    })
    .kill();
    assert_eq!(rlock.acquire().unwrap(), Acquired::OwnerDied);
    assert_eq!(rlock.depth(), 1, "how deep the dead one was does not matter");
    rlock.release().unwrap();
    assert!(!rlock.is_locked());
}

fn exec_is_death() {
    let lock = Lock::new().unwrap();
    let numbers = numbers();
    let child = Child::new(|| {
        std::mem::forget(lock.lock());
        numbers[0].store(1, SeqCst);
        let error = Command::new("sleep").arg("1000").exec();
        panic!("{error}");
    });
    wait_until(|| numbers[0].load(SeqCst) == 1);
    assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
    assert!(!child.has_ended(), "it still runs, as another program");
    child.kill();
}

fn a_stopped_owner_is_alive() {
    let lock = Lock::new().unwrap();
    let child = hold(&lock);
    child.signal(libc::SIGSTOP);
    let soon = Duration::from_millis(120); // Several slices of waiting.
    assert!(matches!(lock.lock_timeout(soon), Err(TryLockError::TimedOut)));
    child.kill();
    assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
}

/// Who holds it was killed and not reaped, and who comes has no descriptor to look it up with.
fn dead_without_descriptors() {
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(0_u64).unwrap());
    let (rwlock, read) = (RwLock::new(0_u64).unwrap(), RwLock::new(0_u64).unwrap());
    let (semaphore, barrier) = (Semaphore::new(1).unwrap(), Barrier::new(3).unwrap());
    let held = &numbers()[0];
    Child::new(|| {
        let holder = Child::new(|| {
            std::mem::forget((lock.lock(), mutex.lock(), rwlock.write(), read.read()));
            std::mem::forget(semaphore.permit());
            held.store(1, SeqCst);
            let _ = barrier.wait();
        });
        wait_until(|| held.load(SeqCst) == 1 && barrier.n_waiting() == 1);
        holder.signal(libc::SIGKILL);
        wait_until(|| holder.has_ended());
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) }, 0);
        assert!(std::fs::File::open("/dev/null").is_err());
        assert!(matches!(lock.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
        assert!(matches!(mutex.lock_timeout(HANG), Err(TryLockError::Poisoned(_))));
        assert!(matches!(rwlock.write_timeout(HANG), Err(TryLockError::Poisoned(_))));
        assert!(read.write_timeout(HANG).is_ok());
        assert!(semaphore.permit_timeout(HANG).is_ok());
        assert!(matches!(barrier.wait_timeout(HANG), Err(Error::Broken)));
        // What lives is known too.
        let soon = Duration::from_millis(120);
        let _guard = lock.lock().unwrap();
        Child::new(|| {
            assert!(matches!(lock.lock_timeout(soon), Err(TryLockError::TimedOut)));
        })
        .succeed();
    })
    .succeed();
}

fn no_system_calls() {
    let (lock, rlock, semaphore) =
        (Lock::new().unwrap(), RLock::new().unwrap(), Semaphore::new(2).unwrap());
    let (mutex, rwlock) = (Mutex::new(0_u64).unwrap(), RwLock::new(0_u64).unwrap());
    let (bounded, event) = (BoundedSemaphore::new(1).unwrap(), Event::new().unwrap());
    let (condition, barrier) = (Condition::new().unwrap(), Barrier::new(1).unwrap());
    let use_all = || {
        drop(lock.lock().unwrap());
        lock.acquire().unwrap();
        lock.release().unwrap();
        drop((rlock.lock().unwrap(), rlock.lock().unwrap()));
        semaphore.acquire().unwrap();
        drop(semaphore.permit().unwrap());
        semaphore.release().unwrap();
        bounded.acquire().unwrap();
        bounded.release().unwrap();
        *mutex.lock().unwrap() += 1;
        let seen = *rwlock.read().unwrap();
        *rwlock.write().unwrap() = seen + 1;
        event.set();
        event.wait().unwrap();
        event.clear();
        let guard = condition.lock().unwrap();
        condition.notify_all();
        drop(guard);
        barrier.wait().unwrap();
    };
    let child = Child::new(|| {
        // Looks itself up in /proc, once.
        use_all();
        // SAFETY: takes numbers only. From here on any call but read, write and exit kills (seccomp(2)).
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) }, 0);
        (0..1000).for_each(|_| use_all());
        // SAFETY: ends this process, by the one call for it that is allowed.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    // Killed by a signal: it made another call.
    child.succeed();
}

fn a_forked_child_owns_nothing() {
    let (lock, rlock) = (Lock::new().unwrap(), RLock::new().unwrap());
    let mutex = Mutex::new(5_u64).unwrap();
    let rwlock = RwLock::new(5_u64).unwrap();
    let semaphore = Semaphore::new(1).unwrap();
    let mut held = Some((
        lock.lock().unwrap(),
        rlock.lock().unwrap(),
        mutex.lock().unwrap(),
        rwlock.read().unwrap(),
        semaphore.permit().unwrap(),
    ));
    Child::new(|| {
        let soon = Duration::from_millis(5);
        assert!(matches!(lock.release(), Err(Error::NotOwner)));
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(lock.lock_timeout(soon), Err(TryLockError::TimedOut)));
        assert!(matches!(rlock.release(), Err(Error::NotOwner)));
        assert!(matches!(rlock.try_acquire(), Err(Error::WouldBlock)));
        drop(held.take()); // Its parent's, so this does nothing.
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(rlock.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(rwlock.try_write(), Err(TryLockError::WouldBlock)));
        assert!(matches!(semaphore.try_permit(), Err(Error::WouldBlock)));
    })
    .succeed();
    assert!(matches!(lock.acquire(), Err(Error::Deadlock)), "still ours");
    assert_eq!(rlock.depth(), 1);
    drop(held.take());
    assert!(lock.try_lock().is_ok() && mutex.try_lock().is_ok() && rwlock.try_write().is_ok());
    assert_eq!(semaphore.value(), 1);
}

/// Guards that a child has by fork, of locks that its parent has released and the child has taken since.
fn inherited_guards() {
    let (lock, pinned, rlock) = (Lock::new().unwrap(), Lock::new().unwrap(), RLock::new().unwrap());
    let (mutex, waits) = (Mutex::new(5_u64).unwrap(), Mutex::new(5_u64).unwrap());
    let (written, read) = (RwLock::new(5_u64).unwrap(), RwLock::new(5_u64).unwrap());
    let (semaphore, condition) = (Semaphore::new(1).unwrap(), Condition::new().unwrap());
    let take = || {
        (
            (lock.lock().unwrap(), pinned.pin(None).unwrap(), rlock.lock().unwrap()),
            (mutex.lock().unwrap(), written.write().unwrap(), read.read().unwrap()),
            semaphore.permit().unwrap(),
        )
    };
    let check_held = || {
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(pinned.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(rlock.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(waits.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(written.try_write(), Err(TryLockError::WouldBlock)));
        assert!(matches!(read.try_write(), Err(TryLockError::WouldBlock)));
        assert!(matches!(semaphore.try_permit(), Err(Error::WouldBlock)));
    };
    let (released, dropped, checked) = (&numbers()[0], &numbers()[1], &numbers()[2]);
    let mut held = Some((take(), waits.lock().unwrap()));
    let child = Child::new(|| {
        wait_until(|| released.load(SeqCst) == 1);
        let own = (take(), waits.lock().unwrap());
        let (inherited, waiter) = held.take().unwrap();
        drop(inherited);
        let wait = AssertUnwindSafe(|| condition.wait_timeout(waiter, Duration::ZERO).map(drop));
        assert!(catch_unwind(wait).is_err(), "it waited with what is not its lock");
        assert!(lock.is_owned() && pinned.is_owned());
        assert_eq!(rlock.depth(), 1);
        dropped.store(1, SeqCst);
        wait_until(|| checked.load(SeqCst) == 1);
        drop(own);
    });
    drop(held.take());
    released.store(1, SeqCst);
    wait_until(|| dropped.load(SeqCst) == 1 || child.has_ended());
    check_held();
    checked.store(1, SeqCst);
    child.succeed();
    drop((take(), waits.try_lock().unwrap()));
}

/// The limit on the size of files, beyond which the kernel sends a signal that kills: setrlimit(2).
fn no_room_for_a_file() {
    Child::new(|| {
        let limit = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        assert!(matches!(Lock::new(), Err(Error::Io(_))));
        assert!(matches!(Condition::new(), Err(Error::Io(_))));
        assert!(matches!(Mutex::new(5_u64), Err(Error::Io(_))));
    })
    .succeed();
}

fn handles_work_in_another_process() {
    type All = (
        Lock,
        RLock,
        Semaphore,
        BoundedSemaphore,
        Condition,
        Event,
        Barrier,
        Mutex<u32>,
        RwLock<f64>,
    );
    let all: All = (
        Lock::new().unwrap(),
        RLock::new().unwrap(),
        Semaphore::new(0).unwrap(),
        BoundedSemaphore::new(3).unwrap(),
        Condition::new().unwrap(),
        Event::new().unwrap(),
        Barrier::new(2).unwrap().with_action(|| eprintln!("both at the barrier")),
        Mutex::new(7).unwrap(),
        RwLock::new(0.5).unwrap(),
    );
    let message = encode(&all).unwrap();
    let (lock, rlock, semaphore, bounded, condition, event, barrier, mutex, rwlock) = all;
    let guard = mutex.lock().unwrap();
    let child = Child::new(move || {
        let (lock, rlock, semaphore, bounded, condition, event, barrier, mutex, rwlock): All =
            decode(message).unwrap();
        std::mem::forget((lock.lock(), rlock.lock()));
        bounded.acquire().unwrap();
        semaphore.release().unwrap();
        barrier.wait().unwrap();
        event.wait().unwrap();
        let mut guard = mutex.lock().unwrap();
        *guard += 1;
        condition.notify_one();
        drop(guard);
        *rwlock.write().unwrap() += 1.0;
    });
    semaphore.acquire_timeout(HANG).unwrap();
    assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
    assert!(matches!(rlock.try_lock(), Err(TryLockError::WouldBlock)));
    assert_eq!(bounded.value(), 2);
    barrier.wait_timeout(HANG).unwrap();
    event.set();
    let (guard, result) = condition.wait_timeout_while(guard, HANG, |number| *number == 7).unwrap();
    assert!(*guard == 8 && !result.timed_out());
    child.succeed();
    assert_eq!(*rwlock.read().unwrap(), 1.5);
    assert!(matches!(lock.try_lock(), Err(TryLockError::Poisoned(_))));
}

fn permits_of_the_killed_come_back() {
    let semaphore = Semaphore::new(10).unwrap();
    let bounded = BoundedSemaphore::new(10).unwrap();
    let hold = |count: usize| {
        holder(|| {
            for _ in 0..count {
                std::mem::forget(semaphore.permit().unwrap());
                std::mem::forget(bounded.permit().unwrap());
            }
        })
    };
    let (few, many) = (hold(3), hold(6));
    assert_eq!((semaphore.value(), bounded.value()), (1, 1));
    few.kill();
    assert_eq!((semaphore.value(), bounded.value()), (4, 4));
    let rest: Vec<_> = (0..4).map(|_| semaphore.permit().unwrap()).collect();
    many.signal(libc::SIGKILL);
    let start = Instant::now();
    drop(semaphore.permit_timeout(HANG).unwrap());
    eprintln!("the permit of a killed holder: {:?}", start.elapsed());
    drop(rest);
    many.kill();
    assert_eq!((semaphore.value(), bounded.value()), (10, 10));
    assert!(bounded.release().is_err());
}

fn dead_readers_let_writers_in() {
    let lock = RwLock::new(0_u64).unwrap();
    for _ in 0..50 {
        let child = holder(|| std::mem::forget(lock.read()));
        assert!(lock.try_read().is_ok());
        assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
        child.signal(libc::SIGKILL);
        *lock.write_timeout(HANG).unwrap() += 1;
        child.kill();
    }
    assert_eq!(*lock.read().unwrap(), 50);
}

/// Starts a child that waits for a notification and ends with it. `numbers[0]` counts those that wait.
fn waiter(condition: &Condition, numbers: &'static [AtomicU64]) -> Child {
    let before = numbers[0].load(SeqCst);
    let child = Child::new(|| {
        let guard = condition.lock().unwrap_or_else(|died| died.into_inner());
        numbers[0].fetch_add(1, SeqCst);
        drop(condition.wait(guard).unwrap_or_else(|died| died.into_inner()));
        numbers[1].fetch_add(1, SeqCst);
    });
    wait_until(|| numbers[0].load(SeqCst) > before);
    // It counted with the lock held, so once this has the lock, it waits.
    drop(condition.lock().unwrap_or_else(|died| died.into_inner()));
    child
}

fn notification_is_passed_on() {
    let condition = Condition::new().unwrap();
    let numbers = numbers();
    for round in 1..=20 {
        let first = waiter(&condition, numbers);
        let second = waiter(&condition, numbers);
        first.await_sleep();
        first.signal(libc::SIGSTOP);
        condition.notify_one(); // Goes to the first, which cannot act on it,
        first.kill(); // and never will.
        second.succeed();
        assert_eq!(numbers[1].load(SeqCst), round);
    }
    let late = waiter(&condition, numbers);
    let guard = condition.lock().unwrap();
    let (guard, result) = condition.wait_timeout(guard, Duration::from_millis(60)).unwrap();
    assert!(result.timed_out(), "no notification is left over");
    drop(guard);
    late.kill();
}

fn condition_waiters() {
    let condition = Condition::new().unwrap();
    let numbers = numbers();
    let mut random = Random::new(4711);
    for round in 0..60 {
        let mut waiters: Vec<_> = (0..3).map(|_| waiter(&condition, numbers)).collect();
        if round % 2 == 0 {
            condition.notify_one();
        }
        let victim = waiters.swap_remove(random.below(3) as usize);
        victim.signal(libc::SIGKILL);
        if round % 3 == 0 {
            condition.notify(2);
        }
        victim.kill();
        condition.notify_all();
        waiters.into_iter().for_each(Child::succeed);
    }
}

fn event_waiters() {
    let numbers = numbers();
    for round in 0..60 {
        let event = Event::new().unwrap();
        let mut waiters: Vec<_> = (0..3)
            .map(|_| {
                Child::new(|| {
                    numbers[0].fetch_add(1, SeqCst);
                    event.wait().unwrap();
                })
            })
            .collect();
        wait_until(|| numbers[0].load(SeqCst) == (round + 1) * 3);
        let victim = waiters.pop().unwrap();
        if round % 2 == 0 {
            victim.await_sleep();
        }
        victim.kill();
        event.set();
        waiters.into_iter().for_each(Child::succeed);
    }
}

fn set_and_clear() {
    let event = Event::new().unwrap();
    let numbers = numbers();
    for round in 0..50 {
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                Child::new(|| {
                    numbers[0].fetch_add(1, SeqCst);
                    event.wait().unwrap();
                })
            })
            .collect();
        wait_until(|| numbers[0].load(SeqCst) == (round + 1) * 3);
        waiters.iter().for_each(Child::await_sleep);
        event.set();
        event.clear();
        waiters.into_iter().for_each(Child::succeed);
        assert!(!event.wait_timeout(Duration::from_millis(1)).unwrap());
    }
}

fn a_killed_party_breaks_the_barrier() {
    let barrier = Barrier::new(3).unwrap();
    for round in 0..40 {
        let wait = || Child::new(|| assert!(matches!(barrier.wait(), Err(Error::Broken))));
        let (living, victim) = (wait(), wait());
        wait_until(|| barrier.n_waiting() == 2);
        if round % 2 == 0 {
            victim.await_sleep();
        }
        victim.kill();
        living.succeed();
        assert!(barrier.is_broken() && barrier.n_waiting() == 0);
        barrier.reset().unwrap();
        assert!(!barrier.is_broken());
    }
    // One that dies in the action.
    let barrier = barrier.with_action(|| process::kill_self());
    let parties: Vec<_> = (0..3)
        .map(|_| {
            Child::new(|| {
                let _ = barrier.wait();
                assert!(barrier.is_broken());
            })
        })
        .collect();
    let ends: Vec<_> = parties.into_iter().map(Child::end).collect();
    assert_eq!(ends.iter().filter(|&&end| end == 0).count(), 2, "{ends:?}");
    barrier.reset().unwrap();
}

fn barrier_storm() {
    const PARTIES: usize = 3;
    let numbers = numbers();
    let barrier = Barrier::new(PARTIES).unwrap();
    // In lockstep: after each round all have done as many.
    let rounds = 5_000;
    let parties: Vec<_> = (0..PARTIES)
        .map(|party| {
            let barrier = barrier.clone();
            Child::new(move || {
                for round in 0..rounds {
                    let index = barrier.wait().unwrap();
                    numbers[10 + index].fetch_add(1, SeqCst);
                    assert_eq!(numbers[party].swap(round + 1, SeqCst), round);
                    barrier.wait().unwrap();
                    for other in 0..PARTIES {
                        assert_eq!(numbers[other].load(SeqCst), round + 1);
                        assert_eq!(
                            numbers[10 + other].load(SeqCst),
                            round + 1,
                            "one of each index"
                        );
                    }
                }
            })
        })
        .collect();
    parties.into_iter().for_each(Child::succeed);

    // Killed at random: the others get an error in time, and after a reset it works again.
    let party = || {
        Child::new(|| {
            loop {
                match barrier.wait_timeout(Duration::from_secs(2)) {
                    Ok(_) => _ = numbers[20].fetch_add(1, SeqCst),
                    Err(Error::Broken | Error::TimedOut) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    let mut parties: Vec<_> = (0..PARTIES).map(|_| party()).collect();
    let mut random = Random::new(99);
    for _ in 0..150 {
        let before = numbers[20].load(SeqCst);
        wait_until(|| {
            if barrier.is_broken() {
                barrier.reset().unwrap();
            }
            numbers[20].load(SeqCst) > before + random_small()
        });
        parties.swap_remove(random.below(PARTIES as u64) as usize).kill();
        parties.push(party());
    }
    parties.into_iter().for_each(Child::kill);
}

fn random_small() -> u64 {
    u64::from(std::process::id()) % 7
}
