//! How many items a second go through a queue, beside bare rings in shared memory and beside CPython.
//!
//! `cargo bench -p mp-queue --bench queue`, or with parts of the tables' names as arguments. All rows of a
//! table run in turn, several times; each row is the median. Producers and consumers are forked and wait at
//! a gate; time runs until the last has ended. Compare rows of one run only. Without the `--bench` that
//! cargo gives, as from `cargo test --all-targets`, it only shows that everything runs.
//!
//! The bare rings are the mechanism alone, without serialisation, growth, handles or safety: a ring of slots
//! with a sequence number each, which processes claim by compare-and-swap. One kind yields while it has to
//! wait, the other sleeps on a futex, and wakes for each item. A process that is killed leaves them stuck.
#![expect(unsafe_code, reason = "bare rings to compare with, fork")]

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mp_core::sys::process::{self, Forked};
use mp_core::sys::{clock::monotonic_nanos, futex};
use mp_core::{Deadline, Segment};
use mp_queue::Queue;

/// How often each row runs, and for about how many items.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    items: u64,
}

fn effort() -> Effort {
    if std::env::args().any(|arg| arg == "--bench") {
        Effort { rounds: 7, items: 2_000_000 }
    } else {
        Effort { rounds: 1, items: 1600 }
    }
}

/// One row: how to put so many items, and how to get so many.
struct Row {
    name: &'static str,
    /// Of how many of the usual number of items it is worth waiting for the end.
    share: u64,
    put: Box<dyn Fn(u64)>,
    get: Box<dyn Fn(u64)>,
    /// For whoever looks between rounds: nothing may be left.
    len: Box<dyn Fn() -> usize>,
}

trait Item: serde::Serialize + serde::de::DeserializeOwned + 'static {
    const BYTES: usize;
    fn make(number: u64) -> Self;
}

impl Item for u64 {
    const BYTES: usize = 8;
    fn make(number: u64) -> Self {
        number
    }
}

impl Item for Vec<u8> {
    const BYTES: usize = 1024;
    fn make(number: u64) -> Self {
        vec![number as u8; 1024]
    }
}

fn ours<T: Item>(name: &'static str, queue: Queue<T>) -> Row {
    let (put, get) = (queue.clone(), queue.clone());
    Row {
        name,
        share: 1,
        put: Box::new(move |count| {
            for number in 0..count {
                put.put(T::make(number)).unwrap();
            }
        }),
        get: Box::new(move |count| {
            for _ in 0..count {
                black_box(get.get().unwrap());
            }
        }),
        len: Box::new(move || queue.len()),
    }
}

fn ours_many<T: Item>(name: &'static str, queue: Queue<T>) -> Row {
    const MANY: u64 = 100;
    let (put, get) = (queue.clone(), queue.clone());
    Row {
        name,
        share: 1,
        put: Box::new(move |count| {
            for start in (0..count).step_by(MANY as usize) {
                put.put_many((start..count.min(start + MANY)).map(T::make)).unwrap();
            }
        }),
        get: Box::new(move |count| {
            let mut left = count;
            while left > 0 {
                left -= black_box(get.get_many(left.min(MANY) as usize).unwrap()).len() as u64;
            }
        }),
        len: Box::new(move || queue.len()),
    }
}

/// A bare ring: positions to put and to get, and slots of a sequence number and bytes.
struct Ring {
    segment: &'static Segment,
    bytes: usize,
    /// Whether it sleeps and wakes, or yields.
    sleeps: bool,
}

impl Ring {
    const SLOTS: u64 = 1024;

    fn new(bytes: usize, sleeps: bool) -> &'static Self {
        let size = 4096 + Self::SLOTS as usize * (8 + bytes);
        let segment: &'static Segment =
            Box::leak(Box::new(Segment::create("bench", 0, size).unwrap()));
        let ring = Self { segment, bytes, sleeps };
        for index in 0..Self::SLOTS {
            ring.sequence(index).store(index, Ordering::Relaxed);
        }
        Box::leak(Box::new(ring))
    }

    fn position(&self, getting: bool) -> &AtomicU64 {
        self.segment.at(if getting { 256 } else { 128 }).unwrap()
    }

    fn event(&self, getting: bool) -> &AtomicU32 {
        self.segment.at(if getting { 512 } else { 384 }).unwrap()
    }

    fn sequence(&self, position: u64) -> &AtomicU64 {
        let index = (position % Self::SLOTS) as usize;
        self.segment.at(4096 + index * (8 + self.bytes)).unwrap()
    }

    fn payload(&self, position: u64) -> NonNull<u8> {
        let index = (position % Self::SLOTS) as usize;
        self.segment.address(4096 + index * (8 + self.bytes) + 8, self.bytes).unwrap()
    }

    /// Claims a slot whose sequence number is `ahead` of its position, uses it, and sets the number to
    /// `after` more than the position.
    fn step(&self, getting: bool, ahead: u64, after: u64, using: impl Fn(NonNull<u8>)) {
        let position = self.position(getting);
        loop {
            let event = self.event(getting).load(Ordering::SeqCst);
            let at = position.load(Ordering::Relaxed);
            let sequence = self.sequence(at).load(Ordering::Acquire);
            if sequence == at + ahead {
                if position
                    .compare_exchange_weak(at, at + 1, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
                {
                    using(self.payload(at));
                    self.sequence(at).store(at + after, Ordering::Release);
                    if self.sleeps {
                        let other = self.event(!getting);
                        other.fetch_add(1, Ordering::SeqCst);
                        futex::wake(other, 1);
                    }
                    return;
                }
            } else if sequence < at + ahead {
                if self.sleeps {
                    let soon = Deadline::after(Duration::from_millis(1));
                    let _ = futex::wait(self.event(getting), event, soon);
                } else {
                    std::thread::yield_now();
                }
            }
        }
    }

    fn put(&self, item: &[u8]) {
        self.step(false, 0, 1, |to| {
            // SAFETY: the slot has room for so many bytes, and is this process's for now.
            unsafe { to.as_ptr().copy_from_nonoverlapping(item.as_ptr(), item.len()) };
        });
    }

    fn get(&self, item: &mut [u8]) {
        let item = std::cell::RefCell::new(item);
        self.step(true, 1, Self::SLOTS, |from| {
            let mut item = item.borrow_mut();
            let len = item.len();
            // SAFETY: the slot has so many bytes, and is this process's for now.
            unsafe { item.as_mut_ptr().copy_from_nonoverlapping(from.as_ptr(), len) };
        });
    }

    fn row(&'static self, name: &'static str) -> Row {
        Row {
            name,
            share: if self.sleeps { 4 } else { 1 },
            put: Box::new(|count| {
                let item = vec![7; self.bytes];
                for _ in 0..count {
                    self.put(black_box(&item));
                }
            }),
            get: Box::new(|count| {
                let mut item = vec![0; self.bytes];
                for _ in 0..count {
                    self.get(black_box(&mut item));
                }
            }),
            len: Box::new(|| 0),
        }
    }
}

/// What `case` gives in CPython, in nanoseconds an item: the median of three runs of `benches/python.py`, or
/// nothing where there is no python3.
fn python(case: &str, items: u64) -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/python.py");
    let run = || {
        let output = std::process::Command::new("python3")
            .args([script, case, &items.to_string()])
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<f64>().ok()
    };
    let mut runs = [run()?, run()?, run()?];
    runs.sort_by(f64::total_cmp);
    Some(runs[1])
}

fn python_row(case: &str) {
    let items = if effort().rounds > 1 { 40_000 } else { 800 };
    match python(case, items) {
        Some(nanos) => println!("  {:<34} {:>9.3}", "CPython, Queue", 1e3 / nanos),
        None => println!("  CPython: no python3, or no script beside it"),
    }
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |table: &str| wanted.is_empty() || wanted.iter().any(|w| table.contains(&**w));
    let shapes = [(1, 1), (4, 1), (4, 4), (8, 8)];
    for (producers, consumers) in shapes {
        let table = format!("queue_{producers}p{consumers}c_8B");
        if is_wanted(&table) {
            run_table::<u64>(&table, producers, consumers);
        }
    }
    for (producers, consumers) in shapes {
        let table = format!("queue_{producers}p{consumers}c_1KiB");
        if is_wanted(&table) {
            run_table::<Vec<u8>>(&table, producers, consumers);
        }
    }
}

fn run_table<T: Item>(table: &str, producers: u64, consumers: u64) {
    let rows = [
        ours::<T>("Queue, unbounded", Queue::unbounded().unwrap()),
        ours::<T>("Queue, bounded to 1024", Queue::bounded(1024).unwrap()),
        ours_many::<T>("Queue, put_many and get_many", Queue::unbounded().unwrap()),
        Ring::new(T::BYTES, false).row("raw ring of 1024, yielding"),
        Ring::new(T::BYTES, true).row("raw ring of 1024, futex"),
    ];
    let effort = effort();
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    for _ in 0..effort.rounds {
        for (row, results) in rows.iter().zip(&mut results) {
            let size = if T::BYTES > 100 { 4 } else { 1 };
            let unit = producers * consumers;
            let items = (effort.items / row.share / size).next_multiple_of(unit);
            let time = together(row, producers, consumers, items);
            assert_eq!((row.len)(), 0, "{}: items are left", row.name);
            results.push(items as f64 / time.as_nanos() as f64 * 1e3);
        }
    }
    println!("{table:<36} {:>9} {:>9} {:>9}  M/s", "median", "least", "most");
    for (row, results) in rows.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let (least, most) = (results[0], results[effort.rounds - 1]);
        println!("  {:<34} {:>9.3} {least:>9.3} {most:>9.3}", row.name, results[effort.rounds / 2]);
    }
    python_row(table);
    println!();
}

fn together(row: &Row, producers: u64, consumers: u64, items: u64) -> Duration {
    let segment = Segment::create("bench", 0, 4096).unwrap();
    let word = |offset: usize| segment.at::<AtomicU64>(offset).unwrap();
    // The end is what the last to get writes: a process that goes takes its time.
    let (gate, ready, end) = (word(64), word(128), word(192));
    let children: Vec<u32> = (0..producers + consumers)
        .map(|number| {
            // SAFETY: this program has one thread, and the child ends below.
            match unsafe { process::fork() }.unwrap() {
                Forked::Parent(pid) => pid,
                Forked::Child => {
                    ready.fetch_add(1, Ordering::SeqCst);
                    while gate.load(Ordering::SeqCst) == 0 {
                        std::thread::yield_now();
                    }
                    if number < producers {
                        (row.put)(items / producers);
                    } else {
                        (row.get)(items / consumers);
                        end.fetch_max(monotonic_nanos(), Ordering::SeqCst);
                    }
                    process::exit_now(0);
                }
            }
        })
        .collect();
    while ready.load(Ordering::SeqCst) != producers + consumers {
        std::thread::yield_now();
    }
    let began = monotonic_nanos();
    gate.store(1, Ordering::SeqCst);
    for pid in children {
        let mut status = 0;
        // SAFETY: a child of ours, and a status of ours.
        unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
        assert_eq!(status, 0, "{} failed", row.name);
    }
    Duration::from_nanos(end.load(Ordering::SeqCst) - began)
}
