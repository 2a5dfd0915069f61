//! Threads as the kernel sees them: which one this is, and whether another still runs.
#![expect(unsafe_code, reason = "gettid, tkill, pthread_atfork")]

use std::fs;
use std::io::{self, Read};

use crate::sys::check;

/// The calling thread's number, unique among the threads of all processes in its pid namespace.
#[must_use]
pub fn current() -> u32 {
    // SAFETY: takes nothing, cannot fail (gettid(2)).
    unsafe { libc::gettid() as u32 }
}

/// Whether there is a thread `tid`, be it one that has ended and was not reaped. tkill(2), signal 0.
#[must_use]
pub fn exists(tid: u32) -> bool {
    // SAFETY: takes numbers only; signal 0 is not delivered, only checked for.
    let result = check(unsafe { libc::syscall(libc::SYS_tkill, tid as libc::pid_t, 0) });
    // EPERM: it is somebody else's. EINVAL: no thread can have that number.
    match result {
        Ok(_) => true,
        Err(error) => !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)),
    }
}

/// What tells one thread from a later one of the same number, and whether it can still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// It has ended or is about to: it will not run another instruction of its program.
    pub ended: bool,
    /// When it was started, in clock ticks since boot. A program that replaces itself keeps it.
    pub start: u64,
    /// Where the stack of its program begins: random for each program a process turns into. 0 where the
    /// kernel does not tell (it does for processes of the same user).
    pub stack: u64,
}

/// Looks the thread `tid` up in `/proc`. proc_pid_stat(5).
///
/// # Errors
///
/// `NotFound` where there is no such thread (or no `/proc`), `EMFILE` where no descriptor is left,
/// `InvalidData` where the kernel's line has another form.
pub fn stat(tid: u32) -> io::Result<Stat> {
    /// Set in the flags of a thread from the first step of its end on (include/linux/sched.h).
    const PF_EXITING: u64 = 0x4;

    let mut buffer = [0_u8; 1024];
    let mut len = 0;
    let mut file = fs::File::open(format!("/proc/{tid}/stat"))?;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It ended between the two calls.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Err(error) => return Err(error),
        }
    }
    // The second field is the name in parentheses, in which anything can stand.
    let fields = buffer[..len]
        .iter()
        .rposition(|&byte| byte == b')')
        .and_then(|end| std::str::from_utf8(&buffer[end + 1..len]).ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().ok_or(io::ErrorKind::InvalidData)?;
    // The next field is the 4th of the manual page.
    let mut number = |skip: usize| -> io::Result<u64> {
        let field = fields.nth(skip).ok_or(io::ErrorKind::InvalidData)?;
        field.parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let flags = number(9 - 4)?;
    let start = number(22 - 10)?;
    let stack = number(28 - 23)?;
    let ended = matches!(state, "Z" | "X" | "x") || flags & PF_EXITING != 0;
    Ok(Stat { ended, start, stack })
}

/// Whether the thread `tid` has ended, seen without a descriptor: a thread at its end gives its memory up, and so has no
/// program any more. For where there is none left for [`stat`]; that tells one thread from a later one of the same
/// number, and this does not. proc_pid_exe(5).
///
/// False where it cannot be told: `/proc` is not mounted, or the thread is not ours to look at.
#[must_use]
pub fn has_no_program(tid: u32) -> bool {
    let is_missing = |tid: u32| {
        let link = fs::read_link(format!("/proc/{tid}/exe"));
        matches!(link, Err(error) if error.kind() == io::ErrorKind::NotFound)
    };
    is_missing(tid) && !is_missing(current())
}

/// Runs `function` in every child this process forks, in its only thread, before `fork` returns there.
///
/// It may only do what a signal handler may. pthread_atfork(3); a bare `clone` system call goes past it.
///
/// # Errors
///
/// `ENOMEM`.
pub fn in_forked_child(function: extern "C" fn()) -> io::Result<()> {
    // SAFETY: a function that takes nothing and, part of this program, is there for as long as it runs.
    match unsafe { libc::pthread_atfork(None, None, Some(function)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_runs_and_one_that_was_joined_does_not() {
        assert!(exists(current()));
        let own = stat(current()).unwrap();
        assert!(!own.ended && own.start > 0 && own.stack > 0);
        let (tid, other) =
            std::thread::spawn(|| (current(), stat(current()).unwrap())).join().unwrap();
        assert!(!other.ended && other.stack == own.stack);
        // The kernel may take a moment to forget a thread that was joined.
        let gone = (0..60_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            !exists(tid)
        });
        assert!(gone && has_no_program(tid) && !has_no_program(current()));
        assert_eq!(stat(tid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(!has_no_program(child.id()));
        drop(child.stdin.take());
        let ended = (0..60_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            stat(child.id()).unwrap().ended
        });
        assert!(ended && exists(child.id()) && has_no_program(child.id()));
        child.wait().unwrap();
        assert!(!exists(child.id()));
    }
}
