//! Events in the server.

use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::error::Fault;
use crate::link::{Handle, nothing, proxy};
use crate::wait::{Limit, lock, wait_for};
use crate::{Error, Result};

/// An event, in the server.
#[derive(Default)]
pub(crate) struct EventObject {
    state: Mutex<EventState>,
    set: Condvar,
}

#[derive(Default)]
struct EventState {
    is_set: bool,
    /// How often it was set: one that is cleared at once has been seen all the same.
    times: u64,
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
    /// It has happened: wakes all who wait.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn set(&self) -> Result<()> {
        self.handle.object(nothing, |event: &Arc<EventObject>, _, _, to| {
            let mut state = lock(&event.state);
            state.is_set = true;
            state.times += 1;
            drop(state);
            event.set.notify_all();
            to.put(&Ok::<(), Fault>(())).map(drop)
        })
    }

    /// It has not happened yet.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.handle.object(nothing, |event: &Arc<EventObject>, _, _, to| {
            lock(&event.state).is_set = false;
            to.put(&Ok::<(), Fault>(())).map(drop)
        })
    }

    /// Whether it has happened.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_set(&self) -> Result<bool> {
        self.handle.object(nothing, |event: &Arc<EventObject>, _, _, to| {
            to.put(&Ok::<bool, Fault>(lock(&event.state).is_set)).map(drop)
        })
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
        self.handle.object(
            |to| to.put(&limit).map(drop),
            |event: &Arc<EventObject>, client, from, to| {
                let limit = from.get()?;
                let mut times = None;
                let waited = wait_for(&event.state, &event.set, limit, client, |state| {
                    let before = *times.get_or_insert(state.times);
                    (state.is_set || state.times != before).then_some(())
                });
                to.put(&waited).map(drop)
            },
        )
    }
}
