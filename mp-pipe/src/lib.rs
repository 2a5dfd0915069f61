//! Pipes between processes.

mod address;
mod auth;
mod bound;
mod client;
mod connection;
mod either;
mod error;
mod greet;
mod halves;
mod link;
mod listener;
mod memory;
mod ring;
mod stream;
mod wait;
mod watch;

pub use address::Address;
pub use auth::AuthKey;
pub use client::{Client, ClientBuilder};
pub use connection::{Connection, duplex};
pub use error::{Error, Result};
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
pub use listener::{Listener, ListenerBuilder, Peer};
pub use wait::{Waitable, wait};
