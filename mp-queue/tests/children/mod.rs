//! Child processes, numbers they share, and a watch over tests that hang.
#![expect(unsafe_code, reason = "fork and signals, to make processes and to end them")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use mp_core::Segment;
use mp_core::sys::process::{self, Forked};

/// How long a test may take before it counts as hung.
const WATCHDOG: u32 = 100;
/// How long a single wait may take before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// One test, on this very thread.
pub(crate) fn test(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        assert_eq!(process::thread_count().unwrap(), 1, "fork needs a single thread");
        watchdog(WATCHDOG);
        let result = catch_unwind(AssertUnwindSafe(body));
        watchdog(0);
        result.map_err(|_| Failed::from("panicked, see above"))
    })
}

extern "C" fn on_alarm(_: i32) {
    let text = b"watchdog: this test hangs\n";
    // SAFETY: a signal handler may write (signal-safety(7)).
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    // SAFETY: and end the process; the children end with it.
    unsafe { libc::_exit(70) };
}

fn watchdog(seconds: u32) {
    // SAFETY: the handler does what a handler may.
    unsafe { libc::signal(libc::SIGALRM, on_alarm as *const () as usize) };
    // SAFETY: takes a number only.
    unsafe { libc::alarm(seconds) };
}

/// A child process, killed and reaped when dropped.
pub(crate) struct Child(i32);

impl Child {
    pub(crate) fn new(body: impl FnOnce()) -> Self {
        // SAFETY: there is one thread (test() looked), and the child ends below.
        match unsafe { process::fork() }.unwrap() {
            Forked::Parent(pid) => Self(pid as i32),
            Forked::Child => {
                // SAFETY: takes numbers only. The parent is single-threaded, so "its thread" is it.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                watchdog(WATCHDOG);
                let result = catch_unwind(AssertUnwindSafe(body));
                process::exit_now(if result.is_ok() { 0 } else { 101 });
            }
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a child that was not reaped yet, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Waits for its end; gives what waitpid says.
    pub(crate) fn end(self) -> i32 {
        let mut status = 0;
        // SAFETY: status is ours.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(pid, self.0);
        std::mem::forget(self);
        status
    }

    pub(crate) fn succeed(self) {
        assert_eq!(self.end(), 0, "the child failed");
    }

    pub(crate) fn kill(self) {
        self.signal(libc::SIGKILL);
        let status = self.end();
        assert!(
            libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) == 0,
            "the child failed before it was killed"
        );
    }

    /// Waits until it sleeps in the kernel (or is stopped).
    pub(crate) fn await_sleep(&self) {
        let path = format!("/proc/{}/stat", self.0);
        wait_until(|| {
            let stat = std::fs::read_to_string(&path).unwrap();
            let state = stat[stat.rfind(')').unwrap() + 2..].chars().next();
            matches!(state, Some('S' | 'T'))
        });
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

pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < HANG, "waited for too long");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// So many numbers that all processes of a test share.
pub(crate) fn numbers(count: usize) -> &'static [AtomicU64] {
    let size = 64 + count * 8;
    let segment = Box::leak(Box::new(Segment::create("test", 0, size).unwrap()));
    segment.slice_at(64, count).unwrap()
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
