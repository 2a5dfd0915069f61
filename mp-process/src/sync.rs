//! Locks within this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. What lies behind the mutexes of this crate is whole between any two statements, so a
/// panic of another thread is no reason to stop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
