//! What may lie in shared memory.
#![expect(unsafe_code, reason = "the marker trait is unsafe to implement: that is its point")]

use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
    AtomicU64, AtomicUsize,
};

/// A type whose values may lie in memory that other processes read and write.
///
/// Implemented for the integers and floats, the atomic integers, and arrays of those. Implement it for a
/// struct of your own to place it in shared memory:
///
/// ```
/// use mp_core::Plain;
///
/// #[derive(Clone, Copy)]
/// #[repr(C)]
/// struct Particle {
///     position: [f64; 3],
///     charge: i64,
/// }
/// // No padding: the size is that of the fields.
/// const _: () = assert!(size_of::<Particle>() == 3 * 8 + 8);
///
/// // SAFETY: repr(C), no padding, and every field is Plain itself.
/// unsafe impl Plain for Particle {}
/// ```
///
/// [`plain_struct!`](crate::plain_struct) writes and checks all of that.
///
/// A reference does not belong there: it is an address, and means nothing in another process.
///
/// ```compile_fail,E0277
/// fn share<T: mp_core::Plain>(_: T) {}
/// share("text");
/// ```
///
/// Nor does a `bool`, of whose 256 bytes only two are values:
///
/// ```compile_fail,E0277
/// fn share<T: mp_core::Plain>(_: T) {}
/// share(true);
/// ```
///
/// # Safety
///
/// The implementer promises that
/// - the layout is fixed: `#[repr(C)]`, `#[repr(transparent)]` or a primitive, alignment at most a page;
/// - there is no padding: each byte belongs to a field;
/// - every pattern of bits is a value: no `bool`, `char`, enum, `NonZero`, reference, `Box` or `fn`;
/// - it means the same in every process: no address, no descriptor number, no process-local index;
/// - dropping it does nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in memory that processes share",
    note = "numbers and arrays of them can, and structs of them by `plain_struct!`",
    note = "what has no fixed size, such as a `String`, goes by a queue, a pipe or a manager"
)]
pub unsafe trait Plain: Sized + 'static {}

/// A [`Plain`] type that may change under a shared reference: atomics through and through.
///
/// What other processes write at any time can be borrowed as `&T` only if `T` is one of these.
///
/// # Safety
///
/// The implementer promises that every byte of the type belongs to an atomic integer.
pub unsafe trait Atomic: Plain + Sync {}

/// Declares a struct that is [`Plain`]: what can be checked of the promise is checked by the compiler.
///
/// The struct becomes `#[repr(C)]`, `Clone` and `Copy`. Each field must be [`Plain`] itself, and there must
/// be no padding between the fields or behind them: put the larger ones first, and fill up with a field.
///
/// # Example
///
/// ```
/// mp_core::plain_struct! {
///     /// Where something is, and how heavy.
///     #[derive(Debug, PartialEq)]
///     pub struct Particle {
///         /// In metres.
///         pub position: [f64; 3],
///         pub charge: i32,
///         pub reserved: u32,
///     }
/// }
///
/// fn share<T: mp_core::Plain>(_: T) {}
/// share(Particle { position: [0.0; 3], charge: -1, reserved: 0 });
/// ```
///
/// Padding is an error, as other processes could see there what is none of their business:
///
/// ```compile_fail,E0080
/// mp_core::plain_struct! {
///     struct Padded {
///         small: u8,
///         large: u64,
///     }
/// }
/// ```
///
/// And so is a field of which not all bits are values:
///
/// ```compile_fail,E0277
/// mp_core::plain_struct! {
///     struct Flag {
///         on: bool,
///     }
/// }
/// ```
#[macro_export]
macro_rules! plain_struct {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        const _: () = {
            const fn plain<T: $crate::Plain>() {}
            $(plain::<$type>();)*
            ::core::assert!(
                ::core::mem::size_of::<$name>() == 0 $(+ ::core::mem::size_of::<$type>())*,
                "the struct has padding: put larger fields first, and fill up with a field",
            );
            ::core::assert!(::core::mem::align_of::<$name>() <= 4096, "at most a page");
        };

        // SAFETY: repr(C) without padding, and of fields that are Plain, as was checked above; it is Copy,
        // so there is nothing to drop.
        unsafe impl $crate::Plain for $name {}
    };
}

macro_rules! plain {
    ($($type:ty)*) => {
        // SAFETY: integers and floats have fixed layouts without padding, each pattern of bits is a
        // value, none is an address, and they have no destructor. Atomic integers have the layout of
        // the integer they are named after (std::sync::atomic).
        $(unsafe impl Plain for $type {})*
    };
}

macro_rules! atomic {
    ($($type:ty)*) => {
        plain! { $($type)* }
        // SAFETY: an atomic integer.
        $(unsafe impl Atomic for $type {})*
    };
}

plain! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 }
atomic! { AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize }
atomic! { AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize }

// SAFETY: an array is its elements one after the other, with no padding between or around them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

// SAFETY: as many atomics.
unsafe impl<T: Atomic, const N: usize> Atomic for [T; N] {}

// SAFETY: no bytes at all.
unsafe impl Plain for () {}
