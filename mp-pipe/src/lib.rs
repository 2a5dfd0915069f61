//! Pipes between processes.

#[cfg(not(mp_loom))]
mod connection;
mod error;
#[cfg(not(mp_loom))]
mod halves;
#[cfg(not(mp_loom))]
mod link;
mod memory;
#[cfg(all(test, mp_loom))]
mod models;
mod ring;
#[cfg(not(mp_loom))]
mod wait;
#[cfg(not(mp_loom))]
mod watch;

#[cfg(not(mp_loom))]
pub use connection::{Connection, duplex};
pub use error::{Error, Result};
#[cfg(not(mp_loom))]
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
#[cfg(not(mp_loom))]
pub use wait::{Waitable, wait};

/// Runs both ends of a ring on any bytes.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_ring(bytes: &[u8]) {
    ring::bench::run_on(bytes);
}
