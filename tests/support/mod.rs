//! What every test of the suite runs in.

pub(crate) mod cgroup;
pub(crate) mod leak;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "counts calls on x86-64 only"))]
pub(crate) mod seccomp;
pub(crate) mod watchdog;

use std::env;
use std::error::Error;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use libtest_mimic::{Arguments, Failed, Trial};
use multiprocess::core::sys::process;
use multiprocess::{Process, StartMethod};

pub(crate) use leak::runs;

/// What a test gives back: an error or a panic fails it.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// All start methods.
pub(crate) const EACH: &[StartMethod] = &StartMethod::ALL;
/// Those that allow for threads in the parent.
pub(crate) const THREADED: &[StartMethod] = &[StartMethod::ForkServer, StartMethod::Spawn];
/// For tests that choose for themselves, or start nothing.
pub(crate) const ONCE: &[StartMethod] = &[StartMethod::ForkServer];

/// One test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) methods: &'static [StartMethod],
    /// After so long it counts as hung.
    pub(crate) limit: Duration,
    /// What the machine lacks for it: then it is not run, which is said and counted.
    pub(crate) missing: fn() -> Option<String>,
    pub(crate) run: fn() -> Outcome,
}

/// For tests that run everywhere.
pub(crate) const fn nothing_missing() -> Option<String> {
    None
}

/// The usual limit: hundreds of times what a test takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// As `ONCE`, for tests of a limit that is long itself.
pub(crate) const SLOW: &[StartMethod] = ONCE;

/// The limit for one of [`SLOW`].
pub(crate) const SLOW_LIMIT: Duration = Duration::from_secs(300);

/// How long a wait may take before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// The limit for news of a death: milliseconds, and room for a machine that is busy, or stands still for some seconds.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);

/// Lists tests, named after their functions.
#[macro_export]
macro_rules! cases {
    (@limit SLOW) => { $crate::support::SLOW_LIMIT };
    (@limit $methods:ident) => { $crate::support::LIMIT };
    ($($methods:ident: $($name:ident)+;)*) => {
        pub(crate) const CASES: (&str, &[$crate::support::Case]) = (module_path!(), &[$($(
            $crate::support::Case {
                name: stringify!($name),
                methods: $crate::support::$methods,
                limit: $crate::cases!(@limit $methods),
                missing: $crate::support::nothing_missing,
                run: $name,
            },
        )+)*]);
    };
}

/// Programs that tests start as children of their own, by name.
pub(crate) type Role = (&'static str, fn(&[String]));

/// The first argument of this binary when it runs one test, and when it plays a role.
const TEST: &str = "--mp-test";
const ROLE: &str = "--mp-role";

#[must_use]
pub(crate) fn main(groups: &[(&'static str, &'static [Case])]) -> ExitCode {
    // Whatever the shell or the runner has set for itself. What is under way to all processes of a user counts against
    // this limit too (unix(7), `ETOOMANYREFS`), and who ignores SIGCHLD cannot wait for a test.
    process::raise_descriptor_limit();
    // SAFETY: sets the signal back to what it does at first; there is no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(ROLE) => {
            let roles: Vec<Role> = [
                crate::start::ROLES,
                crate::crash::ROLES,
                crate::faults::ROLES,
                crate::notes::ROLES,
                crate::pool::ROLES,
                crate::strangers::ROLES,
            ]
            .concat();
            let (_, role) =
                roles.iter().find(|(name, _)| *name == arguments[2]).expect("a role of that name");
            // A role calls init itself, or does not.
            role(&arguments[3..]);
            ExitCode::SUCCESS
        }
        Some(TEST) => {
            multiprocess::init();
            run_test(groups, &arguments[2])
        }
        _ => run_all(groups),
    }
}

fn method_name(method: StartMethod) -> String {
    format!("{method:?}").to_lowercase()
}

fn full_name(module: &str, case: &Case, method: StartMethod) -> String {
    let module = module.rsplit("::").next().unwrap_or(module);
    if case.methods.len() == 1 {
        format!("{module}::{}", case.name)
    } else {
        format!("{module}::{}::{}", case.name, method_name(method))
    }
}

/// The harness: each trial is a process.
fn run_all(groups: &[(&'static str, &'static [Case])]) -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (module, cases) in groups {
        for case in *cases {
            let missing = (case.missing)();
            for &method in case.methods {
                let name = full_name(module, case, method);
                if let Some(why) = &missing {
                    eprintln!("NOT TESTED: {name}: {why}");
                }
                let run = {
                    let name = name.clone();
                    move || in_a_process(&name, case.limit)
                };
                trials.push(Trial::test(name, run).with_ignored_flag(missing.is_some()));
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn in_a_process(name: &str, limit: Duration) -> Result<(), Failed> {
    let mut command = Command::new("/proc/self/exe");
    command.args([TEST, name]).stdin(Stdio::null()).process_group(0);
    // A backtrace resolves symbols for seconds in a debug build, in every child that panics on purpose.
    command.env("RUST_BACKTRACE", "0");
    watchdog::run(command, limit).map_err(Failed::from)
}

/// One test, in a process of its own.
fn run_test(groups: &[(&'static str, &'static [Case])], name: &str) -> ExitCode {
    for (module, cases) in groups {
        for case in *cases {
            for &method in case.methods {
                if full_name(module, case, method) == name {
                    return run_case(case, method);
                }
            }
        }
    }
    eprintln!("there is no test {name}");
    ExitCode::FAILURE
}

fn nothing() {}

fn run_case(case: &Case, method: StartMethod) -> ExitCode {
    // What tests measure of memory is pages; that the kernel makes large ones of them is no growth (prctl(2)).
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    multiprocess::set_start_method(method);
    // What a program keeps for all its processes comes to be here: the fork server among it.
    for method in [method, StartMethod::Fork] {
        let warm = Process::new(nothing, ()).daemon(true).start_method(method).start();
        assert!(warm.expect("starts").join().expect("joins").success());
    }
    if env::var_os("MP_TEST_ALARMS").is_some() {
        crate::faults::alarm_every(Duration::from_millis(1), crate::faults::nothing);
    }
    let before = leak::Inventory::take();
    if let Err(error) = (case.run)() {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    if let Err(left) = before.compare(PROMPT) {
        eprintln!("left behind: {left}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// This binary in a role, as a program that a test starts.
pub(crate) fn role(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([ROLE, name]).args(arguments).stdin(Stdio::null());
    command
}

/// Whether as many descriptors as a test needs may be open in one process; says so where not, and there is no test.
pub(crate) fn may_open(needed: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local that the call fills.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    if limit.rlim_max < needed {
        println!("NOT TESTED: {needed} descriptors are needed, {} are allowed", limit.rlim_max);
    }
    limit.rlim_max >= needed
}

/// A new folder for files of a test, removed with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        let us = std::process::id();
        // One of that name may have been left by a process of that number that was killed.
        for n in 0.. {
            let path = env::temp_dir().join(format!("mp-test-{us}-{n}"));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Where a file of that name is, or would be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until `condition` holds; an error names it when it does not within a minute.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    for _ in 0..60_000 {
        if condition() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("did not come about within a minute: {what}").into())
}

/// Waits until a process that is about to wait does: until it sleeps in the kernel.
pub(crate) fn sleeps(pid: u32) -> Outcome {
    eventually("it waits", || leak::state(pid) == Some('S'))
}

/// The time of CPUs that a process has had, all its threads together, in ticks of 10 ms (proc_pid_stat(5)).
pub(crate) fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// Measures again and again until a measurement is as it should be; an error gives the last one.
///
/// For what is so whenever it is left alone, on a machine that does not leave it alone all the time.
pub(crate) fn at_last<T: std::fmt::Debug>(
    mut measure: impl FnMut() -> T,
    is_right: impl Fn(&T) -> bool,
) -> Outcome {
    let start = Instant::now();
    loop {
        let late = start.elapsed() > HANG;
        let measured = measure();
        if is_right(&measured) {
            return Ok(());
        }
        if late {
            return Err(format!("in a minute it was not once as it should be: {measured:?}").into());
        }
    }
}
