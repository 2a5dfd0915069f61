//! Locks and semaphores: taken and given back by one process alone, and by four that count under one lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use multiprocess::sync::{Barrier, Mutex};
use multiprocess::{Lock, Process, RawValue, Semaphore, Value};
use raw_sync::locks::LockInit;

use super::python::python;
use crate::harness::{Case, Figure, Gate, Kind, Outcome, Row, Run, Setup, Unit, Waits};
use crate::raw::process::{self, Report, now};
use crate::raw::pthread;
use crate::raw::shared::{FutexLock, shared};

const FOUR: Setup = Setup { producers: 4, ..Setup::PLAIN };

const fn row(name: &'static str, kind: Kind, waits: Waits, run: fn(&Run) -> Outcome) -> Row {
    Row { name, kind, waits, run }
}

pub const CASES: [Case; 3] = [
    Case {
        name: "lock_uncontended",
        what: "take a lock that nobody else wants, and give it back",
        unit: Unit::Nanoseconds,
        setup: Setup::PLAIN,
        rows: &[
            row("Lock", Kind::Ours, Waits::No, |run| {
                let lock = Lock::new()?;
                alone(run, || drop(lock.lock().expect("is nobody's")))
            }),
            row("Mutex<u64>, += 1", Kind::Ours, Waits::No, |run| {
                let mutex = Mutex::new(0_u64)?;
                alone(run, || *mutex.lock().expect("is nobody's") += 1)
            }),
            row("raw_sync Mutex", Kind::Process, Waits::No, |run| {
                let lock = raw_sync_mutex()?;
                alone(run, || drop(lock.lock().expect("locks")))
            }),
            row("CPython Lock", Kind::Process, Waits::No, |run| python(run, "lock", &["lock"])),
            row("parking_lot Mutex", Kind::Thread, Waits::No, |run| {
                let mutex = parking_lot::Mutex::new(0_u64);
                alone(run, || *mutex.lock() += 1)
            }),
            row("std Mutex", Kind::Thread, Waits::No, |run| {
                let mutex = std::sync::Mutex::new(0_u64);
                alone(run, || *mutex.lock().expect("locks") += 1)
            }),
            row("futex word", Kind::Raw, Waits::No, |run| {
                let lock = FutexLock::new();
                alone(run, || {
                    lock.lock();
                    lock.unlock();
                })
            }),
            row("pthread robust", Kind::Raw, Waits::No, |run| {
                let lock = pthread::Mutex::robust();
                alone(run, || {
                    lock.lock();
                    lock.unlock();
                })
            }),
        ],
    },
    Case {
        name: "lock_counter_4p",
        what: "four processes add to one number, each time under the lock",
        unit: Unit::Nanoseconds,
        setup: FOUR,
        rows: &[
            row("Lock", Kind::Ours, Waits::Both, ours_lock),
            row("Mutex<u64>", Kind::Ours, Waits::Both, ours_mutex),
            row("Value::update", Kind::Ours, Waits::Both, ours_value),
            row("raw_sync Mutex", Kind::Process, Waits::Sleeps, |run| {
                let lock = raw_sync_mutex()?;
                forked(run, |add| {
                    let _guard = lock.lock().expect("locks");
                    add();
                })
            }),
            row("CPython Lock, Value", Kind::Process, Waits::Sleeps, |run| {
                python(run, "counter", &[])
            }),
            row("parking_lot Mutex", Kind::Thread, Waits::Both, threads),
            row("futex word", Kind::Raw, Waits::Sleeps, |run| {
                let lock = FutexLock::new();
                forked(run, |add| {
                    lock.lock();
                    add();
                    lock.unlock();
                })
            }),
            row("word, yielding", Kind::Raw, Waits::Polls, |run| {
                let lock = FutexLock::new();
                forked(run, |add| {
                    lock.lock_yielding();
                    add();
                    lock.unlock();
                })
            }),
            row("pthread robust", Kind::Raw, Waits::Sleeps, |run| {
                let lock = pthread::Mutex::robust();
                forked(run, |add| {
                    lock.lock();
                    add();
                    lock.unlock();
                })
            }),
        ],
    },
    Case {
        name: "semaphore_uncontended",
        what: "acquire and release a semaphore of one that nobody else wants",
        unit: Unit::Nanoseconds,
        setup: Setup::PLAIN,
        rows: &[
            row("Semaphore", Kind::Ours, Waits::No, |run| {
                let semaphore = Semaphore::new(1)?;
                alone(run, || {
                    semaphore.acquire().expect("acquires");
                    semaphore.release().expect("releases");
                })
            }),
            row("CPython Semaphore", Kind::Process, Waits::No, |run| {
                python(run, "lock", &["semaphore"])
            }),
            row("sem_t", Kind::Raw, Waits::No, |run| {
                let semaphore = pthread::Semaphore::new();
                alone(run, || {
                    semaphore.wait();
                    semaphore.post();
                })
            }),
        ],
    },
];

/// How many steps go by between two looks at the clock.
const STRIDE: u64 = 256;

/// Steps for so long. Gives how many, and the nanoseconds.
fn steps(time: Duration, mut step: impl FnMut()) -> (u64, u64) {
    let (start, mut count) = (now(), 0);
    loop {
        for _ in 0..STRIDE {
            step();
        }
        count += STRIDE;
        let elapsed = now() - start;
        if elapsed >= time.as_nanos() as u64 {
            return (count, elapsed);
        }
    }
}

/// Nanoseconds a step.
fn alone(run: &Run, mut step: impl FnMut()) -> Outcome {
    steps(run.time / 5, &mut step);
    let (count, nanos) = steps(run.time, step);
    Ok(Figure::from(nanos as f64 / count as f64))
}

/// One of several that count. Reports how often it added, when it began, and when it ended.
fn counter(run: &Run, gate: impl FnOnce(), step: impl FnMut()) -> Report {
    gate();
    let start = now();
    let (count, nanos) = steps(run.time, step);
    [count, start, start + nanos, 0]
}

/// Nanoseconds of the clock for each step of all together, which `total` counted.
fn counted(reports: &[Report], total: u64) -> Outcome {
    let count: u64 = reports.iter().map(|report| report[0]).sum();
    if total != count {
        return Err(format!("counted {total}, added {count} times").into());
    }
    let start = reports.iter().map(|report| report[1]).min().ok_or("nobody")?;
    let end = reports.iter().map(|report| report[2]).max().ok_or("nobody")?;
    Ok(Figure::from((end - start) as f64 / count as f64))
}

/// Adds in two steps: the lock has to make one of it.
fn add(number: &AtomicU64) {
    number.store(number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Forked processes that each do `step`, which calls its argument to add.
fn forked(run: &Run, step: impl Fn(&dyn Fn())) -> Outcome {
    // SAFETY: a mapping of zeros that stays; the first line of it is used for nothing else.
    let number = unsafe { &*shared(64).cast::<AtomicU64>() };
    let gate = Gate::new(run.setup.producers);
    let fork = |_| process::fork(|| counter(run, || gate.wait(), || step(&|| add(number))));
    let children: Vec<_> = (0..run.setup.producers).map(fork).collect();
    let reports = children.into_iter().map(process::Forked::join).collect::<Result<Vec<_>, _>>()?;
    counted(&reports, number.load(Ordering::Relaxed))
}

fn threads(run: &Run) -> Outcome {
    let number = parking_lot::Mutex::new(0_u64);
    let gate = Gate::new(run.setup.producers);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let count = || counter(run, || gate.wait(), || *number.lock() += 1);
        let all: Vec<_> = (0..run.setup.producers).map(|_| scope.spawn(count)).collect();
        all.into_iter().map(|one| one.join().expect("counts")).collect()
    });
    counted(&reports, number.into_inner())
}

/// A mutex of the crate raw_sync, in memory that forked children share.
fn raw_sync_mutex() -> Result<Box<dyn raw_sync::locks::LockImpl>, Box<dyn std::error::Error>> {
    let memory = shared(4096);
    // SAFETY: a page of zeros that stays; the mutex takes what it needs from the start, well below the data.
    let (lock, used) = unsafe { raw_sync::locks::Mutex::new(memory, memory.add(2048)) }?;
    assert!(used <= 2048);
    Ok(lock)
}

/// Starts processes of ours, waits for them, and gives what they report. Each is to call the target with the
/// run, the barrier where they begin, and clones of the rest.
macro_rules! ours {
    ($run:expr, $target:path, $($shared:expr),+) => {{
        let gate = Barrier::new($run.setup.producers)?;
        let mut children = Vec::new();
        for _ in 0..$run.setup.producers {
            let arguments = (*$run, gate.clone(), $($shared.clone()),+);
            children.push(Process::new($target, arguments).start()?);
        }
        children.into_iter().map(|child| child.result()).collect::<Result<Vec<_>, _>>()?
    }};
}

fn begin(gate: &Barrier) {
    gate.wait().expect("all come");
}

fn with_lock(run: Run, gate: Barrier, lock: Lock, number: RawValue<AtomicU64>) -> Report {
    counter(
        &run,
        || begin(&gate),
        || {
            let _guard = lock.lock().expect("locks");
            add(&number);
        },
    )
}

fn ours_lock(run: &Run) -> Outcome {
    let (lock, number) = (Lock::new()?, RawValue::new(AtomicU64::new(0))?);
    let reports = ours!(run, with_lock, lock, number);
    counted(&reports, number.load(Ordering::Relaxed))
}

fn with_mutex(run: Run, gate: Barrier, mutex: Mutex<u64>) -> Report {
    counter(&run, || begin(&gate), || *mutex.lock().expect("locks") += 1)
}

fn ours_mutex(run: &Run) -> Outcome {
    let mutex = Mutex::new(0)?;
    let reports = ours!(run, with_mutex, mutex);
    counted(&reports, *mutex.lock().expect("locks"))
}

fn with_value(run: Run, gate: Barrier, value: Value<u64>) -> Report {
    counter(&run, || begin(&gate), || value.update(|number| *number += 1))
}

fn ours_value(run: &Run) -> Outcome {
    let value = Value::new(0)?;
    let reports = ours!(run, with_value, value);
    counted(&reports, value.get())
}
