//! x
pub use mp_core::Fd;
pub use mp_process::*;
