//! Kernel calls, one concern per file.
//!
//! Everything here takes borrowed descriptors and slices, gives back owned descriptors and
//! [`std::io::Result`], is close-on-exec from birth, and retries where a signal interrupts it.

pub mod barrier;
pub mod clock;
pub mod fd;
pub mod futex;
pub mod mem;
pub mod net;
pub mod process;
pub mod random;
pub mod socket;
pub mod thread;

use std::io;

/// The result of a libc call that reports failure as -1 and `errno`.
pub(crate) trait Returned: Copy {
    fn is_failure(self) -> bool;
}

impl Returned for libc::c_int {
    fn is_failure(self) -> bool {
        self == -1
    }
}

impl Returned for libc::c_long {
    fn is_failure(self) -> bool {
        self == -1
    }
}

pub(crate) fn check<T: Returned>(returned: T) -> io::Result<T> {
    if returned.is_failure() { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Calls again for as long as a signal interrupts the call.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
