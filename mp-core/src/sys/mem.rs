//! Anonymous files in memory, what seals them, and views of them.
#![expect(unsafe_code, reason = "memfd_create, fcntl seals, fallocate, mmap")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

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
/// `ENOSPC` or `ENOMEM` where memory is short, `EPERM` where a seal forbids growth, `EFBIG` where the file would be longer
/// than [this process may make one](check_end).
pub fn reserve(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    if !enough(len) {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    check_growth(fd, start.saturating_add(len))?;
    fallocate(fd, 0, start, len)
}

/// Refuses to write to a file up to byte `end` where this process may not.
///
/// Ask it before a write to a file in memory. Beyond the limit, `RLIMIT_FSIZE`, the kernel sends `SIGXFSZ`, which ends a
/// process that does not ignore it; and it does so for a write within a file that is longer already. setrlimit(2), write(2).
///
/// # Errors
///
/// `EFBIG`, as of the write itself where the signal is ignored.
pub fn check_end(end: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is ours. Where the call is forbidden, it stays as it is: none.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    // RLIM_INFINITY is the largest number there is.
    if end > limit.rlim_cur { Err(io::Error::from_raw_os_error(libc::EFBIG)) } else { Ok(()) }
}

/// A file in memory that holds these bytes, part after part, and can still be changed. memfd_create(2).
///
/// # Errors
///
/// Where memory or descriptors are short, or the file would be longer than this process may make one.
pub fn memfd_of(name: &CStr, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    check_end(parts.iter().map(|part| part.len() as u64).sum())?;
    let mut file = File::from(memfd(name)?);
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file.into())
}

/// As [`check_end`], for calls that the limit concerns only where they make the file longer: ftruncate(2), fallocate(2).
fn check_growth(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    match check_end(len) {
        Err(error) if size(fd)? < len => Err(error),
        _ => Ok(()),
    }
}

/// The file's size. fstat(2).
fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut about = MaybeUninit::uninit();
    // SAFETY: there is room for what it writes.
    check(unsafe { libc::fstat(fd.as_raw_fd(), about.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and has written it.
    let about: libc::stat = unsafe { about.assume_init() };
    Ok(u64::try_from(about.st_size).unwrap_or(0))
}

/// Whether so much memory may be asked for: what is little always, and what is available.
fn enough(len: u64) -> bool {
    const LARGE: u64 = 16 << 20;
    len < LARGE || available().is_none_or(|available| len <= available)
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

/// The size of a page.
pub(crate) fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: takes a number only (sysconf(3)).
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    })
}

/// What x86-64, and aarch64 with pages of 4 KiB, can map as one page.
const HUGE: usize = 2 << 20;

/// The bytes of a file, to read and to write, shared with all who have it. mmap(2).
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to its process and to no thread of it; what may be done to the bytes is for those to say who
// use the pointer.
unsafe impl Send for Mapping {}

// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where the address space is short, `EACCES` where the file is not open for reading and writing, `EINVAL`
    /// for no bytes.
    pub fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        map_shared(ptr::null_mut(), fd, len)
    }

    /// As [`new`](Self::new), at an address at which huge pages of the file can be mapped as what they are, if there is one:
    /// for files that may have such pages, as this takes some microseconds longer.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn aligned(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        if len < HUGE {
            return Self::new(fd, len);
        }
        // Where there was room a moment ago. If somebody else has come there, the kernel takes another place.
        let room =
            len.checked_add(HUGE).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let room = reserve_addresses(room)?;
        let start = room.start.as_ptr();
        drop(room);
        map_shared(start.wrapping_add(start.align_offset(HUGE)), fd, len)
    }

    /// The first byte: there for as long as the mapping is.
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How many bytes are mapped.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has bytes")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts huge pages under the first `len` bytes of a file that nothing was written to yet, as far as the system has some;
    /// whether all of it is on such pages, but for an end that fills none.
    ///
    /// They are quicker to get, to map and to give back. `MADV_COLLAPSE` makes them whatever is set for
    /// memory in files; Linux before 6.1 does not know it (madvise(2)).
    pub fn gather(&self, fd: BorrowedFd<'_>, len: usize) -> bool {
        let len = len.min(self.len) / HUGE * HUGE;
        // Of an extent without any page it makes none.
        len > 0
            && enough(len as u64)
            && (0..len).step_by(HUGE).all(|at| fallocate(fd, 0, at as u64, 1).is_ok())
            // SAFETY: within the mapping; the bytes stay as they are.
            && unsafe { libc::madvise(self.start.as_ptr().cast(), len, MADV_COLLAPSE) } == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this module, and used for no longer than self, as as_mut_ptr asks.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// `libc` has it for some systems only. asm-generic/mman-common.h
const MADV_COLLAPSE: i32 = 25;

/// Maps a file, at this address if that is free.
fn map_shared(at: *mut u8, fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, which takes nobody else's place without MAP_FIXED.
    let start = unsafe { libc::mmap(at.cast(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    mapping(start, len)
}

/// Addresses that nothing else is mapped to, with nothing behind them.
fn reserve_addresses(len: usize) -> io::Result<Mapping> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    mapping(start, len)
}

fn mapping(start: *mut libc::c_void, len: usize) -> io::Result<Mapping> {
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Nothing is mapped at zero that was not asked for.
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(Mapping { start, len })
}

/// Sets the file's size; new pages are zeros and not reserved. ftruncate(2).
///
/// # Errors
///
/// `EPERM` where a seal forbids it, `EFBIG` for an absurd size, and where the file would be longer than
/// [this process may make one](check_end).
pub fn set_len(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    check_growth(fd, len)?;
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
