//! A process that is killed at each named step of sending and receiving, and what the other end finds.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-pipe --test crash`; in other builds there are no such steps, and
//! nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    steps::main();
}

#[cfg(mp_crash)]
mod steps {
    #![expect(unsafe_code, reason = "fork and signals, to make processes and to end them")]

    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
    use std::os::fd::AsFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use libtest_mimic::{Arguments, Failed, Trial};
    use mp_core::sys::process::{self, Exit, Forked, Reaped};
    use mp_core::{Deadline, Fd, crash};
    use mp_pipe::{Connection, Error, duplex};
    use serde::{Deserialize, Serialize};

    /// How long a test may take before it counts as hung.
    const WATCHDOG: u32 = 60;
    /// How long a single wait may take before it counts as hung.
    const HANG: Duration = Duration::from_secs(20);
    /// The limit for whoever is held up by a death, with room for a busy machine.
    const PROMPT: Duration = Duration::from_secs(5);

    #[derive(Serialize, Deserialize)]
    struct Message {
        number: u64,
        content: Vec<u64>,
        files: Vec<Fd>,
    }

    /// One process's side: its end, and how it lets the other receive, and is let.
    struct End {
        pipe: Connection<Message, Message>,
        go: PipeWriter,
        may_go: PipeReader,
    }

    /// Every name that the sources give to a step.
    fn points() -> Vec<&'static str> {
        let sources = [include_str!("../src/ring.rs"), include_str!("../src/link.rs")];
        let mut names = Vec::new();
        for source in sources {
            for call in source.split("crash_point!(\"").skip(1) {
                names.extend(call.split('"').next());
            }
        }
        names.sort_unstable();
        assert!(names.len() > 20 && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        names
    }

    pub(crate) fn main() {
        let mut arguments = Arguments::from_args();
        // Then each test runs on this very thread, and fork is safe.
        arguments.test_threads = Some(1);
        let mut tests: Vec<Trial> = Vec::new();
        for name in points() {
            // Taken back is what had begun: a second one finds no room to begin.
            let passes = if name.contains("an abort") { 1 } else { 2 };
            for pass in 1..=passes {
                tests.push(Trial::test(format!("killed at: {name}, pass {pass}"), move || {
                    watched(|| killed_at(name, pass))
                }));
            }
        }
        libtest_mimic::run(&arguments, tests).exit();
    }

    fn watched(body: impl FnOnce()) -> Result<(), Failed> {
        watchdog(WATCHDOG);
        let before = descriptors();
        let result = catch_unwind(AssertUnwindSafe(body));
        watchdog(0);
        result.map_err(|_| Failed::from("panicked, see above"))?;
        assert_eq!(descriptors(), before, "descriptors are left over");
        Ok(())
    }

    fn descriptors() -> usize {
        assert_eq!(process::thread_count().unwrap(), 1, "fork needs a single thread");
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    extern "C" fn on_alarm(_: i32) {
        let text = b"watchdog: this test hangs\n";
        // SAFETY: a signal handler may write (signal-safety(7)).
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        // SAFETY: and end the process; the child ends with it.
        unsafe { libc::_exit(70) };
    }

    fn watchdog(seconds: u32) {
        // SAFETY: the handler does what a handler may.
        unsafe { libc::signal(libc::SIGALRM, on_alarm as *const () as usize) };
        // SAFETY: takes a number only.
        unsafe { libc::alarm(seconds) };
    }

    /// How many numbers each kind of message has.
    const LENGTHS: [usize; 12] = [0, 1, 100, 500, 0, 505, 506, 3_000, 0, 20_000, 100, 100_000];

    fn message(number: u64) -> Message {
        let len = LENGTHS[number as usize % LENGTHS.len()];
        let files = if number % 5 == 3 { number as usize % 3 + 1 } else { 0 };
        // One packet carries 253.
        let files = if number % 31 == 30 { 300 } else { files };
        let files = (0..files).map(|_| Fd::from(mp_core::sys::fd::null().unwrap())).collect();
        Message { number, content: vec![number; len], files }
    }

    /// Sends `count` messages, in all the ways there are.
    fn send_all(end: &End, count: u64) -> Result<(), Error> {
        // The other side does not receive yet: the first is taken back, the second does not begin.
        for _ in 0..2 {
            let long = Message { number: u64::MAX, content: vec![0; 1 << 20], files: Vec::new() };
            match end.pipe.send_timeout(long, Duration::from_millis(5)) {
                Err(error) if matches!(error.reason, Error::TimedOut) => {}
                Err(error) => return Err(error.reason),
                Ok(()) => panic!("nobody receives yet"),
            }
        }
        // Nobody listens where the other was killed.
        let _ = (&end.go).write_all(&[0]);
        for number in 0..count {
            let message = message(number);
            match number % 7 {
                // One that is too long for one go is put aside.
                0 | 3 => match end.pipe.try_send(message) {
                    Err(error) if matches!(error.reason, Error::WouldBlock) => {
                        end.pipe.send_timeout(error.value, HANG)?;
                    }
                    result => result?,
                },
                5 if message.files.is_empty() => {
                    let (bytes, _) = mp_core::encode(&message).unwrap().into_parts();
                    end.pipe.send_with(bytes.len(), |place| place.copy_from_slice(&bytes))?;
                }
                _ => end.pipe.send_timeout(message, HANG)?,
            }
        }
        // Many in a row, so fast that the barriers are left to the reader; twice.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(20));
            for _ in 0..2_000 {
                end.pipe.send_bytes_timeout(b"", HANG)?;
            }
        }
        Ok(())
    }

    /// Receives what that sends.
    fn receive_all(end: &End, count: u64) -> Result<(), Error> {
        // Nothing comes where the other was killed.
        let _ = (&end.may_go).read(&mut [0]);
        for number in 0..count {
            let received = end.pipe.recv_timeout(HANG)?;
            let expected = message(number);
            assert_eq!(received.number, number, "lost, repeated or out of order");
            assert!(received.content == expected.content, "torn");
            assert_eq!(received.files.len(), expected.files.len());
            if number % 64 == 0 {
                // Let the pipe become full.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for _ in 0..4_000 {
            assert_eq!(end.pipe.recv_bytes_timeout(HANG)?, b"");
        }
        Ok(())
    }

    const COUNT: u64 = 600;

    /// Both directions, one after the other; the other side does the same the other way round.
    fn first(end: &End) -> Result<(), Error> {
        send_all(end, COUNT)?;
        // Now the other side finds this one late, and waits for room.
        std::thread::sleep(Duration::from_millis(40));
        receive_all(end, COUNT)
    }

    fn second(end: &End) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(40));
        receive_all(end, COUNT)?;
        send_all(end, COUNT)
    }

    fn killed_at(name: &str, pass: u32) {
        let (ours, theirs) = duplex::<Message, Message>().unwrap();
        let (one, two) = (pipe().unwrap(), pipe().unwrap());
        let ours = End { pipe: ours, go: one.1, may_go: two.0 };
        let theirs = End { pipe: theirs, go: two.1, may_go: one.0 };
        // SAFETY: there is one thread (descriptors() looked), and the child ends below.
        match unsafe { process::fork() }.unwrap() {
            Forked::Child => {
                // SAFETY: takes numbers only. The parent is single-threaded, so "its thread" is it.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                drop(ours);
                crash::arm(name, pass);
                let result = catch_unwind(AssertUnwindSafe(|| first(&theirs)));
                process::exit_now(match result {
                    Ok(Ok(())) => 0,
                    Ok(Err(error)) => {
                        eprintln!("{error}");
                        1
                    }
                    Err(_) => 101,
                });
            }
            Forked::Parent(pid) => {
                drop(theirs);
                let child = process::pidfd_open(pid).unwrap();
                let result = second(&ours);
                let ended = Instant::now();
                assert!(matches!(result, Err(Error::Disconnected)), "{result:?}");
                assert!(matches!(ours.pipe.recv_timeout(HANG), Err(Error::Disconnected)));
                assert!(matches!(
                    ours.pipe.send(message(0)).unwrap_err().reason,
                    Error::Disconnected
                ));
                assert!(process::wait_ended(child.as_fd(), Deadline::after(PROMPT)).unwrap());
                assert!(ended.elapsed() < PROMPT);
                let exit = process::reap(child.as_fd()).unwrap();
                assert!(
                    matches!(exit, Reaped::Ended(Exit::Signal(libc::SIGKILL))),
                    "the step was never reached: {exit:?}"
                );
            }
        }
    }
}
