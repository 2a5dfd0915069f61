//! The memory that one idle worker of two adds: its proportional set size, where pages that several processes
//! share count for each in part.

use std::process::{Command, Stdio};

use super::python::python;
use crate::harness::{Case, Figure, Kind, Outcome, Row, Setup, Unit, Waits};

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
            run: |_| small("idle", "pool-forkserver"),
        },
        Row {
            name: "Pool, Spawn",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| small("idle", "pool-spawn"),
        },
        Row {
            name: "Pool, Fork",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| small("idle", "pool-fork"),
        },
        Row {
            name: "Process that waits, ForkServer",
            kind: Kind::Ours,
            waits: Waits::Sleeps,
            run: |_| small("idle", "process"),
        },
        Row {
            name: "procspawn Pool",
            kind: Kind::Process,
            waits: Waits::Sleeps,
            run: |_| small("idle_procspawn", ""),
        },
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
        Row { name: "fork", kind: Kind::Raw, waits: Waits::Sleeps, run: |_| small("idle", "fork") },
        Row {
            name: "re-execution",
            kind: Kind::Raw,
            waits: Waits::Sleeps,
            run: |_| small("idle", "re-execution"),
        },
    ],
}];

/// What a small program says of one of its rows.
fn small(program: &str, row: &str) -> Outcome {
    let program = std::env::current_exe()?.with_file_name(program);
    let output = Command::new(program).arg(row).stdin(Stdio::null()).output()?;
    let said = |bytes| String::from_utf8_lossy(bytes).trim().to_string();
    match said(&output.stdout).parse::<f64>() {
        Ok(kib) => Ok(Figure::from(kib)),
        Err(_) => Err(said(&output.stderr).into()),
    }
}
