//! Pipes between processes.

mod connection;
mod error;
mod halves;
mod link;
mod memory;
mod ring;
mod wait;
mod watch;

pub use connection::{Connection, duplex};
pub use error::{Error, Result};
pub use halves::{IntoIter, Iter, Receiver, SendError, Sender, TryIter, simplex};
pub use wait::{Waitable, wait};
