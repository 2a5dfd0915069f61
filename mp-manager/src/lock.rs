//! Locks in the server.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::Result;
use crate::call::Stored;
use crate::condition::ConditionObject;
use crate::error::Fault;
use crate::link::{Handle, nothing, proxy};
use crate::server::{Client, Held};
use crate::wait::{Limit, lock, wait_for};

/// A lock, in the server.
pub(crate) struct LockObject {
    reentrant: bool,
    state: Mutex<LockState>,
    freed: Condvar,
}

#[derive(Default)]
struct LockState {
    /// The client that has it; 0: nobody.
    owner: u64,
    /// How often it has it.
    depth: u32,
    /// The last owner ended while it held it, and nobody was told yet.
    died: bool,
}

impl LockObject {
    pub(crate) fn new(reentrant: bool) -> Arc<Self> {
        Arc::new(Self { reentrant, state: Mutex::default(), freed: Condvar::new() })
    }

    /// The lock that an object is or has.
    pub(crate) fn of(object: &Stored) -> Result<Arc<Self>, Fault> {
        if let Ok(lock) = Arc::clone(object).downcast::<Self>() {
            return Ok(lock);
        }
        match Arc::clone(object).downcast::<ConditionObject>() {
            Ok(condition) => Ok(Arc::clone(condition.lock())),
            Err(_) => Err(Fault::WrongType),
        }
    }

    /// Takes it, so many times. Says whether the last owner died.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        client: &Client,
        limit: Limit,
        depth: u32,
    ) -> Result<bool, Fault> {
        let me = client.id();
        let (new, died) = wait_for(&self.state, &self.freed, limit, client, |state| {
            if state.owner == 0 {
                (state.owner, state.depth) = (me, depth);
                return Some(Ok((true, std::mem::take(&mut state.died))));
            }
            if state.owner != me {
                return None;
            }
            if !self.reentrant {
                let waits = !matches!(limit, Limit::Try);
                return waits.then_some(Err(Fault::Deadlock));
            }
            Some(match state.depth.checked_add(depth) {
                Some(depth) => {
                    state.depth = depth;
                    Ok((false, false))
                }
                None => Err(Fault::Overflow),
            })
        })??;
        if new {
            client.hold(Arc::clone(self) as Arc<dyn Held>);
        }
        Ok(died)
    }

    /// Releases it, so many times or all. Says how often it was held.
    pub(crate) fn release(self: &Arc<Self>, client: &Client, all: bool) -> Result<u32, Fault> {
        let mut state = lock(&self.state);
        if state.owner != client.id() {
            return Err(Fault::NotOwner);
        }
        let depth = state.depth;
        state.depth = if all { 0 } else { depth - 1 };
        if state.depth == 0 {
            state.owner = 0;
            drop(state);
            self.freed.notify_one();
            client.let_go(&(Arc::clone(self) as Arc<dyn Held>));
        }
        Ok(depth)
    }

    fn is_locked(&self) -> bool {
        lock(&self.state).owner != 0
    }
}

impl Held for LockObject {
    fn abandon(&self, client: u64) {
        let mut state = lock(&self.state);
        if state.owner == client {
            *state = LockState { owner: 0, depth: 0, died: true };
            drop(state);
            self.freed.notify_one();
        }
    }
}

/// Takes the lock that the handle's object is or has.
pub(crate) fn acquire(handle: &Handle, limit: Limit) -> Result<bool> {
    handle.any(
        |to| to.put(&limit).map(drop),
        |object, client, from, to| {
            let limit = from.get()?;
            let lock = LockObject::of(object);
            to.put(&lock.and_then(|lock| lock.acquire(client, limit, 1))).map(drop)
        },
    )
}

pub(crate) fn release(handle: &Handle) -> Result<()> {
    handle.any(nothing, |object, client, _, to| {
        let lock = LockObject::of(object);
        to.put(&lock.and_then(|lock| lock.release(client, false)).map(drop)).map(drop)
    })
}

fn is_locked(handle: &Handle) -> Result<bool> {
    handle.any(nothing, |object, _, _, to| {
        to.put(&LockObject::of(object).map(|lock| lock.is_locked())).map(drop)
    })
}

/// Holds a manager's lock, and releases it when dropped.
///
/// Of a [`Lock`], an [`RLock`] or a [`Condition`](crate::Condition). Belongs to its thread. If the thread or its
/// process ends, however that comes about, others get the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    handle: &'a Handle,
    owner_died: bool,
    /// Where it was taken: a forked child does not hold what its parent does.
    generation: u64,
    /// Locks are held by threads.
    of_thread: PhantomData<*const ()>,
}

impl<'a> LockGuard<'a> {
    pub(crate) fn new(handle: &'a Handle, owner_died: bool) -> Self {
        Self { handle, owner_died, generation: Handle::generation(), of_thread: PhantomData }
    }

    pub(crate) fn handle(&self) -> &'a Handle {
        self.handle
    }

    /// Gives it up without releasing.
    pub(crate) fn leave(mut self) {
        // Of another process, so nothing is released.
        self.generation = u64::MAX;
    }

    /// Whether whoever held the lock before ended without releasing it: then what it guards may be half done.
    #[must_use]
    pub fn owner_died(guard: &Self) -> bool {
        guard.owner_died
    }

    /// Releases the lock, as dropping the guard does, and says whether that went well.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn release(guard: Self) -> Result<()> {
        let handle = guard.handle;
        guard.leave();
        release(handle)
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        if self.generation == Handle::generation() {
            // A server that died holds nobody up.
            let _ = release(self.handle);
        }
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("owner_died", &self.owner_died).finish_non_exhaustive()
    }
}

/// The calls of locks.
macro_rules! locking {
    ($($name:ident)*) => {$(
        impl $name {
            /// Takes it; waits while another thread or process has it.
            ///
            /// # Errors
            ///
            /// [`Deadlock`](crate::Error::Deadlock) where this thread holds it and may not take it again;
            /// [every call's](crate#errors).
            pub fn lock(&self) -> Result<LockGuard<'_>> {
                acquire(&self.handle, Limit::Forever).map(|died| LockGuard::new(&self.handle, died))
            }

            /// Takes it if nobody has it.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::Error::WouldBlock) where somebody has it; [every call's](crate#errors).
            pub fn try_lock(&self) -> Result<LockGuard<'_>> {
                acquire(&self.handle, Limit::Try).map(|died| LockGuard::new(&self.handle, died))
            }

            /// Takes it, waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::Error::TimedOut); else as [`lock`](Self::lock).
            pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>> {
                acquire(&self.handle, Limit::For(timeout))
                    .map(|died| LockGuard::new(&self.handle, died))
            }

            /// Takes it without a guard, in Python's style; says whether whoever held it last ended without
            /// releasing it.
            ///
            /// # Errors
            ///
            /// As [`lock`](Self::lock).
            pub fn acquire(&self) -> Result<bool> {
                acquire(&self.handle, Limit::Forever)
            }

            /// As [`acquire`](Self::acquire), if nobody has it.
            ///
            /// # Errors
            ///
            /// As [`try_lock`](Self::try_lock).
            pub fn try_acquire(&self) -> Result<bool> {
                acquire(&self.handle, Limit::Try)
            }

            /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// As [`lock_timeout`](Self::lock_timeout).
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<bool> {
                acquire(&self.handle, Limit::For(timeout))
            }

            /// Releases what [`acquire`](Self::acquire) took.
            ///
            /// # Errors
            ///
            /// [`NotOwner`](crate::Error::NotOwner) where this thread does not hold it; [every
            /// call's](crate#errors).
            pub fn release(&self) -> Result<()> {
                release(&self.handle)
            }

            /// Whether somebody holds it, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "locked")]
            pub fn is_locked(&self) -> Result<bool> {
                is_locked(&self.handle)
            }
        }
    )*};
}

/// A proxy of a lock in a manager's server.
///
/// Held by a thread. When that ends, or its process, however that comes about, the lock is free again, and whoever
/// gets it next is told: [`LockGuard::owner_died`].
///
/// Slower than `mp_sync::Lock`, as each call goes to the server; for those who share a manager anyway.
///
/// Python: `multiprocessing.Manager().Lock()`, which stays locked for ever when its holder is killed, and which any
/// thread may release.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Error, Manager};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let lock = manager.lock()?;
///     let theirs = lock.clone(); // or sent to another process
///     let guard = lock.lock()?;
///     std::thread::spawn(move || {
///         assert!(matches!(theirs.try_lock(), Err(Error::WouldBlock)));
///     })
///     .join()
///     .unwrap();
///     drop(guard);
///     assert!(!lock.is_locked()?);
///     Ok(())
/// }
/// ```
pub struct Lock {
    handle: Handle,
    of: PhantomData<()>,
}

/// A proxy of a lock in a manager's server that its holder may take again.
///
/// It is free when it was released as often as it was taken. In all else as [`Lock`].
///
/// Python: `multiprocessing.Manager().RLock()`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let lock = manager.rlock()?;
///     let outer = lock.lock()?;
///     let inner = lock.lock()?;
///     drop((inner, outer));
///     assert!(!lock.is_locked()?);
///     Ok(())
/// }
/// ```
pub struct RLock {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Lock);
proxy!(RLock);
locking! { Lock RLock }
