//! x
pub use mp_core as core;
pub use mp_core::Fd;
pub use mp_process as process;
pub use mp_process::*;
