//! Parents, children and fork servers that are killed at each named step of a start and of an end, and what is
//! left of the others.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-process --test crash`; in other builds there are no such steps,
//! and nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    // In what a parent executes. The parents themselves are forks of this program, and do it or not.
    if mp_core::testing::steps::is_joined() {
        mp_process::init();
    }
    if std::env::args().nth(1).is_some_and(|argument| argument == scenes::STOPPED) {
        mp_process::init();
        return scenes::stops_its_server();
    }
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    #![expect(
        unsafe_code,
        reason = "adopts and reaps what others leave behind, kills a fork server"
    )]

    use std::cell::Cell;
    use std::fs;
    use std::process::{Command, Stdio};
    use std::ptr::null_mut;
    use std::time::{Duration, Instant};

    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, HANG, PROMPT, Trial, wait_until};
    use mp_process::{Error, Process, ProcessError, StartMethod};

    const SCENES: &[Scene] = &[
        Scene { name: "a fork server", play: |stage| starts(stage, true, StartMethod::ForkServer) },
        Scene {
            name: "a forked fork server",
            play: |stage| starts(stage, false, StartMethod::ForkServer),
        },
        Scene {
            name: "a fork server that reaps",
            play: |stage| {
                // As on an older kernel; the children of this process have it.
                // SAFETY: this process has one thread.
                unsafe { std::env::set_var("MP_KERNEL_TELLS_NOTHING", "1") };
                starts(stage, true, StartMethod::ForkServer);
            },
        },
        Scene { name: "a fork server anew", play: |stage| replaces_its_server(stage, false) },
        Scene { name: "after a fork server", play: |stage| replaces_its_server(stage, true) },
        Scene { name: "spawn", play: |stage| starts(stage, true, StartMethod::Spawn) },
        Scene { name: "fork", play: |stage| starts(stage, false, StartMethod::Fork) },
        Scene {
            name: "daemons by fork server",
            play: |stage| has_daemons(stage, StartMethod::ForkServer),
        },
        Scene { name: "daemons by spawn", play: |stage| has_daemons(stage, StartMethod::Spawn) },
        Scene { name: "daemons by fork", play: |stage| has_daemons(stage, StartMethod::Fork) },
    ];

    const SOURCES: &[&str] = &[
        include_str!("../src/boot.rs"),
        include_str!("../src/child.rs"),
        include_str!("../src/family.rs"),
        include_str!("../src/start/fork.rs"),
        include_str!("../src/start/forkserver.rs"),
        include_str!("../src/start/server.rs"),
        include_str!("../src/start/spawn.rs"),
    ];

    pub(crate) fn main() {
        // Whoever loses its parent becomes a child of this process, which so learns what is left (prctl(2)).
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
        let mut tests = tests(SCENES, SOURCES);
        let stopped = Trial::test("a stopped fork server holds up no limited wait", || {
            let mut program = Command::new("/proc/self/exe");
            // As on an older kernel.
            program.arg(STOPPED).env("MP_KERNEL_TELLS_NOTHING", "1").stdin(Stdio::null());
            let output = program.output()?;
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(text.into()) }
        });
        tests.push(stopped);
        testing::run(tests);
    }

    pub(crate) const STOPPED: &str = "--stops-its-server";

    pub(crate) fn stops_its_server() {
        let signal = |pid: i32, signal: i32| {
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        };
        let child = Process::new(sleep, ()).start().unwrap();
        let [server] = children_of(std::process::id())[..] else { panic!("one child") };
        signal(server, libc::SIGSTOP);
        wait_until(|| state(server) == 'T');
        child.kill().unwrap();
        wait_until(|| state(child.pid() as i32) == 'Z');
        let begin = Instant::now();
        // It has ended, and how is not known yet.
        for _ in 0..10 {
            assert_eq!(child.join_timeout(Duration::from_millis(10)).unwrap(), None);
        }
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        signal(server, libc::SIGCONT);
        assert_eq!(child.join().unwrap().signal(), Some(libc::SIGKILL));
    }

    fn double(number: u64) -> u64 {
        2 * number
    }

    fn sleep() {
        std::thread::sleep(2 * HANG);
    }

    /// Waits for the end of what a parent left behind.
    #[track_caller]
    fn nothing_is_left() {
        let start = Instant::now();
        loop {
            // SAFETY: no status is wanted.
            match unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) } {
                -1 => return,
                0 => {
                    assert!(
                        start.elapsed() < PROMPT,
                        "left over: {:?}",
                        children_of(std::process::id())
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => {}
            }
        }
    }

    fn children_of(pid: u32) -> Vec<i32> {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Starts a process and gets its result; says whether that came to be. Whatever keeps it from that is a typed
    /// error, at once.
    fn works(method: StartMethod) -> bool {
        let begin = Instant::now();
        let child = Process::new(double, (21,)).start_method(method).start();
        let came = match child.map(|child| child.result()) {
            Ok(Ok(number)) => {
                assert_eq!(number, 42);
                true
            }
            Ok(Err(ProcessError::Signaled(libc::SIGKILL) | ProcessError::Lost)) => false,
            Ok(Err(error)) => panic!("{error}"),
            Err(Error::DiedAtStart(status)) => {
                assert!(matches!(status.signal(), None | Some(libc::SIGKILL)), "{status}");
                false
            }
            Err(error) => panic!("{error}"),
        };
        assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
        came
    }

    /// A few starts, of which one may fail where somebody dies.
    fn family(stage: &Stage, method: StartMethod) {
        let failed = Cell::new(0);
        let start = || {
            if !works(method) {
                failed.set(failed.get() + 1);
            }
        };
        (0..3).for_each(|_| start());
        assert!(failed.get() <= u32::from(stage.is_hit()), "{} failed", failed.get());
        // Where it was the last one.
        assert!(failed.get() == 0 || works(method), "and the next start too");
    }

    fn starts(stage: &Stage, initialised: bool, method: StartMethod) {
        let parent = stage.victim(|| {
            if initialised {
                mp_process::init();
            }
            family(stage, method);
            // Not as a fork of a test ends, but as a program does.
            std::process::exit(0);
        });
        let _ = stage.ends(parent);
        nothing_is_left();
    }

    /// The server is killed; what comes next may find it ending, or `gone`, and what it had made ready too.
    fn replaces_its_server(stage: &Stage, gone: bool) {
        let parent = stage.victim(|| {
            mp_process::init();
            assert!(works(StartMethod::ForkServer) || stage.is_hit());
            for server in children_of(std::process::id()) {
                let made = if gone { children_of(server as u32) } else { Vec::new() };
                for pid in [&[server], &*made].concat() {
                    // SAFETY: takes numbers only. The server was not reaped yet, and nobody reaps its children.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                    wait_until(|| !gone || matches!(state(pid), 'Z' | 'X'));
                }
            }
            family(stage, StartMethod::ForkServer);
            std::process::exit(0);
        });
        let _ = stage.ends(parent);
        nothing_is_left();
    }

    fn state(pid: i32) -> char {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        state.unwrap_or('X')
    }

    fn has_daemons(stage: &Stage, method: StartMethod) {
        let parent = stage.victim(|| {
            if method != StartMethod::Fork {
                mp_process::init();
            }
            let daemons: Vec<_> = (0..2)
                .map(|_| Process::new(sleep, ()).start_method(method).daemon(true).start())
                .collect();
            assert!(
                daemons.iter().filter(|daemon| daemon.is_err()).count()
                    <= usize::from(stage.is_hit())
            );
            std::process::exit(0);
        });
        let _ = stage.ends(parent);
        nothing_is_left();
    }
}
