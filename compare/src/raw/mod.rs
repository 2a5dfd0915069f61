//! The mechanisms alone, against libc: no serialisation, no safety, no API. The limit to come near.

pub mod mpmc;
pub mod pipes;
pub mod process;
pub mod pthread;
pub mod ring;
pub mod shared;
