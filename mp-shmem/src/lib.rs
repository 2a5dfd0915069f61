//! Memory that processes share.

mod block;
mod copy;
mod error;
mod list;
mod raw;
mod segment;

pub use error::{Error, Result};
pub use list::{Item, ShareableList};
pub use raw::{RawArray, RawValue};
pub use segment::SharedMemory;
