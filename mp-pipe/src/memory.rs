//! The words and bytes that both ends of a pipe share.
//!
//! The ring takes its atomics and its bytes from here and from nowhere else, so that under `cfg(mp_loom)`
//! the models in `models.rs` explore the very same code.

pub(crate) use imp::*;
pub(crate) use mp_core::word::{Ordering, ordering, taken};

#[cfg(not(mp_loom))]
mod imp {
    #![expect(unsafe_code, reason = "bytes in a mapping that another process writes to")]

    use std::ptr::NonNull;
    use std::sync::atomic::compiler_fence;

    use mp_core::sys::barrier;
    pub(crate) use mp_core::word::fence;
    use mp_core::word::{AtomicU64, Ordering};

    /// A few words on cache lines of their own (those are fetched in pairs).
    #[repr(C, align(128))]
    #[derive(Debug, Default)]
    pub(crate) struct Line {
        pub(crate) word: AtomicU64,
        pub(crate) second: AtomicU64,
        /// Those on the same line of 64 bytes.
        pub(crate) rest: [AtomicU64; 6],
        unused: [AtomicU64; 8],
    }

    /// Stores `value`, before the SeqCst load that has to follow.
    ///
    /// Of two that store and then load what the other stored, one at least sees the other's: one does so by this
    /// and a SeqCst load, the other by [`announce`]. `_least` is what a model weakens.
    #[inline]
    pub(crate) fn publish(word: &AtomicU64, value: u64, _least: Ordering) {
        word.store(value, Ordering::SeqCst);
    }

    /// As [`publish`] where the other makes the barrier for both: five times as fast, or more.
    #[inline]
    pub(crate) fn publish_lightly(word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Stores `value`, before any load that follows.
    pub(crate) fn announce(word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Lets others make barriers for this process; whether they can.
    pub(crate) fn allow_barriers() -> bool {
        barrier::allow()
    }

    /// Makes a barrier for the other as well; whether that worked.
    pub(crate) fn barrier_for_both() -> bool {
        barrier::everywhere()
    }

    /// Bytes that another process may write to at any time.
    ///
    /// Where the two ends keep to the protocol no byte is written and read at the same time. A faulty peer can
    /// break that: what is read then is any bytes, which is why numbers are read as atomics, once, and
    /// everything else is copied before it is looked at.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Memory {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: nothing in it belongs to a thread; what may be done to the bytes is up to the protocol.
    unsafe impl Send for Memory {}

    impl Memory {
        /// # Safety
        ///
        /// `len` bytes from `start` on, which is aligned to 8, can be read and written for as long as this or a copy
        /// of it is used.
        pub(crate) unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
            Self { start, len }
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        #[inline]
        fn at(&self, offset: usize, len: usize) -> *mut u8 {
            assert!(offset <= self.len && len <= self.len - offset, "checked by the caller");
            // SAFETY: within the memory, by the line above.
            unsafe { self.start.as_ptr().add(offset) }
        }

        #[inline]
        fn word(&self, offset: usize) -> &AtomicU64 {
            assert!(offset.is_multiple_of(8), "checked by the caller");
            // SAFETY: within the memory, aligned as start is, and any bits are a number.
            unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
        }

        /// The number at `offset`, a multiple of 8.
        #[inline]
        pub(crate) fn load(&self, offset: usize) -> u64 {
            self.word(offset).load(Ordering::Relaxed)
        }

        /// Writes the number at `offset`, a multiple of 8.
        #[inline]
        pub(crate) fn store(&self, offset: usize, value: u64) {
            self.word(offset).store(value, Ordering::Relaxed);
        }

        /// Copies `bytes` to `offset`.
        #[inline]
        pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
            let to = self.at(offset, bytes.len());
            // SAFETY: at() checked the range; what a process owns is not in the memory it shares.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }

        /// Copies from `offset` to `bytes`.
        #[inline]
        pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
            let from = self.at(offset, bytes.len());
            // SAFETY: as for write.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        }

        /// Copies `len` bytes from `offset` to the end of `bytes`.
        pub(crate) fn append(&self, offset: usize, len: usize, bytes: &mut Vec<u8>) {
            bytes.reserve(len);
            let from = self.at(offset, len);
            let to = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: at() checked the source; room for len more was just reserved, in memory of our own.
            unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
            // SAFETY: that many bytes behind the old end were just written.
            unsafe { bytes.set_len(bytes.len() + len) };
        }

        /// `len` bytes at `offset`, in place.
        ///
        /// # Safety
        ///
        /// Until the slice is gone nobody writes there.
        pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
            // SAFETY: at() checked the range; that nobody writes is the caller's promise.
            unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
        }

        /// `len` bytes at `offset`, in place, to be written.
        ///
        /// # Safety
        ///
        /// Until the slice is gone nobody else reads or writes there.
        #[expect(
            clippy::mut_from_ref,
            reason = "as with a cell; exclusiveness is the caller's promise"
        )]
        pub(crate) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
            // SAFETY: at() checked the range; that it is exclusive is the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
        }
    }
}

#[cfg(mp_loom)]
mod imp {
    #![expect(unsafe_code, reason = "cells that loom watches")]

    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use mp_core::model::is_without;
    pub(crate) use mp_core::word::fence;
    use mp_core::word::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    pub(crate) struct Line {
        pub(crate) word: AtomicU64,
        pub(crate) second: AtomicU64,
        pub(crate) rest: [AtomicU64; 3],
    }

    pub(crate) fn publish_lightly(word: &AtomicU64, value: u64) {
        publish(word, value, Ordering::Release);
    }

    pub(crate) fn announce(word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Release);
        if !is_without("SleeperFence") {
            fence(Ordering::SeqCst);
        }
    }

    /// No thread of a model can make a barrier for another.
    pub(crate) fn allow_barriers() -> bool {
        false
    }

    pub(crate) fn barrier_for_both() -> bool {
        false
    }

    /// loom takes a SeqCst store for a Release one, and models SeqCst fences.
    pub(crate) fn publish(word: &AtomicU64, value: u64, least: Ordering) {
        word.store(value, least);
        if !is_without("SleeperFence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Words that may not be read while they are written, and loom sees to it.
    #[derive(Clone, Debug)]
    pub(crate) struct Memory {
        words: Arc<Vec<UnsafeCell<u64>>>,
    }

    impl Memory {
        pub(crate) fn new(len: usize) -> Self {
            Self { words: Arc::new((0..len / 8).map(|_| UnsafeCell::new(0)).collect()) }
        }

        pub(crate) fn len(&self) -> usize {
            self.words.len() * 8
        }

        pub(crate) fn load(&self, offset: usize) -> u64 {
            // SAFETY: loom fails the model if another thread writes meanwhile.
            self.words[offset / 8].with(|word| unsafe { *word })
        }

        pub(crate) fn store(&self, offset: usize, value: u64) {
            // SAFETY: as above.
            self.words[offset / 8].with_mut(|word| unsafe { *word = value });
        }

        pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
            for (index, word) in bytes.chunks_exact(8).enumerate() {
                self.store(offset + index * 8, u64::from_le_bytes(word.try_into().unwrap()));
            }
        }

        pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
            for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
                word.copy_from_slice(&self.load(offset + index * 8).to_le_bytes());
            }
        }

        pub(crate) fn append(&self, offset: usize, len: usize, bytes: &mut Vec<u8>) {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            self.read(offset, &mut bytes[start..]);
        }
    }
}
