//! The memory that one idle worker of two adds: its proportional set size, where pages that several processes
//! share count for each in part.

use multiprocess::sync::Event;
use multiprocess::{Pool, Process, StartMethod};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::python::python;
use crate::harness::{Case, Figure, Kind, Outcome, Row, Run, Setup, Unit, Waits};
use crate::raw::pipes::{self, read_word, write_word};
use crate::raw::process;

pub const CASES: [Case; 1] = [Case {
    name: "worker_memory_idle",
    what: "PSS of an idle worker, of two that have each done one task",
    unit: Unit::KiB,
    setup: Setup::PLAIN,
    rows: &[
        Row {
            name: "Pool, ForkServer",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| pool(StartMethod::ForkServer),
        },
        Row {
            name: "Pool, Spawn",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| pool(StartMethod::Spawn),
        },
        Row {
            name: "Pool, Fork",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| pool(StartMethod::Fork),
        },
        Row {
            name: "Process that waits, ForkServer",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| waiting(StartMethod::ForkServer),
        },
        Row { name: "procspawn Pool", kind: Kind::Process, waits: Waits::Sleeps, run: procspawn },
        Row {
            name: "CPython Pool, forkserver",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "memory", &["forkserver"]),
        },
        Row {
            name: "CPython Pool, spawn",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "memory", &["spawn"]),
        },
        Row {
            name: "CPython Pool, fork",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "memory", &["fork"]),
        },
        Row { name: "fork", kind: Kind::Raw, waits: Waits::Sleeps, run: raw_fork },
        Row { name: "re-execution", kind: Kind::Raw, waits: Waits::Sleeps, run: raw_exec },
    ],
}];

/// The mean PSS of these processes, in KiB, once they have come to rest.
fn pss(pids: &[u32]) -> Outcome {
    std::thread::sleep(Duration::from_millis(50));
    let mut sum = 0.0;
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(Figure::from(sum / pids.len() as f64))
}

fn wait(ready: Event, done: Event) {
    ready.set();
    let _ = done.wait();
}

fn pool(method: StartMethod) -> Outcome {
    let pool = Pool::builder().workers(2).start_method(method).build()?;
    let nap = Duration::from_millis(20);
    pool.map_chunked(std::thread::sleep, [nap, nap], 1)?;
    pss(&pool.workers())
}

fn waiting(method: StartMethod) -> Outcome {
    let done = Event::new()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let ready = Event::new()?;
        let arguments = (ready.clone(), done.clone());
        children.push(Process::new(wait, arguments).start_method(method).start()?);
        ready.wait()?;
    }
    let figure = pss(&children.iter().map(|child| child.pid()).collect::<Vec<_>>());
    done.set();
    for child in children {
        child.join()?;
    }
    figure
}

fn procspawn(_: &Run) -> Outcome {
    let pool = procspawn::Pool::new(2)?;
    let nap = Duration::from_millis(20);
    let tasks: Vec<_> = (0..2).map(|_| pool.spawn(nap, std::thread::sleep)).collect();
    for task in tasks {
        task.join()?;
    }
    pss(&process::children())
}

fn raw_fork(_: &Run) -> Outcome {
    let (reader, writer) = pipes::pipe();
    let worker = |_| {
        process::fork(|| {
            read_word(&reader);
            [0; 4]
        })
    };
    let workers: Vec<_> = (0..2).map(worker).collect();
    let figure = pss(&workers.iter().map(process::Forked::pid).collect::<Vec<_>>());
    // A word ends whichever worker reads it, so there is one for each before any is waited for.
    workers.iter().for_each(|_| write_word(&writer, 0));
    for worker in workers {
        worker.join()?;
    }
    figure
}

/// The first argument of a re-executed process that is to answer a byte and wait for one.
pub const IDLE: &str = "--idle";

/// What such a process does.
pub fn idle() {
    let mut byte = [0];
    while std::io::stdin().read_exact(&mut byte).is_ok() {
        std::io::stdout()
            .write_all(&byte)
            .and_then(|()| std::io::stdout().flush())
            .expect("answers");
    }
}

fn raw_exec(_: &Run) -> Outcome {
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("compare").arg(IDLE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut worker = command.spawn()?;
        worker.stdin.as_mut().ok_or("no stdin")?.write_all(&[1])?;
        worker.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut [0])?;
        workers.push(worker);
    }
    let figure = pss(&workers.iter().map(std::process::Child::id).collect::<Vec<_>>());
    for mut worker in workers {
        drop(worker.stdin.take());
        worker.wait()?;
    }
    figure
}
