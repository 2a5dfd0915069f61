//! Pipes between processes.

mod error;

pub use error::{Error, Result};
