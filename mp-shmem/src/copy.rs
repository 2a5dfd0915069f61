//! Copies to and from memory that others may read and write at the same time.
//!
//! All accesses are relaxed atomics, the widest that are aligned (many bytes are left to libc), so that two of these copies that meet are
//! no data race: what is read is a mix of the old and the new at worst, and everything copied here is
//! [`Plain`], of which any mix is a value. (A copy of bytes may meet one of words: Rust's memory model has
//! no rule for atomics of mixed width yet; the machines this crate runs on do.)
#![expect(unsafe_code, reason = "copies through raw pointers")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use mp_core::Plain;

/// Reads a value in the widest pieces that its alignment allows; one piece up to 8 bytes.
///
/// # Safety
///
/// `from` is aligned and lies, with all of `T`, in mapped memory; nobody writes it but by atomics.
pub(crate) unsafe fn load<T: Plain + Copy>(from: NonNull<T>) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the caller's promise; value is as long and as aligned, and nobody else has it.
    unsafe { copy::<T>(from.as_ptr(), value.as_mut_ptr(), 1, Direction::Out) };
    // SAFETY: every byte of it was written, and any bytes are a T.
    unsafe { value.assume_init() }
}

/// Writes a value, as [`load`] reads it.
///
/// # Safety
///
/// As [`load`].
pub(crate) unsafe fn store<T: Plain + Copy>(to: NonNull<T>, value: T) {
    // SAFETY: the caller's promise; value is a local.
    unsafe { copy::<T>(&raw const value, to.as_ptr(), 1, Direction::In) };
}

/// Reads as many elements as `to` has.
///
/// # Safety
///
/// As [`load`], for all of them.
pub(crate) unsafe fn read<T: Plain + Copy>(from: NonNull<T>, to: &mut [MaybeUninit<T>]) {
    // SAFETY: the caller's promise; the slice is ours.
    unsafe { copy::<T>(from.as_ptr(), to.as_mut_ptr().cast(), to.len(), Direction::Out) };
}

/// Reads bytes over others.
///
/// # Safety
///
/// As [`load`], for as many bytes as `to` has.
pub(crate) unsafe fn read_bytes(from: NonNull<u8>, to: &mut [u8]) {
    // SAFETY: the caller's promise; the slice is ours.
    unsafe { copy::<u8>(from.as_ptr(), to.as_mut_ptr(), to.len(), Direction::Out) };
}

/// Writes all elements of `from`.
///
/// # Safety
///
/// As [`load`], for all of them.
pub(crate) unsafe fn write<T: Plain + Copy>(from: &[T], to: NonNull<T>) {
    // SAFETY: the caller's promise; the slice is ours.
    unsafe { copy::<T>(from.as_ptr(), to.as_ptr(), from.len(), Direction::In) };
}

/// Which side is shared.
#[derive(Clone, Copy)]
enum Direction {
    Out,
    In,
}

/// Copies `count` elements; the shared side atomically, the private side plainly.
///
/// # Safety
///
/// Both sides are aligned and mapped for so long; the private side belongs to the caller, the shared one
/// is written by atomics only.
#[inline]
unsafe fn copy<T: Plain>(from: *const T, to: *mut T, count: usize, direction: Direction) {
    let (from, to, len) = (from.cast::<u8>(), to.cast::<u8>(), count * size_of::<T>());
    if count > 1 && len >= MANY {
        // SAFETY: the caller's promise.
        unsafe { many(from, to, len) };
        return;
    }
    match align_of::<T>() {
        // SAFETY: the caller's promise; both sides have the alignment of words.
        8.. => unsafe { pieces::<AtomicU64>(from, to, len, direction) },
        // SAFETY: likewise.
        4.. => unsafe { pieces::<AtomicU32>(from, to, len, direction) },
        // SAFETY: likewise.
        2.. => unsafe { pieces::<AtomicU16>(from, to, len, direction) },
        // SAFETY: the caller's promise; bytes need no alignment.
        _ => unsafe { bytes(from, to, len, direction) },
    }
}

/// From how many bytes on libc's copy is the faster one: up to twice as fast, once the caches are full.
const MANY: usize = 4096;

/// Copies by libc, through a pointer that the compiler does not look behind: for it this is no access of the
/// program, as little as another process's is.
///
/// # Safety
///
/// Both sides are mapped for so long, and do not overlap.
unsafe fn many(from: *const u8, to: *mut u8, len: usize) {
    type Copy = unsafe extern "C" fn(
        *mut libc::c_void,
        *const libc::c_void,
        libc::size_t,
    ) -> *mut libc::c_void;
    let copy: Copy = std::hint::black_box(libc::memcpy);
    // SAFETY: the caller's promise (memcpy(3)). Others may access the shared side meanwhile, which makes
    // the bytes that are copied a mix, and no more: machine code has no data races.
    unsafe { copy(to.cast(), from.cast(), len) };
}

/// Copies bytes: words where the shared side has whole ones, single bytes before and behind.
///
/// # Safety
///
/// As [`copy`].
#[inline]
unsafe fn bytes(from: *const u8, to: *mut u8, len: usize, direction: Direction) {
    let shared = match direction {
        Direction::Out => from,
        Direction::In => to.cast_const(),
    };
    let head = shared.align_offset(8).min(len);
    let body = (len - head) / 8 * 8;
    let parts = [(0, head), (head, body), (head + body, len - head - body)];
    for (index, (start, len)) in parts.into_iter().enumerate() {
        // SAFETY: start is at most the length of either side.
        let from = unsafe { from.add(start) };
        // SAFETY: likewise.
        let to = unsafe { to.add(start) };
        if index == 1 {
            // SAFETY: within both sides, and the shared one is aligned for words here.
            unsafe { pieces::<AtomicU64>(from, to, len, direction) };
        } else {
            // SAFETY: within both sides.
            unsafe { pieces::<AtomicU8>(from, to, len, direction) };
        }
    }
}

/// An atomic integer, and its plain one.
trait Piece: Sized {
    type Value;
    fn load(&self) -> Self::Value;
    fn store(&self, value: Self::Value);
}

macro_rules! piece {
    ($($atomic:ty: $value:ty),*) => {$(
        impl Piece for $atomic {
            type Value = $value;

            #[inline]
            fn load(&self) -> $value {
                self.load(Relaxed)
            }

            #[inline]
            fn store(&self, value: $value) {
                self.store(value, Relaxed);
            }
        }
    )*};
}

piece! { AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64 }

/// # Safety
///
/// As [`copy`]; `len` is a multiple of the piece's size and the shared side is aligned for pieces.
#[inline]
unsafe fn pieces<P: Piece>(from: *const u8, to: *mut u8, len: usize, direction: Direction) {
    for start in (0..len).step_by(size_of::<P>()) {
        // SAFETY: a whole piece lies behind start, on both sides.
        let from = unsafe { from.add(start) };
        // SAFETY: likewise.
        let to = unsafe { to.add(start) };
        match direction {
            Direction::Out => {
                // SAFETY: mapped, aligned, and written by atomics only.
                let value = unsafe { &*from.cast::<P>() }.load();
                // SAFETY: the private side, which need not be aligned for words.
                unsafe { to.cast::<P::Value>().write_unaligned(value) };
            }
            Direction::In => {
                // SAFETY: the private side, which need not be aligned for words.
                let value = unsafe { from.cast::<P::Value>().read_unaligned() };
                // SAFETY: mapped, aligned, and accessed by atomics only.
                unsafe { &*to.cast::<P>() }.store(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words, so that offsets into them have known alignments.
    fn shared(bytes: usize) -> Vec<AtomicU64> {
        (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect()
    }

    fn at(shared: &[AtomicU64], offset: usize) -> NonNull<u8> {
        NonNull::new(shared.as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)).unwrap()
    }

    /// Few, and around where libc takes over.
    fn bytes_to_copy() -> impl Strategy<Value = Vec<u8>> {
        let many = MANY - 20..MANY + 20;
        prop_oneof![any::<Vec<u8>>(), proptest::collection::vec(any::<u8>(), many)]
    }

    proptest! {
        #[test]
        fn bytes_come_back_from_any_place(data in bytes_to_copy(), offset in 0_usize..24, other in 0_usize..8) {
            let memory = shared(data.len() + 32);
            // SAFETY: the memory is long enough, and only this thread has it.
            unsafe { write(&data, at(&memory, offset)) };
            let mut back = vec![MaybeUninit::new(0xEE_u8); data.len() + other];
            // SAFETY: likewise.
            unsafe { read(at(&memory, offset), &mut back[other..]) };
            for (index, byte) in back.into_iter().enumerate() {
                // SAFETY: all were initialised.
                let byte = unsafe { byte.assume_init() };
                prop_assert_eq!(byte, index.checked_sub(other).map_or(0xEE, |index| data[index]));
            }
            // Nothing around was touched.
            let sum: u64 = memory.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).map(u64::from).sum();
            prop_assert_eq!(sum, data.iter().copied().map(u64::from).sum::<u64>());
        }

        #[test]
        fn values_of_each_alignment_come_back(a: [u16; 3], b: [u32; 5], c: u128, d: f64, e: [u8; 7]) {
            fn trip<T: Plain + Copy>(value: T) -> T {
                let memory = shared(64);
                let place = at(&memory, if align_of::<T>() > 8 { 16 } else { 8 }).cast::<T>();
                let place = if place.is_aligned() { place } else { at(&memory, 8).cast() };
                // SAFETY: within the memory and aligned: one of two neighbouring words is for 16.
                unsafe { store(place, value) };
                // SAFETY: likewise.
                unsafe { load(place) }
            }
            prop_assert_eq!(trip(a), a);
            prop_assert_eq!(trip(b), b);
            prop_assert_eq!(trip(c), c);
            prop_assert_eq!(trip(d).to_bits(), d.to_bits());
            prop_assert_eq!(trip(e), e);
        }
    }
}
