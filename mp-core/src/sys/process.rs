//! Processes: forking, watching, signalling and reaping them without races on their numbers.
#![expect(unsafe_code, reason = "fork, pidfds, waitid, signals")]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::Deadline;
use crate::sys::{check, retry};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// What [`fork`] gave: we are one or the other.
#[derive(Debug)]
pub enum Forked {
    /// This is the new process.
    Child,
    /// This is the process that forked; the number is its child's.
    Parent(u32),
}

/// Makes a copy of this process. fork(2).
///
/// Flush what is buffered for output before, or it is written twice.
///
/// # Safety
///
/// This process must have one thread ([`thread_count`]): whatever lock another thread holds stays locked
/// in the child for ever. The child must not return into its parent's frames: it ends with [`exit_now`].
///
/// # Errors
///
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller's promise.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Ends this process at once: no destructors, no exit handlers, nothing flushed. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return, so nothing of ours is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Has the kernel kill this process when its parent ends, until [`live_on`]. prctl(2),
/// `PR_SET_PDEATHSIG`.
///
/// "The parent" is the thread that made this process: for a parent with one thread only. `parent` is its
/// number, to notice that it has ended already.
///
/// # Errors
///
/// `ESRCH` where the parent has ended.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    if parent_id() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Takes back [`die_with_parent`].
pub fn live_on() {
    // SAFETY: takes numbers only; cannot fail for signal 0.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
}

/// Kills and reaps the child `pid`, which was forked just now and is not watched yet.
pub fn kill_child(pid: u32) {
    // SAFETY: takes numbers only; a child that was not reaped still has its number.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    // SAFETY: null asks for no status.
    let _ = retry(|| check(unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) }));
}

/// Ends this process by SIGKILL.
pub fn kill_self() -> ! {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(std::process::id() as libc::pid_t, libc::SIGKILL) };
    exit_now(128 + libc::SIGKILL)
}

/// Writes out what C's standard streams hold. fflush(3).
pub fn flush_c_streams() {
    // SAFETY: null means all output streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Runs `function` when this process exits by `exit` or by returning from `main`. atexit(3).
///
/// # Errors
///
/// Where there is no memory for it.
pub fn at_exit(function: extern "C" fn()) -> io::Result<()> {
    // SAFETY: a function that lives as long as the program and takes nothing.
    match unsafe { libc::atexit(function) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

/// How many threads this process has.
///
/// A thread that was just joined may still be listed, on a busy machine for long: the kernel takes it off the list
/// after it has woken the joiner. It is not counted, as it says itself that it is at its end (`PF_EXITING` among its
/// flags, proc_pid_stat(5)) and will execute nothing of this program any more.
///
/// # Errors
///
/// Where `/proc` is not mounted.
pub fn thread_count() -> io::Result<usize> {
    let threads = fs::read_dir("/proc/self/task")?.collect::<io::Result<Vec<_>>>()?;
    if threads.len() <= 1 {
        return Ok(threads.len());
    }
    let mut count = 0;
    for thread in threads {
        match fs::read_to_string(thread.path().join("stat")) {
            Ok(stat) => count += usize::from(!is_exiting(&stat)),
            // It is off the list by now.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Whether this process may have, or have had, other threads than the calling one: no more than a look, for those who need
/// not know how many.
///
/// The C library knows, without a system call. Where it does not tell, `/proc` does, and only of those that there are; one
/// at its end may be taken for one.
#[must_use]
pub fn may_have_threads() -> bool {
    match single_threaded() {
        Some(flag) => flag.load(Ordering::Relaxed) == 0,
        // The directory has three links where it lists one thread (`proc_task_getattr` in fs/proc/base.c).
        None => fs::metadata("/proc/self/task").map_or(true, |tasks| tasks.nlink() != 3),
    }
}

/// `__libc_single_threaded` of glibc 2.32 and later: zero unless there is one thread for certain.
///
/// In glibc 2.36 it stays zero once there was a second thread, also after that was joined and in a forked child. The manual
/// leaves open whether it is ever set again.
fn single_threaded() -> Option<&'static AtomicU8> {
    static FLAG: LazyLock<Option<&AtomicU8>> = LazyLock::new(|| {
        // SAFETY: the name is a string with its NUL (dlsym(3)).
        let flag = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        // SAFETY: nothing, or a `char` that stays where it is, as the C library is never unloaded
        // (<sys/single_threaded.h>). It writes to it before a second thread runs.
        unsafe { flag.cast::<AtomicU8>().as_ref() }
    });
    *FLAG
}

/// The number of the calling thread. gettid(2).
#[must_use]
pub fn thread_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// Whether the thread `tid` of this process sleeps until another lets go of a lock, or wakes it: in futex(2). True, too,
/// where the kernel does not tell (proc_pid_syscall(5)).
#[must_use]
pub fn waits_for_another(tid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/self/task/{tid}/syscall"));
    call.map_or(true, |call| call.split(' ').next() == Some(&libc::SYS_futex.to_string()))
}

/// Whether what this process forks or executes from now on lives in another PID namespace than it does itself: after
/// unshare(2) or setns(2) with `CLONE_NEWPID`. Such a child has no parent that it can see (pid_namespaces(7)).
#[must_use]
pub fn has_children_elsewhere() -> bool {
    let Ok(ours) = fs::read_link("/proc/self/ns/pid") else { return false };
    match fs::read_link("/proc/self/ns/pid_for_children") {
        Ok(theirs) => theirs != ours,
        // It leads nowhere until the first child is there (proc_pid_ns(5)). A kernel before 4.12 does not have it.
        Err(_) => fs::symlink_metadata("/proc/self/ns/pid_for_children").is_ok(),
    }
}

/// Whether what `/proc` says of a thread has `PF_EXITING` of linux/sched.h among the flags.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    // The name is in parentheses and may hold any character; the flags are the seventh field behind it.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let flags = rest.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Whether a thread that was listed is not there any more: no such file, or no such process while it was read.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether the calling thread is the one the process started with.
#[must_use]
pub fn on_main_thread() -> bool {
    thread_id() == std::process::id()
}

/// The number of the process that this one's kernel parent is now.
#[must_use]
pub fn parent_id() -> u32 {
    std::os::unix::process::parent_id()
}

/// Opens a descriptor for the process `pid`, close-on-exec; readable once the process has ended.
///
/// Free of races only for a child of this process that was not reaped, and for this process itself.
/// pidfd_open(2).
///
/// # Errors
///
/// `ESRCH` where there is no such process, `ENOSYS` before Linux 5.3, `EMFILE`.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Sends `signal` to the process behind `pidfd`; false where it has ended and was reaped.
///
/// pidfd_send_signal(2): the number cannot have passed on to another process.
///
/// # Errors
///
/// `EPERM` where the process is not ours to signal.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    // SAFETY: null stands for the default siginfo; the rest are numbers.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    });
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a look at a child gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// It still runs.
    Running,
    /// It ended, and is reaped now.
    Ended(Exit),
    /// Somebody else reaped it, or it is no child of this process: how it ended is not known.
    Unknown,
}

/// Reaps the child behind `pidfd` if it has ended; does not wait. waitid(2), `P_PIDFD`.
///
/// # Errors
///
/// Where the kernel knows no `P_PIDFD` (before Linux 5.4).
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Reaped> {
    reap_id(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t).map(|reaped| match reaped {
        Some((_, exit)) => exit.map_or(Reaped::Running, Reaped::Ended),
        None => Reaped::Unknown,
    })
}

/// Reaps the child `pid` if it has ended; does not wait. `None` where it runs, or is no child.
///
/// # Errors
///
/// As waitid(2).
pub fn reap_child(pid: u32) -> io::Result<Option<Exit>> {
    Ok(reap_id(libc::P_PID, pid)?.and_then(|(_, exit)| exit))
}

/// Reaps any one child that has ended; does not wait. `None` where none has. The kernel looks at each child that
/// lives on the way.
///
/// # Errors
///
/// As waitid(2); having no child is not one.
pub fn reap_any() -> io::Result<Option<(u32, Exit)>> {
    Ok(reap_id(libc::P_ALL, 0)?.and_then(|(pid, exit)| Some((pid, exit?))))
}

fn reap_id(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<(u32, Option<Exit>)>> {
    // SAFETY: a siginfo of zeros is a valid one.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let result = retry(|| {
        // SAFETY: info is a siginfo of ours.
        check(unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG) })
    });
    match result {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves zeros where no child has ended.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(Some((0, None)));
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let exit =
        if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok(Some((pid as u32, Some(exit))))
}

/// What the kernel tells about the process behind a descriptor: `struct pidfd_info` in its first published size.
/// Since Linux 6.13: ioctl `PIDFD_GET_INFO` (include/uapi/linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

static_assertions::const_assert_eq!(size_of::<Info>(), 64);

impl Info {
    const PID: u64 = 1 << 0;
    /// Since Linux 6.15.
    const EXIT: u64 = 1 << 3;

    /// `None` where the kernel does not tell all of `wanted`.
    fn of(pidfd: BorrowedFd<'_>, wanted: u64) -> Option<Self> {
        // _IOWR(0xFF, 11, struct pidfd_info)
        const PIDFD_GET_INFO: u64 =
            (3 << 30) | ((size_of::<Info>() as u64) << 16) | (0xFF << 8) | 11;
        let mut info = Self { mask: wanted, ..Self::default() };
        // SAFETY: info is as long as the request says.
        let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
        (result == 0 && info.mask & wanted == wanted).then_some(info)
    }
}

/// How the process behind `pidfd` ended, after somebody else, or the kernel, reaped it; `None` where the kernel cannot
/// tell. Since Linux 6.15.
#[must_use]
pub fn exit_after_reaping(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    Info::of(pidfd, Info::EXIT).map(|info| exit_of(info.exit_code))
}

/// Opens a descriptor for a child that the kernel reaps as soon as it ends, if it has not: its number may then be
/// another's. Since Linux 6.13.
///
/// # Errors
///
/// `ESRCH` where it has ended; else as [`pidfd_open`].
pub fn pidfd_open_child(pid: u32) -> io::Result<OwnedFd> {
    let pidfd = pidfd_open(pid)?;
    match Info::of(pidfd.as_fd(), Info::PID) {
        Some(info) if info.ppid == std::process::id() => Ok(pidfd),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// How the process behind `pidfd`, whose number is `pid`, ended that nobody has reaped yet; `None` where that is not so, or
/// this process may not know. proc_pid_stat(5), `exit_code`.
#[must_use]
pub fn exit_before_reaping(pid: u32, pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // Who may not know is told 0. That is who may not see its namespaces either, "governed by a ptrace access mode" as
    // that is (proc_pid_ns(5)).
    let seen = fs::read_link(format!("/proc/{pid}/ns/user"));
    if seen.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return None;
    }
    // While it is not reaped the number was its own. pidfd_send_signal(2): ESRCH from then on.
    if !pidfd_send_signal(pidfd, 0).is_ok_and(|is_there| is_there) {
        return None;
    }
    // The name may have any bytes; behind it are the state first and the status last.
    let name = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = str::from_utf8(&stat[name + 1..]).ok()?.split_ascii_whitespace();
    let (state, status) = (fields.next()?, fields.next_back()?);
    (state == "Z").then_some(exit_of(status.parse().ok()?))
}

/// What a status says, as wait(2) has it.
fn exit_of(status: i32) -> Exit {
    if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else {
        Exit::Signal(libc::WTERMSIG(status))
    }
}

/// Waits until the process behind `pidfd` has ended: true; or the deadline passes: false.
///
/// # Errors
///
/// As [`poll`](crate::sys::fd::poll).
pub fn wait_ended(pidfd: BorrowedFd<'_>, deadline: Deadline) -> io::Result<bool> {
    crate::sys::fd::wait_readable(pidfd, deadline)
}

/// Blocks SIGCHLD for this process's only thread and makes a descriptor that is readable when a child
/// has ended. signalfd(2).
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn child_signals() -> io::Result<OwnedFd> {
    let set = signal_set(&[libc::SIGCHLD]);
    // SAFETY: the set is initialised; the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, flags) })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes what is pending on a descriptor of [`child_signals`], and says whose it is.
///
/// Of children that end while a signal is pending none is told of: standard signals do not queue (signal(7)).
#[must_use]
pub fn read_child_signal(signals: BorrowedFd<'_>) -> Option<u32> {
    const LEN: usize = size_of::<libc::signalfd_siginfo>();
    let mut buffer = [0_u8; LEN];
    // SAFETY: the pointer and length are the buffer's. It does not block; nothing pending is fine.
    let len = unsafe { libc::read(signals.as_raw_fd(), buffer.as_mut_ptr().cast(), LEN) };
    let at = mem::offset_of!(libc::signalfd_siginfo, ssi_pid);
    let pid = u32::from_ne_bytes(buffer[at..at + 4].try_into().ok()?);
    (len == LEN as isize).then_some(pid)
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is a plain array of words; sigemptyset sets it up.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: the set is initialised; an unknown signal leaves it as it is.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Signals by which a terminal ends or stops programs. Who starts one may have it ignore them (nohup(1)).
const OF_TERMINALS: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Signals by which the kernel tells a thread of a fault of its own.
const OF_FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// Puts signals back to how a program finds them after a clean start: they do what they do by default, nothing is
/// blocked.
///
/// Those of terminals stay ignored where they are. SIGPIPE is ignored, as in every program with a `main` of Rust. Faults
/// are handled as before: Rust's runtime says so where a stack overflows.
pub fn reset_signals() {
    let ignored = ignored_signals();
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !OF_FAULTS.contains(signal)) {
        let at = OF_TERMINALS.iter().position(|&of_terminal| of_terminal == signal);
        let stays = at.is_some_and(|at| ignored >> at & 1 == 1);
        let action = if stays || signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler is installed. SIGKILL, SIGSTOP and libc's own signals are refused.
        unsafe { libc::signal(signal, action) };
    }
    unblock_signals();
}

/// Which signals of terminals this process ignores, for [`ignore_signals`].
#[must_use]
pub fn ignored_signals() -> u8 {
    OF_TERMINALS.iter().enumerate().fold(0, |ignored, (at, &signal)| {
        // SAFETY: zeros are a valid action.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: action is a local that the call fills; null sets none (sigaction(2)).
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        ignored | u8::from(action.sa_sigaction == libc::SIG_IGN) << at
    })
}

/// Ignores these signals of terminals. The others do what they do by default.
pub fn ignore_signals(ignored: u8) {
    for (at, &signal) in OF_TERMINALS.iter().enumerate() {
        let action = if ignored >> at & 1 == 1 { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, action) };
    }
}

/// Signals of this thread that wait until this is dropped.
#[must_use]
pub struct Blocked {
    before: libc::sigset_t,
}

impl std::fmt::Debug for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocked")
    }
}

/// Has signals wait, but for faults. One that is ignored waits too, and so do those of a process forked meanwhile.
pub fn block_signals() -> Blocked {
    let mut all = signal_set(&[]);
    // SAFETY: set is ours.
    unsafe { libc::sigfillset(&raw mut all) };
    for signal in OF_FAULTS {
        // SAFETY: the set is initialised.
        unsafe { libc::sigdelset(&raw mut all, signal) };
    }
    let mut before = signal_set(&[]);
    // SAFETY: the sets are locals, of which the call reads one and fills the other.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    Blocked { before }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is initialised; the old one is not wanted.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}

/// Unblocks all signals for this thread.
pub fn unblock_signals() {
    let none = signal_set(&[]);
    // SAFETY: the set is initialised; the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// What a signal did before it was [ignored](ignore_signal).
#[derive(Debug)]
pub struct Ignored {
    signal: i32,
    before: libc::sighandler_t,
}

/// Ignores `signal` from now on.
pub fn ignore_signal(signal: i32) -> Ignored {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    Ignored { signal, before }
}

impl Ignored {
    /// Puts back what the signal did before.
    pub fn restore(&self) {
        // SAFETY: what was in place before, so its handler, if it has one, is part of this program.
        unsafe { libc::signal(self.signal, self.before) };
    }
}

/// Lets `signal` do nothing in this process.
///
/// Unlike a signal that is [ignored](ignore_signal), it does in programs that are executed from here what it
/// does by default (execve(2)). System calls that it interrupts go on by themselves (sigaction(2), `SA_RESTART`).
pub fn disregard_signal(signal: i32) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: zeros are an action without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is a local that the call only reads; its handler does nothing.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Lets this process have as many descriptors as it may: the soft limit becomes the hard one. setrlimit(2).
///
/// For a program that has many and never uses select(2), which goes wrong beyond 1,024.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local that the call only writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the limit is a local that the call only reads. Where it fails, the limit is as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// How many CPUs this process may use: its affinity now, and the quota of its control group.
///
/// The quota is read once; the affinity each time, as it is what changes.
#[must_use]
pub fn usable_cpus() -> usize {
    let affinity = affinity_count().unwrap_or(usize::MAX);
    match affinity.min(granted_cpus()) {
        usize::MAX => std::thread::available_parallelism().map_or(1, Into::into),
        cpus => cpus,
    }
}

/// How many CPUs the quota of this process's control group grants it, whatever its affinity is; `usize::MAX`
/// where there is no quota that is known of. Read once.
#[must_use]
pub fn granted_cpus() -> usize {
    use std::sync::OnceLock;
    // std's count takes both into account, and reads the quota's files each time.
    static QUOTA: OnceLock<usize> = OnceLock::new();
    *QUOTA.get_or_init(|| {
        let both = std::thread::available_parallelism().map_or(1, Into::into);
        // Where the affinity is what bounds it now, the quota bounds nothing that we know of.
        if both < affinity_count().unwrap_or(usize::MAX) { both } else { usize::MAX }
    })
}

/// The CPU that this thread runs on, now or a moment ago. sched_getcpu(3).
#[must_use]
pub fn current_cpu() -> Option<usize> {
    // SAFETY: takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// CPUs, a bit for each.
pub type Cpus = [u64; 16];

/// The CPUs that this thread may run on; `None` where that is not to be had, or there are more than 1,024.
/// sched_getaffinity(2).
#[must_use]
pub fn affinity() -> Option<Cpus> {
    let mut cpus = [0; 16];
    // SAFETY: the set is as long as it is said to be; pid 0 is this thread. Its bits are in words of the kernel's, which
    // are of this size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<Cpus>(), (&raw mut cpus).cast()) };
    (result == 0).then_some(cpus)
}

/// Lets this thread, and those that it makes, run on these CPUs only. sched_setaffinity(2).
///
/// # Errors
///
/// `EINVAL` where none of them may be used.
pub fn set_affinity(cpus: &Cpus) -> io::Result<()> {
    // SAFETY: the set is as long as it is said to be, and only read; pid 0 is this thread.
    check(unsafe {
        libc::sched_setaffinity(0, size_of::<Cpus>(), std::ptr::from_ref(cpus).cast())
    })?;
    Ok(())
}

fn affinity_count() -> Option<usize> {
    let count = affinity()?.iter().map(|word| word.count_ones() as usize).sum();
    (count > 0).then_some(count)
}

/// On whose behalf this thread makes its system calls: users and groups. credentials(7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The real, effective and saved one.
    users: [u32; 3],
    /// As for users.
    groups: [u32; 3],
    supplementary: Vec<u32>,
}

impl Credentials {
    /// Those of now.
    ///
    /// # Errors
    ///
    /// Where a filter refuses to tell.
    pub fn now() -> io::Result<Self> {
        let [mut users, mut groups] = [[0; 3]; 2];
        let [real, effective, saved] = &mut users;
        // SAFETY: the three are locals that the call fills (getresuid(2)).
        check(unsafe { libc::getresuid(real, effective, saved) })?;
        let [real, effective, saved] = &mut groups;
        // SAFETY: as above.
        check(unsafe { libc::getresgid(real, effective, saved) })?;
        let mut supplementary = vec![0; 32];
        loop {
            let room = supplementary.len() as libc::c_int;
            // SAFETY: there is room for so many (getgroups(2)).
            match check(unsafe { libc::getgroups(room, supplementary.as_mut_ptr()) }) {
                Ok(count) => {
                    supplementary.truncate(usize::try_from(count).unwrap_or(0));
                    return Ok(Self { users, groups, supplementary });
                }
                // There are more; at most 65,536 (`NGROUPS_MAX`).
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && room < 1 << 17 => {
                    supplementary.resize(supplementary.len() * 8, 0);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn a_child_is_watched_killed_and_reaped_by_its_descriptor() {
        #[expect(clippy::zombie_processes, reason = "reaped by its descriptor")]
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        assert_eq!(reap(pidfd.as_fd()).unwrap(), Reaped::Running);
        assert!(!wait_ended(pidfd.as_fd(), Deadline::PASSED).unwrap());
        assert!(pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap());
        assert!(wait_ended(pidfd.as_fd(), Deadline::after(Duration::from_secs(60))).unwrap());
        assert_eq!(reap(pidfd.as_fd()).unwrap(), Reaped::Ended(Exit::Signal(libc::SIGKILL)));
        assert_eq!(reap(pidfd.as_fd()).unwrap(), Reaped::Unknown);
        assert!(!pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap());
    }

    #[test]
    fn an_exit_reaped_by_another_is_told_where_the_kernel_can() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        child.wait().unwrap();
        let exit = exit_after_reaping(pidfd.as_fd());
        assert!(matches!(exit, None | Some(Exit::Code(7))), "{exit:?}");
    }

    #[test]
    fn an_exit_is_seen_before_it_is_reaped() {
        let ends =
            [("exit 7", Exit::Code(7)), ("exit 0", Exit::Code(0)), ("kill -9 $$", Exit::Signal(9))];
        for (command, expected) in ends {
            let mut child = Command::new("sh")
                .args(["-c", &format!("read -r line; {command}")])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let (pid, pidfd) = (child.id(), pidfd_open(child.id()).unwrap());
            assert_eq!(exit_before_reaping(pid, pidfd.as_fd()), None, "it runs");
            drop(child.stdin.take());
            assert!(wait_ended(pidfd.as_fd(), Deadline::after(Duration::from_secs(60))).unwrap());
            assert_eq!(exit_before_reaping(pid, pidfd.as_fd()), Some(expected));
            // As if that number were another's by now.
            assert_eq!(exit_before_reaping(std::process::id(), pidfd.as_fd()), None);
            child.wait().unwrap();
            assert_eq!(exit_before_reaping(pid, pidfd.as_fd()), None, "it is reaped");
        }
    }

    #[test]
    fn a_thread_that_waits_for_another_is_told_from_one_that_does_something() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let (reader, writer) = io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            tell.send(thread_id()).unwrap();
            let _ = goes.recv();
            let _ = wait_ended(reader.as_fd(), Deadline::NEVER);
        });
        let tid = told.recv().unwrap();
        let comes = |waits: bool| {
            let limit = Deadline::after(Duration::from_secs(60));
            while waits_for_another(tid) != waits {
                assert!(!limit.has_passed(), "{waits}");
                std::thread::yield_now();
            }
        };
        comes(true);
        // Where the kernel does not tell, it waits all the time.
        if fs::read("/proc/self/syscall").is_ok() {
            drop(go);
            comes(false);
        }
        drop(writer);
        thread.join().unwrap();
        assert!(!has_children_elsewhere());
    }

    #[test]
    fn threads_and_cpus_are_counted() {
        // There is the one that runs the tests.
        assert!(thread_count().unwrap() >= 1 && may_have_threads());
        let stat = |flags: u32| format!("7 (a) b) S 1 7 7 0 -1 {flags} 0 0");
        assert!(is_exiting(&stat(4_194_304 | 4)) && !is_exiting(&stat(4_194_304)));
        assert!(usable_cpus() >= 1);
    }
}
