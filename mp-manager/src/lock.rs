//! Locks in the server.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use mp_core::{Decoder, Encoder, crash_point};

use crate::Result;
use crate::call::{Made, OnAny, Stored};
use crate::condition::ConditionObject;
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::{Client, Held};
use crate::wait::{Limit, lock, wait_for};

/// A lock, in the server.
pub(crate) struct LockObject {
    reentrant: bool,
    state: Mutex<LockState>,
    freed: Arc<Condvar>,
}

#[derive(Default)]
struct LockState {
    /// The client that has it; 0: nobody.
    owner: u64,
    /// How often it has it.
    depth: u32,
    /// The last owner ended while it held it, and nobody was told yet.
    died: bool,
    /// The owner was notified as the only one, at this condition, and has had the lock since: where it ends before it
    /// releases it, another is to be notified. It may never have heard of it.
    notified: Option<Weak<ConditionObject>>,
}

impl LockObject {
    pub(crate) fn new(reentrant: bool) -> Arc<Self> {
        Arc::new(Self { reentrant, state: Mutex::default(), freed: Arc::default() })
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
        let ready = |state: &mut LockState| {
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
        };
        let wait = || wait_for(&self.state, &self.freed, limit, client, ready);
        let (new, died) = client.waits_for_lock(wait)??;
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
            state.notified = None;
            drop(state);
            self.freed.notify_one();
            client.let_go(&(Arc::clone(self) as Arc<dyn Held>));
        }
        Ok(depth)
    }

    /// Its owner has it back from a wait at that condition, which notified nobody else.
    pub(crate) fn is_back(&self, notified: Weak<ConditionObject>) {
        lock(&self.state).notified = Some(notified);
    }

    fn is_locked(&self) -> bool {
        lock(&self.state).owner != 0
    }
}

impl Held for LockObject {
    fn abandon(&self, client: u64) {
        let mut state = lock(&self.state);
        if state.owner == client {
            let notified = state.notified.take();
            *state = LockState { died: true, ..LockState::default() };
            drop(state);
            self.freed.notify_one();
            if let Some(condition) = notified.as_ref().and_then(Weak::upgrade) {
                condition.notify_another();
            }
        }
    }
}

// What runs in the server: with a lock, or with what has one. A condition has the first two at the same numbers.

type Reply = mp_core::Result<()>;

operations! {
    []
    OnAny: take give is_taken;
}

pub(crate) fn make(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    Ok(Made::new(LockObject::new(false), operation, Lock::kind()))
}

pub(crate) fn make_reentrant(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    Ok(Made::new(LockObject::new(true), operation, RLock::kind()))
}

pub(crate) fn take(
    object: &Stored,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let limit = from.get()?;
    let lock = LockObject::of(object);
    let taken = lock.and_then(|lock| lock.acquire(client, limit, 1));
    crash_point!("server: a lock is taken");
    to.put(&taken).map(drop)
}

pub(crate) fn give(
    object: &Stored,
    client: &Client,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let lock = LockObject::of(object);
    to.put(&lock.and_then(|lock| lock.release(client, false)).map(drop)).map(drop)
}

fn is_taken(object: &Stored, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&LockObject::of(object).map(|lock| lock.is_locked())).map(drop)
}

/// How the lock that an object is or has is called for, with what the proxy is of.
#[derive(Clone, Copy)]
pub(crate) struct Locking<'a> {
    pub(crate) handle: &'a Handle,
    pub(crate) kind: fn() -> Kind,
}

impl<'a> Locking<'a> {
    /// Takes it; says whether the last owner died.
    pub(crate) fn acquire(self, limit: Limit) -> Result<bool> {
        let take = Operation { number: Op::take as u32, function: take, kind: self.kind };
        self.handle.any(take, |to| to.put(&limit).map(drop))
    }

    pub(crate) fn lock(self, limit: Limit) -> Result<LockGuard<'a>> {
        self.acquire(limit).map(|died| LockGuard::new(self, died))
    }

    fn release(self) -> Result<()> {
        let give = Operation { number: Op::give as u32, function: give, kind: self.kind };
        self.handle.any(give, nothing)
    }

    fn is_locked(self) -> Result<bool> {
        let number = Op::is_taken as u32;
        self.handle.any(Operation { number, function: is_taken, kind: self.kind }, nothing)
    }
}

/// Holds a manager's lock, and releases it when dropped.
///
/// Of a [`Lock`], an [`RLock`] or a [`Condition`](crate::Condition). Belongs to its thread. If the thread or its
/// process ends, however that comes about, others get the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    of: Locking<'a>,
    owner_died: bool,
    /// Where it was taken: a forked child does not hold what its parent does.
    generation: u64,
    /// Locks are held by threads.
    of_thread: PhantomData<*const ()>,
}

impl<'a> LockGuard<'a> {
    pub(crate) fn new(of: Locking<'a>, owner_died: bool) -> Self {
        Self { of, owner_died, generation: Handle::generation(), of_thread: PhantomData }
    }

    pub(crate) fn of(&self) -> Locking<'a> {
        self.of
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
        let of = guard.of;
        guard.leave();
        of.release()
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        if self.generation == Handle::generation() {
            // A server that died holds nobody up.
            let _ = self.of.release();
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
    ($($name:ident by $make:ident)*) => {$(
        impl $name {
            pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
                let number = Maker::$name as u32;
                let maker = Operation { number, function: $make, kind: Self::kind };
                link.make(maker, nothing).map(Self::from_handle)
            }

            fn kind() -> Kind {
                Kind::plain(stringify!($name))
            }

            fn locking(&self) -> Locking<'_> {
                Locking { handle: &self.handle, kind: Self::kind }
            }

            /// Takes it; waits while another thread or process has it.
            ///
            /// # Errors
            ///
            /// [`Deadlock`](crate::Error::Deadlock) where this thread holds it and may not take it again;
            /// [every call's](crate#errors).
            pub fn lock(&self) -> Result<LockGuard<'_>> {
                self.locking().lock(Limit::Forever)
            }

            /// Takes it if nobody has it.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::Error::WouldBlock) where somebody has it; [every call's](crate#errors).
            pub fn try_lock(&self) -> Result<LockGuard<'_>> {
                self.locking().lock(Limit::Try)
            }

            /// Takes it, waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::Error::TimedOut); else as [`lock`](Self::lock).
            pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>> {
                self.locking().lock(Limit::For(timeout))
            }

            /// Takes it without a guard, in Python's style; says whether whoever held it last ended without
            /// releasing it.
            ///
            /// # Errors
            ///
            /// As [`lock`](Self::lock).
            pub fn acquire(&self) -> Result<bool> {
                self.locking().acquire(Limit::Forever)
            }

            /// As [`acquire`](Self::acquire), if nobody has it.
            ///
            /// # Errors
            ///
            /// As [`try_lock`](Self::try_lock).
            pub fn try_acquire(&self) -> Result<bool> {
                self.locking().acquire(Limit::Try)
            }

            /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// As [`lock_timeout`](Self::lock_timeout).
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<bool> {
                self.locking().acquire(Limit::For(timeout))
            }

            /// Releases what [`acquire`](Self::acquire) took.
            ///
            /// # Errors
            ///
            /// [`NotOwner`](crate::Error::NotOwner) where this thread does not hold it; [every
            /// call's](crate#errors).
            pub fn release(&self) -> Result<()> {
                self.locking().release()
            }

            /// Whether somebody holds it, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "locked")]
            pub fn is_locked(&self) -> Result<bool> {
                self.locking().is_locked()
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
locking! { Lock by make RLock by make_reentrant }
