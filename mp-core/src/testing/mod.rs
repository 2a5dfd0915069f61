//! What tests of processes need: children, a watch over them, numbers they share.
//!
//! For this workspace's own tests, with the feature `testing`; no part of what the crate promises.
//!
//! A program of such tests has one thread, so that it can be forked: `harness = false`, and [`run`].
#![expect(unsafe_code, reason = "fork and signals, to make processes and to end them")]

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

pub use libtest_mimic::{Failed, Trial};

use crate::sys::mem::{Mapping, memfd};
use crate::sys::process::{self, Forked};

#[cfg(mp_crash)]
pub mod steps;

/// How long a test, or a part of one that has a watch of its own, may take before it counts as hung.
pub const WATCHDOG: Duration = Duration::from_secs(300);
/// How long a single wait may take before it counts as hung.
pub const HANG: Duration = Duration::from_secs(30);
/// The limit for whoever is held up by a death: milliseconds, and room for a machine that is busy, or stands still
/// for some seconds.
pub const PROMPT: Duration = Duration::from_secs(10);

std::thread_local! {
    static LIMIT: Cell<u32> = const { Cell::new(0) };
}

/// Runs those tests that the arguments of this program select, one after the other on this very thread, so that fork is safe
/// in them, and ends it.
pub fn run(tests: Vec<Trial>) -> ! {
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests).exit()
}

/// A test that is [`watched`].
pub fn test(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || Ok(watched(WATCHDOG, body)?))
}

/// Runs a test on this very thread, which has to be the only one, under an alarm that ends the program.
///
/// # Errors
///
/// Where it panics, and where it leaves a descriptor or a child behind.
///
/// # Panics
///
/// Where the process has a second thread.
pub fn watched(limit: Duration, body: impl FnOnce()) -> Result<(), String> {
    assert_eq!(process::thread_count().expect("/proc"), 1, "fork needs a single thread");
    let before = descriptors();
    watchdog(limit);
    let result = catch_unwind(AssertUnwindSafe(body));
    watchdog(Duration::ZERO);
    result.map_err(|_| "panicked, see above".to_owned())?;
    let after = descriptors();
    if after != before {
        return Err(format!("{before} descriptors before, {after} after"));
    }
    // SAFETY: no status is wanted.
    if unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) } >= 0 {
        return Err("a child is left over".to_owned());
    }
    Ok(())
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

extern "C" fn on_alarm(_: i32) {
    let text = b"watchdog: this test hangs\n";
    // SAFETY: a signal handler may write (signal-safety(7)).
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    // SAFETY: and end the process; the children end with it.
    unsafe { libc::_exit(70) };
}

/// Ends the program after so many seconds from now, and its children with it; never where it is zero.
pub fn watchdog(limit: Duration) {
    let seconds = limit.as_secs() as u32;
    LIMIT.set(seconds);
    // SAFETY: the handler does what a handler may.
    unsafe { libc::signal(libc::SIGALRM, on_alarm as *const () as usize) };
    // SAFETY: takes a number only.
    unsafe { libc::alarm(seconds) };
}

/// A child process, killed and reaped when dropped.
#[derive(Debug)]
pub struct Child(i32);

impl Child {
    /// Forks, and runs `body` in the child, which then ends: with code 101 where that panics.
    ///
    /// # Panics
    ///
    /// Where there is no process to be had.
    pub fn new(body: impl FnOnce()) -> Self {
        // SAFETY: there is one thread (`watched` looked), and the child ends below.
        match unsafe { process::fork() }.expect("fork") {
            Forked::Parent(pid) => Self(pid as i32),
            Forked::Child => {
                // SAFETY: takes numbers only. The parent is single-threaded, so "its thread" is it.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                // Alarms are not inherited.
                watchdog(Duration::from_secs(LIMIT.get().into()));
                let result = catch_unwind(AssertUnwindSafe(body));
                process::exit_now(if result.is_ok() { 0 } else { 101 });
            }
        }
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0 as u32
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// Where that cannot be.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a child that was not reaped yet, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Waits for its end; gives what waitpid says.
    ///
    /// # Panics
    ///
    /// Where somebody else reaped it.
    #[must_use]
    pub fn end(self) -> i32 {
        let mut status = 0;
        // SAFETY: status is ours.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(pid, self.0);
        std::mem::forget(self);
        status
    }

    /// Waits for its end, and says whether it was killed, the only other way being a good end.
    ///
    /// # Panics
    ///
    /// Where it failed.
    #[must_use]
    pub fn was_killed(self) -> bool {
        let status = self.end();
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        assert!(killed || status == 0, "the child failed: {status:#x}");
        killed
    }

    /// Waits for its good end.
    ///
    /// # Panics
    ///
    /// Where it is not one.
    pub fn succeed(self) {
        assert_eq!(self.end(), 0, "the child failed");
    }

    /// Kills it.
    ///
    /// # Panics
    ///
    /// Where it had failed before.
    pub fn kill(self) {
        self.signal(libc::SIGKILL);
        let status = self.end();
        assert!(
            libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) == 0,
            "the child failed before it was killed: {status:#x}"
        );
    }

    /// Waits until it sleeps in the kernel, or is stopped, or has ended.
    pub fn await_sleep(&self) {
        wait_until(|| matches!(self.state(), 'S' | 'T' | 'Z'));
    }

    /// Whether it ended, though it was not reaped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state() == 'Z'
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it is not reaped");
        let name = stat.rfind(')').expect("proc(5)");
        stat[name + 2..].chars().next().expect("proc(5)")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: as in signal().
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: no status is wanted.
        unsafe { libc::waitpid(self.0, null_mut(), 0) };
    }
}

/// Waits until it is so, looking again and again.
///
/// # Panics
///
/// Where that takes longer than [`HANG`].
#[track_caller]
pub fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    loop {
        // Before it looks, so that it looks once more where it was held up itself.
        let late = start.elapsed() > HANG;
        if condition() {
            return;
        }
        assert!(!late, "waited for too long");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// So many numbers, all zero, that this process shares with those it forks from now on. They stay.
///
/// # Panics
///
/// Where there is no memory to be had.
#[must_use]
pub fn numbers(count: usize) -> &'static [AtomicU64] {
    let file = File::from(memfd(c"numbers").expect("memfd"));
    file.set_len(8 * count as u64).expect("room");
    shared(&file, count)
}

/// The numbers that a file is of. They stay mapped, the file can be closed.
fn shared(file: &File, count: usize) -> &'static [AtomicU64] {
    let map = Mapping::new(file.as_fd(), 8 * count).expect("mmap");
    let start = map.as_mut_ptr().cast::<AtomicU64>();
    std::mem::forget(map);
    // SAFETY: a mapping of that length which is never undone, page-aligned, of a file that does not
    // shrink; any bytes are atomics.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// Numbers that look random, the same ones from the same seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(1);
        random.below(1);
        random
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.any() >> 11) % end
    }
}

/// Works for so long.
pub fn busy(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Has the kernel send this process a signal that much later, whatever it does then. timer_create(2).
///
/// # Panics
///
/// Where there is no timer to be had.
pub fn signalled_after(time: Duration, signal: i32) {
    // SAFETY: all zeros is an event; its fields follow.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    let mut timer = null_mut();
    // SAFETY: structs of ours.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(made, 0);
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = libc::timespec { tv_sec: 0, tv_nsec: time.as_nanos() as i64 + 1 };
    let times = libc::itimerspec { it_interval: zero, it_value: at };
    // SAFETY: the timer just made, and a struct of ours.
    assert_eq!(unsafe { libc::timer_settime(timer, 0, &raw const times, null_mut()) }, 0);
}

/// Runs `run_on` on each input that fuzzing `target` kept; `package` is the caller's `CARGO_MANIFEST_DIR`.
///
/// They are not part of packages: where there are none, that is said and nothing is run.
///
/// # Panics
///
/// Where `run_on` does, and where the target has no inputs.
pub fn replay(package: &str, target: &str, run_on: fn(&[u8])) {
    let kept = Path::new(package).join("../fuzz/corpus");
    if !kept.is_dir() {
        println!("nothing to replay: there is no {}", kept.display());
        return;
    }
    let inputs = fs::read_dir(kept.join(target)).expect("a folder for each target");
    let paths: Vec<_> = inputs.map(|input| input.expect("a readable folder").path()).collect();
    assert!(!paths.is_empty(), "{target} has no inputs");
    for path in paths {
        // Shown if it fails.
        println!("{}", path.display());
        run_on(&fs::read(path).expect("a readable file"));
    }
}
