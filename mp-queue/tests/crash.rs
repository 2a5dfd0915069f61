//! A process that is killed at each named step of a put, a get and a close, and what the others find.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-queue --test crash`; in other builds there are no such steps,
//! and nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(mp_crash)]
#[expect(dead_code, reason = "the storm uses the rest")]
mod children;

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    steps::main();
}

#[cfg(mp_crash)]
mod steps {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::{Duration, Instant};

    use libtest_mimic::{Arguments, Trial};
    use mp_core::{Fd, crash};
    use mp_queue::{Error, Queue};
    use serde::{Deserialize, Serialize};

    use super::children::{Child, HANG, numbers, test, wait_until};

    /// The limit for whoever is held up by a death, with room for a busy machine.
    const PROMPT: Duration = Duration::from_secs(5);

    #[derive(Serialize, Deserialize)]
    struct Item {
        number: u64,
        content: Vec<u64>,
        file: Option<Fd>,
    }

    /// Every name that the sources give to a step.
    fn points() -> Vec<&'static str> {
        let sources = [
            include_str!("../src/blocking.rs"),
            include_str!("../src/parcel.rs"),
            include_str!("../src/slots.rs"),
        ];
        let mut names = Vec::new();
        for source in sources {
            for call in source.split("crash_point!(\"").skip(1) {
                names.extend(call.split('"').next());
            }
        }
        names.sort_unstable();
        assert!(names.len() > 20 && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        names
    }

    pub(crate) fn main() {
        let mut arguments = Arguments::from_args();
        // Then each test runs on this very thread, and fork is safe.
        arguments.test_threads = Some(1);
        let mut tests: Vec<Trial> = Vec::new();
        for name in points() {
            tests.push(test(format!("killed at: {name}"), move || killed_at(name)));
        }
        tests.push(test("a consumer asleep gets what the killed had put", asleep_for_items));
        tests.push(test(
            "a producer asleep gets the room that the killed had made",
            asleep_for_room,
        ));
        tests.push(test("those who wait learn of a close by the killed", asleep_for_close));
        libtest_mimic::run(&arguments, tests).exit();
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

    /// All that there is to do with a queue, past every step.
    fn exercise(queue: &Queue<Item>, progress: &Progress) {
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
            for _ in 0..60 {
                progress.put(queue, 60_000, None);
            }
            while !queue.is_empty() {
                progress.get(queue, 2);
            }
        }
        queue.close();
    }

    /// Whether it was killed, as it was to be.
    fn was_killed(child: Child) -> bool {
        let status = child.end();
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        assert!(killed || status == 0, "it failed: {status:x}");
        killed
    }

    fn killed_at(name: &'static str) {
        let mut reached = 0;
        for pass in [1, 2, 9] {
            let queue = Queue::<Item>::unbounded().unwrap();
            let progress = Progress::new();
            if name == "put: about to free an orphan" {
                // Somebody else has to have died in time.
                let child = Child::new(|| {
                    crash::arm("put: the next block has its number", 9 + pass);
                    exercise(&queue, &progress);
                });
                assert!(was_killed(child));
                let child = Child::new(|| {
                    crash::arm(name, 1);
                    progress.puts[0].store(progress.puts[1].load(SeqCst), SeqCst);
                    progress.put(&queue, 10, None);
                });
                reached += u32::from(was_killed(child));
            } else {
                let child = Child::new(|| {
                    crash::arm(name, pass);
                    exercise(&queue, &progress);
                });
                if !was_killed(child) {
                    continue;
                }
                reached += 1;
            }
            survive(name, &queue, &progress);
        }
        assert!(reached > 0, "it was never reached");
    }

    /// What a process finds that comes after.
    fn survive(name: &str, queue: &Queue<Item>, progress: &Progress) {
        let start = Instant::now();
        let [begun, done] = progress.puts.map(|number| number.load(SeqCst));
        let [wanted, got] = progress.gets.map(|number| number.load(SeqCst));
        let closed = name.starts_with("close");
        if !closed {
            let item = Item { number: u64::MAX, content: Vec::new(), file: None };
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
        } else if committed {
            assert_eq!(end, begun, "committed, and so put");
        } else {
            assert_eq!(end, done, "what was not committed is not there");
        }
        let taken = ["get: committed", "get: about to wake", "get: what was read is given back"]
            .contains(&name);
        let with_file = name == "get: a packet of descriptors is taken";
        if !numbers.is_empty() && name.starts_with("get") && !taken && !with_file {
            assert_eq!(first, got, "nothing is lost that was not taken");
        }
        assert!(first >= got && first <= wanted.max(got), "{first}, {got}, {wanted}");
        assert_eq!(queue.len(), 0);
        if !closed {
            // All of it works, for another process.
            let again = Progress::new();
            Child::new(|| exercise(queue, &again)).succeed();
        }
    }

    fn asleep_for_items() {
        for name in ["put: committed", "put: about to wake"] {
            let queue = Queue::<u64>::unbounded().unwrap();
            let consumer = Child::new(|| assert_eq!(queue.get_timeout(HANG).unwrap(), 7));
            consumer.await_sleep();
            let start = Instant::now();
            let producer = Child::new(|| {
                crash::arm(name, 1);
                let _ = queue.put(7);
            });
            assert!(was_killed(producer));
            consumer.succeed();
            assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        }
    }

    fn asleep_for_room() {
        for name in ["get: committed", "get: about to wake"] {
            let queue = Queue::<u64>::bounded(1).unwrap();
            queue.put(1).unwrap();
            let producer = Child::new(|| queue.put_timeout(2, HANG).unwrap());
            producer.await_sleep();
            let start = Instant::now();
            let consumer = Child::new(|| {
                crash::arm(name, 1);
                let _ = queue.get();
            });
            assert!(was_killed(consumer));
            producer.succeed();
            assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
            assert_eq!(queue.get().unwrap(), 2);
        }
    }

    fn asleep_for_close() {
        let queue = Queue::<u64>::unbounded().unwrap();
        let consumer =
            Child::new(|| assert!(matches!(queue.get_timeout(HANG), Err(Error::Closed))));
        consumer.await_sleep();
        let closer = Child::new(|| {
            crash::arm("close: done for those who put", 1);
            queue.close();
        });
        assert!(was_killed(closer));
        wait_until(|| queue.is_closed());
        consumer.succeed();
    }
}
