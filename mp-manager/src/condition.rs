//! Waiting, with a lock released, for news.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mp_core::{Decoder, Encoder};

use crate::call::{Made, OnAny, OnObject};
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::lock::{LockGuard, LockObject, Locking, give, take};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::Client;
use crate::wait::{Limit, lock, wait_for};
use crate::{Error, Result};

/// A condition, in the server.
pub(crate) struct ConditionObject {
    lock: Arc<LockObject>,
    state: Mutex<Waiters>,
    notified: Arc<Condvar>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    /// Those who wait, in the order they came.
    waiting: VecDeque<u64>,
    /// Those who were notified and have not noticed yet, and how.
    called: HashMap<u64, Call>,
}

/// How a waiter is notified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Where it is gone, somebody else is to be.
    One,
    /// As all are.
    All,
}

impl Waiters {
    fn call_next(&mut self, call: Call) -> bool {
        let next = self.waiting.pop_front();
        next.is_some_and(|next| self.called.insert(next, call).is_none())
    }
}

impl ConditionObject {
    pub(crate) fn new() -> Arc<Self> {
        let lock = LockObject::new(true);
        Arc::new(Self { lock, state: Mutex::default(), notified: Arc::default() })
    }

    pub(crate) fn lock(&self) -> &Arc<LockObject> {
        &self.lock
    }

    /// Gives whether it was notified, and whether the lock's last owner died.
    fn wait(
        self: &Arc<Self>,
        client: &Client,
        held: &Arc<LockObject>,
        limit: Limit,
    ) -> Result<(bool, bool), Fault> {
        let mut state = lock(&self.state);
        // Under this lock, so that no notification comes between.
        let depth = held.release(client, true)?;
        let ticket = state.next;
        state.next += 1;
        state.waiting.push_back(ticket);
        drop(state);
        let waited = wait_for(&self.state, &self.notified, limit, client, |state| {
            state.called.remove(&ticket)
        });
        let (called, gone) = match waited {
            Ok(call) => (Some(call), None),
            Err(fault) => {
                let mut state = lock(&self.state);
                state.waiting.retain(|&other| other != ticket);
                let called = state.called.remove(&ticket);
                (called, (fault == Fault::ClientGone).then_some(fault))
            }
        };
        // The lock comes back however long that takes.
        let taken = match gone {
            None => held.acquire(client, Limit::Forever, depth),
            Some(fault) => Err(fault),
        };
        if called == Some(Call::One) {
            match &taken {
                // A process that is killed takes a while to hang up: whether it hears of this is not known yet.
                Ok(_) => held.is_back(Arc::downgrade(self)),
                // It has seen nothing of it.
                Err(_) => self.notify_another(),
            }
        }
        Ok((called.is_some(), taken?))
    }

    /// Who was notified is gone.
    pub(crate) fn notify_another(&self) {
        self.notify(Call::One);
    }

    fn notify(&self, call: Call) {
        let mut state = lock(&self.state);
        while state.call_next(call) && call == Call::All {}
        drop(state);
        self.notified.notify_all();
    }
}

// What runs in the server. The first two are for its own lock, as those of a lock are.

type Reply = mp_core::Result<()>;

operations! {
    []
    OnAny: take give;
    OnObject<ConditionObject>: wait notify;
}

pub(crate) fn make(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    Ok(Made::new(ConditionObject::new(), operation, kind()))
}

fn kind() -> Kind {
    Kind::plain("Condition")
}

fn wait(
    object: &Arc<ConditionObject>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (limit, held) = (from.get()?, from.get()?);
    let held = client.server().object(held).ok_or(Fault::NoObject);
    let held = held.and_then(|held| LockObject::of(&held));
    to.put(&held.and_then(|held| object.wait(client, &held, limit))).map(drop)
}

fn notify(
    object: &Arc<ConditionObject>,
    _: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    object.notify(if from.get()? { Call::All } else { Call::One });
    to.put(&Ok::<(), Fault>(())).map(drop)
}

/// A proxy of a condition in a manager's server: a place to wait, with a lock released, until somebody says that
/// something changed.
///
/// It has an [`RLock`](crate::RLock) of its own, [`lock`](Self::lock), and waits with that, or with the guard of any
/// lock of the same manager; all who use the condition use the same one. Notifying waits for nobody. Waiters are woken
/// in the order they came.
///
/// A waiter that is killed takes no notification with it: where it ends before it has released the lock that it woke
/// with, another is notified in its place. That may be one more than needed, where the dead had already done what the
/// notification was for. A wait ends by nothing else but a notification or its timeout, but what is waited for may have
/// changed again by then. So look again after each, as [`wait_while`](Self::wait_while) does.
///
/// Python: `multiprocessing.Manager().Condition()`. `wait_for` is [`wait_while`](Self::wait_while) of the opposite.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let (condition, stock) = (manager.condition()?, manager.value(0)?);
///     let theirs = (condition.clone(), stock.clone()); // or sent to another process
///     let consumer = std::thread::spawn(move || -> mp_manager::Result<()> {
///         let (condition, stock) = theirs;
///         let guard = condition.wait_while(condition.lock()?, || Ok(stock.get()? == 0))?;
///         stock.update(|stock: &mut i32| *stock -= 1, ())?;
///         drop(guard);
///         Ok(())
///     });
///
///     let guard = condition.lock()?;
///     stock.set(3)?;
///     condition.notify_one()?;
///     drop(guard);
///     consumer.join().unwrap()?;
///     assert_eq!(stock.get()?, 2);
///     Ok(())
/// }
/// ```
#[doc(alias = "Condvar")]
pub struct Condition {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Condition);

impl Condition {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        let maker = Operation { number: Maker::Condition as u32, function: make, kind };
        link.make(maker, nothing).map(Self::from_handle)
    }

    /// Takes the condition's own lock.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<LockGuard<'_>> {
        Locking { handle: &self.handle, kind }.lock(Limit::Forever)
    }

    /// Releases the lock, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// [`NotOwner`](Error::NotOwner) where this thread does not hold the lock, [`OtherManager`](Error::OtherManager);
    /// [every call's](crate#errors). The guard is gone then.
    pub fn wait<'a>(&self, guard: LockGuard<'a>) -> Result<LockGuard<'a>> {
        self.wait_limit(guard, Limit::Forever).map(|(guard, _)| guard)
    }

    /// As [`wait`](Self::wait), for a notification no longer than `timeout`; says whether one came.
    ///
    /// To have the lock again may take longer.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a>(
        &self,
        guard: LockGuard<'a>,
        timeout: Duration,
    ) -> Result<(LockGuard<'a>, bool)> {
        self.wait_limit(guard, Limit::For(timeout))
    }

    /// Waits while `condition` says so, which is asked at once and after each notification, with the lock held.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and those of `condition`.
    #[doc(alias = "wait_for")]
    pub fn wait_while<'a>(
        &self,
        mut guard: LockGuard<'a>,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<LockGuard<'a>> {
        while condition()? {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    fn wait_limit<'a>(&self, guard: LockGuard<'a>, limit: Limit) -> Result<(LockGuard<'a>, bool)> {
        let held = guard.of();
        if !held.handle.is_of_same_manager(&self.handle) {
            return Err(Error::OtherManager);
        }
        // Whatever comes: afterwards the lock is held once for the new guard, or not known to be.
        let wait = Operation { number: Op::wait as u32, function: wait, kind };
        let result: Result<(bool, bool)> =
            self.handle.object(wait, |to| to.put(&limit)?.put(&held.handle.id()).map(drop));
        if result.is_ok() {
            guard.leave();
        }
        result.map(|(notified, died)| (LockGuard::new(held, died), notified))
    }

    fn call_notify(&self, all: bool) -> Result<()> {
        let notify = Operation { number: Op::notify as u32, function: notify, kind };
        self.handle.object(notify, |to| to.put(&all).map(drop))
    }

    /// Wakes the one who has waited longest, if anybody waits. The lock need not be held.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "notify")]
    pub fn notify_one(&self) -> Result<()> {
        self.call_notify(false)
    }

    /// Wakes all who wait. The lock need not be held.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn notify_all(&self) -> Result<()> {
        self.call_notify(true)
    }
}
