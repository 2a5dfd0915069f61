//! Anonymous files in memory, and what seals them.
#![expect(unsafe_code, reason = "memfd_create, fcntl seals, fallocate")]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sys::{check, retry};

/// The size cannot change any more, nor the seals: what every mapping of a stranger's segment needs.
pub const SEAL_SIZE: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Nothing can change any more: the content can be borrowed.
pub const SEAL_ALL: i32 = SEAL_SIZE | libc::F_SEAL_WRITE;

/// Makes an empty file in memory, close-on-exec and open for seals.
///
/// `name` shows in `/proc/PID/maps` and need not be unique. memfd_create(2).
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | libc::MFD_NOEXEC_SEAL) {
        // Before Linux 6.3 the flag is unknown.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd_create(name, flags),
        result => result,
    }
}

fn memfd_create(name: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string with its NUL.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reserves the pages of `start..start + len` and grows the file to hold them.
///
/// What is reserved can be written without `SIGBUS`; lack of memory is an error here instead.
/// fallocate(2), mode 0. The kernel would go on until the machine is out of memory and somebody is killed
/// for it, so a large request is first held against what is available.
///
/// # Errors
///
/// `ENOSPC` or `ENOMEM` where memory is short, `EPERM` where a seal forbids growth.
pub fn reserve(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    const LARGE: u64 = 16 << 20;
    if len >= LARGE && available().is_some_and(|available| len > available) {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    fallocate(fd, 0, start, len)
}

/// How many bytes this process could still get: of the machine and of its control group, whichever is
/// less. proc_meminfo(5), cgroups(7).
fn available() -> Option<u64> {
    let machine = || {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = meminfo.lines().find(|line| line.starts_with(name))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(field("MemAvailable:")? + field("SwapFree:").unwrap_or(0))
    };
    let group = || {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?;
            text.trim().parse().ok()
        };
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    };
    match (machine(), group()) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (one, other) => one.or(other),
    }
}

/// Gives the pages of `start..start + len` back to the system; they read as zeros.
///
/// fallocate(2), `FALLOC_FL_PUNCH_HOLE`.
///
/// # Errors
///
/// `EPERM` where a seal forbids writing.
pub fn release(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, start, len)
}

fn fallocate(fd: BorrowedFd<'_>, mode: i32, start: u64, len: u64) -> io::Result<()> {
    let to_offset = |value: u64| {
        libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
    };
    let (start, len) = (to_offset(start)?, to_offset(len)?);
    if len == 0 {
        return Ok(());
    }
    retry(|| {
        // SAFETY: takes numbers only.
        check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, start, len) })
    })?;
    Ok(())
}

/// Sets the file's size; new pages are zeros and not reserved. ftruncate(2).
///
/// # Errors
///
/// `EPERM` where a seal forbids it, `EFBIG` for an absurd size.
pub fn set_len(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    retry(|| {
        // SAFETY: takes numbers only.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) })
    })?;
    Ok(())
}

/// Adds seals. fcntl(2), `F_ADD_SEALS`.
///
/// # Errors
///
/// `EPERM` where seals are sealed, `EBUSY` for a write seal while writable mappings exist.
pub fn seal(fd: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(())
}

/// The seals. fcntl(2), `F_GET_SEALS`.
///
/// # Errors
///
/// `EINVAL` where the file cannot be sealed: it is no memfd.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })
}
