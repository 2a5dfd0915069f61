//! Rows that go wrong, to see that the harness reports each and goes on: `compare/run --check`.

use std::time::Duration;

use crate::harness::{Case, Figure, Kind, NotHere, Row, Setup, Unit, Waits};
use crate::raw::process;

const fn row(name: &'static str, run: fn(&crate::harness::Run) -> crate::harness::Outcome) -> Row {
    Row { name, kind: Kind::Process, waits: Waits::No, run }
}

pub const CASE: Case = Case {
    name: "check",
    what: "rows that go wrong",
    unit: Unit::PerSecond,
    setup: Setup::PLAIN,
    rows: &[
        row("works", |_| Ok(Figure::from(1.0))),
        row("is not here", |_| Err(NotHere("no such thing".into()).into())),
        row("fails", |_| Err("it failed".into())),
        row("panics", |_| panic!("a panic")),
        row("panics in a child", |_| {
            process::fork(|| panic!("a child's panic")).join()?;
            Ok(Figure::from(1.0))
        }),
        row("is killed", |_| {
            process::kill(std::process::id());
            hang()
        }),
        row("hangs", |_| hang()),
        row("hangs in a child", |_| {
            process::fork(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(60));
                }
            })
            .join()?;
            Ok(Figure::from(1.0))
        }),
        row("leaves a file and a process", |_| {
            std::fs::write(std::env::temp_dir().join("left"), "")?;
            let shared = format!("/dev/shm/{}left", crate::drive::prefix());
            std::fs::write(shared, "")?;
            // A process group of its own, so that nothing but its parent's death finds it.
            let mut sleep = std::process::Command::new("sleep");
            std::os::unix::process::CommandExt::process_group(sleep.arg("60"), 0).spawn()?;
            Ok(Figure::from(1.0))
        }),
    ],
};

/// What has to be said of each row.
pub const SAID: [&str; 9] = [
    "1.00/s",
    "left out: no such thing",
    "FAILED: it failed",
    "FAILED: ended without a figure (a panic)",
    "FAILED: failed to fill whole buffer (a child's panic)",
    "FAILED: killed by signal 9",
    "FAILED: did not end within 1 s",
    "FAILED: did not end within 1 s",
    "1.00/s; left 2 files and 1 processes behind",
];

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
