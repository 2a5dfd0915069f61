//! Shared elements with a lock.

use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::sync::PoisonError;
use std::time::Duration;

use mp_core::Plain;
use mp_sync::{Lock, TryLockError, TryLockResult};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::locked::{Guard, Locked};
use crate::{Error, Result};

/// A fixed number of elements that processes share, with a lock.
///
/// Each call takes the lock, [`lock`](Self::lock) for as long as its guard lives, which is a slice of the
/// elements. What reads *and* writes must be one [`update`](Self::update) or happen under one guard. For
/// much work on many elements a guard is the fastest way: its slice is the shared memory itself.
///
/// A clone is the same array, and so is what another process gets: sending an array sends a descriptor,
/// however long it is. It has no name, and lasts as long as anybody has it. Its memory is reserved when it
/// is made; not to have it is an error then, and never later.
///
/// While another process has the lock these calls wait for it, without limit but in
/// [`lock_timeout`](Self::lock_timeout). If that process dies, the lock is free again, within a tenth of a
/// second at the latest. A `set` or `update` of its has happened as a whole or not at all. What it was
/// changing through a guard, or by the calls for several elements, is as it left it; all calls go on with
/// that, and [`try_lock`](Self::try_lock), [`lock_timeout`](Self::lock_timeout) and
/// [`owner_died`](Self::owner_died) tell.
///
/// Python: `multiprocessing.Array`. The type is that of the elements, instead of a letter; `a[i]` is
/// `get` and `set`, `a[:]` is `to_vec`, `a[1:3]` is `get_range`.
///
/// # Example
///
/// ```
/// use mp_shmem::{Array, Error};
///
/// # fn main() -> mp_shmem::Result<()> {
/// let array = Array::from_slice(&[1.0, 2.0, 3.0])?;
/// let same = array.clone(); // send this one to another process
/// same.set(0, 10.0)?;
/// for element in same.lock().iter_mut() {
///     *element *= 2.0;
/// }
/// assert_eq!(array.to_vec(), [20.0, 4.0, 6.0]);
///
/// assert_eq!(array.get(3), None);
/// assert!(matches!(array.set(3, 1.0), Err(Error::OutOfRange { index: 3, len: 3 })));
/// # Ok(())
/// # }
/// ```
///
/// # Example: text
///
/// ```
/// use mp_shmem::Array;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let text = Array::from_slice(b"hello world")?;
/// text.lock().make_ascii_uppercase();
/// assert_eq!(text.text(), b"HELLO WORLD");
/// text.set_text(b"bye")?;
/// assert_eq!(text.text(), b"bye"); // up to the first NUL, as Python's `value`
/// assert_eq!(text.to_vec(), b"bye\0O WORLD"); // and `raw`
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SynchronizedArray")]
pub struct Array<T> {
    locked: Locked<T>,
}

impl<T: Plain> Array<T> {
    /// Makes an array of `len` elements that are all zero.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; [`Error::Io`] where the process has no descriptor left.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Array, Error};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let array = Array::<i32>::zeroed(6)?;
    /// assert_eq!(array.to_vec(), [0; 6]);
    ///
    /// let too_large = Array::<i32>::zeroed(usize::MAX / 8);
    /// assert!(matches!(too_large, Err(Error::NoMemory { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn zeroed(len: usize) -> Result<Self> {
        Ok(Self { locked: Locked::zeroed("array", len, None)? })
    }

    /// Makes an array of `len` elements that are all zero, guarded by `lock`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn zeroed_with_lock(len: usize, lock: &Lock) -> Result<Self> {
        Ok(Self { locked: Locked::zeroed("array", len, Some(lock))? })
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.locked.block().len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the lock, and gives the elements as long as the guard lives.
    ///
    /// # Panics
    ///
    /// Where this thread has the lock already, by a guard of this array or of the lock.
    #[inline]
    pub fn lock(&self) -> ArrayGuard<'_, T> {
        ArrayGuard { guard: self.locked.guard() }
    }

    /// Takes the lock if nobody has it, or who has it is dead; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] where somebody else has it, [`TryLockError::Deadlock`] where this thread
    /// does; [`TryLockError::Poisoned`], with the guard, where the last holder died while it had it.
    pub fn try_lock(&self) -> TryLockResult<ArrayGuard<'_, T>> {
        map(self.locked.try_lock())
    }

    /// Waits for the lock no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`]; [`TryLockError::Poisoned`], with the guard, where the last holder died
    /// while it had it; [`TryLockError::Deadlock`] where this thread has it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<ArrayGuard<'_, T>> {
        map(self.locked.lock_timeout(timeout))
    }

    /// The lock that guards the elements: to share it, or to hold it over several calls.
    ///
    /// While this thread has it, all calls but those that give a guard go on without taking it.
    ///
    /// Python: the same name, for an `RLock`.
    #[must_use]
    pub fn get_lock(&self) -> &Lock {
        self.locked.lock_itself()
    }

    /// Whether somebody died while it had the lock, as far as any call on this array, in any process,
    /// has noticed.
    ///
    /// Stays so until [`clear_owner_died`](Self::clear_owner_died). Of a lock that is shared, whatever
    /// takes it first gets the news, and only that.
    #[must_use]
    pub fn owner_died(&self) -> bool {
        self.locked.owner_died()
    }

    /// Forgets that somebody died while it had the lock: the elements were checked.
    pub fn clear_owner_died(&self) {
        self.locked.clear_owner_died();
    }
}

/// All of these panic where this thread has an [`ArrayGuard`] of the array.
impl<T: Plain + Copy> Array<T> {
    /// Makes an array that holds `values`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<Self> {
        Ok(Self { locked: Locked::from_slice("array", values, None)? })
    }

    /// Makes an array that holds `values`, guarded by `lock`, as other arrays and whatever else may be.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn with_lock(values: &[T], lock: &Lock) -> Result<Self> {
        Ok(Self { locked: Locked::from_slice("array", values, Some(lock))? })
    }

    /// Copies an element out; `None` where there is none.
    #[must_use]
    #[doc(alias = "__getitem__")]
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        self.locked.get(index)
    }

    /// Copies an element in: all of it, or nothing where this process is killed meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    #[doc(alias = "__setitem__")]
    #[inline]
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.locked.set(index, value)
    }

    /// Changes an element; nobody else comes in between. Gives what `change` gives.
    ///
    /// The lock is held while `change` runs, so it should be short. It works on a copy: if it panics, or the
    /// process is killed meanwhile, the element is as it was before. If that is killed later, it is as `change`
    /// made it; never in part.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]; `change` was not called then.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let counts = mp_shmem::Array::<u32>::zeroed(26)?;
    /// for letter in b"hello" {
    ///     counts.update(usize::from(letter - b'a'), |count| *count += 1)?;
    /// }
    /// assert_eq!(counts.get(11), Some(2));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn update<R>(&self, index: usize, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.locked.update(index, change)
    }

    /// Copies all elements out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        match self.locked.get_range(0, self.len()) {
            Ok(values) => values,
            Err(error) => unreachable!("all elements are within the array: {error}"),
        }
    }

    /// Copies a range of elements out; `None` where not all of them are there, or it ends before it
    /// starts.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let array = mp_shmem::Array::from_slice(&[1, 2, 3, 4])?;
    /// assert_eq!(array.get_range(1..3), Some(vec![2, 3]));
    /// assert_eq!(array.get_range(2..), Some(vec![3, 4]));
    /// assert_eq!(array.get_range(2..5), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn get_range(&self, range: impl RangeBounds<usize>) -> Option<Vec<T>> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1)?,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        let len = end.checked_sub(start)?;
        self.locked.get_range(start, len).ok()
    }

    /// Copies elements in, from `start` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] where they do not all go into the array; nothing is copied then.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let array = mp_shmem::Array::zeroed(4)?;
    /// array.fill(1);
    /// array.set_range(1, &[7, 8])?;
    /// assert_eq!(array.iter().collect::<Vec<_>>(), [1, 7, 8, 1]);
    /// assert!(array.set_range(3, &[7, 8]).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_range(&self, start: usize, values: &[T]) -> Result<()> {
        self.locked.set_range(start, values)
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
        self.set_range(0, values)
    }

    /// Sets all elements to `value`.
    pub fn fill(&self, value: T) {
        self.locked.fill(value);
    }

    /// Gives a copy of each element, as they all were at one moment.
    pub fn iter(&self) -> std::vec::IntoIter<T> {
        self.to_vec().into_iter()
    }
}

/// Bytes as text, as Python has it for arrays of `'c'`.
impl Array<u8> {
    /// Copies out what comes before the first NUL, or all.
    #[must_use]
    #[doc(alias = "value")]
    pub fn text(&self) -> Vec<u8> {
        let mut bytes = self.to_vec();
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        bytes.truncate(len);
        bytes
    }

    /// Copies a text in and puts a NUL behind it, if there is room; what follows stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] where the text is longer than the array; nothing is copied then.
    #[doc(alias = "value")]
    pub fn set_text(&self, text: &[u8]) -> Result<()> {
        let mut text = text.to_vec();
        if text.len() < self.len() {
            text.push(0);
        }
        self.set_range(0, &text)
    }
}

/// The elements of an [`Array`], as long as this lives; then the lock is released.
///
/// It derefs into shared memory, and trusts that all who have the array take the lock. It stays with its
/// thread, as the lock is that thread's, and [`Lock::release`] is an error while it lives.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing. But it still leads to the memory, which others may hold by then: do not use it there, take the lock.
///
/// It cannot outlive the array, and with it the mapping:
///
/// ```compile_fail,E0597
/// let guard = {
///     let array = mp_shmem::Array::from_slice(&[1, 2, 3]).unwrap();
///     array.lock()
/// };
/// println!("{}", guard[0]);
/// ```
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct ArrayGuard<'a, T: Plain> {
    guard: Guard<'a, T>,
}

impl<T: Plain> ArrayGuard<'_, T> {
    /// Whether the last holder died while it had the lock, and may have left elements half changed.
    #[must_use]
    pub fn owner_died(guard: &Self) -> bool {
        guard.guard.owner_died
    }
}

impl<T: Plain> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.guard.as_slice()
    }
}

impl<T: Plain> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.guard.as_mut_slice()
    }
}

fn map<T: Plain>(tried: TryLockResult<Guard<'_, T>>) -> TryLockResult<ArrayGuard<'_, T>> {
    tried.map(|guard| ArrayGuard { guard }).map_err(|error| match error {
        TryLockError::Poisoned(error) => {
            TryLockError::Poisoned(PoisonError::new(ArrayGuard { guard: error.into_inner() }))
        }
        TryLockError::WouldBlock => TryLockError::WouldBlock,
        TryLockError::TimedOut => TryLockError::TimedOut,
        TryLockError::Deadlock => TryLockError::Deadlock,
    })
}

impl<T: Plain + Copy> IntoIterator for &Array<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { locked: self.locked.clone() }
    }
}

impl<T: Plain> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array<{}>({})", std::any::type_name::<T>(), self.len())
    }
}

impl<T: Plain> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArrayGuard<{}>({})", std::any::type_name::<T>(), self.len())
    }
}

impl<T> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.locked.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { locked: Locked::deserialize(deserializer)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp_core::{decode, encode};
    use proptest::prelude::*;

    #[test]
    fn a_copy_that_was_sent_is_the_same_array() {
        let array = Array::from_slice(&[1_i32, 2, 3]).unwrap();
        let sent: Array<i32> = decode(encode(&array).unwrap()).unwrap();
        sent.lock()[1] = 5;
        assert_eq!(array.to_vec(), [1, 5, 3]);
        let shared = Array::with_lock(&[7_u8], array.get_lock()).unwrap();
        let sent: Array<u8> = decode(encode(&shared).unwrap()).unwrap();
        let guard = array.lock();
        assert!(sent.try_lock().is_err(), "the lock came along");
        drop(guard);
        assert_eq!(sent.get(0), Some(7));
    }

    #[test]
    fn sizes_without_memory_are_errors() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 60, 1 << 45] {
            let error = Array::<u64>::zeroed(len).unwrap_err();
            assert!(matches!(error, Error::NoMemory { .. }), "{error:?}");
        }
    }

    #[test]
    fn nothing_outside_of_it_can_be_reached() {
        let array = Array::<u16>::zeroed(4).unwrap();
        assert!(array.set(4, 1).is_err());
        assert!(array.update(4, |_| panic!("not called")).is_err());
        assert!(array.set_range(3, &[1, 2]).is_err());
        assert!(array.set_range(5, &[]).is_err());
        assert!(array.set_range(usize::MAX, &[1]).is_err());
        assert!(array.copy_from_slice(&[1; 3]).is_err());
        assert_eq!(array.get(usize::MAX), None);
        assert_eq!(array.get_range(..=usize::MAX), None);
        let backwards = (Bound::Included(3), Bound::Excluded(2));
        assert_eq!(array.get_range(backwards), None);
        assert_eq!(array.get_range(4..), Some(vec![]));
        assert_eq!(array.to_vec(), [0; 4]);
    }

    #[test]
    fn whoever_has_the_lock_can_call_everything_but_for_guards() {
        let array = Array::from_slice(&[1, 2, 3]).unwrap();
        let _guard = array.get_lock().lock().unwrap();
        array.set(0, 10).unwrap();
        array.update(1, |two| *two *= 10).unwrap();
        array.set_range(2, &[30]).unwrap();
        assert_eq!(array.iter().collect::<Vec<_>>(), [10, 20, 30]);
        array.fill(4);
        assert_eq!(array.get(2), Some(4));
        assert!(matches!(array.try_lock(), Err(TryLockError::Deadlock | TryLockError::WouldBlock)));
    }

    #[test]
    fn text_ends_at_a_nul() {
        let array = Array::from_slice(b"12345").unwrap();
        assert_eq!(array.text(), b"12345");
        array.set_text(b"abcde").unwrap();
        array.set_text(b"xy").unwrap();
        assert_eq!(array.to_vec(), b"xy\0de");
        assert!(array.set_text(b"123456").is_err());
        assert_eq!(array.text(), b"xy");
    }

    #[test]
    fn many_values_are_there_as_few_are() {
        let bytes: Vec<[u8; 3]> = (0..50_000_u32).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
        let numbers: Vec<u64> = (0..50_000).collect();
        let lock = Lock::new().unwrap();
        let (one, two) =
            (Array::from_slice(&bytes).unwrap(), Array::with_lock(&bytes, &lock).unwrap());
        assert!(one.to_vec() == bytes && two.to_vec() == bytes);
        one.set(49_999, [0; 3]).unwrap();
        assert_eq!(one.lock()[49_998..], [bytes[49_998], [0; 3]]);
        let raw = crate::RawArray::from_slice(&numbers).unwrap();
        assert_eq!(raw.to_vec(), numbers);
    }

    proptest! {
        #[test]
        fn it_does_what_a_vector_does(
            first in proptest::collection::vec(any::<u32>(), 0..40),
            steps in proptest::collection::vec((0_u8..5, 0_usize..45, any::<u32>(), 0_usize..9), 0..40),
        ) {
            let array = Array::from_slice(&first).unwrap();
            let mut model = first;
            for (step, index, value, len) in steps {
                let place = model.get_mut(index);
                match step {
                    0 => prop_assert_eq!(array.set(index, value).is_ok(), place.map(|p| *p = value).is_some()),
                    1 => prop_assert_eq!(array.get(index), model.get(index).copied()),
                    2 => prop_assert_eq!(
                        array.get_range(index..index + len),
                        model.get(index..index + len).map(<[u32]>::to_vec)
                    ),
                    3 => {
                        let values = vec![value; len];
                        let range = model.get_mut(index..index + len);
                        prop_assert_eq!(
                            array.set_range(index, &values).is_ok(),
                            range.map(|range| range.copy_from_slice(&values)).is_some()
                        );
                    }
                    _ => {
                        array.fill(value);
                        model.fill(value);
                    }
                }
                prop_assert_eq!(array.to_vec(), model.clone());
            }
        }
    }
}
