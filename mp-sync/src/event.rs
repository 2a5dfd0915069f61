//! A flag to wait for.

use std::fmt;
use std::time::Duration;

use crate::Result;
use crate::patience::Limit;
use crate::view::{View, kind, passable};
use crate::words::event::EventWord;

/// A flag that processes set, clear and wait for.
///
/// Clone it or send it to another process: both have the same flag. Setting it wakes all that wait, also
/// where it is cleared at once: who waited then has seen it. Nobody waits for a waiter, so one that is
/// killed is simply gone. Setting, clearing and asking take no lock and, while nobody waits, no system
/// call; they may be done in a signal handler.
///
/// Python: `multiprocessing.Event`, where a set that is cleared at once can be missed.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mp_sync::Event;
///
/// # fn main() -> mp_sync::Result<()> {
/// let ready = Event::new()?;
/// let theirs = ready.clone(); // or sent to another process
/// let waiter = std::thread::spawn(move || theirs.wait_timeout(Duration::from_secs(10)));
///
/// assert!(!ready.is_set());
/// ready.set();
/// assert!(waiter.join().unwrap()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Event {
    view: View<EventWord>,
}

passable!(Event, kind::EVENT);

impl Event {
    /// Makes an event that is not set.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) where memory or descriptors are short.
    pub fn new() -> Result<Self> {
        Ok(Self { view: View::create("event", kind::EVENT, 0)? })
    }

    /// Sets it and wakes all that wait. Never waits.
    #[inline]
    pub fn set(&self) {
        self.view.set();
    }

    /// Clears it. Who waited while it was set goes on all the same. Never waits.
    #[inline]
    pub fn clear(&self) {
        self.view.clear();
    }

    /// Whether it is set.
    #[must_use]
    #[inline]
    pub fn is_set(&self) -> bool {
        self.view.is_set()
    }

    /// Waits until it is set; returns at once if it is.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn wait(&self) -> Result<()> {
        self.view.wait(Limit::Forever);
        Ok(())
    }

    /// Waits until it is set, no longer than `timeout`; says whether it was.
    ///
    /// # Errors
    ///
    /// None at present; time that runs out is `false`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        Ok(self.view.wait(Limit::For(timeout)))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish()
    }
}
