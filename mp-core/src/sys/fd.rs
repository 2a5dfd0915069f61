//! Descriptors as such: waiting for them, moving them, closing those that were not passed on.
#![expect(unsafe_code, reason = "ppoll, dup3, close_range, fchdir, fstatat")]

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::Deadline;
use crate::deadline::timespec;
use crate::sys::check;

/// One descriptor to wait for, and what happened to it. The `pollfd` of poll(2).
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PollFd<'fd> {
    raw: libc::pollfd,
    fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollFd<'fd> {
    /// Waits until `fd` can be read, or its other end is closed.
    #[must_use]
    pub fn readable(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until `fd` can be written, or its other end is closed.
    #[must_use]
    pub fn writable(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Waits until the other end of `fd` is closed, whatever there is to read.
    #[must_use]
    pub fn hung_up(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd, 0)
    }

    fn new(fd: BorrowedFd<'fd>, events: libc::c_short) -> Self {
        let raw = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        Self { raw, fd: PhantomData }
    }

    /// Whether the last [`poll`] found it ready, closed by its peer, or broken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.raw.revents != 0
    }
}

impl std::fmt::Debug for PollFd<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollFd").field("fd", &self.raw.fd).field("ready", &self.is_ready()).finish()
    }
}

/// Waits until one of `fds` is ready or the deadline passes; says how many are.
///
/// Signals do not end the wait. ppoll(2).
///
/// # Errors
///
/// `EINVAL` for more descriptors than the process may have, `ENOMEM`.
pub fn poll(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<usize> {
    loop {
        let left = deadline.remaining().map(timespec);
        let left = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let count = fds.len() as libc::nfds_t;
        // SAFETY: PollFd is a transparent pollfd, and there are count of them; the timespec is null
        // or a local; no mask is given.
        let result =
            check(unsafe { libc::ppoll(fds.as_mut_ptr().cast(), count, left, std::ptr::null()) });
        match result {
            // No descriptor is ready. A deadline that never passes leaves no such result.
            Ok(0) if !deadline.has_passed() => {}
            Ok(ready) => return Ok(usize::try_from(ready).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until `fd` is readable or closed by its peer: true; or until the deadline passes: false.
///
/// # Errors
///
/// As [`poll`].
pub fn wait_readable(fd: BorrowedFd<'_>, deadline: Deadline) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::readable(fd)], deadline)? > 0)
}

/// Moves the object behind `fd` to the number `target`, which is then not close-on-exec.
///
/// For standard streams. dup2(2).
///
/// # Errors
///
/// `EBADF` where `target` is beyond the limit, `EMFILE`.
pub fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // dup2 would leave the flag as it is.
        // SAFETY: takes numbers only.
        check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) })?;
        return Ok(());
    }
    crate::sys::retry(|| {
        // SAFETY: takes numbers only. What target was is closed; callers pass standard streams or
        // numbers that nothing in this process owns any more.
        check(unsafe { libc::dup2(fd.as_raw_fd(), target) })
    })?;
    Ok(())
}

/// Whether `fd`'s number is open. False only for a standard stream that was closed.
#[must_use]
pub fn is_open(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) != -1 }
}

/// Takes over what standard input is, leaving `/dev/null` in its place.
///
/// # Errors
///
/// Where it is closed, `/dev/null` cannot be opened, or no descriptor is left.
pub fn take_stdin() -> io::Result<OwnedFd> {
    // Above the standard streams, whose numbers std takes for its own (fcntl(2), F_DUPFD_CLOEXEC).
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    place(null()?.as_fd(), 0)?;
    Ok(taken)
}

/// An instance of epoll(7): tells which of many descriptors can be read, at the cost of those.
///
/// As a descriptor it can be read, and so be waited for, while one of them can.
#[derive(Debug)]
pub struct Epoll {
    epoll: OwnedFd,
}

impl Epoll {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers only.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call just made this descriptor; nobody else owns it.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches `fd`, which [`some`](Self::some) reports as `token`, until it is closed.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` at a limit on watches.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watch(fd, libc::EPOLLIN, token)
    }

    /// Watches the socket `fd` for the end of its peer, which [`some`](Self::some) reports as `token`, once.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_hang_up(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watch(fd, libc::EPOLLRDHUP | libc::EPOLLONESHOT, token)
    }

    fn watch(&self, fd: BorrowedFd<'_>, events: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: the event is a local that the call only reads.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: takes numbers only; the event is ignored (epoll_ctl(2)). One that is not watched is
        // reported, and fine.
        unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    /// The tokens of some that can be read, up to 64; does not wait. A process descriptor can once it has ended.
    ///
    /// The same ones come again for as long as they are readable, until they are removed; not so the ends of peers.
    ///
    /// # Errors
    ///
    /// As epoll_wait(2).
    pub fn some(&self) -> io::Result<Vec<u64>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let count = crate::sys::retry(|| {
            // SAFETY: the array has room for as many events as the call is told.
            check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, 0) })
        })?;
        Ok(events[..usize::try_from(count).unwrap_or(0)].iter().map(|event| event.u64).collect())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A descriptor that can be read after [`set`](Self::set), until [`clear`](Self::clear). eventfd(2).
#[derive(Debug)]
pub struct Event {
    fd: OwnedFd,
}

impl Event {
    /// Makes one that is not set.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers only.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call just made this descriptor; nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Takes over a descriptor that another process made so and passed on.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Makes it readable, in every process that has it.
    pub fn set(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer and length are those of an array. The only failure is a counter at its
        // limit, which is readable as it is.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it not readable.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // SAFETY: the pointer and length are those of an array. It fails where it is not set.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens this process's working directory, for [`enter`]: also where its path leads to another by now, or to none.
///
/// # Errors
///
/// Where `/proc` is not mounted, or no descriptor is left.
pub fn working_directory() -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    // The link leads to the directory, not to a path, and needs no right to it (proc_pid_cwd(5)).
    Ok(File::options().read(true).custom_flags(flags).open("/proc/self/cwd")?.into())
}

/// Makes `directory` this process's working directory. fchdir(2).
///
/// # Errors
///
/// Where it is none, or may not be entered.
pub fn enter(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fchdir(directory.as_raw_fd()) }).map(|_| ())
}

/// What tells this process's working directory from others, for as long as somebody is in it: its device and number.
///
/// # Errors
///
/// As fstatat(2), which needs no right to the directory here.
pub fn working_directory_id() -> io::Result<(u64, u64)> {
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is empty, which means the working directory; stat is a local that the call fills.
    check(unsafe {
        libc::fstatat(libc::AT_FDCWD, c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH)
    })?;
    #[allow(clippy::unnecessary_cast, reason = "other types on other machines")]
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// Opens `/dev/null` for reading and writing.
///
/// # Errors
///
/// Where it cannot be opened.
pub fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Closes every descriptor above 2 that is not in `keep`.
///
/// # Safety
///
/// No object of this process may own one of the closed descriptors and be used or dropped later. True
/// at the start of a program, before it has opened anything.
///
/// # Errors
///
/// Where the kernel has no `close_range` and `/proc/self/fd` cannot be read.
pub unsafe fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([c_int::MAX]) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only (close_range(2)); who may lose a descriptor is close_others' matter.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }) {
        Ok(_) => Ok(()),
        // Before Linux 5.9, or refused by a filter.
        Err(_) => {
            for fd in open_descriptors()? {
                if (first..=last).contains(&fd) {
                    // SAFETY: as above. A descriptor that is gone already gives EBADF, which is fine.
                    unsafe { libc::close(fd) };
                }
            }
            Ok(())
        }
    }
}

/// Puts `/dev/null` in the place of every descriptor above 2 that is not in `keep`.
///
/// For a forked child: the parent's objects live on in its memory and believe that their descriptors are
/// theirs. Closing the numbers would let a later `open` give them to somebody else; this way they stay
/// taken, while the files and pipe ends behind them are let go of.
///
/// # Errors
///
/// Where `/proc/self/fd` cannot be read.
pub fn blank_others(keep: &[RawFd]) -> io::Result<()> {
    let null = null()?;
    for fd in open_descriptors()? {
        if fd > 2 && fd != null.as_raw_fd() && !keep.contains(&fd) {
            blank(null.as_fd(), fd)?;
        }
    }
    Ok(())
}

/// Puts `/dev/null` in the place of every descriptor above 2 that this program was executed with.
///
/// Those are among the ones that are not close-on-exec: the others were opened since. For the start of a
/// program, before it has opened anything without that flag.
///
/// # Errors
///
/// Where `/proc/self/fd` cannot be read.
pub fn blank_inherited() -> io::Result<()> {
    let mut inherited = open_descriptors()?;
    // SAFETY: takes numbers only.
    inherited
        .retain(|&fd| fd > 2 && unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC == 0);
    if inherited.is_empty() {
        return Ok(());
    }
    let null = null()?;
    for fd in inherited {
        blank(null.as_fd(), fd)?;
    }
    Ok(())
}

/// Puts `null` in the place of `target`, or closes it where its number is beyond the limit on descriptors: no
/// `open` will give that number to anybody.
fn blank(null: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    match replace(null, target) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
            // SAFETY: takes numbers only. Whoever believes to own the number finds it closed.
            check(unsafe { libc::close(target) }).map(|_| ())
        }
        result => result,
    }
}

/// Lets the number `target` stand for the object behind `fd`, close-on-exec. dup3(2).
///
/// # Errors
///
/// `EBADF` where `target` is beyond the limit, `EINVAL` where it is `fd` itself.
pub fn replace(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    crate::sys::retry(|| {
        // SAFETY: takes numbers only; the number stays open, so whoever owns it still owns a descriptor.
        check(unsafe { libc::dup3(fd.as_raw_fd(), target, libc::O_CLOEXEC) })
    })?;
    Ok(())
}

/// The numbers of this process's open descriptors.
///
/// # Errors
///
/// Where `/proc/self/fd` cannot be read.
pub fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    // The directory itself was open while it was read, and is closed now.
    // SAFETY: takes numbers only.
    numbers.retain(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1);
    Ok(numbers)
}

/// Ends this process with SIGKILL as soon as every write end of the pipe `fd` is closed.
///
/// The kernel does it: the pipe is set to announce its hang-up by a signal of choice (fcntl(2), `O_ASYNC`
/// and `F_SETSIG`; pipe(7)), so no thread has to watch, and unlike `PR_SET_PDEATHSIG` it does not depend
/// on which thread made the process or who adopted it. Nothing may ever be written to the pipe. The
/// setting belongs to the open file description, so this opens the pipe anew and gives that back: the
/// watch lasts while it is open. If the write ends are closed already, the process ends here.
///
/// # Errors
///
/// Where `/proc/self/fd` cannot be opened or the kernel refuses.
pub fn die_with_writers(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// include/uapi/asm-generic/fcntl.h; the libc crate does not have it.
    const F_SETSIG: c_int = 10;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // Non-blocking, or opening a pipe without writers would wait for one (fifo(7)).
    let own = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map(OwnedFd::from)?;
    let raw = own.as_raw_fd();
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(raw, libc::F_SETOWN, std::process::id() as c_int) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(raw, F_SETSIG, libc::SIGKILL) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(raw, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) })?;
    // Whoever closed before the signal was set caused none.
    if wait_readable(own.as_fd(), Deadline::PASSED)? {
        crate::sys::process::kill_self();
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn poll_ends_at_its_deadline_and_when_ready() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!wait_readable(reader.as_fd(), Deadline::PASSED).unwrap());
        assert!(!wait_readable(reader.as_fd(), Deadline::after(Duration::from_millis(5))).unwrap());
        drop(writer);
        assert!(wait_readable(reader.as_fd(), Deadline::NEVER).unwrap());
    }

    #[test]
    fn open_descriptors_are_those_that_are_open() {
        let file = null().unwrap();
        assert!(open_descriptors().unwrap().contains(&file.as_raw_fd()));
    }
}
