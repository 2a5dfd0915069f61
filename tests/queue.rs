//! Queues between processes started by each method.
#![expect(unsafe_code, reason = "a limit on memory")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::Deadline;
use multiprocess::core::sys::fd::wait_readable;
use multiprocess::queue::{Builder, Error};
use multiprocess::{
    Array, Child, Event, Fd, JoinableQueue, Lock, Process, Queue, RawArray, SharedMemory, Value,
};
use serde::{Deserialize, Serialize};

use crate::support::{HANG, Outcome, eventually, may_open};

crate::cases! {
    EACH:
        a_child_puts_and_its_parent_gets_until_the_queue_is_empty
        put_get_full_empty_and_length_are_exact_between_processes
        a_full_queue_blocks_until_a_process_gets
        timeouts_bound_the_whole_call_and_are_not_empty_or_full
        items_of_every_size_come_whole
        handles_travel_in_items
        a_queue_travels_in_its_own_items_and_in_others
        four_producers_and_four_consumers_lose_nothing
        close_ends_those_who_wait_and_lets_what_is_left_be_got
        what_cannot_be_encoded_or_decoded_is_an_error_of_its_own
        join_waits_until_all_is_done
        a_killed_producer_leaves_what_it_had_put
        a_killed_consumer_leaves_the_rest
        the_descriptor_is_readable_while_there_is_something
        a_handle_that_memory_is_short_for_says_so
        a_process_ends_without_waiting_for_its_items_to_be_read
    ;
    THREADED:
        threads_of_several_processes_share_a_queue
    ;
    ONCE:
        a_thousand_queues_leave_nothing_behind
    ;
}

const SOON: Duration = Duration::from_millis(30);

fn a_child_puts_and_its_parent_gets_until_the_queue_is_empty() -> Outcome {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Data {
        Text(String),
        Object { name: String, ages: BTreeMap<String, u32> },
    }
    let write = |q: Queue<Data>| {
        q.put(Data::Text("hello".to_string())).expect("puts");
        let ages = BTreeMap::from([("yuan".to_string(), 12)]);
        q.put(Data::Object { name: "alex".to_string(), ages }).expect("puts");
    };
    let q = Queue::unbounded()?;
    Process::new(write, (q.clone(),)).start()?.result()?;
    let mut got = Vec::new();
    while !q.is_empty() {
        got.push(q.get()?);
    }
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], Data::Text("hello".to_string()));
    assert!(matches!(&got[1], Data::Object { ages, .. } if ages["yuan"] == 12));
    Ok(())
}

fn put_get_full_empty_and_length_are_exact_between_processes() -> Outcome {
    let look = |q: Queue<String>| {
        let refused = q.try_put("fourth".to_string()).expect_err("full");
        assert!(matches!(refused.reason, Error::Full) && refused.value == "fourth");
        (q.len(), q.is_full(), q.is_empty(), q.capacity())
    };
    let q = Queue::bounded(3)?;
    assert!(q.is_empty() && matches!(q.try_get(), Err(Error::Empty)));
    for text in ["first", "second", "third"] {
        assert!(!q.is_full());
        q.put(text.to_string())?;
    }
    let seen = Process::new(look, (q.clone(),)).start()?.result()?;
    assert_eq!(seen, (3, true, false, Some(3)));
    let get = |q: Queue<String>| q.get().expect("gets");
    assert_eq!(Process::new(get, (q.clone(),)).start()?.result()?, "first");
    assert_eq!((q.len(), q.is_full()), (2, false));
    assert_eq!(q.get_many(10)?, ["second", "third"]);
    assert!(q.is_empty());
    assert!(matches!(Queue::<u8>::bounded(0), Err(Error::BadCapacity)));
    Ok(())
}

fn a_full_queue_blocks_until_a_process_gets() -> Outcome {
    let q = Queue::bounded(1)?;
    q.put(1)?;
    let put = |q: Queue<i32>| q.put_timeout(2, HANG).is_ok();
    let child = Process::new(put, (q.clone(),)).start()?;
    assert!(child.join_timeout(SOON)?.is_none(), "it waits for room");
    assert_eq!((q.get()?, q.get_timeout(HANG)?), (1, 2));
    assert!(child.result()?);
    let sum = |q: Queue<i32>| (0..100).map(|_| q.get().expect("gets")).sum::<i32>();
    let child = Process::new(sum, (q.clone(),)).start()?;
    assert_eq!(q.put_many(0..100)?, 100);
    assert_eq!(child.result()?, 4950);
    Ok(())
}

fn timeouts_bound_the_whole_call_and_are_not_empty_or_full() -> Outcome {
    let wait = |q: Queue<i32>| {
        let start = Instant::now();
        assert!(matches!(q.get_timeout(SOON), Err(Error::TimedOut)));
        q.put(1).expect("puts");
        let refused = q.put_timeout(2, SOON).expect_err("full");
        assert!(matches!(refused.reason, Error::TimedOut) && refused.value == 2);
        let refused = q.put_many_timeout([3, 4], SOON).expect_err("full");
        assert!(refused.put == 0 && refused.values[0] == 3);
        // What is there is had after any time.
        assert_eq!(q.get_timeout(Duration::ZERO).expect("gets"), 1);
        assert!(q.put_timeout(5, Duration::ZERO).is_ok());
        assert_eq!(q.get_timeout(Duration::MAX).expect("gets"), 5);
        start.elapsed() >= 3 * SOON
    };
    let q = Queue::bounded(1)?;
    assert!(Process::new(wait, (q,)).start()?.result()?);
    Ok(())
}

fn items_of_every_size_come_whole() -> Outcome {
    let sizes = [0, 1, 7, 8, 9, 100, 4096, 65_536, 1 << 20, 20 << 20];
    let echo = |from: Queue<Vec<u8>>, to: Queue<Vec<u8>>| {
        for item in from {
            to.put(item.expect("gets")).expect("puts");
        }
    };
    let (there, back) = (Queue::unbounded()?, Queue::unbounded()?);
    let child = Process::new(echo, (there.clone(), back.clone())).start()?;
    for size in sizes {
        there.put(vec![size as u8 ^ 0x5A; size])?;
    }
    there.close();
    for size in sizes {
        assert!(back.get()? == vec![size as u8 ^ 0x5A; size], "{size} bytes");
    }
    assert!(child.join()?.success());
    // A limit in bytes holds for one item too.
    let small = Builder::new().max_bytes(1000).queue()?;
    let refused = small.put(vec![1_u8; 1000]).expect_err("too large");
    assert!(matches!(refused.reason, Error::TooLarge { .. }) && refused.value.len() == 1000);
    small.put(vec![1_u8; 900])?;
    assert!(matches!(small.try_put(vec![1; 100]).unwrap_err().reason, Error::Full));
    Ok(())
}

fn handles_travel_in_items() -> Outcome {
    if !may_open(1024) {
        return Ok(());
    }
    type Item = (String, Option<Fd>, Option<(Event, Lock, Value<i32>)>);
    let work = |q: Queue<Item>, done: Queue<usize>| {
        let (text, file, none) = q.get().expect("gets");
        assert!(none.is_none());
        File::from(file.expect("a file")).write_all(text.as_bytes()).expect("writes");
        let (_, none, shared) = q.get().expect("gets");
        let (event, lock, value) = shared.expect("shared");
        let guard = lock.lock().expect("locks");
        value.set(42);
        drop(guard);
        event.set();
        done.put(usize::from(none.is_none())).expect("puts");
        // Many at a time, more than a packet holds.
        let mut texts = 0;
        while let Ok((_, Some(_), None)) = q.get() {
            texts += 1;
        }
        done.put(texts).expect("puts");
    };
    let (q, done) = (Queue::unbounded()?, Queue::unbounded()?);
    let child = Process::new(work, (q.clone(), done.clone())).start()?;
    let (mut reader, writer) = io::pipe()?;
    q.put(("through a queue".to_string(), Some(Fd::from(writer)), None))?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(text, "through a queue");
    let (event, value) = (Event::new()?, Value::new(0)?);
    q.put((String::new(), None, Some((event.clone(), Lock::new()?, value.clone()))))?;
    assert!(event.wait_timeout(HANG)?);
    assert_eq!((value.get(), done.get()?), (42, 1));
    // More than can be under way: the rest waits for the first to be got.
    for _ in 0..500 {
        q.put((String::new(), Some(Fd::from(File::open("/dev/null")?)), None))?;
    }
    q.put((String::new(), None, None))?;
    assert_eq!(done.get_timeout(HANG)?, 500);
    child.join()?;
    let many = Queue::unbounded()?;
    let fds: Result<Vec<Fd>, _> = (0..300).map(|_| File::open("/dev/null").map(Fd::from)).collect();
    many.put(fds?)?;
    let count = |q: Queue<Vec<Fd>>| q.get().expect("gets").len();
    assert_eq!(Process::new(count, (many,)).start()?.result()?, 300);
    Ok(())
}

#[derive(Clone, Serialize, Deserialize)]
struct Mail {
    text: String,
    reply_to: Option<Queue<Mail>>,
}

fn a_queue_travels_in_its_own_items_and_in_others() -> Outcome {
    let answer = |inbox: Queue<Mail>| {
        for mail in inbox {
            let mail = mail.expect("gets");
            let text = format!("re: {}", mail.text);
            let reply_to = mail.reply_to.expect("an address");
            reply_to.put(Mail { text, reply_to: None }).expect("puts");
        }
    };
    let inbox = Queue::unbounded()?;
    let child = Process::new(answer, (inbox.clone(),)).start()?;
    let replies = Queue::unbounded()?;
    inbox.put(Mail { text: "hello".to_string(), reply_to: Some(replies.clone()) })?;
    assert_eq!(replies.get_timeout(HANG)?.text, "re: hello");
    // In its own item, over and over; and left in it, it goes all the same.
    for _ in 0..50 {
        replies.put(Mail { text: "self".to_string(), reply_to: Some(replies.clone()) })?;
        let back = replies.get()?.reply_to.ok_or("no queue")?;
        back.put(Mail { text: "again".to_string(), reply_to: None })?;
        assert_eq!(replies.get()?.text, "again");
    }
    replies.put(Mail { text: "left".to_string(), reply_to: Some(replies.clone()) })?;
    inbox.close();
    assert!(child.join()?.success());
    Ok(())
}

fn four_producers_and_four_consumers_lose_nothing() -> Outcome {
    const EACH: u64 = 5000;
    let produce = |q: Queue<u64>, start: u64| {
        for number in start..start + EACH {
            q.put(number).expect("puts");
        }
    };
    let consume = |q: Queue<u64>| {
        let items: Vec<u64> = q.iter().map(|item| item.expect("gets")).collect();
        (items.len() as u64, items.iter().sum::<u64>())
    };
    let q = Queue::bounded(100)?;
    let consumers: Result<Vec<_>, _> =
        (0..4).map(|_| Process::new(consume, (q.clone(),)).start()).collect();
    let producers: Result<Vec<_>, _> =
        (0..4).map(|n| Process::new(produce, (q.clone(), n * EACH)).start()).collect();
    for producer in producers? {
        assert!(producer.join()?.success());
    }
    q.close();
    let mut total = (0, 0);
    for consumer in consumers? {
        let (count, sum) = consumer.result()?;
        total = (total.0 + count, total.1 + sum);
    }
    assert_eq!(total, (4 * EACH, (0..4 * EACH).sum()));
    Ok(())
}

fn close_ends_those_who_wait_and_lets_what_is_left_be_got() -> Outcome {
    let wait = |empty: Queue<i32>| matches!(empty.get(), Err(Error::Closed));
    let put = |full: Queue<i32>| {
        let refused = full.put(2).expect_err("closed");
        matches!(refused.reason, Error::Closed) && refused.value == 2
    };
    let (empty, full) = (Queue::unbounded()?, Queue::bounded(1)?);
    full.put(1)?;
    let gets = Process::new(wait, (empty.clone(),)).start()?;
    let puts = Process::new(put, (full.clone(),)).start()?;
    thread::sleep(SOON);
    let close = |one: Queue<i32>, other: Queue<i32>| {
        one.close();
        other.close();
    };
    Process::new(close, (empty.clone(), full.clone())).start()?.result()?;
    assert!(gets.result()? && puts.result()?);
    assert!(full.is_closed() && matches!(full.try_put(3).unwrap_err().reason, Error::Closed));
    assert_eq!(full.get()?, 1);
    assert!(matches!(full.get(), Err(Error::Closed)));
    assert!(matches!(full.try_get(), Err(Error::Closed)));
    assert_eq!(full.iter().count(), 0);
    Ok(())
}

#[derive(Debug, Serialize, Deserialize)]
struct Picky {
    #[serde(serialize_with = "refuse_odd")]
    number: u32,
}

fn refuse_odd<S: serde::Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    if number % 2 == 1 {
        return Err(serde::ser::Error::custom("odd"));
    }
    serializer.serialize_u32(*number)
}

fn what_cannot_be_encoded_or_decoded_is_an_error_of_its_own() -> Outcome {
    let put = |q: Queue<Picky>| {
        let refused = q.put(Picky { number: 7 }).expect_err("odd");
        assert!(matches!(refused.reason, Error::Encode(_)) && refused.value.number == 7);
        let row = [2, 4, 5, 6].map(|number| Picky { number });
        let refused = q.put_many(row).expect_err("one is odd");
        (refused.put, refused.values[0].number)
    };
    let q = Queue::unbounded()?;
    assert_eq!(Process::new(put, (q.clone(),)).start()?.result()?, (2, 5));
    assert_eq!((q.get()?.number, q.get()?.number, q.is_empty()), (2, 4, true));

    let texts = Queue::<String>::unbounded()?;
    let numbers: Queue<u64> = multiprocess::core::decode(multiprocess::core::encode(&texts)?)?;
    numbers.put(u64::MAX)?;
    texts.put("fine".to_string())?;
    numbers.put(u64::MAX)?;
    texts.put("too".to_string())?;
    assert!(matches!(texts.get(), Err(Error::Decode(_))));
    let mixed = texts.get_many(10).expect_err("one is no text");
    assert!(matches!(mixed.reason, Error::Decode(_)));
    assert_eq!(mixed.values, ["fine", "too"]);
    assert!(texts.is_empty());
    Ok(())
}

fn join_waits_until_all_is_done() -> Outcome {
    let work = |q: JoinableQueue<u32>, sum: Value<u32>| {
        for item in &q {
            let item = item.expect("gets");
            sum.update(|sum| *sum += item);
            q.task_done().expect("one is unfinished");
        }
    };
    let (q, sum) = (JoinableQueue::unbounded()?, Value::new(0)?);
    assert!(matches!(q.task_done(), Err(Error::TooManyDone)));
    q.join()?;
    q.put_many(1..=100)?;
    assert!(matches!(q.join_timeout(SOON), Err(Error::TimedOut)));
    let start = || Process::new(work, (q.clone(), sum.clone())).start();
    let children = [start()?, start()?];
    q.join_timeout(HANG)?;
    assert_eq!((sum.get(), q.unfinished(), q.len()), (5050, 0, 0));
    q.close();
    for child in children {
        assert!(child.join()?.success());
    }
    Ok(())
}

fn kill<R>(child: &Child<R>) -> Outcome {
    child.kill()?;
    child.join()?;
    Ok(())
}

fn a_killed_producer_leaves_what_it_had_put() -> Outcome {
    let produce = |q: Queue<u64>, known: Value<u64>| {
        for number in 0.. {
            q.put(number).expect("puts");
            known.set(number + 1);
        }
    };
    for _ in 0..5 {
        let (q, known) = (Queue::bounded(1000)?, Value::new(0_u64)?);
        let child = Process::new(produce, (q.clone(), known.clone())).start()?;
        eventually("it has put some", || known.get() > 20)?;
        kill(&child)?;
        let (mut count, known) = (0, known.get());
        while !q.is_empty() {
            assert_eq!(q.get_timeout(HANG)?, count);
            count += 1;
        }
        assert!(count == known || count == known + 1, "{known} were put, {count} came");
        q.put(7)?;
        assert_eq!(q.get()?, 7);
    }
    Ok(())
}

fn a_killed_consumer_leaves_the_rest() -> Outcome {
    let consume = |q: Queue<u64>, known: Value<u64>| {
        for item in q {
            known.set(item.expect("gets") + 1);
        }
    };
    for _ in 0..5 {
        let (q, known) = (Queue::unbounded()?, Value::new(0_u64)?);
        q.put_many(0..50_000)?;
        let child = Process::new(consume, (q.clone(), known.clone())).start()?;
        eventually("it has got some", || known.get() > 20)?;
        kill(&child)?;
        let known = known.get();
        let Some(first) = (!q.is_empty()).then(|| q.get()).transpose()? else { continue };
        assert!(first == known || first == known + 1, "{known} were got, then comes {first}");
        for number in first + 1..50_000 {
            assert_eq!(q.get()?, number);
        }
        assert!(q.is_empty());
    }
    Ok(())
}

fn the_descriptor_is_readable_while_there_is_something() -> Outcome {
    let put = |q: Queue<u8>| {
        thread::sleep(SOON);
        q.put(1).expect("puts");
    };
    let q = Queue::unbounded()?;
    let ready = |wait| wait_readable(q.as_fd(), Deadline::after(wait));
    assert!(!ready(Duration::ZERO)?);
    let child = Process::new(put, (q.clone(),)).start()?;
    assert!(ready(HANG)?);
    q.put(2)?;
    assert_eq!(q.try_get()?, 1);
    assert!(ready(HANG)?, "there is another");
    assert_eq!(q.try_get()?, 2);
    assert!(!ready(SOON)?);
    child.join()?;
    let close = |q: Queue<u8>| q.close();
    Process::new(close, (q.clone(),)).start()?.result()?;
    assert!(ready(HANG)? && matches!(q.try_get(), Err(Error::Closed)));
    Ok(())
}

fn a_handle_that_memory_is_short_for_says_so() -> Outcome {
    #[derive(Serialize, Deserialize)]
    enum Item {
        Queue(Queue<u8>),
        Array(Array<u8>),
        Raw(RawArray<u8>),
        Memory(SharedMemory),
        Number(u32),
    }
    const SIZE: usize = 64 << 20;
    let get = |q: Queue<Item>| {
        let status = std::fs::read_to_string("/proc/self/status").expect("proc");
        let line = status.lines().find(|line| line.starts_with("VmSize")).expect("a size");
        let size = line.split_ascii_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok());
        let most = size.expect("a number") * 1024 + SIZE as u64 / 4 * 3;
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the limit is a local that the call reads.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        let got = |result: Result<Item, Error>| match result {
            Ok(Item::Number(number)) => number.to_string(),
            Ok(_) => "had".to_string(),
            Err(Error::Io(error)) => format!("{:?}", error.kind()),
            Err(error) => error.to_string(),
        };
        (0..5).map(|_| got(q.try_get())).collect::<Vec<_>>()
    };
    let q = Queue::unbounded()?;
    q.put(Item::Queue(Queue::unbounded()?))?;
    q.put(Item::Array(Array::zeroed(SIZE)?))?;
    q.put(Item::Raw(RawArray::zeroed(SIZE)?))?;
    q.put(Item::Memory(SharedMemory::create(None, SIZE)?.unlink_on_drop()))?;
    q.put(Item::Number(7))?;
    let got = Process::new(get, (q.clone(),)).start()?.result()?;
    let short = format!("{:?}", io::ErrorKind::OutOfMemory);
    // An array has its lock's segment, which is that crate's to tell of.
    assert_eq!([&got[0], &got[2], &got[3]], [&short; 3], "{got:?}");
    assert_ne!(got[1], "had");
    assert_eq!(got[4], "7", "what is behind it is there");
    Ok(())
}

fn a_process_ends_without_waiting_for_its_items_to_be_read() -> Outcome {
    // In Python it would wait for its thread, and its parent, which joins before it gets, for ever.
    let put = |q: Queue<Vec<u8>>| q.put(vec![7; 10 << 20]).expect("puts");
    let q = Queue::unbounded()?;
    let child = Process::new(put, (q.clone(),)).start()?;
    assert!(child.join_timeout(HANG)?.ok_or("it waits")?.success());
    assert_eq!(q.get()?.len(), 10 << 20);
    Ok(())
}

fn threads_of_several_processes_share_a_queue() -> Outcome {
    const EACH: u64 = 1000;
    let work = |q: Queue<u64>, results: Queue<u64>| {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let sum = q.iter().map(|item| item.expect("gets")).sum::<u64>();
                    results.put(sum).expect("puts");
                });
            }
        });
    };
    let (q, results) = (Queue::bounded(10)?, Queue::unbounded()?);
    let start = || Process::new(work, (q.clone(), results.clone())).start();
    let children = [start()?, start()?];
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..EACH).for_each(|number| q.put(number).expect("puts")));
        }
    });
    q.close();
    for child in children {
        assert!(child.join()?.success());
    }
    assert_eq!(results.len(), 6);
    assert_eq!(results.get_many(6)?.iter().sum::<u64>(), 3 * EACH * (EACH - 1) / 2);
    Ok(())
}

fn a_thousand_queues_leave_nothing_behind() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    let null = || File::open("/dev/null").map(Fd::from);
    // The harness compares descriptors and mappings before and after.
    let many: Result<Vec<Queue<u8>>, _> = (0..300).map(|_| Queue::unbounded()).collect();
    for (number, queue) in many?.iter().enumerate() {
        queue.put(number as u8)?;
    }
    for _ in 0..1000 {
        let files = Queue::bounded(10)?;
        files.put(null()?)?;
        let queue = Queue::bounded(10)?;
        queue.put(Mail { text: "x".repeat(10_000), reply_to: Some(queue.clone()) })?;
    }
    Ok(())
}
