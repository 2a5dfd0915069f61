//! Elements and the lock that guards them: what Value and Array have in common.
#![expect(unsafe_code, reason = "whoever holds the lock has the elements")]

use std::ptr::NonNull;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mp_core::Plain;
use mp_sync::{Acquired, Lock, LockPin, TryLockError, TryLockResult};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::block::{Block, Guarded};
use crate::{Error, Result};

/// Elements and their lock. A clone is the same of both.
pub(crate) struct Locked<T> {
    block: Block<T>,
    lock: Lock,
    guarded: Guarded,
}

impl<T> Clone for Locked<T> {
    fn clone(&self) -> Self {
        Self { block: self.block.clone(), lock: self.lock.clone(), guarded: self.guarded }
    }
}

impl<T: Plain> Locked<T> {
    /// Makes `len` zero elements with a lock of their own, or with the one that is given.
    pub(crate) fn zeroed(name: &str, len: usize, lock: Option<&Lock>) -> Result<Self> {
        Ok(match lock {
            None => {
                let (block, lock) = Block::zeroed_with_lock(name, len)?;
                Self { block, lock, guarded: Guarded::Here }
            }
            Some(lock) => {
                let block = Block::zeroed(name, len, Guarded::Elsewhere)?;
                Self { block, lock: lock.clone(), guarded: Guarded::Elsewhere }
            }
        })
    }

    /// Makes elements from values.
    pub(crate) fn from_slice(name: &str, values: &[T], lock: Option<&Lock>) -> Result<Self>
    where
        T: Copy,
    {
        let locked = Self::zeroed(name, values.len(), lock)?;
        locked.block.init_from_slice(values);
        Ok(locked)
    }

    pub(crate) fn block(&self) -> &Block<T> {
        &self.block
    }

    pub(crate) fn lock_itself(&self) -> &Lock {
        &self.lock
    }

    pub(crate) fn owner_died(&self) -> bool {
        self.block.header().deaths.load(Relaxed) != 0
    }

    pub(crate) fn clear_owner_died(&self) {
        self.block.header().deaths.store(0, Relaxed);
    }

    #[cold]
    fn note_death(&self) {
        self.block.header().deaths.fetch_add(1, Relaxed);
    }

    /// Takes the lock, or finds that this thread has it: `None`.
    #[inline(always)]
    fn enter(&self) -> Option<LockPin<'_>> {
        match self.lock.pin(None) {
            Ok((pin, acquired)) => {
                if acquired == Acquired::OwnerDied {
                    self.note_death();
                }
                Some(pin)
            }
            Err(error) => {
                self.enter_again(error);
                None
            }
        }
    }

    /// Panics unless this thread has the lock by the lock's own guard or methods alone.
    #[cold]
    fn enter_again(&self, error: mp_sync::Error) {
        if !matches!(error, mp_sync::Error::Deadlock) {
            panic!("{error}");
        }
        assert!(
            !self.is_borrowed(),
            "this thread has a guard of the value or array and would wait for itself: read and write \
             through the guard, or drop it first"
        );
    }

    /// Whether this thread, which has the lock, has a guard of these elements.
    fn is_borrowed(&self) -> bool {
        self.block.header().borrower.load(Relaxed) == self.lock.holder()
    }

    /// Runs `access` while this thread has the lock, which it may have had before.
    ///
    /// `access` copies plainly, makes no reference to the elements, and runs no code of the user: nobody
    /// else has the lock meanwhile, and this thread has no guard of these elements.
    #[inline]
    fn with<R>(&self, access: impl FnOnce(&Block<T>) -> R) -> R {
        let _pin = self.enter();
        // SAFETY: this thread has the lock, and no guard.
        unsafe { self.block.redo() };
        access(&self.block)
    }

    /// Copies an element out.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: within the mapping and aligned, and this thread has the lock.
        self.with(|block| block.at(index).map(|from| unsafe { from.read() }))
    }

    /// Copies an element in.
    #[inline]
    pub(crate) fn set(&self, index: usize, value: T) -> Result<()>
    where
        T: Copy,
    {
        self.with(|block| {
            let place = block.checked(index)?;
            // SAFETY: this thread has the lock, and no guard.
            unsafe { block.replace(index, place, &value) };
            Ok(())
        })
    }

    /// Copies elements out.
    pub(crate) fn get_range(&self, start: usize, len: usize) -> Result<Vec<T>>
    where
        T: Copy,
    {
        let mut values = Vec::<T>::with_capacity(len.min(self.block.len()));
        self.with(|block| {
            let from = block.range(start, len)?.as_ptr();
            // SAFETY: so many elements are there, and so much room; this thread has the lock.
            unsafe { values.as_mut_ptr().copy_from_nonoverlapping(from, len) };
            // SAFETY: so many were written.
            unsafe { values.set_len(len) };
            Ok(values)
        })
    }

    /// Copies elements in.
    pub(crate) fn set_range(&self, start: usize, values: &[T]) -> Result<()>
    where
        T: Copy,
    {
        self.with(|block| {
            let to = block.range(start, values.len())?.as_ptr();
            // SAFETY: so many elements are there, apart from the slice; this thread has the lock.
            unsafe { to.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
            Ok(())
        })
    }

    /// Sets all elements to one value.
    pub(crate) fn fill(&self, value: T)
    where
        T: Copy,
    {
        self.with(|block| {
            for index in 0..block.len() {
                // SAFETY: the index is below the length.
                let to = unsafe { block.data().add(index) };
                // SAFETY: within the mapping and aligned, and this thread has the lock.
                unsafe { to.write(value) };
            }
        });
    }

    /// Runs `change` on a copy of an element, with the lock.
    #[inline]
    pub(crate) fn update<R>(&self, index: usize, change: impl FnOnce(&mut T) -> R) -> Result<R>
    where
        T: Copy,
    {
        let place = self.block.checked(index)?;
        let Some(_pin) = self.enter() else {
            return Ok(self.update_held(index, place, change));
        };
        // SAFETY: this thread has the lock, and no guard.
        unsafe { self.block.redo() };
        // SAFETY: within the mapping and aligned. This thread has the lock, pinned, and no guard.
        let mut value = unsafe { place.read() };
        let result = change(&mut value);
        // SAFETY: as above: change could not release it.
        unsafe { self.block.replace(index, place, &value) };
        Ok(result)
    }

    /// As [`update`](Self::update), for a thread that had the lock before.
    #[cold]
    fn update_held<R>(&self, index: usize, place: NonNull<T>, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Copy,
    {
        // SAFETY: this thread has the lock, and no guard.
        unsafe { self.block.redo() };
        // SAFETY: within the mapping and aligned. This thread has the lock, and no guard.
        let mut value = unsafe { place.read() };
        let result = change(&mut value);
        self.check_again();
        // SAFETY: as above; it was checked just now.
        unsafe { self.block.replace(index, place, &value) };
        result
    }

    /// Panics unless this thread still has the lock, which it had before the change, and no guard: the
    /// change could release the one, and make the other.
    fn check_again(&self) {
        assert!(
            self.lock.is_owned() && !self.is_borrowed(),
            "the lock was released during the change"
        );
    }

    /// Takes the lock for a guard.
    ///
    /// Panics where this thread has it already.
    #[inline]
    pub(crate) fn guard(&self) -> Guard<'_, T> {
        match self.lock.pin(None) {
            Ok(taken) => Guard::new(self, taken),
            Err(error) => panic!("a second guard: {error}"),
        }
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<Guard<'_, T>> {
        self.tried(self.lock.pin(Some(Duration::ZERO))).map_err(|error| match error {
            TryLockError::TimedOut => TryLockError::WouldBlock,
            error => error,
        })
    }

    pub(crate) fn lock_timeout(&self, timeout: Duration) -> TryLockResult<Guard<'_, T>> {
        self.tried(self.lock.pin(Some(timeout)))
    }

    fn tried<'a>(
        &'a self,
        taken: mp_sync::Result<(LockPin<'a>, Acquired)>,
    ) -> TryLockResult<Guard<'a, T>> {
        match taken.map(|taken| Guard::new(self, taken)) {
            Ok(guard) if guard.owner_died => Err(TryLockError::Poisoned(PoisonError::new(guard))),
            Ok(guard) => Ok(guard),
            Err(mp_sync::Error::TimedOut) => Err(TryLockError::TimedOut),
            Err(mp_sync::Error::Deadlock) => Err(TryLockError::Deadlock),
            Err(_) => Err(TryLockError::WouldBlock),
        }
    }

    /// Refuses a block of more or less than one element.
    pub(crate) fn single(self) -> Result<Self> {
        let Self { block, lock, guarded } = self;
        Ok(Self { block: block.single()?, lock, guarded })
    }
}

/// Has the lock, and with it the elements; gives it back when dropped.
pub(crate) struct Guard<'a, T: Plain> {
    locked: &'a Locked<T>,
    pub(crate) owner_died: bool,
    /// Releases the lock. It is this thread's, and nothing else releases it before.
    pin: LockPin<'a>,
}

// SAFETY: a shared guard gives out &T only.
unsafe impl<T: Plain + Sync> Sync for Guard<'_, T> {}

impl<'a, T: Plain> Guard<'a, T> {
    #[inline]
    fn new(locked: &'a Locked<T>, (pin, acquired): (LockPin<'a>, Acquired)) -> Self {
        let owner_died = acquired == Acquired::OwnerDied;
        if owner_died {
            locked.note_death();
        }
        // SAFETY: this thread has the lock, and no other guard.
        unsafe { locked.block.redo() };
        // Relaxed: for this thread's own eyes.
        locked.block.header().borrower.store(pin.holder(), Relaxed);
        Self { locked, owner_died, pin }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        let (data, len) = (self.locked.block.data(), self.locked.block.len());
        // SAFETY: within the mapping, aligned, any bits are a T. This thread has the lock, pinned, and all
        // peers take it; what would not wait (this thread's own calls) is refused while a guard lives.
        unsafe { std::slice::from_raw_parts(data.as_ptr(), len) }
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let (data, len) = (self.locked.block.data(), self.locked.block.len());
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), len) }
    }

    /// The one element of a value.
    #[inline]
    pub(crate) fn as_single(&self) -> &T {
        // SAFETY: as for as_slice; that there is one was checked when the value was made.
        unsafe { self.locked.block.data().as_ref() }
    }

    /// The one element of a value.
    #[inline]
    pub(crate) fn as_single_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.locked.block.data().as_mut() }
    }
}

impl<T: Plain> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Before the pin is dropped, and with it the lock released. In a forked child both are its parent's, or of another
        // guard, and stay.
        if self.pin.is_owned() {
            self.locked.block.header().borrower.store(0, Relaxed);
        }
    }
}

/// The block first, where it is not in the lock's segment; then the lock.
impl<T> Serialize for Locked<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let block = (self.guarded == Guarded::Elsewhere).then_some(&self.block);
        (block, &self.lock).serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Locked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elsewhere<T>(Block<T>);
        impl<'de, T: Plain> Deserialize<'de> for Elsewhere<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Block::deserialize(deserializer, Guarded::Elsewhere).map(Self)
            }
        }

        let (block, lock) = <(Option<Elsewhere<T>>, Lock)>::deserialize(deserializer)?;
        let (block, guarded) = match block {
            Some(Elsewhere(block)) => (block, Guarded::Elsewhere),
            None => {
                let block = Block::open(lock.segment().clone(), Guarded::Here);
                (block.map_err(Error::of_handle)?, Guarded::Here)
            }
        };
        Ok(Self { block, lock, guarded })
    }
}
