//! Producers and consumers that are killed at any time, and what becomes of the items.
//!
//! A program of its own, as it forks: `cargo test -p mp-queue --test storm`. All tests run on the main
//! thread, one after the other, each under an alarm that ends the program.
#![expect(unsafe_code, reason = "limits of this process, and whose it is")]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mp_core::sys::fd::wait_readable;
use mp_core::testing::{self, Child, HANG, PROMPT, Random, numbers, test, wait_until};
use mp_core::{Deadline, Fd};
use mp_queue::{Builder, Error, JoinableQueue, Queue};
use serde::{Deserialize, Serialize};

fn main() {
    let tests = [
        test("kills_unbounded", || {
            storm::<()>("unbounded", 2400, &Queue::unbounded().unwrap(), |_| None);
        }),
        test("kills_bounded", || {
            storm::<()>("bounded", 1500, &Queue::bounded(7).unwrap(), |_| None)
        }),
        test("kills_bounded_in_bytes", || {
            let queue = Builder::new().max_bytes(100_000).queue().unwrap();
            storm::<()>("bounded in bytes", 800, &queue, |_| None);
        }),
        test("kills_with_descriptors", || {
            let null = mp_core::sys::fd::null().unwrap();
            storm("with descriptors", 300, &Queue::unbounded().unwrap(), move |random| {
                (random.below(3) == 0).then(|| Fd::from(null.try_clone().unwrap()))
            });
        }),
        test("counts_are_exact_with_4_and_4", || exact(4, 4, &Queue::unbounded().unwrap())),
        test("counts_are_exact_with_8_and_8", || exact(8, 8, &Queue::unbounded().unwrap())),
        test("counts_are_exact_with_8_and_8_bounded", || {
            exact(8, 8, &Queue::bounded(3).unwrap());
        }),
        test("nobody_starves", nobody_starves),
        test("a_killed_sleeper_takes_no_wake_up_with_it", killed_sleepers),
        test("a_stopped_consumer_holds_nobody_up_outside", a_stopped_consumer),
        test("a_sleeper_uses_no_time", a_sleeper_uses_no_time),
        test("join_counts_what_the_killed_left", join_after_a_kill),
        test("readiness_survives_kills", readiness_storm),
        test("memory_of_a_drained_queue_goes_back", memory_goes_back),
        test("a_scribbling_process_makes_errors_at_worst", scribbling),
        test("descriptors_of_the_killed_do_not_keep_others_from_passing_theirs", orphans),
        test("a_queue_is_as_large_as_files_may_be", limited_files),
    ];
    testing::run(tests.into());
}

/// What goes through the queue in a storm.
#[derive(Serialize, Deserialize)]
struct Item<H> {
    producer: u64,
    number: u64,
    content: Vec<u8>,
    handle: Option<H>,
}

/// What an item holds beside its numbers.
trait Handle: Serialize + serde::de::DeserializeOwned {}
impl Handle for () {}
impl Handle for Fd {}

fn content(random: &mut Random, number: u64) -> Vec<u8> {
    let len = match random.below(100) {
        0 => 20_000 + random.below(30_000),
        1..20 => random.below(3000),
        _ => random.below(100),
    };
    vec![number as u8; len as usize]
}

/// Puts and gets by three producers and three consumers, of which one is killed and replaced all the time.
///
/// Each producer counts what was put, before and after each `put`; each consumer writes down what it is
/// about to have and what it had. At the end, for each producer, what arrived has to be its items from the first to
/// the last, each once and in order, but for those that a consumer took with it when it was killed.
fn storm<H: Handle>(
    name: &str,
    kills: u64,
    queue: &Queue<Item<H>>,
    handle: impl Fn(&mut Random) -> Option<H>,
) {
    const EACH: u64 = 3;
    let all = kills + 2 * EACH;
    // Of producer n: how many of its puts have returned. Of its item k: how often it was had.
    let acknowledged = numbers(all as usize);
    const ITEMS: u64 = 4096;
    let had = numbers((all * ITEMS) as usize);
    // Of consumer n: how often it had an item, and the last number of each producer that is its own, to see the order.
    let gets = numbers(all as usize);
    let produce = |n: u64| {
        Child::new(|| {
            let mut random = Random::new(0x9E37_79B9 + n * 0x1234_5677);
            for number in 0..ITEMS {
                let item = Item {
                    producer: n,
                    number,
                    content: content(&mut random, number),
                    handle: handle(&mut random),
                };
                if random.below(50) == 0 {
                    // Ahead of the others, in a row.
                    assert_eq!(queue.put_many([item]).unwrap(), 1);
                } else {
                    queue.put_timeout(item, HANG).unwrap();
                }
                acknowledged[n as usize].store(number + 1, SeqCst);
                if random.below(20) == 0 {
                    std::thread::sleep(Duration::from_micros(random.below(200)));
                }
            }
        })
    };
    let take = |item: Item<H>, consumer: u64, last: &mut Vec<u64>| {
        let Item { producer, number, content, handle } = item;
        assert!(content.iter().all(|&byte| byte == number as u8), "torn");
        drop(handle);
        // In order, of those that this consumer has.
        let last = &mut last[producer as usize];
        assert!(number >= *last, "{number} of {producer} after {}", *last - 1);
        *last = number + 1;
        let before = had[(producer * ITEMS + number) as usize].fetch_add(1, SeqCst);
        assert_eq!(before, 0, "{number} of {producer} came twice");
        gets[consumer as usize].fetch_add(1, SeqCst);
    };
    let consume = |n: u64| {
        Child::new(|| {
            let mut random = Random::new(0xABCD_EF12 + n * 0x1234_5677);
            let mut last = vec![0; all as usize];
            loop {
                if random.below(4) == 0 {
                    for item in queue.get_many(5).unwrap() {
                        take(item, n, &mut last);
                    }
                } else {
                    take(queue.get_timeout(HANG).unwrap(), n, &mut last);
                }
            }
        })
    };
    let mut random = Random::new(0xC0FF_EE00 + kills);
    let mut waits = Vec::new();
    let mut children: Vec<(u64, bool, Child)> = Vec::new();
    for n in 0..EACH {
        children.push((n, true, produce(n)));
        children.push((n + EACH, false, consume(n + EACH)));
    }
    let mut lost_at_most = 0;
    for next in 2 * EACH..2 * EACH + kills {
        std::thread::sleep(Duration::from_micros(random.below(1200)));
        let index = random.below(2 * EACH) as usize;
        let (_, produces, child) = children.swap_remove(index);
        child.signal(libc::SIGKILL);
        // At once, while it may hold a lock: this process comes through too.
        let start = Instant::now();
        let _ = queue.try_get_many(0);
        if next % 3 == 0 {
            match queue.get_timeout(Duration::from_millis(1)) {
                Ok(item) => {
                    had[(item.producer * ITEMS + item.number) as usize].fetch_add(1, SeqCst);
                }
                Err(Error::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            let _ = queue.len();
        }
        waits.push(start.elapsed());
        child.kill();
        // With get_many, up to five.
        lost_at_most += if produces { 0 } else { 5 };
        children.push((next, produces, if produces { produce(next) } else { consume(next) }));
    }
    for (_, produces, child) in children {
        lost_at_most += if produces { 0 } else { 5 };
        child.kill();
    }
    while !queue.is_empty() {
        // One whose descriptors went with the killed is passed over, so the queue may turn out empty.
        match queue.get_timeout(Duration::from_millis(50)) {
            Ok(item) => {
                _ = had[(item.producer * ITEMS + item.number) as usize].fetch_add(1, SeqCst)
            }
            Err(Error::TimedOut) => assert!(queue.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
    let (mut items, mut lost) = (0, 0);
    for producer in 0..all {
        let known = acknowledged[producer as usize].load(SeqCst);
        for number in 0..ITEMS {
            let times = had[(producer * ITEMS + number) as usize].load(SeqCst);
            assert!(times <= 1, "{number} of {producer} came {times} times");
            // The one that was being put when it was killed may have arrived. None after it can.
            assert!(times == 0 || number <= known, "{number} of {producer} was never put");
            if number < known {
                items += times;
                lost += 1 - times;
            }
        }
    }
    assert!(lost <= lost_at_most, "{lost} are lost, and the killed can have had {lost_at_most}");
    waits.sort();
    eprintln!(
        "{name}: {kills} kills, {items} items, {lost} went with those who had got them; the next was \
         through after {:?} (median), {:?} (p99), {:?} (most)",
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1],
    );
    assert!(waits[waits.len() - 1] < HANG);
}

/// Every item comes once, and each producer's in order, whoever gets it.
fn exact(producers: u64, consumers: u64, queue: &Queue<(u64, u64)>) {
    const EACH: u64 = 12_000;
    let sums = numbers(consumers as usize * 2);
    let start = |n: u64| {
        Child::new(move || {
            if n < producers {
                for number in (0..EACH).step_by(6) {
                    queue.put((n, number)).unwrap();
                    queue.put_many((1..5).map(|more| (n, number + more))).unwrap();
                    queue.put((n, number + 5)).unwrap();
                }
                return;
            }
            let n = (n - producers) as usize;
            let mut last = vec![0; producers as usize];
            let mut take = |(producer, number): (u64, u64)| {
                let last = &mut last[producer as usize];
                assert!(number + 1 > *last, "out of order");
                *last = number + 1;
                sums[2 * n].fetch_add(1, SeqCst);
                sums[2 * n + 1].fetch_add(producer * EACH + number, SeqCst);
            };
            loop {
                match queue.get() {
                    Ok(item) => take(item),
                    Err(Error::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
                match queue.try_get_many(3) {
                    Ok(items) => items.into_iter().for_each(&mut take),
                    Err(error) => assert!(matches!(error.reason, Error::Empty | Error::Closed)),
                }
            }
        })
    };
    let children: Vec<Child> = (0..producers + consumers).map(start).collect();
    for (n, child) in children.into_iter().enumerate() {
        if n as u64 == producers {
            queue.close();
        }
        child.succeed();
    }
    let total =
        |of: usize| (0..consumers as usize).map(|n| sums[2 * n + of].load(SeqCst)).sum::<u64>();
    let all = producers * EACH;
    assert_eq!((total(0), total(1)), (all, all * (all - 1) / 2));
    assert!(queue.is_empty());
}

/// With as many as can be at both ends, each gets something done, and none waits for long.
fn nobody_starves() {
    const EACH: usize = 6;
    let queue = Queue::<u64>::bounded(50).unwrap();
    let steps = numbers(2 * EACH);
    let longest = numbers(2 * EACH);
    let children: Vec<Child> = (0..2 * EACH)
        .map(|n| {
            let queue = &queue;
            Child::new(move || {
                loop {
                    let start = Instant::now();
                    if n < EACH {
                        queue.put(7).unwrap();
                    } else {
                        queue.get().unwrap();
                    }
                    longest[n].fetch_max(start.elapsed().as_micros() as u64, SeqCst);
                    steps[n].fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let read = |words: &[AtomicU64]| words.iter().map(|word| word.load(SeqCst)).collect::<Vec<_>>();
    let all_get_some = || {
        let steps = read(steps);
        let average = steps.iter().sum::<u64>() / steps.len() as u64;
        steps.iter().all(|&count| count > average / 20)
    };
    std::thread::sleep(Duration::from_secs(3));
    // Who was kept from running by others than these comes after; who starves never does.
    wait_until(all_get_some);
    children.into_iter().for_each(Child::kill);
    eprintln!("steps of each: {:?}, longest waits (us): {:?}", read(steps), read(longest));
}

/// Consumers asleep, some of them killed: each item that is put then reaches one that lives.
fn killed_sleepers() {
    let queue = Queue::<u64>::unbounded().unwrap();
    let results = Queue::<u64>::unbounded().unwrap();
    for round in 0..20 {
        let consumer = || {
            let child = Child::new(|| {
                results.put(queue.get_timeout(HANG).unwrap()).unwrap();
            });
            child.await_sleep();
            child
        };
        let mut children: Vec<Child> = (0..4).map(|_| consumer()).collect();
        children.swap_remove(round % 4).kill();
        children.swap_remove(round % 3).kill();
        let start = Instant::now();
        queue.put(1).unwrap();
        queue.put(2).unwrap();
        assert_eq!(results.get_timeout(HANG).unwrap() + results.get_timeout(HANG).unwrap(), 3);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        children.into_iter().for_each(Child::succeed);
    }
}

/// One that is stopped while it sleeps gets in nobody's way.
fn a_stopped_consumer() {
    let queue = Queue::<u64>::bounded(2).unwrap();
    let child = Child::new(|| _ = queue.get());
    child.await_sleep();
    child.signal(libc::SIGSTOP);
    for number in 0..1000 {
        queue.put(number).unwrap();
        assert_eq!(queue.get_timeout(HANG).unwrap(), number);
    }
}

fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn a_sleeper_uses_no_time() {
    let queue = Queue::<u64>::unbounded().unwrap();
    let before = cpu_time();
    assert!(matches!(queue.get_timeout(Duration::from_secs(2)), Err(Error::TimedOut)));
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(100), "{used:?} in two seconds");
}

fn join_after_a_kill() {
    let queue = JoinableQueue::<u64>::unbounded().unwrap();
    queue.put_many(0..10).unwrap();
    let got = numbers(1);
    let worker = Child::new(|| {
        loop {
            let number = queue.get().unwrap();
            if number == 5 {
                got[0].store(1, SeqCst);
                std::thread::sleep(HANG);
            }
            queue.task_done().unwrap();
        }
    });
    wait_until(|| got[0].load(SeqCst) == 1);
    worker.kill();
    assert_eq!((queue.len(), queue.unfinished()), (4, 5));
    let other = Child::new(|| {
        for _ in 0..4 {
            queue.get().unwrap();
            queue.task_done().unwrap();
        }
    });
    other.succeed();
    assert!(matches!(queue.join_timeout(Duration::from_millis(20)), Err(Error::TimedOut)));
    let joins = Child::new(|| queue.join().unwrap());
    joins.await_sleep();
    queue.task_done().unwrap();
    joins.succeed();
    assert!(matches!(queue.task_done(), Err(Error::TooManyDone)));
}

/// Whoever polls learns of each item, whatever happens to those who put and get.
fn readiness_storm() {
    const KILLS: u64 = 300;
    let queue = Queue::<u64>::unbounded().unwrap();
    let _ = queue.as_fd();
    let polled = numbers(2);
    let poller = Child::new(|| {
        loop {
            assert!(wait_readable(queue.as_fd(), Deadline::after(HANG)).unwrap(), "nothing came");
            polled[0].fetch_add(1, SeqCst);
            if queue.try_get().is_ok() {
                polled[1].fetch_add(1, SeqCst);
            }
        }
    });
    let mut random = Random::new(0x1234_9876);
    for _ in 0..KILLS {
        let producer = Child::new(|| {
            loop {
                queue.put(1).unwrap();
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let consumer = Child::new(|| {
            loop {
                queue.get().unwrap();
            }
        });
        std::thread::sleep(Duration::from_micros(random.below(2500)));
        producer.kill();
        std::thread::sleep(Duration::from_micros(random.below(500)));
        consumer.kill();
        // What is left is for the poller.
        wait_until(|| queue.is_empty());
    }
    eprintln!("{} times ready, {} items", polled[0].load(SeqCst), polled[1].load(SeqCst));
    // In the end it is not told of what is not there.
    poller.kill();
    assert!(queue.is_empty());
    assert!(!wait_readable(queue.as_fd(), Deadline::after(Duration::from_millis(5))).unwrap());
}

/// How much shared memory this process has mapped and touched.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn memory_goes_back() {
    let queue = Queue::<Vec<u8>>::unbounded().unwrap();
    let before = resident();
    let producer = Child::new(|| {
        for number in 0..2000 {
            queue.put(vec![number as u8; 50_000]).unwrap();
        }
    });
    producer.succeed();
    for number in 0..1000 {
        assert_eq!(queue.get().unwrap(), vec![number as u8; 50_000]);
    }
    for number in 1000..2000 {
        assert_eq!(queue.get().unwrap(), vec![number as u8; 50_000]);
    }
    let after = resident();
    assert!(after < before + (4 << 20), "{} KiB are left of 100 MB", (after - before) >> 10);
}

/// A process that writes anything over the words and records: others err at worst, and in time.
fn scribbling() {
    use mp_core::{Decoder, Segment, encode};
    let queue = Queue::<Vec<u8>>::bounded(1000).unwrap();
    let (bytes, mut fds) = encode(&queue).unwrap().into_parts();
    assert_eq!((bytes.len(), fds.len()), (12, 3));
    let _: [u32; 3] = Decoder::new(&bytes, Vec::new()).get().unwrap();
    let segment = Segment::open(fds.remove(0), 0x4D50_5101).unwrap();
    let scribbler = Child::new(|| {
        // The lines of both sides, the table, and the first records; but not what says whose it is.
        let words = segment.slice_at::<AtomicU64>(128, (4096 + 8192 - 128) / 8).unwrap();
        let mut random = Random::new(0x5DEE_CE66);
        loop {
            let index = match random.below(3) {
                0 => random.below(40),
                1 => random.below(180),
                _ => random.below(words.len() as u64),
            };
            let word = &words[index as usize];
            match random.below(6) {
                0 => word.store(0, SeqCst),
                1 => word.store(u64::MAX, SeqCst),
                2 => word.store(random.below(u64::MAX), SeqCst),
                3 => _ = word.fetch_add(1 << random.below(64), SeqCst),
                4 => _ = word.fetch_xor(1 << random.below(64), SeqCst),
                _ => word.store(1 << 63 | random.below(1 << 20), SeqCst),
            }
            std::thread::sleep(Duration::from_micros(random.below(60)));
        }
    });
    let worker = || {
        Child::new(|| {
            let soon = Duration::from_millis(1);
            loop {
                let _ = queue.put_timeout(vec![1; 100], soon);
                let _ = queue.get_timeout(soon);
                let _ = queue.put_many_timeout((0..10).map(|n| vec![n; 10]), soon);
                let _ = queue.get_many_timeout(10, soon);
                let _ = (queue.len(), queue.is_full());
            }
        })
    };
    let workers = [worker(), worker()];
    let start = Instant::now();
    let mut counts = [0, 0];
    while start.elapsed() < Duration::from_secs(5) {
        let call = Instant::now();
        let soon = Duration::from_millis(1);
        counts[usize::from(queue.put_timeout(vec![2; 50], soon).is_ok())] += 1;
        let _ = queue.get_timeout(soon);
        let _ = queue.try_get();
        assert!(call.elapsed() < HANG / 2, "{:?}", call.elapsed());
    }
    scribbler.kill();
    // None of them panicked or crashed.
    workers.into_iter().for_each(Child::kill);
    eprintln!("{} puts failed, {} succeeded", counts[0], counts[1]);
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// One user can have no more descriptors under way than a process can have open, root as many as it likes: unix(7).
fn orphans() {
    use mp_core::sys::{fd, socket};
    Child::new(|| {
        const NOBODY: u32 = 65534;
        // Who is not root stays who it is.
        // SAFETY: takes a number only.
        let _ = unsafe { libc::setgid(NOBODY) };
        // SAFETY: takes a number only.
        let _ = unsafe { libc::setuid(NOBODY) };
        limit(libc::RLIMIT_NOFILE, 64);
        let queue = Queue::<Fd>::unbounded().unwrap();
        let near = mp_core::encode(&queue).unwrap().into_parts().1.remove(1);
        let null = fd::null().unwrap();
        // As one left them that was killed before its item was put.
        let orphans = || {
            let parcel = [std::os::fd::AsRawFd::as_raw_fd(&null); 40];
            let send =
                || socket::send(near.as_fd(), &[std::io::IoSlice::new(&[0; 16])], &parcel, true);
            let refused = (0..100).find_map(|_| send().err()).unwrap();
            assert_eq!(refused.raw_os_error(), Some(libc::ETOOMANYREFS));
        };
        let item = || Fd::from(null.try_clone().unwrap());
        for _ in 0..3 {
            orphans();
            queue.put_timeout(item(), Duration::from_secs(3)).unwrap();
            queue.get_timeout(HANG).unwrap();
            orphans();
            queue.try_put(item()).unwrap();
            queue.get_timeout(HANG).unwrap();
        }
    })
    .succeed();
}

/// Beyond the limit the kernel sends a signal that kills: setrlimit(2).
fn limited_files() {
    for (bytes, fits) in [(1 << 34, true), (1 << 30, true), (32 << 20, true), (1 << 20, false)] {
        Child::new(|| {
            limit(libc::RLIMIT_FSIZE, bytes);
            let made = Queue::<Vec<u8>>::bounded(4);
            assert_eq!(made.is_ok(), fits, "{bytes}");
            let Ok(queue) = made else { return };
            for _ in 0..3 {
                queue.put(vec![7; 3 << 20]).unwrap();
                assert_eq!(queue.get().unwrap(), vec![7; 3 << 20]);
            }
        })
        .succeed();
    }
}
