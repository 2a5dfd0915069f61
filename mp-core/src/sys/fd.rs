//! Descriptors as such: waiting for them, moving them, closing those that were not passed on.
#![expect(unsafe_code, reason = "ppoll, dup3, close_range")]

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

/// A descriptor for what the standard stream `number` (0, 1 or 2) is now; `None` where it is closed.
///
/// # Errors
///
/// `EMFILE` where the process has no descriptor left.
pub fn standard_stream(number: RawFd) -> io::Result<Option<OwnedFd>> {
    debug_assert!((0..3).contains(&number));
    // SAFETY: takes numbers only.
    match check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }) {
        // SAFETY: the call just made this descriptor; nobody else owns it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes over the standard stream `number`, leaving `/dev/null` in its place.
///
/// # Errors
///
/// Where `/dev/null` cannot be opened or no descriptor is left.
pub fn take_standard_stream(number: RawFd) -> io::Result<Option<OwnedFd>> {
    let taken = standard_stream(number)?;
    place(null()?.as_fd(), number)?;
    Ok(taken)
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
            // SAFETY: the number stays open, so whoever owns it still owns a descriptor (dup3(2)).
            let _ = check(unsafe { libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC) });
        }
    }
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
