//! Processes, cores and the clock.

use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::pipes;

/// What a process tells the one that forked it: four numbers, whose meaning is the case's.
pub type Report = [u64; 4];

/// A forked process that will report.
pub struct Forked {
    pid: libc::pid_t,
    report: File,
}

/// Forks a process that runs `body`, reports what it gives, and ends. It dies with its parent.
///
/// The one that forks must have one thread.
pub fn fork(body: impl FnOnce() -> Report) -> Forked {
    let (reader, mut writer) = pipes::pipe();
    // SAFETY: rows that fork have one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        die_with_parent();
        let code = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(report) => {
                let _ = writer.write_all(&report.map(u64::to_ne_bytes).concat());
                0
            }
            Err(_) => 101,
        };
        // SAFETY: ends the process without running the parent's destructors.
        unsafe { libc::_exit(code) };
    }
    Forked { pid, report: reader }
}

impl Forked {
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits for the report and the end.
    pub fn join(mut self) -> io::Result<Report> {
        let mut bytes = [0; 32];
        // This process holds no copy of the writing end, so a child that dies ends the wait.
        self.report.read_exact(&mut bytes)?;
        // SAFETY: null asks for no status.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        let (words, _) = bytes.as_chunks::<8>();
        Ok([0, 1, 2, 3].map(|index| u64::from_ne_bytes(words[index])))
    }
}

/// An empty process, forked and waited for.
pub fn fork_empty() {
    // SAFETY: the child does nothing but end.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0);
    // SAFETY: null asks for no status.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

/// Nanoseconds of CLOCK_MONOTONIC, the same in all processes.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    // SAFETY: a set of zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: set is ours to write, and its size is given.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: each core is below the size of the set.
    (0..1024).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// Binds the calling thread to one core.
pub fn pin(core: usize) {
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core came from cores().
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: set is initialised, and its size is given.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "pin to core {core}: {}", io::Error::last_os_error());
}

/// Waits for the end of a child without reaping it; false where it still runs after `limit`.
pub fn wait_ended(pid: u32, limit: Duration) -> bool {
    // SAFETY: the call takes two numbers and gives a descriptor (pidfd_open(2)).
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    assert!(pidfd >= 0, "pidfd_open: {}", io::Error::last_os_error());
    let mut poll = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd of ours.
    let ready = unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) };
    // SAFETY: opened above, closed once.
    unsafe { libc::close(pidfd) };
    ready == 1
}

/// Has this process killed when the thread that started it ends, as when a run is interrupted.
pub fn die_with_parent() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Makes this process the parent of whatever its descendants leave behind.
pub fn adopt_orphans() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Kills a process group that this process started.
pub fn kill_group(leader: u32) {
    // SAFETY: takes numbers only; the group is that of a child not yet reaped.
    unsafe { libc::kill(-(leader as i32), libc::SIGKILL) };
}

pub fn kill(pid: u32) {
    // SAFETY: takes numbers only; callers give pids of children of theirs that nobody has reaped.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

/// Reaps children that have ended.
pub fn reap() {
    // SAFETY: null asks for no status.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// The children of this process, zombies included.
pub fn children() -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}
