//! The same pool on many machines.
#![forbid(unsafe_code)]

mod cluster;
mod counter;
mod dict;
mod engine;
mod error;
mod host;
mod list;
mod lock;
mod method;
mod protocol;
mod queue;
mod server;

pub use cluster::Cluster;
pub use counter::Counter;
pub use dict::Dict;
pub use engine::Engine;
pub use error::{Error, PutError, Result};
pub use host::{Host, Stop, serve};
pub use list::List;
pub use lock::{Lock, LockGuard};
pub use method::Method;
pub use queue::Queue;
