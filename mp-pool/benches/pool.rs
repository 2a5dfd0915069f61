//! What a task, an item of a map and an idle worker cost, beside the bare mechanism and beside CPython.
//!
//! `cargo bench -p mp-pool`. All rows of a table run in turn, several times; each row is the median. Compare rows of
//! one run only. Bare are two forked processes with a ring of numbers in shared memory each way, a thousand under way
//! at a time, for tasks; and, for the map, the input copied into shared memory, squared by the two, and copied out.
//! Without the `--bench` that cargo gives it only shows that everything runs.
#![expect(unsafe_code, reason = "the bare mechanisms: fork, shared memory")]

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::yield_now;
use std::time::Instant;

use mp_core::Segment;
use mp_core::sys::process::{self, Forked};
use mp_pool::Pool;

const WORKERS: usize = 2;

fn nothing() {}

fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

fn is_bench() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// Two forked processes, and the memory they share with this one: 64-bit words.
struct Bare {
    segment: Segment,
    children: Vec<u32>,
}

impl Bare {
    fn new(words: usize, serve: impl Fn(&Segment, usize)) -> Self {
        let segment = Segment::create("bench", 0, 4096 + words * 8).expect("memory");
        let children = (0..WORKERS)
            .map(|index| {
                // SAFETY: the child calls `serve`, which allocates nothing, and ends.
                match unsafe { process::fork() }.expect("forks") {
                    Forked::Child => {
                        serve(&segment, index);
                        process::exit_now(0)
                    }
                    Forked::Parent(pid) => pid,
                }
            })
            .collect();
        Self { segment, children }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for &pid in &self.children {
            process::kill_child(pid);
        }
    }
}

fn word(segment: &Segment, index: usize) -> &AtomicU64 {
    segment.at::<AtomicU64>(4096 + index * 8).expect("within")
}

/// Gives others the processor now and then.
fn wait_until(ready: impl Fn() -> bool) {
    let mut looks = 0_u32;
    while !ready() {
        looks += 1;
        if looks.is_multiple_of(64) {
            yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

const RING: usize = 1024;
/// Tail and head on lines of their own, then the numbers.
const LANE: usize = 32 + RING;

fn push(segment: &Segment, lane: usize, tail: u64, value: u64) {
    word(segment, lane + 32 + tail as usize % RING).store(value, Ordering::Relaxed);
    word(segment, lane).store(tail + 1, Ordering::Release);
}

/// A ring down and a ring up for each.
fn bare_rings() -> Bare {
    Bare::new(WORKERS * 2 * LANE, |segment, index| {
        let (down, up) = (index * 2 * LANE, (index * 2 + 1) * LANE);
        let mut at = 0;
        loop {
            wait_until(|| word(segment, down).load(Ordering::Acquire) > at);
            let tail = word(segment, down).load(Ordering::Acquire);
            while at < tail {
                let value = word(segment, down + 32 + at as usize % RING).load(Ordering::Relaxed);
                push(segment, up, at, value);
                at += 1;
            }
        }
    })
}

fn bare_tasks(bare: &Bare, count: u64) {
    let segment = &bare.segment;
    let share = count / WORKERS as u64;
    let (mut begun, mut done) = ([0; WORKERS], [0; WORKERS]);
    while done.iter().any(|&done| done < share) {
        let mut moved = false;
        for index in 0..WORKERS {
            let (down, up) = (index * 2 * LANE, (index * 2 + 1) * LANE);
            while begun[index] < share && begun[index] - done[index] < 500 {
                push(segment, down, begun[index], begun[index]);
                begun[index] += 1;
                moved = true;
            }
            let ready = word(segment, up).load(Ordering::Acquire);
            while done[index] < ready {
                let at = up + 32 + done[index] as usize % RING;
                assert_eq!(word(segment, at).load(Ordering::Relaxed), done[index]);
                done[index] += 1;
                moved = true;
            }
        }
        if !moved {
            yield_now();
        }
    }
}

/// Number of the round, one for each that is done, the length; then the numbers.
const START: usize = 32;

fn bare_squares(items: usize) -> Bare {
    Bare::new(START + items, move |segment, index| {
        let mut round = 0;
        loop {
            wait_until(|| word(segment, 0).load(Ordering::Acquire) > round);
            round += 1;
            let share = items / WORKERS;
            let start = segment.address(4096 + (START + index * share) * 8, share * 8);
            let start = start.expect("within").as_ptr().cast::<u64>();
            // SAFETY: this half is this process's until it says that it is done.
            let numbers = unsafe { std::slice::from_raw_parts_mut(start, share) };
            numbers.iter_mut().for_each(|number| *number = square(*number));
            word(segment, 8 + index * 8).store(round, Ordering::Release);
        }
    })
}

fn bare_map(bare: &Bare, round: &mut u64, items: usize) -> Vec<u64> {
    let segment = &bare.segment;
    let start =
        segment.address(4096 + START * 8, items * 8).expect("within").as_ptr().cast::<u64>();
    // SAFETY: the others have done the round before, and wait for this one.
    let numbers = unsafe { std::slice::from_raw_parts_mut(start, items) };
    for (number, value) in numbers.iter_mut().zip(0..) {
        *number = value;
    }
    *round += 1;
    word(segment, 0).store(*round, Ordering::Release);
    wait_until(|| {
        (0..WORKERS).all(|index| word(segment, 8 + index * 8).load(Ordering::Acquire) == *round)
    });
    numbers.to_vec()
}

/// What a case of CPython says, if there is one here.
fn python(case: &str, steps: usize) -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/python.py");
    let output = Command::new("python3").args([script, case, &steps.to_string()]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Name, and nanoseconds for each task or item of one round.
type Row<'a> = (&'static str, Box<dyn FnMut() -> Option<f64> + 'a>);

fn timed<'a>(count: usize, mut work: impl FnMut() + 'a) -> Box<dyn FnMut() -> Option<f64> + 'a> {
    Box::new(move || {
        let start = Instant::now();
        work();
        Some(start.elapsed().as_nanos() as f64 / count as f64)
    })
}

/// Runs the rows in turn; prints medians, and how each compares to the first.
fn table(title: &str, rounds: usize, mut rows: Vec<Row<'_>>) {
    let mut times: Vec<Vec<f64>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, run), times) in rows.iter_mut().zip(&mut times) {
            times.extend(run());
        }
    }
    println!("\n{title}\n{:<34} {:>11} {:>11} {:>9}", "", "ns each", "M/s", "to first");
    let mut first = None;
    for ((name, _), times) in rows.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let Some(&median) = times.get(times.len() / 2) else {
            println!("{name:<34} {:>11}", "-");
            continue;
        };
        let first = *first.get_or_insert(median);
        println!("{name:<34} {median:>11.1} {:>11.3} {:>9.3}", 1e3 / median, first / median);
    }
}

fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("proc");
    let line = text.lines().find(|line| line.starts_with("Pss:")).expect("a line");
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn main() {
    mp_process::init();
    let bench = is_bench();
    let (rounds, tasks, items) = if bench { (9, 100_000, 1_000_000) } else { (1, 1000, 10_000) };
    let pool = Pool::new(WORKERS).expect("a pool");
    assert_eq!(pool.map(square, 0..1000).expect("squares")[999], 998_001);

    let mut rows: Vec<Row<'_>> = vec![
        (
            "bare rings",
            Box::new(|| {
                // There only while they are measured: they never sleep.
                let rings = bare_rings();
                timed(tasks, || bare_tasks(&rings, tasks as u64))()
            }),
        ),
        (
            "apply_async, then get of all",
            timed(tasks, || {
                let results: Vec<_> = (0..tasks).map(|_| pool.apply_async(nothing, ())).collect();
                results.iter().for_each(|result| result.get().expect("nothing"));
            }),
        ),
        (
            "imap_unordered",
            timed(tasks, || {
                assert_eq!(pool.imap_unordered(square, 0..tasks as u64).count(), tasks)
            }),
        ),
    ];
    if bench {
        rows.push(("CPython Pool.apply_async", Box::new(|| python("pool_tasks_empty", tasks / 5))));
        rows.push((
            "CPython ProcessPoolExecutor.submit",
            Box::new(|| python("executor_tasks_empty", tasks / 20)),
        ));
        rows.push((
            "CPython Pool.imap_unordered",
            Box::new(|| python("pool_imap_unordered", tasks / 5)),
        ));
    }
    table("pool_tasks_empty, 2 workers", rounds, rows);

    let trips = tasks / 50;
    let mut rows: Vec<Row<'_>> = vec![(
        "apply",
        timed(trips, || (0..trips).for_each(|_| pool.apply(nothing, ()).expect("nothing"))),
    )];
    if bench {
        rows.push(("CPython Pool.apply", Box::new(|| python("pool_round_trip", trips))));
    }
    table("one task at a time", rounds, rows);

    let mut rows: Vec<Row<'_>> = vec![
        (
            "bare: copied in, squared, copied out",
            Box::new(|| {
                let (squares, mut round) = (bare_squares(items), 0);
                // The first time its pages are made.
                black_box(bare_map(&squares, &mut round, items));
                timed(items, || {
                    black_box(bare_map(&squares, &mut round, items));
                })()
            }),
        ),
        (
            "map",
            timed(items, || {
                black_box(pool.map(square, 0..items as u64).expect("squares"));
            }),
        ),
        (
            "a plain loop",
            timed(items, || {
                black_box((0..black_box(items as u64)).map(square).collect::<Vec<_>>());
            }),
        ),
    ];
    if bench {
        rows.push(("CPython Pool.map", Box::new(|| python("pool_map", items))));
    }
    table("pool_map_1e6: x -> x * x", rounds, rows);

    println!("\nmemory of a worker that has worked (PSS), KiB");
    let ours: Vec<u64> = pool.workers().into_iter().map(pss).collect();
    println!("{:<34} {ours:?}", "Pool");
    if bench && let Some(theirs) = python("pool_worker_pss", 0) {
        println!("{:<34} {theirs}", "CPython Pool, forked");
    }
    let idle = Pool::new(WORKERS).expect("a pool");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let ours: Vec<u64> = idle.workers().into_iter().map(pss).collect();
    println!("{:<34} {ours:?}", "Pool, idle from the start");
}
