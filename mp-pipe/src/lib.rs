//! Pipes between processes.

#[cfg(not(mp_loom))]
mod address;
#[cfg(not(mp_loom))]
mod auth;
#[cfg(not(mp_loom))]
mod bound;
#[cfg(not(mp_loom))]
mod client;
#[cfg(not(mp_loom))]
mod connection;
#[cfg(not(mp_loom))]
mod either;
mod error;
#[cfg(not(mp_loom))]
mod greet;
#[cfg(not(mp_loom))]
mod halves;
#[cfg(not(mp_loom))]
mod link;
#[cfg(not(mp_loom))]
mod listener;
mod memory;
#[cfg(all(test, mp_loom))]
mod models;
mod ring;
#[cfg(not(mp_loom))]
mod stream;
#[cfg(not(mp_loom))]
mod wait;
#[cfg(not(mp_loom))]
mod watch;

#[cfg(not(mp_loom))]
pub use address::Address;
#[cfg(not(mp_loom))]
pub use auth::AuthKey;
#[cfg(not(mp_loom))]
pub use client::{Client, ClientBuilder};
#[cfg(not(mp_loom))]
pub use connection::{Connection, duplex};
pub use error::{Error, Result};
#[cfg(not(mp_loom))]
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
#[cfg(not(mp_loom))]
pub use listener::{Listener, ListenerBuilder, Peer};
#[cfg(not(mp_loom))]
pub use wait::{Waitable, wait};

/// Runs both ends of a ring on any bytes.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_ring(bytes: &[u8]) {
    ring::bench::run_on(bytes);
}

/// Receives any bytes as messages over a stream.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_stream(bytes: &[u8]) {
    stream::run_on(bytes);
}

/// Gives any messages to both sides of a hand-shake.
#[cfg(all(fuzzing, not(mp_loom)))]
#[doc(hidden)]
pub fn fuzz_hand_shake(bytes: &[u8]) {
    auth::run_on(bytes);
}
