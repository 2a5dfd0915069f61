//! Starting and joining an empty process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use multiprocess::{Process, StartMethod};

use super::python::python;
use crate::harness::{Case, Kind, Outcome, Row, Run, Setup, Unit, Waits, each};
use crate::raw::process;

pub const CASES: [Case; 1] = [Case {
    name: "process_start_join",
    what: "start an empty process and wait for its end; the parent is small",
    unit: Unit::Microseconds,
    setup: Setup::PLAIN,
    rows: &[
        Row { name: "ForkServer", kind: Kind::Ours, waits: Waits::Sleeps, run: fork_server },
        Row { name: "Spawn", kind: Kind::Ours, waits: Waits::Sleeps, run: spawn },
        Row { name: "Fork", kind: Kind::Ours, waits: Waits::Sleeps, run: fork },
        Row { name: "procspawn", kind: Kind::Process, waits: Waits::Sleeps, run: procspawn },
        Row {
            name: "CPython forkserver",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "start", &["forkserver"]),
        },
        Row {
            name: "CPython spawn",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "start", &["spawn"]),
        },
        Row {
            name: "CPython fork",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |run| python(run, "start", &["fork"]),
        },
        Row { name: "std::thread", kind: Kind::Thread, waits: Waits::Sleeps, run: thread },
        Row { name: "fork", kind: Kind::Raw, waits: Waits::Sleeps, run: raw_fork },
        Row { name: "fork server", kind: Kind::Raw, waits: Waits::Sleeps, run: raw_fork_server },
        Row { name: "re-execution", kind: Kind::Raw, waits: Waits::Sleeps, run: raw_exec },
    ],
}];

fn nothing() {}

fn ours(run: &Run, method: StartMethod) -> Outcome {
    Ok(each(run, || {
        let child = Process::new(nothing, ()).start_method(method).start().expect("starts");
        assert!(child.join().expect("joins").success());
    }))
}

fn fork_server(run: &Run) -> Outcome {
    ours(run, StartMethod::ForkServer)
}

fn spawn(run: &Run) -> Outcome {
    ours(run, StartMethod::Spawn)
}

fn fork(run: &Run) -> Outcome {
    ours(run, StartMethod::Fork)
}

fn procspawn(run: &Run) -> Outcome {
    Ok(each(run, || procspawn::spawn((), |()| ()).join().expect("joins")))
}

fn thread(run: &Run) -> Outcome {
    Ok(each(run, || std::thread::spawn(nothing).join().expect("joins")))
}

fn raw_fork(run: &Run) -> Outcome {
    Ok(each(run, process::fork_empty))
}

/// A server of one thread forks a child for each byte, and answers with one when it has ended.
fn raw_fork_server(run: &Run) -> Outcome {
    let (mut near, mut far) = UnixStream::pair()?;
    let server = process::fork(|| {
        let mut byte = [1];
        while byte[0] != 0 {
            far.read_exact(&mut byte).expect("is asked");
            process::fork_empty();
            far.write_all(&byte).expect("answers");
        }
        [0; 4]
    });
    let mut ask = |byte: u8| {
        near.write_all(&[byte]).expect("asks");
        near.read_exact(&mut [0]).expect("is answered");
    };
    let figure = each(run, || ask(1));
    ask(0);
    server.join()?;
    Ok(figure)
}

/// The first argument of a re-executed process that is to do nothing.
pub const NOTHING: &str = "--nothing";

fn raw_exec(run: &Run) -> Outcome {
    Ok(each(run, || {
        let mut command = Command::new("/proc/self/exe");
        let status = command.arg0("compare").arg(NOTHING).stdin(Stdio::null()).status();
        assert!(status.expect("executes").success());
    }))
}
