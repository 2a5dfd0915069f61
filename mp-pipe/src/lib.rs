//! Pipes between processes.

mod address;
mod auth;
mod connection;
mod either;
mod error;
mod halves;
mod link;
mod memory;
mod ring;
mod stream;
mod wait;
mod watch;

pub use address::Address;
pub use auth::AuthKey;
pub use connection::{Connection, duplex};
pub use error::{Error, Result};
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
pub use wait::{Waitable, wait};
