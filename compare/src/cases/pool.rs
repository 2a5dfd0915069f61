//! Pools of two workers: tasks that do nothing, and a map of a million squares.
//!
//! An empty task is submitted on its own and its result is waited for; how many are under way at once is up to
//! the row. The map begins with numbers in the parent's memory and ends with their squares there.

use std::sync::atomic::{AtomicU64, Ordering};

use procspawn::Pool;
use rayon::prelude::*;

use super::python::python;
use crate::harness::{Case, Kind, Outcome, Row, Run, Setup, Unit, Waits, rate};
use crate::raw::pipes::{self, read_word, write_word};
use crate::raw::process;
use crate::raw::ring::{Reader, Ring, Writer};
use crate::raw::shared::{Wait, shared};

const WORKERS: usize = 2;
/// Tasks under way at once in the rows that are ours to write.
const WINDOW: u64 = 1000;
const ITEMS: usize = 1_000_000;

pub const CASES: [Case; 2] = [
    Case {
        name: "pool_tasks_empty",
        what: "empty tasks for 2 workers, submitted one by one, all results awaited",
        unit: Unit::PerSecond,
        setup: Setup::PLAIN,
        rows: &[
            Row { name: "Pool.apply_async", kind: Kind::Ours, waits: Waits::Both, run: our_tasks },
            Row {
                name: "procspawn Pool",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: procspawn_tasks,
            },
            Row {
                name: "CPython Pool.apply_async",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "tasks", &["apply_async"]),
            },
            Row {
                name: "CPython ProcessPoolExecutor",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "tasks", &["executor"]),
            },
            Row { name: "rayon", kind: Kind::Thread, waits: Waits::Both, run: rayon_tasks },
            Row {
                name: "shared memory rings, yielding",
                kind: Kind::Raw,
                waits: Waits::Polls,
                run: |run| ring_tasks(run, Wait::Poll),
            },
            Row {
                name: "shared memory rings, poll then futex",
                kind: Kind::Raw,
                waits: Waits::Both,
                run: |run| ring_tasks(run, Wait::Futex),
            },
            Row { name: "kernel pipes", kind: Kind::Raw, waits: Waits::Sleeps, run: pipe_tasks },
        ],
    },
    Case {
        name: "pool_map_1e6",
        what: "the squares of a million numbers by 2 workers, items a second",
        unit: Unit::PerSecond,
        setup: Setup::PLAIN,
        rows: &[
            Row { name: "Pool.map", kind: Kind::Ours, waits: Waits::Both, run: our_map },
            Row {
                name: "procspawn Pool, 8 chunks by hand",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: procspawn_map,
            },
            Row {
                name: "CPython Pool.map",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "map", &["1000000"]),
            },
            Row { name: "rayon", kind: Kind::Thread, waits: Waits::Both, run: rayon_map },
            Row { name: "a plain loop", kind: Kind::Thread, waits: Waits::No, run: plain_map },
            Row {
                name: "shared memory, copied in and out",
                kind: Kind::Raw,
                waits: Waits::Both,
                run: shared_map,
            },
            Row {
                name: "socketpairs, 8 chunks",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: socket_map,
            },
        ],
    },
];

fn input() -> Vec<u64> {
    (0..ITEMS as u64).collect()
}

/// Squares of the input, checked each time by a few of them and, the first time, by all.
fn maps(run: &Run, mut map: impl FnMut(&[u64]) -> Vec<u64>) -> Outcome {
    let input = input();
    let squares = map(&input);
    if squares.len() != ITEMS || !squares.iter().zip(&input).all(|(square, x)| *square == x * x) {
        return Err("these are not the squares".into());
    }
    Ok(rate(run, || {
        let squares = std::hint::black_box(map(&input));
        assert_eq!((squares[7], squares[ITEMS - 1]), (49, (ITEMS as u64 - 1).pow(2)));
        ITEMS as u64
    }))
}

fn squares(items: impl IntoIterator<Item = u64>) -> Vec<u64> {
    items.into_iter().map(|x| x * x).collect()
}

fn nothing() {}

fn our_tasks(run: &Run) -> Outcome {
    let pool = multiprocess::Pool::new(WORKERS)?;
    Ok(rate(run, || {
        let tasks: Vec<_> = (0..WINDOW).map(|_| pool.apply_async(nothing, ())).collect();
        tasks.into_iter().for_each(|task| task.get().expect("ends"));
        WINDOW
    }))
}

fn our_map(run: &Run) -> Outcome {
    let pool = multiprocess::Pool::new(WORKERS)?;
    maps(run, |input| pool.map(|x: u64| x * x, input.iter().copied()).expect("maps"))
}

fn procspawn_tasks(run: &Run) -> Outcome {
    let pool = Pool::new(WORKERS)?;
    Ok(rate(run, || {
        let tasks: Vec<_> = (0..WINDOW).map(|_| pool.spawn((), |()| ())).collect();
        tasks.into_iter().for_each(|task| task.join().expect("ends"));
        WINDOW
    }))
}

fn procspawn_map(run: &Run) -> Outcome {
    let pool = Pool::new(WORKERS)?;
    maps(run, |input| {
        let chunks = input.chunks(ITEMS / 8).map(<[u64]>::to_vec);
        let tasks: Vec<_> = chunks.map(|chunk| pool.spawn(chunk, squares)).collect();
        tasks.into_iter().flat_map(|task| task.join().expect("ends")).collect()
    })
}

fn threads() -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(WORKERS).build()
}

fn rayon_tasks(run: &Run) -> Outcome {
    let (pool, done) = (threads()?, AtomicU64::new(0));
    Ok(rate(run, || {
        let before = done.load(Ordering::Relaxed);
        pool.in_place_scope(|scope| {
            for _ in 0..WINDOW {
                scope.spawn(|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        done.load(Ordering::Relaxed) - before
    }))
}

fn rayon_map(run: &Run) -> Outcome {
    let pool = threads()?;
    maps(run, |input| pool.install(|| input.par_iter().map(|x| x * x).collect()))
}

fn plain_map(run: &Run) -> Outcome {
    maps(run, |input| squares(input.iter().copied()))
}

/// A word that ends a worker.
const STOP: u64 = u64::MAX;

/// Forks a worker that answers each word with what `work` makes of it.
fn ring_worker(wait: Wait, work: impl Fn(u64) -> u64) -> (Writer, Reader, process::Forked) {
    let (tasks, results) = (Ring::new(64 << 10, wait), Ring::new(64 << 10, wait));
    let child = process::fork(|| {
        let (mut tasks, mut results) = (tasks.reader(), results.writer());
        loop {
            let task = tasks.read_word();
            if task == STOP {
                return [0; 4];
            }
            results.write_word(work(task));
        }
    });
    (tasks.writer(), results.reader(), child)
}

fn ring_tasks(run: &Run, wait: Wait) -> Outcome {
    let mut workers: Vec<_> = (0..WORKERS).map(|_| ring_worker(wait, |task| task)).collect();
    let figure = rate(run, || {
        for task in 0..WINDOW {
            for (tasks, ..) in &mut workers {
                tasks.write_word(task);
            }
        }
        for task in 0..WINDOW {
            for (_, results, _) in &mut workers {
                assert_eq!(results.read_word(), task);
            }
        }
        WINDOW * WORKERS as u64
    });
    for (mut tasks, _, child) in workers {
        tasks.write_word(STOP);
        child.join()?;
    }
    Ok(figure)
}

/// One pipe of tasks for all workers, one of results.
fn pipe_tasks(run: &Run) -> Outcome {
    let (tasks, results) = (pipes::pipe(), pipes::pipe());
    let worker = |_| {
        process::fork(|| {
            loop {
                let task = read_word(&tasks.0);
                if task == STOP {
                    return [0; 4];
                }
                write_word(&results.1, task);
            }
        })
    };
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    let figure = rate(run, || {
        (0..WINDOW).for_each(|task| write_word(&tasks.1, task));
        let sum: u64 = (0..WINDOW).map(|_| read_word(&results.0)).sum();
        assert_eq!(sum, WINDOW * (WINDOW - 1) / 2);
        WINDOW
    });
    workers.iter().for_each(|_| write_word(&tasks.1, STOP));
    for worker in workers {
        worker.join()?;
    }
    Ok(figure)
}

fn shared_map(run: &Run) -> Outcome {
    let address = shared(ITEMS * 8).cast::<u64>();
    const HALF: usize = ITEMS / WORKERS;
    let half = |index: u64| {
        // SAFETY: the mapping holds all items and stays; parent and worker take turns, by the rings.
        unsafe { std::slice::from_raw_parts_mut(address.add(index as usize * HALF), HALF) }
    };
    let square = |index| {
        half(index).iter_mut().for_each(|x| *x *= *x);
        index
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| ring_worker(Wait::Futex, square)).collect();
    let figure = maps(run, |input| {
        for (index, (tasks, ..)) in workers.iter_mut().enumerate() {
            half(index as u64).copy_from_slice(&input[index * HALF..][..HALF]);
            tasks.write_word(index as u64);
        }
        let mut squares = Vec::with_capacity(ITEMS);
        for (index, (_, results, _)) in workers.iter_mut().enumerate() {
            assert_eq!(results.read_word(), index as u64);
            squares.extend_from_slice(half(index as u64));
        }
        squares
    });
    for (mut tasks, _, child) in workers {
        tasks.write_word(STOP);
        child.join()?;
    }
    figure
}

fn bytes_of(items: &[u64]) -> &[u8] {
    // SAFETY: integers are bytes, of any alignment.
    unsafe { std::slice::from_raw_parts(items.as_ptr().cast(), size_of_val(items)) }
}

fn bytes_of_mut(items: &mut [u64]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are integers.
    unsafe { std::slice::from_raw_parts_mut(items.as_mut_ptr().cast(), size_of_val(items)) }
}

/// Each worker has a chunk at a time.
fn socket_map(run: &Run) -> Outcome {
    const CHUNK: usize = ITEMS / 8;
    let worker = |_| {
        let (near, far) = pipes::sockets(libc::SOCK_STREAM);
        let child = process::fork(|| {
            let mut chunk = vec![0_u64; CHUNK];
            while read_word(&far) != STOP {
                pipes::read(&far, bytes_of_mut(&mut chunk));
                chunk.iter_mut().for_each(|x| *x *= *x);
                pipes::write(&far, bytes_of(&chunk));
            }
            [0; 4]
        });
        (near, child)
    };
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    let figure = maps(run, |input| {
        let mut squares = vec![0; ITEMS];
        let rounds = input.chunks(CHUNK * WORKERS).zip(squares.chunks_mut(CHUNK * WORKERS));
        for (items, squares) in rounds {
            for ((near, _), items) in workers.iter().zip(items.chunks(CHUNK)) {
                write_word(near, 0);
                pipes::write(near, bytes_of(items));
            }
            for ((near, _), squares) in workers.iter().zip(squares.chunks_mut(CHUNK)) {
                pipes::read(near, bytes_of_mut(squares));
            }
        }
        squares
    });
    for (near, child) in workers {
        write_word(&near, STOP);
        child.join()?;
    }
    figure
}
