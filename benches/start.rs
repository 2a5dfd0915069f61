//! What starting and joining an empty process costs, beside the bare mechanisms.
//!
//! `cargo bench --bench start`. Every round runs each case once, so that a drift of the machine hits all
//! of them; compared are medians. The bare forms do what ours do with nothing around it: a fork and a wait;
//! a single-threaded server that forks at a byte's request and reports the exit; an execution of this
//! program. With a number as argument: so many MiB are touched first, as in a large parent.
#![allow(unsafe_code, reason = "the bare mechanisms")]

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use multiprocess::{Process, StartMethod};

/// What it is called, what is timed, and the times.
type Case<'a> = (&'a str, &'a mut dyn FnMut(), Vec<Duration>);

fn nothing() {}

fn ours(method: StartMethod) {
    let child = Process::new(nothing, ()).start_method(method).start().expect("starts");
    assert!(child.join().expect("joins").success());
}

fn raw_fork() {
    // SAFETY: the child does nothing but end.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0);
    // SAFETY: null asks for no status.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

/// A server that forks a child for each byte and answers with one when the child has ended.
fn raw_forkserver() -> UnixStream {
    let (near, mut far) = UnixStream::pair().expect("a pair");
    // SAFETY: this process has one thread; the child ends below.
    if unsafe { libc::fork() } == 0 {
        drop(near);
        let mut byte = [0];
        while far.read(&mut byte).is_ok_and(|len| len == 1) {
            raw_fork();
            far.write_all(&byte).expect("answers");
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    near
}

fn raw_reexec() {
    let status = Command::new("/proc/self/exe").arg0("raw-empty").stdin(Stdio::null()).status();
    assert!(status.expect("executes").success());
}

fn main() {
    if std::env::args().next().is_some_and(|name| name == "raw-empty") {
        return;
    }
    multiprocess::init();
    let number = |arg: String| arg.parse::<usize>().ok();
    let size = std::env::args().skip(1).find_map(number).unwrap_or(0);

    let mut server = raw_forkserver();
    // The helper comes to be here, not in a measurement, and before the parent is large.
    ours(StartMethod::ForkServer);
    let memory = black_box(vec![1_u8; size << 20]);
    let mut raw_served = || {
        server.write_all(&[1]).expect("asks");
        server.read_exact(&mut [0]).expect("is answered");
    };
    let mut fork_server = || ours(StartMethod::ForkServer);
    let mut spawn = || ours(StartMethod::Spawn);
    let mut fork = || ours(StartMethod::Fork);
    let (mut bare_fork, mut bare_exec) = (raw_fork, raw_reexec);
    // Each of ours stands behind the bare form it is held against.
    let mut cases: [Case<'_>; 6] = [
        ("raw fork server", &mut raw_served, Vec::new()),
        ("ForkServer", &mut fork_server, Vec::new()),
        ("raw re-execution", &mut bare_exec, Vec::new()),
        ("Spawn", &mut spawn, Vec::new()),
        ("raw fork", &mut bare_fork, Vec::new()),
        ("Fork", &mut fork, Vec::new()),
    ];
    let quick = std::env::args().any(|arg| arg == "--test" || arg == "--quick");
    let rounds = if quick { 50 } else { 1000 };
    for round in 0..rounds + rounds / 10 {
        for (_, run, times) in &mut cases {
            let start = Instant::now();
            run();
            if round >= rounds / 10 {
                times.push(start.elapsed());
            }
        }
    }
    drop(memory);

    println!("start + join of an empty process, parent of {size} MiB, {rounds} rounds");
    println!("{:<18} {:>9} {:>9} {:>9}  to raw", "", "p10 us", "median", "p90");
    let mut bare = 0.0;
    for (index, (name, _, times)) in cases.iter_mut().enumerate() {
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
        print!("{name:<18} {:>9.1} {:>9.1} {:>9.1}", at(10), at(50), at(90));
        if index % 2 == 0 {
            bare = at(50);
            println!();
        } else {
            println!("  {:.2}", at(50) / bare);
        }
    }
}
