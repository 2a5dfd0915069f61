//! A segment that holds elements of one type, alone or behind their lock.
//!
//! ```text
//! alone   with a lock
//!     0             0  the segment's own header
//!                  64  the lock's
//!                 128  the lock
//!    64           136  what the elements are: Header
//!   112           184  the elements; a few bytes, so that they share a cache line with their lock;
//!   128           192  more of them, or further on where their alignment asks for it
//! ```
//!
//! Elements with a lock that no single store can write (of 3 bytes, say, or of more than 8) have a journal: a
//! word behind the header, and a spare element behind the last. A new element is written to the spare one, then
//! its number to the word, then it is copied to its place, and the word is cleared. Who is killed before the
//! word is written has changed nothing; from then on, whoever has the lock next copies it again.
#![expect(unsafe_code, reason = "views of the elements of a mapping")]

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, compiler_fence};

use mp_core::{Atomic, Fd, Plain, Segment, crash_point};
use mp_sync::Lock;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use static_assertions::const_assert_eq;

use crate::copy;
use crate::{Error, Result};

/// The kind of a segment without a lock: "shmem", and the version of the layout.
const KIND: u64 = u64::from_le_bytes(*b"shmem\0\0\x01");

/// What a header begins with.
const MAGIC: u32 = u32::from_le_bytes(*b"mpe2");

/// The size of a cache line.
const LINE: usize = 64;

/// From so many bytes on, elements are filled in past the mapping.
const MANY: usize = 64 << 10;

/// Where the lock is that guards the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Guarded {
    /// There is none.
    Not = 1,
    /// In the segment, before the header.
    Here = 2,
    /// In another segment.
    Elsewhere = 3,
}

impl Guarded {
    /// Where the header lies.
    fn header(self) -> usize {
        match self {
            Self::Not | Self::Elsewhere => Segment::HEADER,
            Self::Here => Lock::ROOM,
        }
    }
}

/// What the elements are. All but the last two fields are written before anybody else has the segment, and
/// checked by whoever opens it.
#[repr(C)]
pub(crate) struct Header {
    magic: AtomicU32,
    /// Where the lock is: a [`Guarded`].
    guarded: AtomicU32,
    /// The size of an element in bytes.
    size: AtomicU32,
    /// The alignment of an element.
    align: AtomicU32,
    /// How many elements there are.
    len: AtomicU64,
    /// What kind of number an element is: see [`code`].
    code: AtomicU32,
    reserved: AtomicU32,
    /// How often the lock was taken over from a holder that died, as far as anybody noticed here.
    pub(crate) deaths: AtomicU64,
    /// Which holder of the lock (`Lock::holder`) has a guard that derefs to the elements; 0 for none.
    /// What is here of a holder that died is not cleared, but names nobody else.
    pub(crate) borrower: AtomicU64,
}

const_assert_eq!(size_of::<Header>(), 48);
const_assert_eq!(align_of::<Header>(), 8);
const_assert_eq!(std::mem::offset_of!(Header, len), 16);
const_assert_eq!(std::mem::offset_of!(Header, deaths), 32);
const_assert_eq!(Lock::ROOM, 136);
// Elements of 8 bytes that are aligned to less are aligned to 8 all the same: see `Block::ONE_STORE`.
const_assert_eq!((Lock::ROOM + size_of::<Header>()) % 8, 0);
const_assert_eq!((Segment::HEADER + size_of::<Header>()) % 8, 0);
const_assert_eq!(LINE % 8, 0);

// SAFETY: repr(C) atomics in an order that leaves no padding (48 bytes, asserted above).
unsafe impl Plain for Header {}

// SAFETY: every byte belongs to an atomic.
unsafe impl Atomic for Header {}

/// Elements of type `T` in shared memory. A clone is the same memory.
pub(crate) struct Block<T> {
    /// The first element. Valid while the segment is.
    data: NonNull<T>,
    len: usize,
    /// Valid while the segment is.
    header: NonNull<Header>,
    segment: Arc<Segment>,
}

// SAFETY: the pointers are into a mapping that the Arc keeps, whoever holds it. What threads may do with
// the elements is up to the methods: they copy atomically, are unsafe, or are bound to T: Atomic, which is
// Sync. A value that is moved out and in is moved between threads: hence Send.
unsafe impl<T: Plain + Send> Send for Block<T> {}

// SAFETY: as above.
unsafe impl<T: Plain + Send> Sync for Block<T> {}

impl<T> Clone for Block<T> {
    fn clone(&self) -> Self {
        let Self { data, len, header, .. } = *self;
        Self { data, len, header, segment: Arc::clone(&self.segment) }
    }
}

impl<T: Plain> Block<T> {
    const FITS_A_PAGE: () = assert!(align_of::<T>() <= 4096, "aligned to no more than a page");

    /// Whether an element is written by one store, wherever it is in a block.
    const ONE_STORE: bool = matches!(size_of::<T>(), 0 | 1 | 2 | 4 | 8);

    /// Where `len` elements lie, and the segment's size with them.
    fn extent(guarded: Guarded, len: usize) -> Option<(usize, usize)> {
        let () = Self::FITS_A_PAGE;
        let has_journal = guarded != Guarded::Not && !Self::ONE_STORE;
        let (word, spare) = if has_journal { (size_of::<AtomicU64>(), 1) } else { (0, 0) };
        let bytes = len.checked_add(spare)?.checked_mul(size_of::<T>())?;
        let near =
            (guarded.header() + size_of::<Header>() + word).next_multiple_of(align_of::<T>());
        let fits_beside = near % LINE + bytes.min(LINE) <= LINE;
        let start = if fits_beside { near } else { near.next_multiple_of(LINE) };
        let end = start.checked_add(bytes).filter(|&end| isize::try_from(end).is_ok())?;
        Some((start, end))
    }

    /// Makes a block of `len` elements, all zero, without a lock of its own.
    pub(crate) fn zeroed(name: &str, len: usize, guarded: Guarded) -> Result<Self> {
        debug_assert_ne!(guarded, Guarded::Here);
        let (_, size) = Self::extent(guarded, len).ok_or_else(Error::overflow)?;
        let segment = Segment::create(name, KIND, size).map_err(|error| match error {
            mp_core::Error::Io(error) => Error::reserving(size, error),
            other => other.into(),
        })?;
        Self::lay_out(Arc::new(segment), len, guarded)
    }

    /// Makes a block of `len` elements, all zero, and a lock for them in the same segment.
    pub(crate) fn zeroed_with_lock(name: &str, len: usize) -> Result<(Self, Lock)> {
        let (_, size) = Self::extent(Guarded::Here, len).ok_or_else(Error::overflow)?;
        let lock = Lock::with_room(name, size - Lock::ROOM).map_err(|error| match error {
            mp_sync::Error::Io(error) => Error::reserving(size, error),
            other => Error::Lock(other.to_string()),
        })?;
        let block = Self::lay_out(Arc::clone(lock.segment()), len, Guarded::Here)?;
        Ok((block, lock))
    }

    fn lay_out(segment: Arc<Segment>, len: usize, guarded: Guarded) -> Result<Self> {
        let header: &Header = segment.at(guarded.header())?;
        header.magic.store(MAGIC, Relaxed);
        header.guarded.store(guarded as u32, Relaxed);
        header.size.store(size_of::<T>() as u32, Relaxed);
        header.align.store(align_of::<T>() as u32, Relaxed);
        header.len.store(len as u64, Relaxed);
        header.code.store(code::<T>(), Relaxed);
        Self::within(segment, len, guarded)
    }

    /// Fills a block that nobody else has yet.
    pub(crate) fn init_from_slice(&self, values: &[T])
    where
        T: Copy,
    {
        assert_eq!(values.len(), self.len, "a block is made for its values");
        // SAFETY: Plain has no padding, so each byte of a value is one.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        let written = bytes.len() >= MANY
            && !self.segment.is_huge()
            && self.segment.address(Segment::HEADER, 0).is_ok_and(|first| {
                let offset = Segment::HEADER + self.data.addr().get() - first.addr().get();
                self.segment.write_past_mapping(offset, bytes).is_ok()
            });
        if written {
            return;
        }
        // SAFETY: as long as the slice, apart from it, aligned; nobody else has the segment yet.
        unsafe { self.data.as_ptr().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }

    /// Fills a block that nobody else has yet.
    pub(crate) fn init_from_fn(&self, mut make: impl FnMut(usize) -> T) {
        for index in 0..self.len {
            // SAFETY: the index is below the length.
            let place = unsafe { self.data.add(index) };
            // SAFETY: within the mapping and aligned; nobody else has the segment yet.
            unsafe { place.write(make(index)) };
        }
    }

    /// Opens the block in a segment that came from somebody else.
    pub(crate) fn open(segment: Arc<Segment>, guarded: Guarded) -> Result<Self> {
        let header: &Header = segment.at(guarded.header())?;
        // Each is read once; from here on the locals count.
        let (magic, found_guarded) = (header.magic.load(Relaxed), header.guarded.load(Relaxed));
        let (size, align) = (header.size.load(Relaxed), header.align.load(Relaxed));
        let (len, found) = (header.len.load(Relaxed), header.code.load(Relaxed));
        if magic != MAGIC {
            return Err(Error::Damaged("it holds no shared values".to_string()));
        }
        if found_guarded != guarded as u32 {
            return Err(Error::Damaged("its lock is somewhere else".to_string()));
        }
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
        let fits = |&len: &usize| {
            Self::extent(guarded, len).is_some_and(|(_, size)| size <= segment.size())
        };
        match usize::try_from(len).ok().filter(fits) {
            Some(len) => Self::within(segment, len, guarded),
            None => Err(Error::Damaged(format!(
                "it says that it has {len} elements, but has {} bytes",
                segment.size()
            ))),
        }
    }

    fn within(segment: Arc<Segment>, len: usize, guarded: Guarded) -> Result<Self> {
        let (start, end) = Self::extent(guarded, len).ok_or_else(Error::overflow)?;
        let data = segment.address(start, end - start)?.cast();
        let header = NonNull::from(segment.at::<Header>(guarded.header())?);
        Ok(Self { data, len, header, segment })
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: checked when the block was made; mapped as long as self; atomics may change meanwhile.
        unsafe { self.header.as_ref() }
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

    /// The word of the journal: 0, or the number of the element that is in the spare one, and 1.
    ///
    /// For elements that have a journal.
    #[inline]
    fn journal(&self) -> &AtomicU64 {
        // SAFETY: it lies behind the header, before the elements, which were checked to lie in the segment.
        let word = unsafe { self.header.add(1) }.cast();
        // SAFETY: aligned, as headers are; mapped as long as self.
        unsafe { word.as_ref() }
    }

    /// The spare element of the journal.
    fn spare(&self) -> NonNull<T> {
        // SAFETY: behind the last element, where there is a journal.
        unsafe { self.data.add(self.len) }
    }

    /// Writes the element at `place`, which is that of `index`. Whoever is killed meanwhile has written all of
    /// it or nothing.
    ///
    /// # Safety
    ///
    /// The elements have a lock. This thread has it, has called [`redo`](Self::redo), and has no reference to
    /// an element.
    #[inline]
    pub(crate) unsafe fn replace(&self, index: usize, place: NonNull<T>, value: &T)
    where
        T: Copy,
    {
        if Self::ONE_STORE {
            // SAFETY: the caller's promise; blocks begin at multiples of 8, and so elements of 1, 2, 4 or 8
            // bytes lie at multiples of their size.
            return unsafe { store(place, value) };
        }
        // SAFETY: the caller's promise, and so there is a spare one.
        unsafe { self.spare().write(*value) };
        // Fences for the compiler alone. It is about what one that is killed has done, which was in this order,
        // and is all there for whoever learns that it is dead.
        compiler_fence(SeqCst);
        crash_point!("replace: the spare element is written");
        self.journal().store(index as u64 + 1, Relaxed);
        compiler_fence(SeqCst);
        crash_point!("replace: the journal has it");
        // SAFETY: the caller's promise.
        unsafe { place.write(*value) };
        compiler_fence(SeqCst);
        crash_point!("replace: the element is written");
        self.journal().store(0, Relaxed);
        crash_point!("replace: the journal is cleared");
    }

    /// Writes anew what somebody who was killed may have written in part.
    ///
    /// A lock that is shared does not tell each of those it guards that its holder died, so this looks each time.
    ///
    /// # Safety
    ///
    /// As [`replace`](Self::replace).
    #[inline]
    pub(crate) unsafe fn redo(&self) {
        if !Self::ONE_STORE {
            let begun = self.journal().load(Relaxed);
            if begun != 0 {
                // SAFETY: the caller's promise.
                unsafe { self.redo_begun(begun) };
            }
        }
    }

    /// # Safety
    ///
    /// As [`redo`](Self::redo), and there is a journal.
    #[cold]
    unsafe fn redo_begun(&self, begun: u64) {
        // A faulty peer may have written anything.
        if let Some(place) = usize::try_from(begun - 1).ok().and_then(|index| self.at(index)) {
            // SAFETY: the caller's promise; two elements.
            unsafe { place.copy_from_nonoverlapping(self.spare(), 1) };
            compiler_fence(SeqCst);
            crash_point!("redo: the element is written");
        }
        self.journal().store(0, Relaxed);
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

    /// Copies all elements out.
    pub(crate) fn to_vec(&self) -> Vec<T>
    where
        T: Copy,
    {
        // SAFETY: as many elements as there are.
        unsafe { read(self.data, self.len) }
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

    /// Opens the block in a segment without a lock.
    pub(crate) fn deserialize<'de, D>(deserializer: D, guarded: Guarded) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        Segment::open(Fd::deserialize(deserializer)?.into_owned(), KIND)
            .map_err(Error::from)
            .and_then(|segment| Self::open(Arc::new(segment), guarded))
            .map_err(Error::of_handle)
    }
}

impl<T> Serialize for Block<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        mp_core::fd::serialize(self.segment.as_fd(), serializer)
    }
}

/// Writes a value by one store.
///
/// # Safety
///
/// It has 0, 1, 2, 4 or 8 bytes, and `place` is mapped and a multiple of that. Nobody else reads or writes it
/// meanwhile.
#[inline]
unsafe fn store<T: Plain + Copy>(place: NonNull<T>, value: &T) {
    macro_rules! store {
        ($atomic:ty, $number:ty) => {{
            // SAFETY: of the same size, and each byte of a Plain is one.
            let bits = unsafe { std::mem::transmute_copy::<T, $number>(value) };
            // SAFETY: the caller's promise.
            unsafe { place.cast::<$atomic>().as_ref() }.store(bits, Relaxed);
        }};
    }
    match size_of::<T>() {
        1 => store!(AtomicU8, u8),
        2 => store!(AtomicU16, u16),
        4 => store!(AtomicU32, u32),
        8 => store!(AtomicU64, u64),
        _ => {}
    }
}

/// Copies elements out.
///
/// # Safety
///
/// So many aligned elements lie there, in mapped memory that is written by atomics only.
unsafe fn read<T: Plain + Copy>(from: NonNull<T>, len: usize) -> Vec<T> {
    let mut values = Vec::<T>::with_capacity(len);
    let room: &mut [MaybeUninit<T>] = &mut values.spare_capacity_mut()[..len];
    // SAFETY: the caller's promise.
    unsafe { copy::read(from, room) };
    // SAFETY: so many were written.
    unsafe { values.set_len(len) };
    values
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
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::{AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize};
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

    fn block() -> Block<u32> {
        Block::zeroed("test", 5, Guarded::Not).unwrap()
    }

    /// What a peer that has the descriptor can do to the header.
    fn scribble(block: &Block<u32>, word: usize, value: u64) {
        let words: &[AtomicU64] = block.segment.slice_at(Segment::HEADER, 6).unwrap();
        words[word].store(value, Relaxed);
    }

    fn again(block: &Block<u32>) -> Result<Block<u32>> {
        let segment = Segment::open(block.segment.try_clone_fd()?, KIND)?;
        Block::open(Arc::new(segment), Guarded::Not)
    }

    #[test]
    fn a_length_beyond_the_segment_is_refused() {
        for len in [1 << 10, u64::from(u32::MAX), 1 << 62, u64::MAX] {
            let block = block();
            scribble(&block, 2, len);
            assert!(matches!(again(&block), Err(Error::Damaged(_))), "{len}");
            assert_eq!(block.len(), 5, "who has it open does not look again");
        }
    }

    #[test]
    fn few_bytes_lie_beside_their_lock() {
        assert_eq!(Block::<u64>::extent(Guarded::Here, 1), Some((184, 192)));
        assert_eq!(Block::<u64>::extent(Guarded::Here, 2), Some((192, 208)));
        assert_eq!(Block::<u8>::extent(Guarded::Here, 8), Some((184, 192)));
        assert_eq!(Block::<u128>::extent(Guarded::Here, 1), Some((192, 192 + 2 * 16)));
        assert_eq!(Block::<u128>::extent(Guarded::Not, 1), Some((112, 128)));
        assert_eq!(Block::<[u16; 4]>::extent(Guarded::Here, 1), Some((184, 192)));
        assert_eq!(Block::<[u8; 3]>::extent(Guarded::Here, 9), Some((192, 192 + 10 * 3)));
        assert_eq!(Block::<[u8; 3]>::extent(Guarded::Elsewhere, 1), Some((120, 126)));
        assert_eq!(Block::<[u64; 2]>::extent(Guarded::Here, usize::MAX), None);
        assert_eq!(Block::<u64>::extent(Guarded::Not, 2), Some((112, 128)));
        assert_eq!(Block::<u64>::extent(Guarded::Not, 3), Some((128, 152)));
        assert_eq!(Block::<[u64; 100]>::extent(Guarded::Not, 0), Some((112, 112)));
        assert_eq!(Block::<u64>::extent(Guarded::Not, usize::MAX / 8), None);
    }

    #[test]
    fn a_change_that_was_begun_is_brought_to_its_end_and_one_of_no_element_is_forgotten() {
        let (block, _lock) = Block::<[u64; 3]>::zeroed_with_lock("test", 2).unwrap();
        for begun in [0, 2, 3, u64::MAX] {
            // SAFETY: nobody else has it.
            unsafe { block.spare().write([begun; 3]) };
            block.journal().store(begun, Relaxed);
            // SAFETY: as above, which is as good as the lock.
            unsafe { block.redo() };
            assert_eq!(block.journal().load(Relaxed), 0);
            assert_eq!(block.to_vec(), [[0; 3], [if begun == 0 { 0 } else { 2 }; 3]]);
        }
    }

    #[test]
    fn a_lock_without_elements_is_no_block() {
        let lock = Lock::new().unwrap();
        let result = Block::<()>::open(Arc::clone(lock.segment()), Guarded::Here);
        assert!(matches!(result, Err(Error::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_header_gives_a_block_within_the_segment_or_an_error(words: [u64; 6], keep: [bool; 6]) {
            let block = block();
            for (index, (word, keep)) in words.into_iter().zip(keep).enumerate() {
                if !keep {
                    scribble(&block, index, word);
                }
            }
            if let Ok(block) = again(&block) {
                prop_assert!(128 + block.len() * 4 <= block.segment.size());
                prop_assert_eq!(block.to_vec().len(), block.len());
            }
        }
    }
}
