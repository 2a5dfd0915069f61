//! A segment that holds elements of one type, and beside them perhaps a lock.
//!
//! ```text
//! offset   0  the segment's own header
//!         64  what the elements are: Header, written once by the creator
//!        128  room for a lock
//!        192  the elements; further on where their alignment asks for it
//! ```
#![expect(unsafe_code, reason = "views of the elements of a mapping")]

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use mp_core::{Atomic, Fd, Plain, Segment};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use static_assertions::const_assert_eq;

use crate::copy;
use crate::{Error, Result};

/// The segment's kind: "shmem", and the version of the layout.
const KIND: u64 = u64::from_le_bytes(*b"shmem\0\0\x01");

/// Where the header lies, and where a lock may.
const HEADER: usize = Segment::HEADER;
pub(crate) const LOCK: usize = HEADER + size_of::<Header>();
const DATA: usize = LOCK + 64;

/// What the elements are. Written before anybody else has the segment, checked by whoever opens it.
#[repr(C)]
struct Header {
    /// The size of an element in bytes.
    size: AtomicU32,
    /// The alignment of an element.
    align: AtomicU32,
    /// How many elements there are.
    len: AtomicU64,
    /// What kind of number an element is: see [`code`].
    code: AtomicU32,
    /// Whether a lock lies beside the elements: 0 or 1.
    lock: AtomicU32,
    /// How often the lock was taken over from a holder that died, as far as anybody noticed.
    deaths: AtomicU64,
    reserved: [AtomicU64; 4],
}

const_assert_eq!(size_of::<Header>(), 64);
const_assert_eq!(align_of::<Header>(), 8);
const_assert_eq!(std::mem::offset_of!(Header, len), 8);
const_assert_eq!(std::mem::offset_of!(Header, lock), 20);
const_assert_eq!(std::mem::offset_of!(Header, deaths), 24);
const_assert_eq!(DATA, 192);

// SAFETY: repr(C) atomics in descending order of need, without padding (64 bytes, asserted above).
unsafe impl Plain for Header {}

// SAFETY: every byte belongs to an atomic.
unsafe impl Atomic for Header {}

/// Elements of type `T` in shared memory. A clone is the same memory.
pub(crate) struct Block<T> {
    /// The first element. Valid while the segment is.
    data: NonNull<T>,
    len: usize,
    segment: Arc<Segment>,
}

// SAFETY: the pointer is into a mapping that the Arc keeps, whoever holds it. What threads may do with
// the elements is up to the methods: they copy atomically, are unsafe, or are bound to T: Atomic, which is
// Sync. A value that is moved out and in is moved between threads: hence Send.
unsafe impl<T: Plain + Send> Send for Block<T> {}

// SAFETY: as above.
unsafe impl<T: Plain + Send> Sync for Block<T> {}

impl<T> Clone for Block<T> {
    fn clone(&self) -> Self {
        Self { data: self.data, len: self.len, segment: Arc::clone(&self.segment) }
    }
}

impl<T: Plain> Block<T> {
    const FITS_A_PAGE: () = assert!(align_of::<T>() <= 4096, "aligned to no more than a page");

    /// Where the elements lie.
    const OFFSET: usize = DATA.next_multiple_of(align_of::<T>());

    /// The size of the segment for `len` elements.
    fn size(len: usize) -> Option<usize> {
        let () = Self::FITS_A_PAGE;
        len.checked_mul(size_of::<T>())?
            .checked_add(Self::OFFSET)
            .filter(|&size| isize::try_from(size).is_ok())
    }

    /// Makes a block of `len` elements, all zero.
    pub(crate) fn zeroed(name: &str, len: usize, lock: bool) -> Result<Self> {
        let size = Self::size(len).ok_or_else(Error::overflow)?;
        let segment = Segment::create(name, KIND, size).map_err(|error| match error {
            mp_core::Error::Io(error) => Error::reserving(size, error),
            other => other.into(),
        })?;
        let header: &Header = segment.at(HEADER)?;
        header.size.store(size_of::<T>() as u32, Relaxed);
        header.align.store(align_of::<T>() as u32, Relaxed);
        header.len.store(len as u64, Relaxed);
        header.code.store(code::<T>(), Relaxed);
        header.lock.store(lock.into(), Relaxed);
        Self::within(segment, len)
    }

    /// Makes a block that holds `values`.
    pub(crate) fn from_slice(name: &str, values: &[T], lock: bool) -> Result<Self>
    where
        T: Copy,
    {
        let block = Self::zeroed(name, values.len(), lock)?;
        // SAFETY: as long as the slice, apart from it, aligned; nobody else has the segment yet.
        unsafe { block.data.as_ptr().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        Ok(block)
    }

    /// Makes a block of `len` elements that `make` gives.
    pub(crate) fn from_fn(
        name: &str,
        len: usize,
        mut make: impl FnMut(usize) -> T,
        lock: bool,
    ) -> Result<Self> {
        let block = Self::zeroed(name, len, lock)?;
        for index in 0..len {
            // SAFETY: the index is below the length.
            let place = unsafe { block.data.add(index) };
            // SAFETY: within the mapping and aligned; nobody else has the segment yet.
            unsafe { place.write(make(index)) };
        }
        Ok(block)
    }

    /// Opens the block in a segment that came from somebody else.
    fn open(fd: Fd, lock: bool) -> Result<Self> {
        let segment = Segment::open(fd.into_owned(), KIND)?;
        let header: &Header = segment.at(HEADER)?;
        // Each is read once; from here on the locals count.
        let (size, align) = (header.size.load(Relaxed), header.align.load(Relaxed));
        let (len, found) = (header.len.load(Relaxed), header.code.load(Relaxed));
        let has_lock = header.lock.load(Relaxed);
        if (size as usize, align as usize) != (size_of::<T>(), align_of::<T>()) {
            return Err(Error::Damaged(format!(
                "its elements have {size} bytes, aligned to {align}; {} has {}, aligned to {}",
                std::any::type_name::<T>(),
                size_of::<T>(),
                align_of::<T>()
            )));
        }
        if found != 0 && code::<T>() != 0 && found != code::<T>() {
            return Err(Error::Damaged(format!(
                "its elements are no {}, but another type of the same size",
                std::any::type_name::<T>()
            )));
        }
        if has_lock != u32::from(lock) {
            return Err(Error::Damaged("it has a lock where there should be none, or none".into()));
        }
        match usize::try_from(len) {
            Ok(len) if Self::size(len).is_some_and(|size| size <= segment.size()) => {
                Self::within(segment, len)
            }
            _ => Err(Error::Damaged(format!(
                "it says that it has {len} elements, but has {} bytes",
                segment.size()
            ))),
        }
    }

    fn within(segment: Segment, len: usize) -> Result<Self> {
        // Checked by size() before; address() checks again.
        let data = segment.address(Self::OFFSET, len * size_of::<T>())?.cast();
        Ok(Self { data, len, segment: Arc::new(segment) })
    }

    /// The block, if it is of one element.
    pub(crate) fn single(self) -> Result<Self> {
        match self.len {
            1 => Ok(self),
            len => Err(Error::Damaged(format!("it has {len} elements, but is to have one"))),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The address of the first element.
    pub(crate) fn data(&self) -> NonNull<T> {
        self.data
    }

    /// The address of an element.
    pub(crate) fn at(&self, index: usize) -> Option<NonNull<T>> {
        // SAFETY: the index is below the length.
        (index < self.len).then(|| unsafe { self.data.add(index) })
    }

    /// As [`at`](Self::at), with the error that says what is wrong.
    pub(crate) fn checked(&self, index: usize) -> Result<NonNull<T>> {
        self.at(index).ok_or(Error::OutOfRange { index, len: self.len })
    }

    /// The address of the elements of a range, and how many they are.
    pub(crate) fn range(&self, start: usize, len: usize) -> Result<NonNull<T>> {
        match start.checked_add(len) {
            // SAFETY: the start is at most the length.
            Some(end) if end <= self.len => Ok(unsafe { self.data.add(start) }),
            _ => Err(Error::OutOfRange { index: start.max(self.len), len: self.len }),
        }
    }

    /// The elements as they are, where others may change them: atomics.
    pub(crate) fn as_atomics(&self) -> &[T]
    where
        T: Atomic,
    {
        // SAFETY: within the mapping, which lives as long as self; atomics may change meanwhile.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }

    /// Copies elements out; whoever writes them meanwhile leaves a mix.
    pub(crate) fn copy_out(&self, start: usize, len: usize) -> Result<Vec<T>>
    where
        T: Copy,
    {
        let from = self.range(start, len)?;
        let mut values = Vec::<T>::with_capacity(len);
        let room: &mut [MaybeUninit<T>] = &mut values.spare_capacity_mut()[..len];
        // SAFETY: the range was checked, and the elements are aligned.
        unsafe { copy::read(from, room) };
        // SAFETY: so many were written.
        unsafe { values.set_len(len) };
        Ok(values)
    }

    /// Copies elements in.
    pub(crate) fn copy_in(&self, start: usize, values: &[T]) -> Result<()>
    where
        T: Copy,
    {
        let to = self.range(start, values.len())?;
        // SAFETY: the range was checked, and the elements are aligned.
        unsafe { copy::write(values, to) };
        Ok(())
    }

    pub(crate) fn deserialize<'de, D>(deserializer: D, lock: bool) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        Self::open(Fd::deserialize(deserializer)?, lock).map_err(D::Error::custom)
    }
}

impl<T> Serialize for Block<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        mp_core::fd::serialize(self.segment.as_fd(), serializer)
    }
}

/// Tells numbers of the same size apart; 0 where nothing is known about the type.
///
/// The letters are those of Python's `struct`. An atomic is the integer it is made of.
fn code<T: 'static>() -> u32 {
    macro_rules! code {
        ($($letter:literal: $($type:ty)*;)*) => {
            $(if [$(TypeId::of::<$type>()),*].contains(&TypeId::of::<T>()) {
                return $letter as u32;
            })*
        };
    }
    use std::sync::atomic::{AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize};
    use std::sync::atomic::{AtomicU8, AtomicU16, AtomicUsize};
    code! {
        'B': u8 AtomicU8;
        'b': i8 AtomicI8;
        'H': u16 AtomicU16;
        'h': i16 AtomicI16;
        'I': u32 AtomicU32;
        'i': i32 AtomicI32;
        'Q': u64 usize AtomicU64 AtomicUsize;
        'q': i64 isize AtomicI64 AtomicIsize;
        'f': f32;
        'd': f64;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a peer that has the descriptor can do to the header.
    fn scribble(block: &Block<u32>, word: usize, value: u64) {
        let words: &[AtomicU64] = block.segment.slice_at(HEADER, 8).unwrap();
        words[word].store(value, Relaxed);
    }

    fn again(block: &Block<u32>) -> Result<Block<u32>> {
        Block::open(Fd::from(block.segment.try_clone_fd()?), false)
    }

    #[test]
    fn a_length_beyond_the_segment_is_refused() {
        for len in [1 << 10, u64::from(u32::MAX), 1 << 62, u64::MAX] {
            let block = Block::<u32>::zeroed("test", 5, false).unwrap();
            scribble(&block, 1, len);
            assert!(matches!(again(&block), Err(Error::Damaged(_))), "{len}");
            assert_eq!(block.len(), 5, "who has it open does not look again");
        }
    }

    proptest! {
        #[test]
        fn any_header_gives_a_block_within_the_segment_or_an_error(words: [u64; 3], keep: [bool; 3]) {
            let block = Block::<u32>::zeroed("test", 5, false).unwrap();
            for (index, (word, keep)) in words.into_iter().zip(keep).enumerate() {
                if !keep {
                    scribble(&block, index, word);
                }
            }
            if let Ok(block) = again(&block) {
                let end = DATA + block.len() * 4;
                prop_assert!(end <= block.segment.size());
                prop_assert_eq!(block.copy_out(0, block.len()).unwrap().len(), block.len());
            }
        }
    }
}
