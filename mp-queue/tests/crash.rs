//! A process that is killed at each named step of a put, a get and a close, and what the others find.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-queue --test crash`; in other builds there are no such steps,
//! and nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::{Duration, Instant};

    use mp_core::sys::fd::wait_readable;
    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, Child, HANG, PROMPT, numbers, wait_until};
    use mp_core::{Deadline, Fd};
    use mp_queue::{Error, JoinableQueue, Queue};
    use serde::{Deserialize, Serialize};

    const SCENES: &[Scene] = &[
        Scene { name: "who puts and gets", play: puts_and_gets },
        Scene { name: "who puts after a producer died", play: repairs_puts },
        Scene { name: "who gets after a consumer died", play: repairs_gets },
        Scene { name: "a consumer that waits", play: waits_for_items },
        Scene { name: "a producer that waits", play: waits_for_room },
        Scene { name: "who puts for one asleep", play: puts_for_a_sleeper },
        Scene { name: "who puts after one was killed asleep", play: puts_after_a_sleeper },
        Scene { name: "who gets for one asleep", play: gets_for_a_sleeper },
        Scene { name: "who closes for one asleep", play: closes_for_a_sleeper },
        Scene { name: "who puts for one that watches", play: puts_for_a_watcher },
        Scene { name: "who puts in a row for one that watches", play: puts_a_row_for_a_watcher },
        Scene { name: "who closes for one that watches", play: closes_for_a_watcher },
        Scene { name: "who gets what was shown", play: gets_before_a_watcher },
        Scene { name: "who watches", play: watches },
        Scene { name: "who is done, and joins", play: is_done },
    ];

    const SOURCES: &[&str] = &[
        include_str!("../src/blocking.rs"),
        include_str!("../src/commit.rs"),
        include_str!("../src/parcel.rs"),
        include_str!("../src/slots.rs"),
    ];

    pub(crate) fn main() {
        testing::run(tests(SCENES, SOURCES));
    }

    #[derive(Serialize, Deserialize)]
    struct Item {
        number: u64,
        content: Vec<u64>,
        file: Option<Fd>,
    }

    /// What the process that is killed has done so far.
    struct Progress {
        /// How many items it is about to have put, and has.
        puts: [&'static AtomicU64; 2],
        /// How many it is about to have got, and has.
        gets: [&'static AtomicU64; 2],
    }

    impl Progress {
        fn new() -> Self {
            let numbers = numbers(4);
            Self { puts: [&numbers[0], &numbers[1]], gets: [&numbers[2], &numbers[3]] }
        }

        fn item(&self, len: usize, file: Option<Fd>) -> Item {
            let number = self.puts[0].fetch_add(1, SeqCst);
            Item { number, content: vec![number; len / 8], file }
        }

        fn put(&self, queue: &Queue<Item>, len: usize, file: Option<Fd>) {
            queue.put(self.item(len, file)).unwrap();
            self.puts[1].fetch_add(1, SeqCst);
        }

        fn get(&self, queue: &Queue<Item>, max: usize) {
            self.gets[0].store(self.gets[1].load(SeqCst) + max as u64, SeqCst);
            for item in queue.get_many(max).unwrap() {
                check(&item);
                assert_eq!(item.number, self.gets[1].fetch_add(1, SeqCst));
            }
        }
    }

    fn check(item: &Item) {
        assert!(item.content.iter().all(|&word| word == item.number), "torn");
    }

    /// How many large items it takes to come into the larger blocks, and to give those back.
    const CROWD: usize = 60;

    /// All that there is to do with a queue alone, past every step of it.
    fn exercise(queue: &Queue<Item>, progress: &Progress, crowd: usize) {
        let file = || Some(Fd::from(mp_core::sys::fd::null().unwrap()));
        let _ = queue.as_fd();
        for _ in 0..2 {
            progress.put(queue, 10, None);
            progress.put(queue, 200, file());
            progress.get(queue, 1);
            progress.get(queue, 1);
            let row: Vec<Item> = (0..5).map(|_| progress.item(50, None)).collect();
            queue.put_many(row).unwrap();
            progress.puts[1].fetch_add(5, SeqCst);
            progress.get(queue, 3);
            // A crowd, into the larger blocks, and out of them.
            for _ in 0..crowd {
                progress.put(queue, 60_000, None);
            }
            while !queue.is_empty() {
                progress.get(queue, 2);
            }
            // Into blocks that are kept for the like, and so many others that these are not wanted any more.
            for len in [600_000, 600_000].into_iter().chain(std::iter::repeat_n(20_000, crowd)) {
                progress.put(queue, len, None);
                progress.get(queue, 1);
            }
        }
        queue.close();
    }

    fn puts_and_gets(stage: &Stage) {
        let queue = Queue::<Item>::unbounded().unwrap();
        let progress = Progress::new();
        let victim = stage.victim(|| exercise(&queue, &progress, CROWD));
        let begun = stage.await_hit(&victim).then(Instant::now);
        if let Some(begun) = begun.filter(|_| stage.is_stopped()) {
            // Who only looks is not held up, whatever stands still.
            let _ = (queue.len(), queue.is_empty(), queue.is_closed());
            let _ = queue.try_get().map(|item| {
                check(&item);
                progress.gets[1].store(item.number + 1, SeqCst);
                progress.gets[0].fetch_max(item.number + 1, SeqCst);
            });
            assert!(begun.elapsed() < PROMPT);
        }
        if stage.ends(victim) {
            survive(stage, &queue, &progress);
        } else {
            assert!(queue.is_closed() && queue.is_empty());
        }
    }

    fn repairs_puts(stage: &Stage) {
        let queue = Queue::<Item>::unbounded().unwrap();
        let progress = Progress::new();
        // So that there is a block that nothing leads to, and the lock of those who put has a dead owner.
        stage.dies_at("put: the next block has its number", 10, || {
            exercise(&queue, &progress, CROWD)
        });
        progress.puts[0].store(progress.puts[1].load(SeqCst), SeqCst);
        let victim = stage.victim(|| progress.put(&queue, 10, None));
        if stage.ends(victim) {
            survive(stage, &queue, &progress);
        }
    }

    fn repairs_gets(stage: &Stage) {
        let queue = Queue::<Item>::unbounded().unwrap();
        let progress = Progress::new();
        stage.dies_at("get: committed", 9, || exercise(&queue, &progress, CROWD));
        // It may be that it has got it, and it may be that not.
        progress.gets[1].store(progress.gets[0].load(SeqCst), SeqCst);
        progress.puts[0].store(progress.puts[1].load(SeqCst), SeqCst);
        let victim = stage.victim(|| {
            progress.put(&queue, 10, None);
            progress.gets[0].fetch_add(1, SeqCst);
            let item = queue.get().unwrap();
            check(&item);
            progress.gets[1].store(item.number + 1, SeqCst);
        });
        if stage.ends(victim) {
            survive(stage, &queue, &progress);
        }
    }

    /// What a process finds that comes after.
    fn survive(stage: &Stage, queue: &Queue<Item>, progress: &Progress) {
        let name = stage.step().unwrap();
        let start = Instant::now();
        let [begun, done] = progress.puts.map(|number| number.load(SeqCst));
        let [wanted, got] = progress.gets.map(|number| number.load(SeqCst));
        let closed = name.starts_with("close");
        if !closed {
            let item = Item { number: u64::MAX, content: vec![u64::MAX], file: None };
            queue.put(item).unwrap();
        }
        let mut numbers = Vec::new();
        loop {
            match queue.try_get() {
                Ok(item) => {
                    check(&item);
                    assert!(item.number != u64::MAX || !closed);
                    numbers.push(item.number);
                }
                Err(Error::Empty | Error::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        if !closed {
            assert_eq!(numbers.pop(), Some(u64::MAX), "what comes after it arrives");
        }
        // In a row, from what was not got yet to what was put.
        let first = numbers.first().copied().unwrap_or(got.max(done));
        let end = first + numbers.len() as u64;
        assert!(numbers.iter().copied().eq(first..end), "{numbers:?}");
        let committed = ["put: committed", "put: about to wake"].contains(&name);
        if numbers.is_empty() {
            assert!(wanted >= done, "{done} were put, {got} got, and nothing is left");
        } else if stage.is_later() {
            // It slept no more, perhaps, and had gone on.
            assert!(
                (done..=begun).contains(&end),
                "{done} or {begun} were put, and there is {end}"
            );
        } else if committed {
            assert_eq!(end, begun, "committed, and so put");
        } else {
            assert_eq!(end, done, "what was not committed is not there");
        }
        let taken = ["get: committed", "get: about to wake", "get: what was read is given back"]
            .contains(&name);
        let with_file = name == "get: a packet of descriptors is taken";
        let before = name.starts_with("get") && !taken && !with_file && !stage.is_later();
        if !numbers.is_empty() && before {
            assert_eq!(first, got, "nothing is lost that was not taken");
        }
        assert!(first >= got && first <= wanted.max(got), "{first}, {got}, {wanted}");
        assert_eq!(queue.len(), 0);
        if !closed {
            // All of it works, for another process.
            let again = Progress::new();
            Child::new(|| exercise(queue, &again, 3)).succeed();
        }
    }

    /// How many items go through a queue beside a victim.
    const ITEMS: u64 = 12;

    fn waits_for_items(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let all = &numbers(1)[0];
        let get = || match queue.get_timeout(HANG) {
            Ok(number) => {
                let before = all.fetch_or(1 << number, SeqCst);
                assert_eq!(before >> number & 1, 0, "got twice");
                true
            }
            Err(Error::Closed) => false,
            Err(error) => panic!("{error}"),
        };
        let victim = stage.victim(|| while get() {});
        victim.await_sleep();
        let other = Child::new(|| while get() {});
        for number in 0..ITEMS {
            queue.put(number).unwrap();
            if number % 4 == 0 {
                // Let them go to sleep again.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let missing = || (1 << ITEMS) - 1 - all.load(SeqCst);
        wait_until(|| missing() == 0 || victim.has_ended());
        if stage.is_hit() {
            wait_until(|| victim.has_ended());
        }
        queue.close();
        other.succeed();
        let killed = stage.ends(victim);
        assert!(missing().count_ones() <= u32::from(killed), "{:b}", missing());
        let taken = ["get: committed", "get: about to wake"];
        if stage.step().is_some_and(|step| !taken.contains(&step)) && !stage.is_later() {
            assert_eq!(missing(), 0, "lost, and was not taken");
        }
    }

    fn waits_for_room(stage: &Stage) {
        let queue = Queue::<u64>::bounded(1).unwrap();
        let [begun, done] = numbers(2) else { unreachable!() };
        let victim = stage.victim(|| {
            for number in 0..ITEMS {
                begun.fetch_add(1, SeqCst);
                queue.put_timeout(number, HANG).unwrap();
                done.fetch_add(1, SeqCst);
            }
        });
        let other = Child::new(|| (0..ITEMS).for_each(|_| queue.put_timeout(100, HANG).unwrap()));
        let (mut theirs, mut others) = (0, 0);
        loop {
            match queue.get_timeout(Duration::from_millis(60)) {
                Ok(100) => others += 1,
                Ok(number) => {
                    assert_eq!(number, theirs);
                    theirs += 1;
                }
                Err(Error::TimedOut) if others == ITEMS && (stage.is_hit() || theirs == ITEMS) => {
                    break;
                }
                Err(Error::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
            if (others + theirs) % 4 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        other.succeed();
        let _ = stage.ends(victim);
        let (begun, done) = (begun.load(SeqCst), done.load(SeqCst));
        assert!(done <= theirs && theirs <= begun, "{done} put, {theirs} got, {begun} begun");
    }

    /// Has the victim do something, which another does where that did not come to it.
    fn act_once(stage: &Stage, act: impl Fn(), acted: &[&str]) {
        let victim = stage.victim(&act);
        let killed = stage.ends(victim);
        // Who wakes has committed.
        let has_acted = |step: &str| acted.contains(&step) || step.starts_with("wake: ");
        if killed && !has_acted(stage.step().unwrap()) {
            act();
        }
    }

    /// Has the victim do something that lets one who sleeps go on.
    fn for_a_sleeper(stage: &Stage, sleeper: Child, act: impl Fn(), acted: &[&str]) {
        sleeper.await_sleep();
        act_once(stage, act, acted);
        let start = Instant::now();
        sleeper.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn puts_for_a_sleeper(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let sleeper = Child::new(|| assert_eq!(queue.get_timeout(HANG).unwrap(), 7));
        let act = || queue.put(7).unwrap();
        for_a_sleeper(stage, sleeper, act, &["put: committed", "put: about to wake"]);
        assert!(queue.is_empty());
    }

    fn puts_after_a_sleeper(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let sleeper = Child::new(|| _ = queue.get_timeout(HANG));
        sleeper.await_sleep();
        // Its mark stays, which nobody sleeps behind.
        sleeper.kill();
        let put = ["put: committed", "put: about to wake"];
        act_once(stage, || queue.put(7).unwrap(), &put);
        assert_eq!(queue.get_timeout(HANG).unwrap(), 7);
        let start = Instant::now();
        let sleeper = Child::new(|| assert_eq!(queue.get_timeout(HANG).unwrap(), 8));
        sleeper.await_sleep();
        queue.put(8).unwrap();
        sleeper.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn gets_for_a_sleeper(stage: &Stage) {
        let queue = Queue::<u64>::bounded(1).unwrap();
        queue.put(1).unwrap();
        let sleeper = Child::new(|| queue.put_timeout(2, HANG).unwrap());
        let act = || assert_eq!(queue.get().unwrap(), 1);
        for_a_sleeper(stage, sleeper, act, &["get: committed", "get: about to wake"]);
        assert_eq!(queue.get().unwrap(), 2);
    }

    fn closes_for_a_sleeper(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let sleeper = Child::new(|| assert!(matches!(queue.get_timeout(HANG), Err(Error::Closed))));
        let closed = ["close: done for those who put", "close: about to wake"];
        for_a_sleeper(stage, sleeper, || queue.close(), &closed);
        assert!(queue.is_closed());
    }

    /// Gets an item by the descriptor alone.
    fn get_watching(queue: &Queue<u64>) -> Result<u64, Error> {
        loop {
            let shown = wait_readable(queue.as_fd(), Deadline::after(HANG)).unwrap();
            assert!(shown, "sleeps, and there are {}", queue.len());
            match queue.try_get() {
                Err(Error::Empty) => {}
                result => return result,
            }
        }
    }

    fn puts_for_a_watcher(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let watcher = Child::new(|| assert_eq!(get_watching(&queue).unwrap(), 7));
        let act = || queue.put(7).unwrap();
        for_a_sleeper(stage, watcher, act, &["put: committed", "put: about to wake"]);
        assert!(queue.is_empty());
    }

    fn puts_a_row_for_a_watcher(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let watcher = Child::new(|| {
            assert_eq!(get_watching(&queue).unwrap(), 7);
            assert_eq!(get_watching(&queue).unwrap(), 8);
        });
        let act = || _ = queue.put_many([7, 8]).unwrap();
        for_a_sleeper(stage, watcher, act, &["put: committed", "put: about to wake"]);
        assert!(queue.is_empty());
    }

    fn closes_for_a_watcher(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let watcher = Child::new(|| assert!(matches!(get_watching(&queue), Err(Error::Closed))));
        let shut = ["close: the descriptor is shut", "close: done for those who put"];
        let closed = [&shut[..], &["close: about to wake"]].concat();
        for_a_sleeper(stage, watcher, || queue.close(), &closed);
        assert!(queue.is_closed());
    }

    fn gets_before_a_watcher(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let _ = queue.as_fd();
        queue.put(7).unwrap();
        let victim = stage.victim(|| {
            assert_eq!(queue.get().unwrap(), 7);
            assert!(matches!(queue.try_get(), Err(Error::Empty)));
        });
        let _ = stage.await_hit(&victim);
        // The item, where it was not got, and one more.
        let watcher = Child::new(|| while get_watching(&queue).unwrap() != 8 {});
        let _ = stage.ends(victim);
        let start = Instant::now();
        queue.put(8).unwrap();
        watcher.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn watches(stage: &Stage) {
        let queue = Queue::<u64>::unbounded().unwrap();
        let both = || {
            assert_eq!(get_watching(&queue).unwrap(), 7);
            assert!(matches!(get_watching(&queue), Err(Error::Closed)));
        };
        queue.put(7).unwrap();
        queue.close();
        let victim = stage.victim(both);
        let _ = stage.await_hit(&victim);
        let _ = stage.ends(victim);
        if queue.is_empty() {
            assert!(matches!(get_watching(&queue), Err(Error::Closed)));
        } else {
            both();
        }
    }

    fn is_done(stage: &Stage) {
        let queue = JoinableQueue::<u64>::unbounded().unwrap();
        queue.put_many(0..3).unwrap();
        let joiner = Child::new(|| queue.join_timeout(HANG).unwrap());
        joiner.await_sleep();
        let victim = stage.victim(|| {
            for _ in 0..3 {
                queue.get().unwrap();
                queue.task_done().unwrap();
            }
            queue.put(3).unwrap();
            // Nobody does it in time.
            assert!(queue.join_timeout(Duration::from_millis(5)).is_err());
            queue.get().unwrap();
            queue.task_done().unwrap();
        });
        if stage.ends(victim) {
            // What the dead one had not counted as done is for others to count.
            while queue.task_done().is_ok() {}
        }
        let start = Instant::now();
        joiner.succeed();
        queue.join_timeout(HANG).unwrap();
        assert!(start.elapsed() < PROMPT);
        assert!(queue.task_done().is_err());
    }
}
