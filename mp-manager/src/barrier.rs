//! Barriers in the server.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mp_core::{Decoder, Encoder};
use mp_process::Convention;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::call::{Made, OnObject, leave};
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::Client;
use crate::wait::{Limit, lock, wait_for};

/// A barrier, in the server.
pub(crate) struct BarrierObject {
    parties: usize,
    /// What the last party does before any goes on.
    action: Option<Box<dyn Fn() + Send + Sync>>,
    state: Mutex<BarrierState>,
    moved: Arc<Condvar>,
}

#[derive(Default)]
struct BarrierState {
    waiting: usize,
    broken: bool,
    /// How it ends for those who wait now: changed under the lock only.
    round: Arc<AtomicU8>,
}

const COMPLETE: u8 = 1;
const BROKEN: u8 = 2;

impl BarrierState {
    fn end_round(&mut self, outcome: u8) {
        // Relaxed: the lock orders it.
        std::mem::take(&mut self.round).store(outcome, Ordering::Relaxed);
        self.waiting = 0;
    }
}

impl BarrierObject {
    fn new(parties: usize, action: Option<Box<dyn Fn() + Send + Sync>>) -> Arc<Self> {
        Arc::new(Self { parties, action, state: Mutex::default(), moved: Arc::default() })
    }

    fn wait(&self, client: &Client, limit: Limit) -> Result<usize, Fault> {
        let mut state = lock(&self.state);
        if state.broken {
            return Err(Fault::Broken);
        }
        let index = state.waiting;
        state.waiting += 1;
        if state.waiting == self.parties {
            // With the lock: nobody goes on, and nobody comes, before it is done.
            let done = self.action.as_ref().map(|action| catch_unwind(AssertUnwindSafe(action)));
            let panic = done.and_then(Result::err);
            state.broken = panic.is_some();
            state.end_round(if panic.is_some() { BROKEN } else { COMPLETE });
            drop(state);
            self.moved.notify_all();
            return match panic {
                Some(panic) => resume_unwind(panic),
                None => Ok(index),
            };
        }
        let round = Arc::clone(&state.round);
        drop(state);
        let waited = wait_for(&self.state, &self.moved, limit, client, |_| {
            match round.load(Ordering::Relaxed) {
                COMPLETE => Some(Ok(index)),
                BROKEN => Some(Err(Fault::Broken)),
                _ => None,
            }
        });
        match waited {
            Ok(result) => result,
            Err(fault) => {
                let mut state = lock(&self.state);
                if Arc::ptr_eq(&state.round, &round) {
                    // Without this party they would wait for ever.
                    state.broken = true;
                    state.end_round(BROKEN);
                    drop(state);
                    self.moved.notify_all();
                }
                Err(fault)
            }
        }
    }

    fn end(&self, broken: bool) {
        let mut state = lock(&self.state);
        state.broken = broken;
        state.end_round(BROKEN);
        drop(state);
        self.moved.notify_all();
    }
}

// What runs in the server.

type Reply = mp_core::Result<()>;

operations! {
    []
    OnObject<BarrierObject>: wait end look;
}

pub(crate) fn make(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    // The client has looked that it is not 0; a barrier for nobody is one for one.
    let parties = from.get::<usize>()?.max(1);
    Ok(Made::new(BarrierObject::new(parties, None), operation, kind()))
}

/// Makes one whose action is the user's function.
struct WithAction;

impl<F: Fn() + Send + Sync + 'static> Convention<F> for WithAction {
    fn call(action: F, from: &mut Decoder<'_>, to: &mut Encoder) -> mp_core::Result<()> {
        let barrier = BarrierObject::new(from.get()?, Some(Box::new(action)));
        leave(Made::new(barrier, operation, kind()), to)
    }
}

fn kind() -> Kind {
    Kind::plain("Barrier")
}

fn wait(
    barrier: &Arc<BarrierObject>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let limit = from.get()?;
    to.put(&barrier.wait(client, limit)).map(drop)
}

fn end(
    barrier: &Arc<BarrierObject>,
    _: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    barrier.end(from.get()?);
    to.put(&Ok::<(), Fault>(())).map(drop)
}

/// Parties, how many wait, and whether it is broken.
fn look(barrier: &Arc<BarrierObject>, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let state = lock(&barrier.state);
    let seen = (barrier.parties, state.waiting, state.broken);
    drop(state);
    to.put(&Ok::<_, Fault>(seen)).map(drop)
}

/// A proxy of a barrier in a manager's server: a number of parties wait there for each other.
///
/// A party that times out or dies while it waits breaks the barrier for all: they get
/// [`Broken`](crate::Error::Broken) until it is [`reset`](Self::reset).
///
/// Python: `multiprocessing.Manager().Barrier(n)`; with an action, [`Manager::barrier_with`](crate::Manager::barrier_with).
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let barrier = manager.barrier(2)?;
///     let theirs = barrier.clone(); // or sent to another process
///     let other = std::thread::spawn(move || theirs.wait());
///     let index = barrier.wait()?;
///     assert_eq!(index + other.join().unwrap()?, 1);
///     Ok(())
/// }
/// ```
pub struct Barrier {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Barrier);

impl Barrier {
    pub(crate) fn create(link: &Arc<Link>, parties: usize) -> Result<Self> {
        let maker = Operation { number: Maker::Barrier as u32, function: make, kind };
        link.make(maker, |to| to.put(&parties).map(drop)).map(Self::from_handle)
    }

    pub(crate) fn create_with<F>(link: &Arc<Link>, parties: usize, action: F) -> Result<Self>
    where
        F: Fn() + Copy + Send + Sync + 'static,
    {
        let made = link.make_by::<F, WithAction>(|to| to.put(&parties).map(drop), action);
        made.map(Self::from_handle)
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&Arc<BarrierObject>, &Client, &mut Decoder<'_>, &mut Encoder) -> Reply
            + Copy
            + 'static,
    {
        self.handle.object(Operation { number: op as u32, function, kind }, encode)
    }

    /// Waits until all parties do; gives this one's index, which no other has in this round.
    ///
    /// # Errors
    ///
    /// [`Broken`](crate::Error::Broken); [`Panicked`](crate::Error::Panicked) for the last party where the action does,
    /// which breaks the barrier; [every call's](crate#errors).
    pub fn wait(&self) -> Result<usize> {
        self.wait_limit(Limit::Forever)
    }

    /// As [`wait`](Self::wait), no longer than `timeout`; then the barrier is broken.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::Error::TimedOut); else as [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize> {
        self.wait_limit(Limit::For(timeout))
    }

    fn wait_limit(&self, limit: Limit) -> Result<usize> {
        self.call(Op::wait, wait, |to| to.put(&limit).map(drop))
    }

    /// Breaks it: those who wait and those who come get [`Broken`](crate::Error::Broken).
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn abort(&self) -> Result<()> {
        self.end(true)
    }

    /// Makes it as new. Those who wait get [`Broken`](crate::Error::Broken).
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn reset(&self) -> Result<()> {
        self.end(false)
    }

    fn end(&self, broken: bool) -> Result<()> {
        self.call(Op::end, end, |to| to.put(&broken).map(drop))
    }

    fn look(&self) -> Result<(usize, usize, bool)> {
        self.call(Op::look, look, nothing)
    }

    /// Whether it is broken.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> Result<bool> {
        self.look().map(|(_, _, broken)| broken)
    }

    /// For how many parties it is.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn parties(&self) -> Result<usize> {
        self.look().map(|(parties, ..)| parties)
    }

    /// How many wait, at this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn n_waiting(&self) -> Result<usize> {
        self.look().map(|(_, waiting, _)| waiting)
    }
}
