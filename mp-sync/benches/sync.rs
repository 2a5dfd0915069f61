//! What a lock, a counter under a contended lock, and a semaphore cost, beside what the C library has
//! and beside CPython.
//!
//! `cargo bench -p mp-sync --bench sync`, or with parts of the tables' names as arguments. All rows of a
//! table run in turn, several times; each row is the median. Compare rows of one run only. Without the
//! `--bench` that cargo gives, as from `cargo test --all-targets`, it only shows that everything runs.
#![expect(unsafe_code, reason = "pthread mutexes and sem_t to compare with, fork")]

use std::hint::black_box;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mp_core::sys::process::{self, Forked};
use mp_core::{Deadline, Segment};
use mp_sync::{BoundedSemaphore, Event, Lock, Mutex, RLock, RwLock, Semaphore};

const PROCESSES: u32 = 4;

/// How often each row runs, and how many steps that is alone and for each process together.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    alone: u32,
    together: u32,
}

fn effort() -> Effort {
    if std::env::args().any(|arg| arg == "--bench") {
        Effort { rounds: 11, alone: 1_000_000, together: 500_000 }
    } else {
        Effort { rounds: 1, alone: 1000, together: 1000 }
    }
}

/// One row: its name, what it does `count` times, and whether it took the lock for each.
struct Row {
    name: &'static str,
    run: Box<dyn Fn(u32)>,
}

fn row(name: &'static str, run: impl Fn(u32) + 'static) -> Row {
    Row { name, run: Box::new(run) }
}

fn times(step: impl Fn()) -> impl Fn(u32) {
    move |count| {
        for _ in 0..count {
            step();
        }
    }
}

/// An object of the C library in shared memory.
struct Foreign {
    segment: Segment,
}

impl Foreign {
    fn new(init: impl Fn(*mut u8)) -> &'static Self {
        let segment = Segment::create("bench", 0, 4096).unwrap();
        let foreign = Box::leak(Box::new(Self { segment }));
        init(foreign.address());
        foreign
    }

    fn address(&self) -> *mut u8 {
        self.segment.address(64, 64).unwrap().as_ptr()
    }

    fn mutex(robust: bool) -> &'static Self {
        Self::new(|address| {
            // SAFETY: an attribute object of zeros, which the next call sets up.
            let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
            // SAFETY: attributes is ours, here and below (pthread_mutexattr_init(3)).
            unsafe { libc::pthread_mutexattr_init(&raw mut attributes) };
            // SAFETY: as above.
            unsafe {
                libc::pthread_mutexattr_setpshared(
                    &raw mut attributes,
                    libc::PTHREAD_PROCESS_SHARED,
                )
            };
            if robust {
                // SAFETY: as above.
                unsafe {
                    libc::pthread_mutexattr_setrobust(
                        &raw mut attributes,
                        libc::PTHREAD_MUTEX_ROBUST,
                    )
                };
            }
            // SAFETY: 64 bytes of ours, aligned, hold a mutex.
            let result = unsafe { libc::pthread_mutex_init(address.cast(), &raw const attributes) };
            assert_eq!(result, 0);
        })
    }

    fn lock(&self) {
        // SAFETY: new() put a mutex there.
        unsafe { libc::pthread_mutex_lock(self.address().cast()) };
    }

    fn unlock(&self) {
        // SAFETY: as above, and this thread has it.
        unsafe { libc::pthread_mutex_unlock(self.address().cast()) };
    }

    fn semaphore() -> &'static Self {
        Self::new(|address| {
            // SAFETY: 64 bytes of ours, aligned, hold a semaphore.
            let result = unsafe { libc::sem_init(address.cast(), 1, 1) };
            assert_eq!(result, 0);
        })
    }

    fn down(&self) {
        // SAFETY: semaphore() put one there.
        unsafe { libc::sem_wait(self.address().cast()) };
    }

    fn up(&self) {
        // SAFETY: as above.
        unsafe { libc::sem_post(self.address().cast()) };
    }
}

fn shared_words() -> &'static [AtomicU64] {
    let segment = Box::leak(Box::new(Segment::create("bench", 0, 4096).unwrap()));
    segment.slice_at(64, 128).unwrap()
}

/// The least there can be: a word of 0 and 1, swapped there and back, yielding where it is taken.
fn spin_lock(word: &AtomicU64) {
    while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        std::thread::yield_now();
    }
}

fn spin_unlock(word: &AtomicU64) {
    word.store(0, Ordering::Release);
}

/// A word as in glibc's plain mutex or std's: 0, 1, or 2 with sleepers.
fn futex_lock(word: &AtomicU32) {
    if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        while word.swap(2, Ordering::Acquire) != 0 {
            let _ = mp_core::sys::futex::wait(word, 2, Deadline::NEVER);
        }
    }
}

fn futex_unlock(word: &AtomicU32) {
    if word.swap(0, Ordering::Release) == 2 {
        mp_core::sys::futex::wake(word, 1);
    }
}

/// What `case` costs in CPython, in nanoseconds a step: the median of three runs of `benches/python.py`, or
/// nothing where there is no python3.
fn python(case: &str, steps: u32) -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/python.py");
    let run = || {
        let output = std::process::Command::new("python3")
            .args([script, case, &steps.to_string()])
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<f64>().ok()
    };
    let mut runs = [run()?, run()?, run()?];
    runs.sort_by(f64::total_cmp);
    Some(runs[1])
}

fn python_row(case: &str) {
    let steps = if effort().rounds > 1 { 200_000 } else { 1000 };
    match python(case, steps) {
        Some(nanos) => println!("  {:<30} {nanos:>9.1}", "CPython"),
        None => println!("  CPython: no python3, or no script beside it"),
    }
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |table: &str| wanted.is_empty() || wanted.iter().any(|w| table.contains(&**w));
    let words = shared_words();
    let futex: &AtomicU32 = {
        let segment = Box::leak(Box::new(Segment::create("bench", 0, 4096).unwrap()));
        segment.at(64).unwrap()
    };
    let (plain, robust, sem) = (Foreign::mutex(false), Foreign::mutex(true), Foreign::semaphore());

    if is_wanted("lock_uncontended") {
        let (lock, rlock) = (Lock::new().unwrap(), RLock::new().unwrap());
        let python = lock.clone();
        let mutex = Mutex::new(0_u64).unwrap();
        let (read, write) = (RwLock::new(0_u64).unwrap(), RwLock::new(0_u64).unwrap());
        let threads = std::sync::Mutex::new(0_u64);
        alone(
            "lock_uncontended",
            vec![
                row("Lock, guard", times(move || drop(lock.lock().unwrap()))),
                row(
                    "Lock, acquire and release",
                    times(move || {
                        python.acquire().unwrap();
                        python.release().unwrap();
                    }),
                ),
                row("RLock, guard", times(move || drop(rlock.lock().unwrap()))),
                row("Mutex<u64>, += 1", times(move || *mutex.lock().unwrap() += 1)),
                row("RwLock<u64>, read", times(move || _ = black_box(*read.read().unwrap()))),
                row("RwLock<u64>, += 1", times(move || *write.write().unwrap() += 1)),
                row(
                    "pthread, shared, plain",
                    times(|| {
                        plain.lock();
                        plain.unlock();
                    }),
                ),
                row(
                    "pthread, shared, robust",
                    times(|| {
                        robust.lock();
                        robust.unlock();
                    }),
                ),
                row("std (threads only)", times(move || *threads.lock().unwrap() += 1)),
                row(
                    "raw futex word",
                    times(|| {
                        futex_lock(futex);
                        futex_unlock(futex);
                    }),
                ),
                row(
                    "raw atomic add",
                    times(|| {
                        words[0].fetch_add(1, Ordering::AcqRel);
                    }),
                ),
            ],
        );
    }
    if is_wanted("semaphore_uncontended") {
        let semaphore = Semaphore::new(1).unwrap();
        let bounded = BoundedSemaphore::new(1).unwrap();
        let guarded = Semaphore::new(1).unwrap();
        let event = Event::new().unwrap();
        alone(
            "semaphore_uncontended",
            vec![
                row(
                    "Semaphore, acquire and release",
                    times(move || {
                        semaphore.acquire().unwrap();
                        semaphore.release().unwrap();
                    }),
                ),
                row(
                    "BoundedSemaphore, same",
                    times(move || {
                        bounded.acquire().unwrap();
                        bounded.release().unwrap();
                    }),
                ),
                row("Semaphore, permit guard", times(move || drop(guarded.permit().unwrap()))),
                row(
                    "sem_t, shared",
                    times(|| {
                        sem.down();
                        sem.up();
                    }),
                ),
                row(
                    "Event, set and clear",
                    times(move || {
                        event.set();
                        event.clear();
                    }),
                ),
            ],
        );
    }
    if is_wanted("lock_contended_4p") {
        // The number each adds to, without being atomic about it: the lock has to be.
        let add = move |number: usize| {
            let value = words[number].load(Ordering::Relaxed);
            words[number].store(value + 1, Ordering::Relaxed);
        };
        let (lock, rlock) = (Lock::new().unwrap(), RLock::new().unwrap());
        let mutex = Mutex::new(0_u64).unwrap();
        let write = RwLock::new(0_u64).unwrap();
        let semaphore = Semaphore::new(1).unwrap();
        together(
            "lock_contended_4p",
            words,
            vec![
                row(
                    "Lock",
                    times(move || {
                        let _guard = lock.lock().unwrap();
                        add(8);
                    }),
                ),
                row(
                    "RLock",
                    times(move || {
                        let _guard = rlock.lock().unwrap();
                        add(16);
                    }),
                ),
                row("Mutex<u64>", times(move || *mutex.lock().unwrap() += 1)),
                row("RwLock<u64>, write", times(move || *write.write().unwrap() += 1)),
                row(
                    "Semaphore(1)",
                    times(move || {
                        semaphore.acquire().unwrap();
                        add(24);
                        semaphore.release().unwrap();
                    }),
                ),
                row(
                    "pthread, shared, plain",
                    times(move || {
                        plain.lock();
                        add(32);
                        plain.unlock();
                    }),
                ),
                row(
                    "pthread, shared, robust",
                    times(move || {
                        robust.lock();
                        add(40);
                        robust.unlock();
                    }),
                ),
                row(
                    "sem_t, shared",
                    times(move || {
                        sem.down();
                        add(48);
                        sem.up();
                    }),
                ),
                row(
                    "raw futex word",
                    times(move || {
                        futex_lock(futex);
                        add(56);
                        futex_unlock(futex);
                    }),
                ),
                row(
                    "raw word, yielding",
                    times(move || {
                        spin_lock(&words[64]);
                        add(65);
                        spin_unlock(&words[64]);
                    }),
                ),
                row(
                    "raw atomic add",
                    times(|| {
                        words[72].fetch_add(1, Ordering::AcqRel);
                    }),
                ),
            ],
        );
    }
}

fn alone(table: &str, rows: Vec<Row>) {
    let effort = effort();
    measure(table, &rows, |row| {
        let start = Instant::now();
        (row.run)(black_box(effort.alone));
        per_step(start.elapsed(), effort.alone)
    });
}

fn together(table: &str, words: &'static [AtomicU64], rows: Vec<Row>) {
    let effort = effort();
    let (gate, ready) = (&words[120], &words[121]);
    measure(table, &rows, |row| {
        gate.store(0, Ordering::SeqCst);
        ready.store(0, Ordering::SeqCst);
        let children: Vec<u32> = (0..PROCESSES)
            .map(|_| {
                // SAFETY: this program has one thread, and the child ends below.
                match unsafe { process::fork() }.unwrap() {
                    Forked::Parent(pid) => pid,
                    Forked::Child => {
                        ready.fetch_add(1, Ordering::SeqCst);
                        while gate.load(Ordering::SeqCst) == 0 {
                            std::thread::yield_now();
                        }
                        (row.run)(effort.together);
                        process::exit_now(0);
                    }
                }
            })
            .collect();
        while ready.load(Ordering::SeqCst) != u64::from(PROCESSES) {
            std::thread::yield_now();
        }
        let start = Instant::now();
        gate.store(1, Ordering::SeqCst);
        for pid in children {
            // SAFETY: a child of ours, and no status wanted.
            unsafe { libc::waitpid(pid as i32, null_mut(), 0) };
        }
        per_step(start.elapsed(), PROCESSES * effort.together)
    });
}

fn per_step(time: Duration, count: u32) -> f64 {
    time.as_nanos() as f64 / f64::from(count)
}

fn measure(table: &str, rows: &[Row], run: impl Fn(&Row) -> f64) {
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let rounds = effort().rounds;
    for _ in 0..rounds {
        for (row, results) in rows.iter().zip(&mut results) {
            results.push(run(row));
        }
    }
    println!("{table:<32} {:>9} {:>9} {:>9}  ns", "median", "least", "most");
    for (row, results) in rows.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let (least, most) = (results[0], results[rounds - 1]);
        println!("  {:<30} {:>9.1} {least:>9.1} {most:>9.1}", row.name, results[rounds / 2]);
    }
    python_row(table);
    println!();
}
