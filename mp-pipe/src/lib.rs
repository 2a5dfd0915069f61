//! Pipes between processes.

mod address;
mod auth;
mod error;
mod stream;

pub use address::Address;
pub use auth::AuthKey;
pub use error::{Error, Result};
