//! Pools and shared objects over a real server: each test starts a `redis-server` of its own, on a socket in a directory of
//! its own, and, where it needs them, hosts that are this binary again.
//!
//! `cargo test -p mp-cluster`; without a `redis-server` in the path nothing is tested, which is said, and the tests count
//! as ignored. A test is a program of its own, watched from outside, as in the suite of the workspace.
#![allow(unsafe_code, reason = "signals for the tests' own processes")]

// What the suite's support calls it.
extern crate mp_process as multiprocess;

mod faults;
mod machines;
mod objects;
mod pool;
mod redis;
#[path = "../../tests/support"]
mod support {
    #[expect(dead_code, reason = "has more than is needed here")]
    pub(crate) mod leak;
    pub(crate) mod watchdog;
}
#[cfg(feature = "tls")]
mod tls;

use std::env;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

/// What a test gives back: an error or a panic fails it.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A test: its name, and what it does.
pub(crate) type Case = (&'static str, fn() -> Outcome);

/// Lists tests, named after their functions.
#[macro_export]
macro_rules! cases {
    ($($name:ident)+) => {
        pub(crate) const CASES: &[$crate::Case] = &[$((stringify!($name), $name)),+];
    };
}

/// Many times what a test takes.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a wait may take before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(30);
const TEST: &str = "--mp-test";
const ROLE: &str = "--mp-role";

/// A group of tests: its name, the tests, and why it cannot be run, if so.
type Group = (&'static str, &'static [Case], fn() -> Option<String>);

fn groups() -> Vec<Group> {
    vec![
        ("objects", objects::CASES, || None),
        ("on_redis", pool::on_redis::CASES, || None),
        ("pool", pool::CASES, || None),
        ("faults", faults::CASES, || None),
        ("machines", machines::CASES, machines::missing),
        #[cfg(feature = "tls")]
        ("tls", tls::CASES, tls::missing),
    ]
}

fn main() -> ExitCode {
    mp_process::init();
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(ROLE) => pool::play(&arguments[2..]),
        Some(TEST) => run_test(&arguments[2]),
        _ => run_all(),
    }
}

fn run_all() -> ExitCode {
    let arguments = Arguments::from_args();
    let why = redis::missing();
    if let Some(why) = &why {
        eprintln!("NOT TESTED: {why}");
    }
    let mut trials = Vec::new();
    for (group, cases, missing) in groups() {
        let alone = missing();
        for (name, _) in cases {
            let name = format!("{group}::{name}");
            let run = {
                let name = name.clone();
                move || in_a_process(&name)
            };
            if let Some(alone) = &alone {
                eprintln!("NOT TESTED: {name}: {alone}");
            }
            let ignored = why.is_some() || alone.is_some();
            trials.push(Trial::test(name, run).with_ignored_flag(ignored));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn in_a_process(name: &str) -> Result<(), Failed> {
    let mut command = Command::new("/proc/self/exe");
    command.args([TEST, name]).stdin(Stdio::null()).process_group(0);
    command.env("RUST_BACKTRACE", "0");
    support::watchdog::run(command, LIMIT).map_err(Failed::from)
}

fn run_test(wanted: &str) -> ExitCode {
    let cases = groups().into_iter().flat_map(|(group, cases, _)| {
        cases.iter().map(move |(name, run)| (format!("{group}::{name}"), *run))
    });
    let Some((_, run)) = cases.into_iter().find(|(name, _)| name == wanted) else {
        eprintln!("there is no test {wanted}");
        return ExitCode::FAILURE;
    };
    // What a program keeps for all its processes comes to be here.
    let warm = mp_process::Process::new(|| (), ()).daemon(true).start();
    assert!(warm.expect("starts").join().expect("joins").success());
    let before = support::leak::Inventory::take();
    if let Err(error) = run() {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    if let Err(left) = before.compare(Duration::from_secs(20)) {
        eprintln!("left behind: {left}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// This binary in a role, as a program that a test starts.
pub(crate) fn role(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ROLE).args(arguments).stdin(Stdio::null());
    command
}

/// Waits until `condition` holds; an error names it when it does not within a minute.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    for _ in 0..12_000 {
        if condition() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(format!("did not come about within a minute: {what}").into())
}

/// Learns for how long this machine stood still, if it did: who does so for a lease is as good as gone to others.
pub(crate) struct Pulse {
    over: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    beats: Option<JoinHandle<()>>,
}

impl Pulse {
    pub(crate) fn start() -> Self {
        let (over, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, most) = (Arc::clone(&over), Arc::clone(&longest));
        let beats = thread::spawn(move || {
            let mut last = Instant::now();
            while !ends.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
                let pause = last.elapsed().as_millis() as u64;
                most.fetch_max(pause, Ordering::Relaxed);
                last = Instant::now();
            }
        });
        Self { over, longest, beats: Some(beats) }
    }

    /// Whether it was for so long that a lease may have ended meanwhile.
    pub(crate) fn stood_still(&self) -> bool {
        let longest = Duration::from_millis(self.longest.load(Ordering::Relaxed));
        longest > pool::LEASE / 4
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.beats.take().map(JoinHandle::join);
    }
}
