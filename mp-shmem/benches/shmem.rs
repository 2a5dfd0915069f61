//! What shared values and arrays cost, beside what the machine can do.
//!
//! `cargo bench -p mp-shmem [NAME]`. The cases of a table take turns, so that all see the same machine;
//! each figure is the median of the rounds, with the fastest and the slowest.
#![expect(unsafe_code, reason = "fork, and the bare mechanisms to compare with")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use mp_core::packet::Channel;
use mp_core::sys::process::{self, Forked};
use mp_core::sys::{futex, mem};
use mp_core::{Deadline, Message};
use mp_shmem::{Array, Lock, RawArray, RawValue, SharedMemory, Value};

const HANG: Duration = Duration::from_secs(100);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let tables: [(&str, fn()); 4] = [
        ("value_increment", value_increment),
        ("value_uncontended", value_uncontended),
        ("array_write", array_write),
        ("array_passed", array_passed),
    ];
    for (name, table) in tables {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            table();
        }
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

fn python_row(case: &str, steps: u32, unit: &str, figure: fn(f64) -> f64) {
    match python(case, steps) {
        Some(nanos) => println!("  {:<50} {:>10.2}   {unit}", "CPython", figure(nanos)),
        None => println!("  CPython: no python3, or no script beside it"),
    }
}

/// A case: gives the time of one round.
type Case<'a> = (&'a str, Box<dyn FnMut() -> Duration + 'a>);

/// Runs the cases in turns and prints what `figure` makes of their times.
fn compare(
    title: &str,
    unit: &str,
    rounds: usize,
    figure: fn(Duration) -> f64,
    cases: &mut [Case],
) {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for ((_, case), times) in cases.iter_mut().zip(&mut times) {
            times.push(figure(case()));
        }
    }
    println!("\n{title:<52} {:>10}   (least .. most), {unit}", "median");
    for ((name, _), mut times) in cases.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let (least, most) = (times[0], times[times.len() - 1]);
        println!("  {name:<50} {:>10.2}   ({least:.2} .. {most:.2})", times[times.len() / 2]);
    }
}

/// Runs `work` in another process.
fn fork(work: impl FnOnce()) -> OwnedFd {
    let _ = std::io::stdout().flush();
    // SAFETY: this program has one thread, and the child ends with exit_now.
    match unsafe { process::fork() }.expect("fork") {
        Forked::Parent(pid) => process::pidfd_open(pid).expect("pidfd"),
        Forked::Child => {
            // SAFETY: takes a number only. No child outlives a bench that hangs.
            unsafe { libc::alarm(HANG.as_secs() as u32) };
            work();
            process::exit_now(0)
        }
    }
}

fn join(child: &OwnedFd) {
    let ended = process::wait_ended(child.as_fd(), Deadline::after(HANG)).expect("poll");
    assert!(ended, "a process hangs");
    process::reap(child.as_fd()).expect("reap");
}

/// How long `processes` processes take to do `work` `count` times each, from a common start.
fn together(processes: u32, count: usize, work: impl Fn()) -> Duration {
    // Ready, and go.
    let gate = RawArray::<AtomicU32>::zeroed(2).expect("memory");
    let children: Vec<_> = (0..processes)
        .map(|_| {
            fork(|| {
                gate[0].fetch_add(1, Ordering::AcqRel);
                while gate[1].load(Ordering::Acquire) == 0 {
                    let _ = futex::wait(&gate[1], 0, Deadline::after(HANG));
                }
                (0..count).for_each(|_| work());
            })
        })
        .collect();
    while gate[0].load(Ordering::Acquire) < processes {
        std::thread::yield_now();
    }
    let start = Instant::now();
    gate[1].store(1, Ordering::Release);
    futex::wake_all(&gate[1]);
    children.iter().for_each(join);
    start.elapsed()
}

/// A pthread mutex and a counter, in a page that processes share.
struct Pthread {
    map: MmapRaw,
}

impl Pthread {
    const COUNTER: usize = 64;

    fn new(robust: bool) -> Self {
        let map = MmapOptions::new().map_raw(&memfd(4096)).expect("memory");
        // SAFETY: an attribute object that is set up before it is used.
        let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
        // SAFETY: a local.
        unsafe { libc::pthread_mutexattr_init(&raw mut attributes) };
        // SAFETY: set up above.
        unsafe {
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED)
        };
        if robust {
            // SAFETY: likewise.
            unsafe {
                libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST)
            };
        }
        // SAFETY: a mutex fits into the page, which nobody else has yet.
        unsafe { libc::pthread_mutex_init(map.as_mut_ptr().cast(), &raw const attributes) };
        Self { map }
    }

    fn increment(&self) {
        let mutex = self.map.as_mut_ptr().cast();
        // SAFETY: set up in new.
        unsafe { libc::pthread_mutex_lock(mutex) };
        // SAFETY: within the page.
        let counter = unsafe { self.map.as_mut_ptr().add(Self::COUNTER) }.cast::<u64>();
        // SAFETY: aligned, and under the lock.
        unsafe { *counter += 1 };
        // SAFETY: locked above.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    }
}

fn increments(
    processes: u32,
    count: usize,
    rounds: usize,
    figure: fn(Duration) -> f64,
    title: &str,
) {
    let atomic = RawValue::<AtomicU64>::zeroed().expect("memory");
    let (plain, robust) = (Pthread::new(false), Pthread::new(true));
    let value = Value::new(0_u64).expect("memory");
    let guarded = Value::new(0_u64).expect("memory");
    let (lock, raw) = (Lock::new().expect("memory"), RawValue::new(0_u64).expect("memory"));
    let mut cases: [Case; 6] = [
        (
            "raw atomic (RawValue<AtomicU64>)",
            Box::new(|| {
                together(processes, count, || {
                    atomic.fetch_add(1, Ordering::Relaxed);
                })
            }),
        ),
        ("pthread mutex", Box::new(|| together(processes, count, || plain.increment()))),
        ("pthread mutex, robust", Box::new(|| together(processes, count, || robust.increment()))),
        (
            "Value::update",
            Box::new(|| together(processes, count, || value.update(|count| *count += 1))),
        ),
        ("Value::lock", Box::new(|| together(processes, count, || *guarded.lock() += 1))),
        (
            "Lock and RawValue",
            Box::new(|| {
                together(processes, count, || {
                    let _guard = lock.lock();
                    raw.set(raw.get() + 1);
                })
            }),
        ),
    ];
    compare(title, "ns per increment", rounds, figure, &mut cases);
    drop(cases);
    let expected = u64::from(processes) * (count * rounds) as u64;
    assert_eq!([value.get(), guarded.get(), raw.get()], [expected; 3], "not one is lost");
}

fn value_increment() {
    let figure = |time: Duration| time.as_nanos() as f64 / 800_000.0;
    increments(4, 200_000, 21, figure, "value_increment: 4 processes");
    python_row("value_increment", 100_000, "ns per increment", |nanos| nanos);
}

fn value_uncontended() {
    let figure = |time: Duration| time.as_nanos() as f64 / 1_000_000.0;
    increments(1, 1_000_000, 11, figure, "value_uncontended: 1 process");
}

const SIZE: usize = 256 << 20;
const WORDS: usize = SIZE / 8;

fn gib_per_second(time: Duration) -> f64 {
    0.25 / time.as_secs_f64()
}

fn memfd(size: usize) -> File {
    let fd = mem::memfd(c"bench").expect("memfd");
    mem::set_len(fd.as_fd(), size as u64).expect("ftruncate");
    File::from(fd)
}

fn map(file: &File) -> MmapMut {
    // SAFETY: nobody shortens the file, and nobody else writes while this is used.
    unsafe { MmapMut::map_mut(file) }.expect("mmap")
}

fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    let result = work();
    let elapsed = start.elapsed();
    drop(std::hint::black_box(result));
    elapsed
}

fn array_write() {
    let source = vec![0x5A5A_5A5A_u64; WORDS];
    // SAFETY: any u64 is eight bytes.
    let bytes = unsafe { source.align_to::<u8>() }.1;
    compare(
        "array_write: 256 MiB, cold",
        "GiB/s",
        9,
        gib_per_second,
        &mut [
            (
                "memfd, ftruncate, mmap, copy",
                Box::new(|| {
                    timed(|| {
                        let mut map = map(&memfd(SIZE));
                        map.copy_from_slice(bytes);
                        map
                    })
                }),
            ),
            (
                "the same with fallocate",
                Box::new(|| {
                    timed(|| {
                        let file = memfd(SIZE);
                        mem::reserve(file.as_fd(), 0, SIZE as u64).expect("fallocate");
                        let mut map = map(&file);
                        map.copy_from_slice(bytes);
                        map
                    })
                }),
            ),
            ("Array::from_slice", Box::new(|| timed(|| Array::from_slice(&source)))),
            (
                "RawArray::zeroed, as_mut_slice",
                Box::new(|| {
                    timed(|| {
                        let array = RawArray::<u64>::zeroed(WORDS).expect("memory");
                        // SAFETY: nobody else has it.
                        unsafe { array.as_mut_slice() }.copy_from_slice(&source);
                        array
                    })
                }),
            ),
        ],
    );

    let mut map = map(&memfd(SIZE));
    let array = Array::from_slice(&source).expect("memory");
    let raw = RawArray::from_slice(&source).expect("memory");
    let memory = SharedMemory::create(None, SIZE).expect("memory").unlink_on_drop();
    map.copy_from_slice(bytes);
    compare(
        "array_write: 256 MiB, warm",
        "GiB/s",
        21,
        gib_per_second,
        &mut [
            ("memfd, copy", Box::new(|| timed(|| map.copy_from_slice(bytes)))),
            ("Array::lock, copy", Box::new(|| timed(|| array.lock().copy_from_slice(&source)))),
            ("Array::copy_from_slice", Box::new(|| timed(|| array.copy_from_slice(&source)))),
            ("RawArray::copy_from_slice", Box::new(|| timed(|| raw.copy_from_slice(&source)))),
            ("SharedMemory::write_at", Box::new(|| timed(|| memory.write_at(0, bytes)))),
        ],
    );
    python_row("array_write", SIZE as u32, "GiB/s", |nanos| 1e9 / nanos / f64::from(1 << 30));
}

/// A process that does `work` for each message and answers with a number.
fn server(mut work: impl FnMut(Message) -> u64) -> (Channel, OwnedFd) {
    let (near, mut far) = Channel::pair().expect("channel");
    let child = fork(move || {
        while let Ok(packet) = far.receive(Deadline::NEVER) {
            let sum = work(Message::new(packet.body, packet.fds));
            if far.send(0, &[&sum.to_le_bytes()], &[]).is_err() {
                break;
            }
        }
    });
    (near, child)
}

fn ask(channel: &mut Channel, message: Message) -> u64 {
    let (bytes, fds) = message.into_parts();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    channel.send(0, &[&bytes], &fds).expect("send");
    let packet = channel.receive(Deadline::after(HANG)).expect("answer");
    u64::from_le_bytes(packet.body.try_into().expect("eight bytes"))
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn array_passed() {
    let source: Vec<u64> = (0..WORDS as u64).collect();
    let expected = sum(&source);

    let file = memfd(SIZE);
    // SAFETY: any u64 is eight bytes.
    map(&file).copy_from_slice(unsafe { source.align_to::<u8>() }.1);
    let array = Array::from_slice(&source).expect("memory");
    let raw_array = RawArray::from_slice(&source).expect("memory");
    drop(source);

    let (mut bare, bare_child) = server(|message| {
        let (_, mut fds) = message.into_parts();
        let file = File::from(fds.remove(0));
        // SAFETY: nobody changes the file.
        let map = unsafe { MmapOptions::new().map(&file) }.expect("mmap");
        // SAFETY: any eight bytes are a u64.
        sum(unsafe { map.align_to::<u64>() }.1)
    });
    let (mut locked, locked_child) = server(|message| {
        let array: Array<u64> = mp_core::decode(message).expect("an array");
        let guard = array.lock();
        sum(&guard)
    });
    let (mut raw, raw_child) = server(|message| {
        let array: RawArray<u64> = mp_core::decode(message).expect("an array");
        // SAFETY: nobody changes the array.
        sum(unsafe { array.as_slice() })
    });
    let kept: std::cell::RefCell<Option<Array<u64>>> = None.into();
    let (mut warm, warm_child) = server(move |message| {
        let mut kept = kept.borrow_mut();
        match mp_core::decode(message) {
            Ok(array) => sum(&kept.insert(array).lock()),
            Err(_) => kept.as_ref().map_or(0, |array| sum(&array.lock())),
        }
    });
    assert_eq!(ask(&mut warm, mp_core::encode(&array).expect("message")), expected);

    compare(
        "array_passed: 256 MiB sent and summed",
        "GiB/s",
        21,
        gib_per_second,
        &mut [
            (
                "memfd sent and mapped",
                Box::new(|| {
                    timed(|| {
                        let fds = vec![file.try_clone().expect("descriptor").into()];
                        assert_eq!(ask(&mut bare, Message::new(vec![0; 4], fds)), expected);
                    })
                }),
            ),
            (
                "Array",
                Box::new(|| {
                    timed(|| {
                        let message = mp_core::encode(&array).expect("message");
                        assert_eq!(ask(&mut locked, message), expected);
                    })
                }),
            ),
            (
                "RawArray",
                Box::new(|| {
                    timed(|| {
                        let message = mp_core::encode(&raw_array).expect("message");
                        assert_eq!(ask(&mut raw, message), expected);
                    })
                }),
            ),
            (
                "Array that the receiver has already",
                Box::new(|| {
                    timed(|| assert_eq!(ask(&mut warm, Message::new(vec![0; 4], vec![])), expected))
                }),
            ),
        ],
    );
    drop((bare, locked, raw, warm));
    for child in [bare_child, locked_child, raw_child, warm_child] {
        // They have copies of each other's channels, and see no end.
        let _ = process::pidfd_send_signal(child.as_fd(), libc::SIGKILL);
        join(&child);
    }
}
