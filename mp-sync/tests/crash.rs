//! A process that is killed at each named step of taking, waiting for and releasing, and what the others find.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-sync --test crash`; in other builds there are no such steps, and
//! nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::{Duration, Instant};

    use mp_core::crash;
    use mp_core::sys::process::kill_self;
    use mp_core::sys::thread::stat;
    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, Child, HANG, PROMPT, numbers, wait_until};
    use mp_sync::{
        Acquired, Barrier, Condition, Error, Event, Lock, Mutex, RLock, RwLock, Semaphore,
        TryLockError,
    };

    const SCENES: &[Scene] = &[
        Scene { name: "a lock, one of two", play: |stage| contended(stage, &lock()) },
        Scene { name: "a lock, who waits", play: |stage| waits(stage, &lock()) },
        Scene {
            name: "a lock, who takes it from the dead",
            play: |stage| recovers(stage, &lock()),
        },
        Scene { name: "an rlock, one of two", play: |stage| contended(stage, &rlock()) },
        Scene { name: "an rlock, who waits", play: |stage| waits(stage, &rlock()) },
        Scene {
            name: "an rlock, who takes it from the dead",
            play: |stage| recovers(stage, &rlock()),
        },
        Scene { name: "a mutex, one of two", play: |stage| contended(stage, &mutex()) },
        Scene {
            name: "a mutex, who takes it from the dead",
            play: |stage| recovers(stage, &mutex()),
        },
        Scene { name: "a writer, one of two", play: |stage| contended(stage, &writer()) },
        Scene { name: "a writer, who waits", play: |stage| waits(stage, &writer()) },
        Scene { name: "a writer, after one that died", play: |stage| recovers(stage, &writer()) },
        Scene {
            name: "a writer, who is told of the dead",
            play: |stage| is_told(stage, &writer()),
        },
        Scene { name: "a permit, one of two", play: |stage| contended(stage, &permit()) },
        Scene { name: "a permit, who waits", play: |stage| waits(stage, &permit()) },
        Scene { name: "a permit, after one that died", play: |stage| recovers(stage, &permit()) },
        Scene { name: "a permit, after one that died taking it", play: permit_half_taken },
        Scene { name: "a permit, after one that died giving it", play: permit_half_given },
        Scene { name: "a permit, dropped while another is stopped", play: permit_left },
        Scene { name: "a lock, who gets it at the last moment", play: last_moment },
        Scene { name: "a lock, who tries after one that died", play: tries },
        Scene { name: "a reader, beside a writer", play: reads },
        Scene { name: "a reader, whom a writer waits for", play: reads_for_long },
        Scene { name: "a reader, after a writer that died", play: reads_after_the_dead },
        Scene { name: "a writer, after a reader that died", play: writes_after_a_dead_reader },
        Scene { name: "a semaphore, who waits", play: acquires },
        Scene { name: "a semaphore, who releases", play: releases },
        Scene { name: "an event, who waits", play: awaits_event },
        Scene { name: "an event, who sets it", play: sets_event },
        Scene { name: "a barrier, a party", play: |stage| barrier(stage, false) },
        Scene { name: "a barrier, the last to come", play: |stage| barrier(stage, true) },
        Scene { name: "a barrier, who finds a party dead", play: finds_a_dead_party },
        Scene { name: "a barrier, who breaks and mends it", play: breaks_and_mends },
        Scene { name: "a condition, who waits", play: awaits_condition },
        Scene { name: "a condition, who notifies", play: notifies },
        Scene { name: "a condition, who finds a waiter dead", play: passes_on },
    ];

    const SOURCES: &[&str] = &[
        include_str!("../src/condition.rs"),
        include_str!("../src/patience.rs"),
        include_str!("../src/words/barrier.rs"),
        include_str!("../src/words/condition.rs"),
        include_str!("../src/words/event.rs"),
        include_str!("../src/words/lock.rs"),
        include_str!("../src/words/rlock.rs"),
        include_str!("../src/words/rwlock.rs"),
        include_str!("../src/words/semaphore.rs"),
    ];

    pub(crate) fn main() {
        testing::run(tests(SCENES, SOURCES));
    }

    /// A little longer than whoever waits looks before it sleeps.
    const A_WHILE: Duration = Duration::from_micros(300);

    /// Whether it will not run another instruction, though it may be a while until it is a zombie.
    fn has_ended(pid: u64) -> bool {
        stat(pid as u32).map_or(true, |stat| stat.ended)
    }

    /// Has a process die in the middle of it.
    fn dies(body: impl FnOnce()) {
        assert!(Child::new(body).was_killed());
    }

    /// Something that lets one in at a time: takes it within [`HANG`], and runs what is inside with the news.
    struct Exclusive {
        take: Box<Take>,
        /// Whether the next to come learns of an owner's death.
        tells: bool,
        room: Room,
    }

    type Take = dyn Fn(&dyn Fn(Acquired));

    impl Exclusive {
        fn new(tells: bool, take: impl Fn(&dyn Fn(Acquired)) + 'static) -> Self {
            Self { take: Box::new(take), tells, room: Room::new() }
        }

        /// In and out again, once.
        fn enter(&self) {
            (self.take)(&|news| self.room.section(news, self.tells));
        }
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

    fn lock() -> Exclusive {
        let lock = Lock::new().unwrap();
        Exclusive::new(true, move |inside| {
            let (_guard, news) = news!(lock.lock_timeout(HANG));
            inside(news);
        })
    }

    fn rlock() -> Exclusive {
        let lock = RLock::new().unwrap();
        Exclusive::new(true, move |inside| {
            let (_guard, news) = news!(lock.lock_timeout(HANG));
            let _again = lock.lock().unwrap();
            inside(news);
            assert_eq!(lock.depth(), 2);
        })
    }

    fn mutex() -> Exclusive {
        let mutex = Mutex::new(0_u64).unwrap();
        Exclusive::new(true, move |inside| {
            let (mut guard, news) = news!(mutex.lock_timeout(HANG));
            inside(news);
            *guard += 1;
        })
    }

    fn writer() -> Exclusive {
        let lock = RwLock::new(0_u64).unwrap();
        Exclusive::new(true, move |inside| {
            let (mut guard, news) = news!(lock.write_timeout(HANG));
            inside(news);
            *guard += 1;
        })
    }

    fn permit() -> Exclusive {
        let semaphore = Semaphore::new(1).unwrap();
        Exclusive::new(false, move |inside| {
            let _permit = semaphore.permit_timeout(HANG).unwrap();
            inside(Acquired::Clean);
        })
    }

    /// What is inside: who is, two numbers that are equal where nobody is, and how often the news came.
    struct Room {
        who: &'static AtomicU64,
        pair: [&'static AtomicU64; 2],
        news: &'static AtomicU64,
    }

    impl Room {
        fn new() -> Self {
            let numbers = numbers(4);
            Self { who: &numbers[0], pair: [&numbers[1], &numbers[2]], news: &numbers[3] }
        }

        fn section(&self, news: Acquired, tells: bool) {
            let before = self.who.swap(std::process::id().into(), SeqCst);
            assert!(before == 0 || has_ended(before), "somebody is inside and alive");
            let [first, second] = self.pair.map(|number| number.load(SeqCst));
            if news == Acquired::OwnerDied {
                self.news.fetch_add(1, SeqCst);
            }
            let told = news == Acquired::OwnerDied || !tells;
            assert!(first == second || told, "half a change, and no news");
            assert!(before == 0 || told, "its owner died inside, and no news");
            self.pair[0].store(first + 1, SeqCst);
            std::thread::sleep(A_WHILE);
            self.pair[1].store(first + 1, SeqCst);
            self.who.store(0, SeqCst);
        }
    }

    /// After the end of the victim: it is to be had, by two others, and the news comes once at most.
    fn to_be_had(exclusive: &Exclusive) {
        let start = Instant::now();
        exclusive.enter();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let news = exclusive.room.news.load(SeqCst);
        Child::new(|| exclusive.enter()).succeed();
        exclusive.enter();
        assert_eq!(exclusive.room.news.load(SeqCst), news, "the news comes once");
    }

    fn contended(stage: &Stage, exclusive: &Exclusive) {
        let other = Child::new(|| (0..12).for_each(|_| exclusive.enter()));
        let victim = stage.victim(|| (0..12).for_each(|_| exclusive.enter()));
        other.succeed();
        let killed = stage.ends(victim);
        to_be_had(exclusive);
        assert!(exclusive.room.news.load(SeqCst) <= u64::from(killed));
    }

    fn waits(stage: &Stage, exclusive: &Exclusive) {
        let [held] = numbers(1) else { unreachable!() };
        let owner = Child::new(|| {
            (exclusive.take)(&|_| {
                held.store(1, SeqCst);
                // Until two sleep for it, or one at least.
                wait_until(|| held.load(SeqCst) == 2);
            });
        });
        wait_until(|| held.load(SeqCst) == 1);
        let other = Child::new(|| exclusive.enter());
        other.await_sleep();
        let victim = stage.victim(|| exclusive.enter());
        victim.await_sleep();
        held.store(2, SeqCst);
        owner.succeed();
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let killed = stage.ends(victim);
        to_be_had(exclusive);
        assert!(exclusive.room.news.load(SeqCst) <= u64::from(killed));
    }

    fn recovers(stage: &Stage, exclusive: &Exclusive) {
        dies(|| (exclusive.take)(&|_| kill_self()));
        let victim = stage.victim(|| exclusive.enter());
        let other = Child::new(|| exclusive.enter());
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
        to_be_had(exclusive);
        let news = exclusive.room.news.load(SeqCst);
        assert!(news >= u64::from(exclusive.tells) && news <= 2, "{news}");
    }

    /// As [`recovers`], but nobody else is there before the victim.
    fn is_told(stage: &Stage, exclusive: &Exclusive) {
        dies(|| (exclusive.take)(&|_| kill_self()));
        let victim = stage.victim(|| exclusive.enter());
        let _ = stage.ends(victim);
        to_be_had(exclusive);
        let news = exclusive.room.news.load(SeqCst);
        assert!((1..=2).contains(&news), "{news}");
    }

    fn half_a_step(stage: &Stage, step: &str) {
        let semaphore = Semaphore::new(2).unwrap();
        let held = semaphore.permit().unwrap();
        stage.dies_at(step, 1, || drop(semaphore.permit().unwrap()));
        let victim = stage.victim(|| {
            drop(semaphore.permit_timeout(HANG).unwrap());
            // Where the other has it, there is none.
            assert!(semaphore.value() <= 1);
        });
        // It is the victim that finds the half of a step, and the others find the victim.
        let _ = stage.await_hit(&victim);
        let other = Child::new(|| drop(semaphore.permit_timeout(HANG).unwrap()));
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
        let again = semaphore.permit_timeout(HANG).unwrap();
        assert_eq!(semaphore.value(), 0, "no permit lost, none too many");
        drop((held, again));
        assert_eq!(semaphore.value(), 2, "no permit lost, none too many");
    }

    fn permit_half_taken(stage: &Stage) {
        half_a_step(stage, "permit: in its slot");
    }

    fn permit_half_given(stage: &Stage) {
        half_a_step(stage, "permit: in the count");
    }

    /// The victim drops a permit while another is stopped in the middle of taking one.
    fn permit_left(stage: &Stage) {
        let semaphore = Semaphore::new(2).unwrap();
        let [held] = numbers(1) else { unreachable!() };
        let victim = stage.victim(|| {
            let permit = semaphore.permit_timeout(HANG).unwrap();
            held.store(1, SeqCst);
            wait_until(|| held.load(SeqCst) == 2);
            drop(permit);
        });
        wait_until(|| held.load(SeqCst) == 1 || victim.has_ended() || stage.is_hit());
        let other = Child::new(|| {
            crash::arm_stop("permit: taking is written down", 1);
            drop(semaphore.permit_timeout(HANG).unwrap());
        });
        // Stopped; or asleep, where the victim has the lock.
        other.await_sleep();
        held.store(2, SeqCst);
        let _ = stage.ends(victim);
        wait_until(|| {
            other.signal(libc::SIGCONT);
            other.has_ended()
        });
        other.succeed();
        assert_eq!(semaphore.value(), 2, "no permit lost, none too many");
    }

    /// One whose time is over just as the owner is found dead, or gone.
    fn last_moment(stage: &Stage) {
        let lock = Lock::new().unwrap();
        dies(|| {
            std::mem::forget(lock.lock());
            kill_self();
        });
        let victim = stage.victim(|| {
            // Sooner than the first slice is over.
            let taken = lock.lock_timeout(Duration::from_micros(100));
            assert!(matches!(taken, Err(TryLockError::Poisoned(_))), "{taken:?}");
        });
        let _ = stage.await_hit(&victim);
        let waiter = Child::new(|| {
            drop(news!(lock.lock_timeout(HANG)));
        });
        let start = Instant::now();
        waiter.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
        drop(news!(lock.lock_timeout(HANG)));
        assert!(lock.try_lock().is_ok());
    }

    fn tries(stage: &Stage) {
        let lock = Lock::new().unwrap();
        dies(|| {
            std::mem::forget(lock.lock());
            kill_self();
        });
        let victim = stage.victim(|| drop(lock.try_lock()));
        let killed = stage.ends(victim);
        let (guard, news) = news!(lock.try_lock());
        assert_eq!(news == Acquired::OwnerDied, killed, "it has had the news");
        drop(guard);
        assert!(lock.try_lock().is_ok());
    }

    /// Readers find two equal numbers, or the news that the writer died.
    fn read(lock: &RwLock<[u64; 2]>) {
        let (guard, news) = news!(lock.read_timeout(HANG));
        assert!(guard[0] == guard[1] || news == Acquired::OwnerDied, "half a change, and no news");
        std::thread::sleep(A_WHILE);
    }

    fn write(lock: &RwLock<[u64; 2]>) {
        let (mut guard, news) = news!(lock.write_timeout(HANG));
        assert!(guard[0] == guard[1] || news == Acquired::OwnerDied, "half a change, and no news");
        guard[0] += 1;
        std::thread::sleep(A_WHILE);
        guard[1] = guard[0];
    }

    fn reads(stage: &Stage) {
        let lock = RwLock::new([0; 2]).unwrap();
        let others = [
            Child::new(|| (0..12).for_each(|_| write(&lock))),
            Child::new(|| (0..12).for_each(|_| read(&lock))),
        ];
        let victim = stage.victim(|| (0..12).for_each(|_| read(&lock)));
        let killed = stage.await_hit(&victim).then(Instant::now);
        others.into_iter().for_each(Child::succeed);
        let _ = stage.ends(victim);
        let start = killed.unwrap_or_else(Instant::now);
        write(&lock);
        read(&lock);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        assert_eq!(lock.read().unwrap()[0], 13, "no write is lost");
    }

    fn reads_for_long(stage: &Stage) {
        let lock = RwLock::new([0; 2]).unwrap();
        let [reading] = numbers(1) else { unreachable!() };
        let victim = stage.victim(|| {
            let _guard = lock.read_timeout(HANG).unwrap();
            reading.store(1, SeqCst);
            wait_until(|| reading.load(SeqCst) == 2);
        });
        wait_until(|| reading.load(SeqCst) == 1 || victim.has_ended() || stage.is_hit());
        let writer = Child::new(|| write(&lock));
        writer.await_sleep();
        reading.store(2, SeqCst);
        let start = Instant::now();
        writer.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
        read(&lock);
    }

    fn dies_writing(lock: &RwLock<[u64; 2]>) {
        dies(|| {
            lock.write().unwrap()[0] = 7;
            std::mem::forget(lock.write());
            kill_self();
        });
    }

    fn reads_after_the_dead(stage: &Stage) {
        let lock = RwLock::new([0; 2]).unwrap();
        dies_writing(&lock);
        let victim = stage.victim(|| {
            let (guard, news) = news!(lock.read_timeout(HANG));
            assert_eq!((guard[0], news), (7, Acquired::OwnerDied));
            drop(guard);
            assert!(matches!(lock.try_read(), Err(TryLockError::Poisoned(_))));
        });
        let start = Instant::now();
        let _ = stage.ends(victim);
        // Whatever became of that reader, the news is there until a writer has had it.
        let (guard, news) = news!(lock.read_timeout(HANG));
        assert_eq!((guard[0], news), (7, Acquired::OwnerDied));
        drop(guard);
        write(&lock);
        assert!(matches!(lock.try_read(), Ok(guard) if guard[0] == guard[1]));
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn writes_after_a_dead_reader(stage: &Stage) {
        let lock = RwLock::new([0; 2]).unwrap();
        dies(|| {
            std::mem::forget(lock.read());
            kill_self();
        });
        let victim = stage.victim(|| write(&lock));
        let start = Instant::now();
        let _ = stage.ends(victim);
        write(&lock);
        read(&lock);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn acquires(stage: &Stage) {
        let semaphore = Semaphore::new(0).unwrap();
        let [got] = numbers(1) else { unreachable!() };
        let other = Child::new(|| semaphore.acquire_timeout(HANG).unwrap());
        let victim = stage.victim(|| {
            for _ in 0..2 {
                semaphore.acquire_timeout(HANG).unwrap();
                got.fetch_add(1, SeqCst);
            }
            semaphore.release().unwrap();
            semaphore.try_acquire().unwrap();
        });
        other.await_sleep();
        victim.await_sleep();
        (0..3).for_each(|_| semaphore.release().unwrap());
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let killed = stage.ends(victim);
        // It can have taken one that it had not counted yet, and have given one that it had.
        let (value, got) = (u64::from(semaphore.value()), got.load(SeqCst));
        assert!(killed || value == 0, "{value}");
        assert!(value + got <= 3 && value + got + 1 >= 2, "{value} left, {got} taken");
        semaphore.release().unwrap();
        semaphore.acquire_timeout(HANG).unwrap();
    }

    fn releases(stage: &Stage) {
        let semaphore = Semaphore::new(0).unwrap();
        let other = Child::new(|| semaphore.acquire_timeout(HANG).unwrap());
        other.await_sleep();
        let victim = stage.victim(|| semaphore.release().unwrap());
        let _ = stage.ends(victim);
        let start = Instant::now();
        // Released, and perhaps not told: it looks by itself.
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        assert_eq!(semaphore.value(), 0);
    }

    fn awaits_event(stage: &Stage) {
        let event = Event::new().unwrap();
        let wait = || assert!(event.wait_timeout(HANG).unwrap());
        let victim = stage.victim(wait);
        let other = Child::new(wait);
        other.await_sleep();
        victim.await_sleep();
        event.set();
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
    }

    fn sets_event(stage: &Stage) {
        let event = Event::new().unwrap();
        let other = Child::new(|| assert!(event.wait_timeout(HANG).unwrap()));
        other.await_sleep();
        let victim = stage.victim(|| {
            event.set();
            event.clear();
        });
        let _ = stage.ends(victim);
        let start = Instant::now();
        // Set, and perhaps cleared, and perhaps nobody was told: it looks by itself.
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    /// What a party is told. All that the victim does not keep from it is a whole round.
    fn party(barrier: &Barrier) {
        for _ in 0..3 {
            match barrier.wait_timeout(HANG) {
                Ok(_) => {}
                Err(Error::Broken) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A barrier that is as new, for three others.
    fn goes_on(barrier: &Barrier) {
        barrier.reset().unwrap();
        assert!(!barrier.is_broken());
        let parties = [0; 3].map(|_| Child::new(|| assert!(barrier.wait_timeout(HANG).is_ok())));
        parties.into_iter().for_each(Child::succeed);
        assert_eq!(barrier.n_waiting(), 0);
    }

    fn barrier(stage: &Stage, last: bool) {
        let [actions] = numbers(1) else { unreachable!() };
        let barrier = Barrier::new(3).unwrap().with_action(|| _ = actions.fetch_add(1, SeqCst));
        let start = || [0; 2].map(|_| Child::new(|| party(&barrier)));
        let early = last.then(start);
        if let Some(others) = &early {
            others.iter().for_each(Child::await_sleep);
        }
        let victim = stage.victim(|| party(&barrier));
        if !last {
            victim.await_sleep();
        }
        let others = early.unwrap_or_else(start);
        let killed = stage.await_hit(&victim).then(Instant::now);
        // One that died outside of a round is one that never comes: that is what the time is for, or an abort.
        let died = stage.ends(victim);
        if died {
            if stage.step() == Some("barrier: the action is done") {
                // Nobody else can end its round.
                wait_until(|| barrier.is_broken());
            } else {
                std::thread::sleep(Duration::from_millis(30));
            }
            barrier.abort().unwrap();
        }
        others.into_iter().for_each(Child::succeed);
        if let Some(killed) = killed.filter(|_| died) {
            assert!(killed.elapsed() < PROMPT, "{:?}", killed.elapsed());
        }
        assert!(actions.load(SeqCst) <= 3);
        goes_on(&barrier);
    }

    fn finds_a_dead_party(stage: &Stage) {
        let barrier = Barrier::new(4).unwrap();
        stage.dies_at("barrier: arrived", 1, || party(&barrier));
        let other = Child::new(|| {
            assert!(matches!(barrier.wait_timeout(HANG), Err(Error::Broken)));
        });
        // So that the victim is who finds it dead.
        wait_until(|| barrier.n_waiting() == 2 || other.has_ended());
        other.signal(libc::SIGSTOP);
        let victim = stage.victim(|| party(&barrier));
        let _ = stage.await_hit(&victim);
        other.signal(libc::SIGCONT);
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let _ = stage.ends(victim);
        assert!(barrier.is_broken());
        barrier.reset().unwrap();
        let parties = [0; 4].map(|_| Child::new(|| assert!(barrier.wait_timeout(HANG).is_ok())));
        parties.into_iter().for_each(Child::succeed);
    }

    fn breaks_and_mends(stage: &Stage) {
        let barrier = Barrier::new(3).unwrap();
        let wait =
            || Child::new(|| assert!(matches!(barrier.wait_timeout(HANG), Err(Error::Broken))));
        let others = [wait(), wait()];
        others.iter().for_each(Child::await_sleep);
        let victim = stage.victim(|| {
            // In place of the third, for whom there is no time.
            barrier.reset().unwrap();
            assert!(matches!(barrier.wait_timeout(Duration::from_millis(1)), Err(Error::TimedOut)));
            barrier.abort().unwrap();
            barrier.reset().unwrap();
        });
        let died = stage.ends(victim);
        let start = Instant::now();
        if died {
            // Where it did not come to the reset.
            barrier.abort().unwrap();
        }
        others.into_iter().for_each(Child::succeed);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        goes_on(&barrier);
    }

    /// Starts one that waits for a notification once, and then says that it got one; gives it when it waits.
    fn waiter(
        condition: &Condition,
        waiting: &AtomicU64,
        start: impl FnOnce(&dyn Fn()) -> Child,
        got: &AtomicU64,
    ) -> Child {
        let before = waiting.load(SeqCst);
        let child = start(&|| {
            let guard = condition.lock().unwrap_or_else(|died| died.into_inner());
            waiting.fetch_add(1, SeqCst);
            match condition.wait_timeout(guard, HANG).map_err(|died| died.into_inner()) {
                Ok((_, result)) | Err((_, result)) => assert!(!result.timed_out()),
            }
            got.fetch_add(1, SeqCst);
        });
        wait_until(|| waiting.load(SeqCst) > before || child.has_ended());
        // It counted with the lock held, so once this has the lock, it waits, or died.
        drop(condition.lock().unwrap_or_else(|died| died.into_inner()));
        child
    }

    fn awaits_condition(stage: &Stage) {
        let condition = Condition::new().unwrap();
        let [waiting, got, others] = numbers(3) else { unreachable!() };
        let victim = waiter(&condition, waiting, |wait| stage.victim(wait), got);
        let other = waiter(&condition, waiting, |wait| Child::new(wait), others);
        victim.await_sleep();
        condition.notify_one();
        let died = stage.ends(victim);
        if got.load(SeqCst) == 1 {
            assert!(others.load(SeqCst) == 0 || died, "one notification is for one");
            condition.notify_one();
        }
        let start = Instant::now();
        // Else the notification is for the other, whether the dead one had it or not.
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        assert!(condition.lock_timeout(HANG).is_ok() || died);
    }

    fn notifies(stage: &Stage) {
        let condition = Condition::new().unwrap();
        let [waiting, got] = numbers(2) else { unreachable!() };
        let waiters = [0; 3].map(|_| waiter(&condition, waiting, |wait| Child::new(wait), got));
        let victim = stage.victim(|| {
            condition.notify_one();
            condition.notify_all();
        });
        let _ = stage.ends(victim);
        // Notifying waits for nobody, nor does a dead notifier keep another from it.
        condition.notify_all();
        let start = Instant::now();
        waiters.into_iter().for_each(Child::succeed);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        assert_eq!(got.load(SeqCst), 3);
    }

    fn passes_on(stage: &Stage) {
        let condition = Condition::new().unwrap();
        let [waiting, nothing, got, others] = numbers(4) else { unreachable!() };
        let first = waiter(
            &condition,
            waiting,
            |wait| {
                Child::new(|| {
                    crash::arm("condition: notified", 1);
                    wait();
                })
            },
            nothing,
        );
        let victim = waiter(&condition, waiting, |wait| stage.victim(wait), got);
        let other = waiter(&condition, waiting, |wait| Child::new(wait), others);
        // So that the victim is who finds it dead.
        other.signal(libc::SIGSTOP);
        condition.notify_one();
        assert!(first.was_killed());
        wait_until(|| got.load(SeqCst) > 0 || stage.is_hit() || victim.has_ended());
        other.signal(libc::SIGCONT);
        let _ = stage.ends(victim);
        if got.load(SeqCst) > 0 {
            condition.notify_one();
        }
        let start = Instant::now();
        other.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }
}
