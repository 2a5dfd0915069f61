//! The ground under the `multiprocess` crates: what a message is, how descriptors travel inside it,
//! segments of shared memory, and the kernel calls all of that needs.
//!
//! Most programs want [`multiprocess`](https://docs.rs/multiprocess) or one of the crates above this
//! one. Use `mp-core` to build a handle of your own that can stand anywhere in a message.
//!
//! # A message is bytes plus descriptors
//!
//! [`encode`] turns any serde value into a [`Message`], [`decode`] turns it back. A value may hold
//! descriptors at any depth: [`Fd`] wraps one, and while a message is encoded it leaves a duplicate in
//! the message's descriptor table and its index in the bytes.
//!
//! ```
//! use std::fs::File;
//! use std::io::Read;
//! use mp_core::{Fd, decode, encode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = Fd::from(File::open("/proc/self/comm")?);
//! let message = encode(&(7_u32, Some(vec![file])))?;
//! assert_eq!(message.fds().len(), 1);
//!
//! let (number, files): (u32, Option<Vec<Fd>>) = decode(message)?;
//! let mut text = String::new();
//! for file in files.into_iter().flatten() {
//!     File::from(file).read_to_string(&mut text)?;
//! }
//! assert_eq!(number, 7);
//! assert!(!text.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # By task
//!
//! | To | Use |
//! | --- | --- |
//! | turn values into messages and back | [`encode`], [`decode`], [`Encoder`], [`Decoder`] |
//! | put a descriptor into a value | [`Fd`], [`fd::serialize`], [`fd::deserialize`] |
//! | send whole messages between processes | [`packet::Channel`] |
//! | write a control message by hand, field by field | [`fields`] |
//! | share memory | [`Segment`], [`Plain`], [`Atomic`] |
//! | wait: for a time, a word, a descriptor | [`Deadline`], [`sys::futex`], [`sys::fd::poll`] |
//! | spin before sleeping | [`spin`] |
//! | watch, signal and reap processes | [`sys::process`] |
//! | tell whether a thread still runs | [`sys::thread`] |
//! | call what may panic, and go on | [`catch_panic`] |
//! | have a process killed at a named step, in tests | [`crash`] |
//!
//! # Limits
//!
//! Linux on x86-64 and aarch64. Who encodes a message and who decodes it have the same version of this library and the
//! same type for the value; they may be different programs, and on different machines where there are no descriptors
//! in it. The message format is not stable between versions and not meant for files.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!(
    "multiprocess works on Linux, on x86-64 and aarch64: it needs memfd, futex and pidfd"
);

mod codec;
pub mod crash;
mod deadline;
mod error;
pub mod fd;
pub mod fields;
#[doc(hidden)]
pub mod heirs;
#[cfg(mp_loom)]
#[doc(hidden)]
pub mod model;
pub mod packet;
mod panic;
mod plain;
mod segment;
pub mod spin;
pub mod sys;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
#[doc(hidden)]
pub mod word;

pub use codec::{Decoder, Encoder, Message, decode, encode, encode_number};
pub use deadline::Deadline;
pub use error::{Error, Result, describe};
pub use fd::Fd;
pub use panic::catch_panic;
pub use plain::{Atomic, Plain};
pub use segment::Segment;

/// Decodes any bytes as a value of the type that the first one chooses.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    codec::run_on(bytes);
}

/// Reads any bytes as fields.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_fields(bytes: &[u8]) {
    fields::run_on(bytes);
}

/// Sends any bytes as packets and receives what they are.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_packet(bytes: &[u8]) {
    packet::run_on(bytes);
}

/// Opens any memory file as a segment.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_segment(bytes: &[u8]) {
    segment::run_on(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_traits() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Segment>();
        is_send_and_sync::<packet::Channel>();
        is_send_and_sync::<Message>();
        is_send_and_sync::<Fd>();
        is_send_and_sync::<Deadline>();
        is_send_and_sync::<Error>();
    }

    /// What fuzzing kept, which the packaged crate does not have.
    #[test]
    fn inputs_that_fuzzing_kept_do_no_harm() {
        let replay = |target: &str, run_on: fn(&[u8])| {
            crate::testing::replay(env!("CARGO_MANIFEST_DIR"), target, run_on)
        };
        replay("decode", codec::run_on);
        replay("fields", fields::run_on);
        replay("packet", packet::run_on);
        replay("segment", segment::run_on);
    }
}

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
