//! Memory that processes share: values and arrays with a lock or without, memory with a name, and lists
//! that Python can read.
//!
//! ```
//! use mp_shmem::{Array, Value};
//!
//! # fn main() -> mp_shmem::Result<()> {
//! let number = Value::new(0.0)?;
//! let array = Array::from_slice(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])?;
//!
//! // Send clones of both to another process, which does this:
//! number.set(3.1415927);
//! for element in array.lock().iter_mut() {
//!     *element = -*element;
//! }
//!
//! println!("{} {:?}", number.get(), array.to_vec());
//! # assert_eq!(array.get(9), Some(-9));
//! # Ok(())
//! # }
//! ```
//!
//! # By task
//!
//! | To share | Use | Python |
//! | --- | --- | --- |
//! | a counter, a setting, a small struct | [`Value`] | `Value` |
//! | many numbers, a text, a picture | [`Array`] | `Array` |
//! | counters and flags, fastest | [`RawValue`], [`RawArray`] of atomics | |
//! | what is written once and then read | [`RawArray`] | `RawArray` |
//! | bytes with programs in any language | [`SharedMemory`] | `SharedMemory` |
//! | a few items of different types with Python | [`ShareableList`] | `ShareableList` |
//! | a struct of your own | [`plain_struct!`], [`Plain`] | `ctypes.Structure` |
//!
//! All are handles: a clone is the same memory. All can be sent to other processes, as arguments of a
//! process or in messages of pipes and queues, and are the same memory there. What is sent is a descriptor,
//! whatever the size.
//!
//! # How long memory lasts
//!
//! Values and arrays have no name. Their memory is gone with the last process that has them, however that
//! ends; nothing can be left behind. [`SharedMemory`] and lists have a name, and last until it is unlinked:
//! dropping a handle never does that unless [told to](SharedMemory::unlink_on_drop), nor does opening.
//! [`SharedMemory::remove_stale`] clears away what killed processes have left.
//!
//! # When a process dies
//!
//! A lock whose holder dies is free again, within a tenth of a second, and what it guards is as the holder
//! left it. Values and arrays go on with that, as a counter that was not yet incremented is none the worse;
//! who has to know asks [`Value::owner_died`] or takes the lock by [`Value::try_lock`].
//!
//! # What a peer can do
//!
//! Whoever has the memory can write anything into it at any time. Sizes are sealed or taken from the
//! kernel, headers are checked when memory is received, and items of lists when they are read: nonsense is
//! an error. What is copied out by `get` is some value, as every pattern of bits is one. Only guards and the
//! `unsafe` methods hand out references, and trust that all peers take the lock, or do what was agreed.
//!
//! # Memory that is not there
//!
//! Constructors reserve all they need. Lack of memory is [`Error::NoMemory`] from them, and no signal
//! later.
//!
//! # Much memory
//!
//! Arrays and [`SharedMemory`] of 2 MiB and more get huge pages, as far as the system has some (Linux 6.1): they are quicker to
//! make, to send and to drop. Who keeps one and fills it again spares even that.
//!
//! # Limits
//!
//! Linux on x86-64 and aarch64. Each value, array and list has a descriptor and at least a page of memory:
//! for a million counters make one array.

mod array;
mod block;
mod copy;
mod error;
mod list;
mod locked;
mod raw;
mod segment;
mod value;

/// The program of the README is one of the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use array::{Array, ArrayGuard};
pub use error::{Error, Result};
pub use list::{Item, ShareableList};
pub use mp_core::{Atomic, Plain, plain_struct};
pub use mp_sync::{Lock, TryLockError, TryLockResult};
pub use raw::{RawArray, RawValue};
pub use segment::SharedMemory;
pub use value::{Value, ValueGuard};

/// Opens any bytes as a list, and uses it.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_shareable_list(bytes: &[u8]) {
    list::run_on(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn shared<T: Send + Sync + Clone + serde::Serialize + serde::de::DeserializeOwned>() {}

    #[test]
    fn auto_traits() {
        shared::<Value<i32>>();
        shared::<Array<f64>>();
        shared::<RawValue<AtomicU64>>();
        shared::<RawValue<[u8; 3]>>();
        shared::<RawArray<AtomicU64>>();
        shared::<RawArray<i32>>();
        shared::<SharedMemory>();
        shared::<ShareableList>();
        fn sync<T: Sync>() {}
        sync::<ValueGuard<'static, i32>>();
        sync::<ArrayGuard<'static, i32>>();
        fn error<T: std::error::Error + Send + Sync + 'static>() {}
        error::<Error>();
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        let replay = |target: &str, run_on: fn(&[u8])| {
            mp_core::testing::replay(env!("CARGO_MANIFEST_DIR"), target, run_on)
        };
        replay("shareable_list", list::run_on);
    }
}
