//! Pages to read, from the folder `docs`.

// The names that the pages link to.
#[allow(unused_imports, reason = "links are no use in the compiler's eyes")]
use crate::*;

#[doc = include_str!("../docs/from-python.md")]
pub mod from_python {}

#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}
