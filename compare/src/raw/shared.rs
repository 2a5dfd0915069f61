//! Shared memory, and futexes in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Maps `len` bytes of zeros that forked children share. Never unmapped.
pub fn shared(len: usize) -> *mut u8 {
    map(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1)
}

fn map(len: usize, flags: i32, fd: i32) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) };
    assert_ne!(address, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    address.cast()
}

pub fn memfd(len: usize) -> File {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"compare".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64).expect("sizes the segment");
    file
}

/// A mapping of a whole file, unmapped when dropped.
pub struct Mapping {
    address: *mut u8,
    len: usize,
}

impl Mapping {
    pub fn of(file: &File, len: usize) -> Self {
        Self { address: map(len, libc::MAP_SHARED, file.as_raw_fd()), len }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped until drop; by the order of the rows nobody writes while somebody reads.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}

fn futex_wait(word: &AtomicU32, value: u32) {
    let timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives; the kernel compares it and sleeps (futex(2)).
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, timeout) };
}

fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the word lives.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// A word of 0, 1, or 2 with sleepers, as in std's mutex.
#[derive(Clone, Copy)]
pub struct FutexLock(&'static AtomicU32);

impl FutexLock {
    pub fn new() -> Self {
        // SAFETY: a mapping of zeros that stays, of which nothing else is used.
        Self(unsafe { &*shared(size_of::<AtomicU32>()).cast::<AtomicU32>() })
    }

    #[inline(always)]
    pub fn lock(self) {
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.0.swap(2, Ordering::Acquire) != 0 {
                futex_wait(self.0, 2);
            }
        }
    }

    /// Never sleeps: gives way instead.
    #[inline(always)]
    pub fn lock_yielding(self) {
        while self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
    }

    #[inline(always)]
    pub fn unlock(self) {
        if self.0.swap(0, Ordering::Release) == 2 {
            futex_wake(self.0, 1);
        }
    }
}

/// How a reader or writer of shared memory waits.
#[derive(Clone, Copy, PartialEq)]
pub enum Wait {
    /// Looks again and again; gives way now and then, so that others run where cores are few.
    Poll,
    /// Looks 200 times, then sleeps.
    Futex,
    /// Sleeps at once.
    Sleep,
}

/// Where the waiters of one side sleep: a count of wake-ups, and the number of sleepers.
#[repr(C, align(64))]
pub struct Bed {
    wakeups: AtomicU32,
    sleepers: AtomicU32,
}

impl Bed {
    /// Waits until `ready`, which is not asked again once it was: it may take what it waits for.
    pub fn wait_until(&self, wait: Wait, mut ready: impl FnMut() -> bool) {
        let mut poller = Poller::default();
        let looks = if wait == Wait::Sleep { 0 } else { 200 };
        for _ in 0..looks {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        while !ready() {
            if wait == Wait::Poll {
                poller.pause();
                continue;
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let seen = self.wakeups.load(Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let is_ready = ready();
            if !is_ready {
                futex_wait(&self.wakeups, seen);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            if is_ready {
                return;
            }
        }
    }

    /// Wakes one of those who sleep here. To be called after what they wait for was published.
    #[inline(always)]
    pub fn wake(&self, wait: Wait) {
        if wait == Wait::Poll {
            return;
        }
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.wakeups.fetch_add(1, Ordering::SeqCst);
            futex_wake(&self.wakeups, 1);
        }
    }
}

/// Pauses between looks: all who poll here do it in the same way.
#[derive(Default)]
pub struct Poller {
    looks: u32,
}

impl Poller {
    #[inline(always)]
    pub fn pause(&mut self) {
        self.looks += 1;
        if self.looks.is_multiple_of(128) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}
