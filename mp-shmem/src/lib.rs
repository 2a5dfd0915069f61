//! Memory that processes share.

mod block;
mod copy;
mod error;
mod raw;
mod segment;

pub use error::{Error, Result};
pub use raw::{RawArray, RawValue};
pub use segment::SharedMemory;
