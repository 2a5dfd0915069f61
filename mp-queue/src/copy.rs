//! Copies to and from memory that others may write at the same time, if they are faulty.
//!
//! The shared side is always aligned to words and has whole words, so small copies are relaxed atomics; what
//! is read is a mix of the old and the new at worst. From a page on libc's copy is faster.
#![expect(unsafe_code, reason = "copies through raw pointers")]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// From how many bytes on libc copies.
const MANY: usize = 128;

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

/// Word number `index` from `start` on.
///
/// # Safety
///
/// It lies in mapped memory that outlives the use of the reference, and `start` is aligned to words.
#[inline]
unsafe fn word<'a>(start: NonNull<u8>, index: usize) -> &'a AtomicU64 {
    // SAFETY: the caller's promise.
    let at = unsafe { start.cast::<u64>().add(index) };
    // SAFETY: the caller's promise; all that runs on it writes by atomics, or does not count as an access.
    unsafe { AtomicU64::from_ptr(at.as_ptr()) }
}

/// Reads a word.
///
/// # Safety
///
/// As [`word`].
#[inline]
pub(crate) unsafe fn load(from: NonNull<u8>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { word(from, 0) }.load(Relaxed)
}

/// Writes a word.
///
/// # Safety
///
/// As [`word`].
#[inline]
pub(crate) unsafe fn store(to: NonNull<u8>, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { word(to, 0) }.store(value, Relaxed);
}

/// Writes `from`, and zeros up to the end of its last word.
///
/// # Safety
///
/// `to` is aligned to words, and as many as `from` has, the last one whole, are mapped.
#[inline]
pub(crate) unsafe fn write(from: &[u8], to: NonNull<u8>) {
    if from.len() >= MANY {
        // SAFETY: the caller's promise; a slice does not overlap with a mapping of a segment.
        unsafe { many(from.as_ptr(), to.as_ptr(), from.len()) };
        return;
    }
    let (whole, rest) = from.as_chunks::<8>();
    for (index, bytes) in whole.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { word(to, index) }.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: the caller's promise.
        unsafe { word(to, whole.len()) }.store(u64::from_le_bytes(last), Relaxed);
    }
}

/// Appends `len` bytes to `to`, which has room for them with the last word whole.
///
/// # Safety
///
/// `from` is aligned to words, and as many as `len` bytes need are mapped.
#[inline]
pub(crate) unsafe fn read(from: NonNull<u8>, len: usize, to: &mut Vec<u8>) {
    let start = to.len();
    assert!(to.capacity() - start >= len.next_multiple_of(8), "there has to be room");
    // SAFETY: within the vector's storage.
    let target = unsafe { to.as_mut_ptr().add(start) };
    if len >= MANY {
        // SAFETY: the caller's promise, and the assertion above.
        unsafe { many(from.as_ptr(), target, len) };
    } else {
        for index in 0..len.div_ceil(8) {
            // SAFETY: the caller's promise.
            let value = unsafe { word(from, index) }.load(Relaxed);
            // SAFETY: within the storage, by the assertion above.
            let place = unsafe { target.add(index * 8) };
            // SAFETY: as above; it need not be aligned.
            unsafe { place.cast::<[u8; 8]>().write(value.to_le_bytes()) };
        }
    }
    // SAFETY: so many bytes were written.
    unsafe { to.set_len(start + len) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_back(data in prop_oneof![
            any::<Vec<u8>>(),
            proptest::collection::vec(any::<u8>(), MANY - 20..MANY + 20),
        ], before in 0_usize..20) {
            let memory: Vec<AtomicU64> =
                (0..data.len() / 8 + 2).map(|_| AtomicU64::new(u64::MAX)).collect();
            let place = NonNull::new(memory.as_ptr().cast_mut().cast::<u8>()).unwrap();
            // SAFETY: the memory is aligned and long enough, and only this thread has it.
            unsafe { write(&data, place) };
            let mut back = Vec::with_capacity(before + data.len() + 8);
            back.resize(before, 7);
            // SAFETY: likewise.
            unsafe { read(place, data.len(), &mut back) };
            prop_assert_eq!(&back[before..], &data[..]);
            // Nothing behind its last word was touched.
            let behind = &memory[data.len().div_ceil(8)..];
            prop_assert!(behind.iter().all(|word| word.load(Relaxed) == u64::MAX));
        }
    }
}
