//! The rows of `worker_memory_idle`, but for the peers', in a program that has little beside them.
//!
//! A process has a share of each page of its program that is mapped, and the kernel maps those around the ones that
//! are used: so what a worker has grows with the program, and in one that links every peer it would be theirs too.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use multiprocess::sync::Event;
use multiprocess::{Pool, Process, StartMethod};

use pss::{Outcome, pss, said};
use raw::pipes::{self, read_word, write_word};
use raw::process;

#[path = "../pss.rs"]
mod pss;

#[path = "../raw"]
#[expect(dead_code, reason = "other rows need more of it")]
mod raw {
    pub mod pipes;
    pub mod process;
}

fn main() {
    multiprocess::init();
    let row = std::env::args().nth(1).unwrap_or_default();
    if row == IDLE {
        return idle();
    }
    process::die_with_parent();
    let outcome = match &*row {
        "pool-forkserver" => pool(StartMethod::ForkServer),
        "pool-spawn" => pool(StartMethod::Spawn),
        "pool-fork" => pool(StartMethod::Fork),
        "process" => waiting(StartMethod::ForkServer),
        "fork" => raw_fork(),
        "re-execution" => raw_exec(),
        _ => Err("there is no such row".into()),
    };
    said(outcome);
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

fn raw_fork() -> Outcome {
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
const IDLE: &str = "--idle";

/// What such a process does.
fn idle() {
    let mut byte = [0];
    while std::io::stdin().read_exact(&mut byte).is_ok() {
        std::io::stdout()
            .write_all(&byte)
            .and_then(|()| std::io::stdout().flush())
            .expect("answers");
    }
}

fn raw_exec() -> Outcome {
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("idle").arg(IDLE).stdin(Stdio::piped()).stdout(Stdio::piped());
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
