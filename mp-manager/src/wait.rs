//! Waiting in the server, on behalf of a client who may die meanwhile.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mp_core::Deadline;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::server::Client;

/// How long the client would wait.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Limit {
    /// Not at all.
    Try,
    /// No longer than this.
    For(Duration),
    /// For ever.
    Forever,
}

/// After so long a wait looks whether its client still lives, and then each time after four times as long.
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(50);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `ready` gives something.
///
/// Whoever changes the state notifies one of those who wait by `changed`; one that was woken and whose client is gone
/// hands that on.
pub(crate) fn wait_for<S, T>(
    state: &Mutex<S>,
    changed: &Arc<Condvar>,
    limit: Limit,
    client: &Client,
    mut ready: impl FnMut(&mut S) -> Option<T>,
) -> Result<T, Fault> {
    let mut state = lock(state);
    if let Some(value) = ready(&mut state) {
        return Ok(value);
    }
    let deadline = match limit {
        Limit::Try => return Err(Fault::WouldBlock),
        Limit::For(timeout) => Deadline::after(timeout),
        Limit::Forever => Deadline::NEVER,
    };
    let mut slice = FIRST;
    client.step_back();
    let _waits = client.waits_for(changed);
    loop {
        let nap = deadline.remaining().map_or(slice, |left| left.min(slice));
        let woken = changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
        state = woken.0;
        // Before it takes anything: nobody would have it.
        if client.is_gone() {
            changed.notify_one();
            return Err(Fault::ClientGone);
        }
        if let Some(value) = ready(&mut state) {
            return Ok(value);
        }
        if deadline.has_passed() {
            return Err(Fault::TimedOut);
        }
        if woken.1.timed_out() {
            slice = (slice * 4).min(LONGEST);
        }
    }
}
