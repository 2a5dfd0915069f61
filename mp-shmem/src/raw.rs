//! Shared memory of a type, without a lock.
#![expect(unsafe_code, reason = "views that only the caller can know to be free of races")]

use std::ops::Deref;

use mp_core::{Atomic, Plain};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::block::{Block, Guarded};
use crate::copy;
use crate::{Error, Result};

/// One value in memory that processes share, without a lock.
///
/// Of atomics it derefs to the atomic, and that is the way to use it: `RawValue::<AtomicU64>` counts for
/// any number of processes. Of other types, `get` and `set` copy; a copy made while another process writes
/// can hold some of the old bytes and some of the new (up to 8 bytes: it never does, if the type is aligned
/// to its size), and what is read may be outdated when it is written back: take a
/// [`Lock`](crate::Lock) around both, or use [`Value`](crate::Value).
///
/// A clone is the same memory, and so is what another process gets. The memory lasts as long as anybody
/// has it and has no name. Nothing blocks, and a process that dies harms nothing.
///
/// Python: `multiprocessing.RawValue`.
///
/// # Example: a counter for several processes
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use mp_shmem::RawValue;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let hits = RawValue::<AtomicU64>::zeroed()?;
/// let same = hits.clone(); // send this one to another process
/// same.fetch_add(3, Ordering::Relaxed);
/// assert_eq!(hits.load(Ordering::Relaxed), 3);
/// # Ok(())
/// # }
/// ```
pub struct RawValue<T> {
    block: Block<T>,
}

impl<T: Plain> RawValue<T> {
    /// Makes a shared `value`.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`], [`Error::Io`] where the process has no descriptor left.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let limit = mp_shmem::RawValue::new(2.5)?;
    /// limit.set(limit.get() * 2.0);
    /// assert_eq!(limit.get(), 5.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(value: T) -> Result<Self> {
        let block = Block::zeroed("value", 1, Guarded::Not)?;
        // SAFETY: there is one element, aligned, and nobody else has the segment yet.
        unsafe { block.data().write(value) };
        Ok(Self { block })
    }

    /// Makes a shared value that is all zero.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn zeroed() -> Result<Self> {
        Ok(Self { block: Block::zeroed("value", 1, Guarded::Not)? })
    }

    /// The address of the value, in this process.
    ///
    /// Valid until the last clone in this process is dropped. Access through it races with whoever else
    /// has the value.
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.block.data().as_ptr()
    }

    /// The value, in place.
    ///
    /// # Safety
    ///
    /// While the reference lives, no process and no thread writes to it.
    #[must_use]
    pub unsafe fn as_ref(&self) -> &T {
        // SAFETY: aligned, and mapped as long as self; the rest is the caller's promise.
        unsafe { self.block.data().as_ref() }
    }

    /// The value, in place, to write.
    ///
    /// # Safety
    ///
    /// While the reference lives, no process and no thread accesses the value in another way.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let table = mp_shmem::RawValue::new([0_u8; 1000])?;
    /// // SAFETY: nobody else has it yet.
    /// let bytes = unsafe { table.as_mut() };
    /// bytes[7] = 1;
    /// assert_eq!(table.get()[7], 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by the caller's promise, as shared memory is"
    )]
    pub unsafe fn as_mut(&self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.block.data().as_mut() }
    }
}

impl<T: Plain + Copy> RawValue<T> {
    /// Copies the value out.
    #[must_use]
    #[doc(alias = "value")]
    pub fn get(&self) -> T {
        // SAFETY: mapped and aligned. References that would forbid it are unsafe to make.
        unsafe { copy::load(self.block.data()) }
    }

    /// Copies a value in.
    #[doc(alias = "value")]
    pub fn set(&self, value: T) {
        // SAFETY: as in get.
        unsafe { copy::store(self.block.data(), value) };
    }
}

impl<T: Atomic> Deref for RawValue<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.block.as_atomics()[0]
    }
}

/// Values in memory that processes share, without a lock.
///
/// Of atomics it derefs to a slice of them, and that is the way to use it. Of other types, the methods copy
/// elements in and out, each under the terms of [`RawValue`]; references to them are unsafe to get. For an
/// array with a lock see [`Array`](crate::Array).
///
/// A clone is the same memory, and so is what another process gets: sending an array sends a descriptor,
/// however long it is. The memory lasts as long as anybody has it and has no name. Nothing blocks, and a
/// process that dies harms nothing.
///
/// Python: `multiprocessing.RawArray`. The memory is that of this array alone, and always zero at first.
///
/// # Example: a counter for each of several workers
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use mp_shmem::RawArray;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let done = RawArray::<AtomicU64>::zeroed(4)?;
/// done[2].fetch_add(1, Ordering::Relaxed);
/// let sum: u64 = done.iter().map(|count| count.load(Ordering::Relaxed)).sum();
/// assert_eq!(sum, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Example: data that is written first and read after
///
/// ```
/// # fn main() -> mp_shmem::Result<()> {
/// let table = mp_shmem::RawArray::from_slice(&[1.5, 2.5, 3.5])?;
/// // ... send clones of it to workers, which only read:
/// // SAFETY: nobody writes to it any more.
/// let values = unsafe { table.as_slice() };
/// assert_eq!(values.iter().sum::<f64>(), 7.5);
/// # Ok(())
/// # }
/// ```
///
/// # Example: what is not there
///
/// ```
/// use mp_shmem::{Error, RawArray};
///
/// # fn main() -> mp_shmem::Result<()> {
/// let array = RawArray::from_slice(b"abc")?;
/// assert_eq!(array.get(2), Some(b'c'));
/// assert_eq!(array.get(3), None);
/// assert!(matches!(array.set(3, b'd'), Err(Error::OutOfRange { index: 3, len: 3 })));
/// # Ok(())
/// # }
/// ```
pub struct RawArray<T> {
    block: Block<T>,
}

impl<T: Plain> RawArray<T> {
    /// Makes an array of `len` elements that are all zero.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`], [`Error::Io`] where the process has no descriptor left.
    pub fn zeroed(len: usize) -> Result<Self> {
        Ok(Self { block: Block::zeroed("array", len, Guarded::Not)? })
    }

    /// Makes an array of the elements that `make` gives for each index.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let tickets = mp_shmem::RawArray::from_fn(3, |_| AtomicU32::new(100))?;
    /// assert_eq!(tickets[1].fetch_sub(1, Ordering::Relaxed), 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_fn(len: usize, make: impl FnMut(usize) -> T) -> Result<Self> {
        let array = Self::zeroed(len)?;
        array.block.init_from_fn(make);
        Ok(array)
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address of the first element, in this process.
    ///
    /// Valid until the last clone in this process is dropped. Access through it races with whoever else
    /// has the array.
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.block.data().as_ptr()
    }

    /// The elements, in place.
    ///
    /// # Safety
    ///
    /// While the slice lives, no process and no thread writes to it.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: aligned, so long, and mapped as long as self; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// The elements, in place, to write.
    ///
    /// # Safety
    ///
    /// While the slice lives, no process and no thread accesses the array in another way.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let array = mp_shmem::RawArray::<i32>::zeroed(3)?;
    /// // SAFETY: nobody else has the array yet.
    /// unsafe { array.as_mut_slice() }.fill(7);
    /// assert_eq!(array.to_vec(), [7, 7, 7]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by the caller's promise, as shared memory is"
    )]
    pub unsafe fn as_mut_slice(&self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }
}

impl<T: Plain + Copy> RawArray<T> {
    /// Makes an array that holds `values`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let array = Self::zeroed(values.len())?;
        array.block.init_from_slice(values);
        Ok(array)
    }

    /// Copies an element out; `None` where there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: mapped and aligned. References that would forbid it are unsafe to make.
        self.block.at(index).map(|from| unsafe { copy::load(from) })
    }

    /// Copies an element in.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        let to = self.block.checked(index)?;
        // SAFETY: as in get.
        unsafe { copy::store(to, value) };
        Ok(())
    }

    /// Copies all elements out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        self.block.to_vec()
    }

    /// Copies elements in, over all there are.
    ///
    /// # Errors
    ///
    /// [`Error::WrongLength`] where `values` are not as many; nothing is copied then.
    pub fn copy_from_slice(&self, values: &[T]) -> Result<()> {
        if values.len() != self.len() {
            return Err(Error::WrongLength { expected: self.len(), given: values.len() });
        }
        self.block.copy_in(0, values)
    }
}

impl<T: Atomic> Deref for RawArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.block.as_atomics()
    }
}

impl<'a, T: Atomic> IntoIterator for &'a RawArray<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Clone for RawValue<T> {
    fn clone(&self) -> Self {
        Self { block: self.block.clone() }
    }
}

impl<T> Clone for RawArray<T> {
    fn clone(&self) -> Self {
        Self { block: self.block.clone() }
    }
}

impl<T> std::fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawValue<{}>", std::any::type_name::<T>())
    }
}

impl<T: Plain> std::fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawArray<{}>({})", std::any::type_name::<T>(), self.len())
    }
}

impl<T> Serialize for RawValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.block.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RawValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let block = Block::deserialize(deserializer, Guarded::Not)?;
        block.single().map(|block| Self { block }).map_err(serde::de::Error::custom)
    }
}

impl<T> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.block.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { block: Block::deserialize(deserializer, Guarded::Not)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp_core::{decode, encode};
    use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

    #[test]
    fn a_copy_that_was_sent_is_the_same_memory() {
        let array = RawArray::from_slice(&[1_i32, 2, 3]).unwrap();
        let sent: RawArray<i32> = decode(encode(&array).unwrap()).unwrap();
        assert_ne!(array.as_ptr(), sent.as_ptr(), "two mappings");
        sent.set(1, -5).unwrap();
        assert_eq!(array.to_vec(), [1, -5, 3]);

        let value = RawValue::new([1_u8; 3]).unwrap();
        let sent: RawValue<[u8; 3]> = decode(encode(&value).unwrap()).unwrap();
        sent.set([7; 3]);
        assert_eq!(value.get(), [7; 3]);
    }

    #[test]
    fn another_type_is_refused() {
        let message = || encode(&RawArray::from_slice(&[1_i32, 2]).unwrap()).unwrap();
        let error = decode::<RawArray<i64>>(message()).unwrap_err();
        assert!(error.to_string().contains("4 bytes"), "{error}");
        let error = decode::<RawArray<f32>>(message()).unwrap_err();
        assert!(error.to_string().contains("another type"), "{error}");
        let error = decode::<RawValue<i32>>(message()).unwrap_err();
        assert!(error.to_string().contains("2 elements"), "{error}");
        assert!(decode::<RawArray<AtomicI32>>(message()).is_ok(), "the integer, atomically");
    }

    #[test]
    fn sizes_without_memory_are_errors() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 60, 1 << 45] {
            let error = RawArray::<u64>::zeroed(len).unwrap_err();
            assert!(matches!(error, Error::NoMemory { .. }), "{error:?}");
        }
    }

    #[test]
    fn no_elements_and_elements_of_nothing_are_fine() {
        let none = RawArray::<u64>::zeroed(0).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.get(0), None);
        assert!(none.to_vec().is_empty());
        let nothing = RawArray::from_slice(&[(), ()]).unwrap();
        assert_eq!(nothing.get(1), Some(()));
        assert_eq!(nothing.get(2), None);
    }

    #[test]
    fn elements_lie_aligned() {
        #[derive(Clone, Copy)]
        #[repr(C, align(1024))]
        struct Wide([u8; 1024]);
        // SAFETY: repr(C), 1,024 bytes for an alignment of 1,024.
        unsafe impl Plain for Wide {}
        let wide = RawArray::from_slice(&[Wide([1; 1024]), Wide([2; 1024])]).unwrap();
        assert!(wide.as_ptr().is_aligned());
        assert_eq!(wide.get(1).unwrap().0, [2; 1024]);
    }

    #[test]
    fn copies_that_meet_a_writer_are_old_or_new() {
        let value = RawValue::new(0_u64).unwrap();
        let stop = RawValue::new(AtomicU8::new(0)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    value.set(u64::MAX);
                    value.set(0);
                }
            });
            for _ in 0..100_000 {
                assert!([0, u64::MAX].contains(&value.get()));
            }
            stop.store(1, Ordering::Relaxed);
        });
    }

    #[test]
    fn threads_count_with_atomics() {
        let counts = RawArray::<AtomicU64>::zeroed(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for index in 0..10_000 {
                        counts[index % 2].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>(), 40_000);
        assert_eq!(counts.first().unwrap().load(Ordering::Relaxed), 20_000);
    }

    #[test]
    fn debug_is_short() {
        let array = RawArray::from_slice(&[1_u16; 500]).unwrap();
        assert_eq!(format!("{array:?}"), "RawArray<u16>(500)");
    }

    #[test]
    fn outside_of_a_message_it_cannot_be_written() {
        let error = serde_json::to_string(&RawValue::new(1).unwrap()).unwrap_err();
        assert!(error.to_string().contains("multiprocess message"), "{error}");
    }
}
