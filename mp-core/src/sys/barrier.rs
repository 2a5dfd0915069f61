//! A memory barrier that one process makes for all.
//!
//! Two processes that each store one word and then load the other's, so that one of them at least sees the
//! other's store, each need a barrier between the two. Where one of them does so a million times a second and the other
//! now and then, the latter can make both: membarrier(2).
#![expect(unsafe_code, reason = "membarrier")]

// linux/membarrier.h
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: takes numbers only.
    (unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }) == 0
}

/// Lets others make barriers for this process. Whether they can: else it has to make its own.
///
/// The first call of a process with several threads may take some milliseconds.
#[must_use]
pub fn allow() -> bool {
    membarrier(REGISTER_GLOBAL_EXPEDITED)
}

/// Makes a barrier in every running thread of each process that [allows](allow) it, and in this thread. Whether
/// that worked.
///
/// Takes some microseconds if one of them runs now.
#[must_use]
pub fn everywhere() -> bool {
    membarrier(GLOBAL_EXPEDITED)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_barrier_is_made_where_the_kernel_has_it() {
        assert_eq!(super::allow(), super::everywhere());
    }
}
