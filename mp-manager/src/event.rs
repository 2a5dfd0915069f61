//! Events in the server.

use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mp_core::{Decoder, Encoder};
use serde::de::DeserializeOwned;

use crate::call::{Made, OnObject};
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::Client;
use crate::wait::{Limit, lock, wait_for};
use crate::{Error, Result};

/// An event, in the server.
#[derive(Default)]
pub(crate) struct EventObject {
    state: Mutex<EventState>,
    set: Arc<Condvar>,
}

#[derive(Default)]
struct EventState {
    is_set: bool,
    /// How often it was set: one that is cleared at once has been seen all the same.
    times: u64,
}

// What runs in the server.

type Reply = mp_core::Result<()>;

operations! {
    []
    OnObject<EventObject>: set clear is_set wait;
}

pub(crate) fn make(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    Ok(Made::new(Arc::new(EventObject::default()), operation, kind()))
}

fn kind() -> Kind {
    Kind::plain("Event")
}

fn set(event: &Arc<EventObject>, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let mut state = lock(&event.state);
    state.is_set = true;
    state.times += 1;
    drop(state);
    event.set.notify_all();
    to.put(&Ok::<(), Fault>(())).map(drop)
}

fn clear(event: &Arc<EventObject>, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    lock(&event.state).is_set = false;
    to.put(&Ok::<(), Fault>(())).map(drop)
}

fn is_set(event: &Arc<EventObject>, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&Ok::<bool, Fault>(lock(&event.state).is_set)).map(drop)
}

fn wait(
    event: &Arc<EventObject>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let limit = from.get()?;
    let mut times = None;
    let waited = wait_for(&event.state, &event.set, limit, client, |state| {
        let before = *times.get_or_insert(state.times);
        (state.is_set || state.times != before).then_some(())
    });
    to.put(&waited).map(drop)
}

/// A proxy of an event in a manager's server: something that has happened or not, and can be waited for.
///
/// Set and cleared at once, it has been seen by all who waited.
///
/// Python: `multiprocessing.Manager().Event()`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let ready = manager.event()?;
///     let theirs = ready.clone(); // or sent to another process
///     let waiter = std::thread::spawn(move || theirs.wait());
///     ready.set()?;
///     waiter.join().unwrap()?;
///     Ok(())
/// }
/// ```
pub struct Event {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Event);

impl Event {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        let maker = Operation { number: Maker::Event as u32, function: make, kind };
        link.make(maker, nothing).map(Self::from_handle)
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&Arc<EventObject>, &Client, &mut Decoder<'_>, &mut Encoder) -> Reply + Copy + 'static,
    {
        self.handle.object(Operation { number: op as u32, function, kind }, encode)
    }

    /// It has happened: wakes all who wait.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn set(&self) -> Result<()> {
        self.call(Op::set, set, nothing)
    }

    /// It has not happened yet.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.call(Op::clear, clear, nothing)
    }

    /// Whether it has happened.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_set(&self) -> Result<bool> {
        self.call(Op::is_set, is_set, nothing)
    }

    /// Waits until it has happened.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn wait(&self) -> Result<()> {
        self.wait_limit(Limit::Forever)
    }

    /// Waits no longer than `timeout`; says whether it has happened.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        match self.wait_limit(Limit::For(timeout)) {
            Ok(()) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait_limit(&self, limit: Limit) -> Result<()> {
        self.call(Op::wait, wait, |to| to.put(&limit).map(drop))
    }
}
