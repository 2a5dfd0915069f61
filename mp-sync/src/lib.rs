//! wip
#[cfg(not(mp_loom))]
mod action;
#[cfg(not(mp_loom))]
mod barrier;
#[cfg(not(mp_loom))]
mod condition;
mod error;
#[cfg(not(mp_loom))]
mod event;
#[cfg(not(mp_loom))]
mod lock;
#[cfg(all(test, mp_loom))]
mod models;
#[cfg(not(mp_loom))]
mod mutex;
mod owner;
mod patience;
#[cfg(not(mp_loom))]
mod place;
#[cfg(not(mp_loom))]
mod rlock;
#[cfg(not(mp_loom))]
mod rwlock;
#[cfg(not(mp_loom))]
mod semaphore;
#[cfg(not(mp_loom))]
mod view;
mod word;
mod words;
pub use error::{Acquired, Error, Result, TryLockError, TryLockResult};
#[cfg(not(mp_loom))]
pub use {
    barrier::Barrier,
    condition::{Condition, ConditionGuard, WaitTimeoutResult},
    event::Event,
    lock::{Lock, LockGuard, LockPin},
    mutex::{Mutex, MutexGuard},
    rlock::{RLock, RLockGuard},
    rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    semaphore::{BoundedSemaphore, Permit, Semaphore},
};
