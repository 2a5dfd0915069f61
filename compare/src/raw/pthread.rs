//! What the C library has for processes.

use super::shared::shared;

/// A robust mutex in shared memory.
#[derive(Clone, Copy)]
pub struct Mutex(*mut libc::pthread_mutex_t);

impl Mutex {
    pub fn robust() -> Self {
        let mutex = shared(size_of::<libc::pthread_mutex_t>()).cast::<libc::pthread_mutex_t>();
        // SAFETY: attributes of our own, set up before use; memory of the right size that stays
        // (pthread_mutexattr_init(3), pthread_mutex_init(3)).
        unsafe {
            let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            assert_eq!(libc::pthread_mutex_init(mutex, &raw const attributes), 0);
        }
        Mutex(mutex)
    }

    #[inline(always)]
    pub fn lock(self) {
        // SAFETY: `robust` put a mutex there.
        unsafe { libc::pthread_mutex_lock(self.0) };
    }

    #[inline(always)]
    pub fn unlock(self) {
        // SAFETY: as above, and this thread has it.
        unsafe { libc::pthread_mutex_unlock(self.0) };
    }
}

/// A semaphore of 1 in shared memory.
#[derive(Clone, Copy)]
pub struct Semaphore(*mut libc::sem_t);

impl Semaphore {
    pub fn new() -> Self {
        let semaphore = shared(size_of::<libc::sem_t>()).cast::<libc::sem_t>();
        // SAFETY: memory of the right size that stays (sem_init(3)).
        assert_eq!(unsafe { libc::sem_init(semaphore, 1, 1) }, 0);
        Semaphore(semaphore)
    }

    #[inline(always)]
    pub fn wait(self) {
        // SAFETY: `new` put a semaphore there.
        unsafe { libc::sem_wait(self.0) };
    }

    #[inline(always)]
    pub fn post(self) {
        // SAFETY: as above.
        unsafe { libc::sem_post(self.0) };
    }
}
