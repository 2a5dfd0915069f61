//! One shared value with its lock.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use mp_core::Plain;
use mp_sync::{Lock, TryLockError, TryLockResult};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::locked::{Guard, Locked};

/// One value that processes share, with a lock.
///
/// [`get`](Self::get), [`set`](Self::set) and [`update`](Self::update) take the lock, so does
/// [`lock`](Self::lock) for as long as its guard lives. What reads *and* writes must be one `update` or
/// happen under one guard: between a `get` and a `set` others come in.
///
/// A clone is the same value, and so is what another process gets. It has no name, and lasts as long as
/// anybody has it. Its memory, and that of its lock, is a page; a value that does not fit there twice takes
/// twice its size.
///
/// While another process has the lock these calls wait for it, without limit but in
/// [`lock_timeout`](Self::lock_timeout). If that process dies, the lock is free again, within a tenth of a
/// second at the latest. A `set` or `update` of its has happened as a whole or not at all. What it was
/// changing through a guard is as it left it; `get`, `set`, `update` and `lock` go on with that, and
/// [`try_lock`](Self::try_lock), [`lock_timeout`](Self::lock_timeout) and [`owner_died`](Self::owner_died)
/// tell.
///
/// Python: `multiprocessing.Value`. The type is that of the first value, instead of a letter: `0_i32` for
/// `'i'`, `0.0` for `'d'`, `b'c'` for `'c'`; a number that does not fit is refused by the compiler, instead
/// of cut off. `v.value` is `get` and `set`, and `with v.get_lock(): v.value += 1` is
/// `v.update(|v| *v += 1)`.
///
/// # Example
///
/// ```
/// use mp_shmem::Value;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let counter = Value::new(0)?;
/// let same = counter.clone(); // send this one to another process
/// same.update(|count| *count += 1);
/// *same.lock() += 1;
/// assert_eq!(counter.get(), 2);
///
/// let letter = Value::new(b'c')?;
/// letter.set(b'd');
/// assert_eq!(letter.get() as char, 'd');
/// # Ok(())
/// # }
/// ```
///
/// # Example: a struct
///
/// ```
/// use mp_shmem::{Value, plain_struct};
///
/// plain_struct! {
///     #[derive(Debug, PartialEq)]
///     struct Point {
///         x: f64,
///         y: f64,
///     }
/// }
///
/// # fn main() -> mp_shmem::Result<()> {
/// let point = Value::new(Point { x: 1.875, y: -6.25 })?;
/// point.lock().y = 5.75;
/// assert_eq!(point.get(), Point { x: 1.875, y: 5.75 });
/// # Ok(())
/// # }
/// ```
///
/// # Example: several values under one lock
///
/// ```
/// use mp_shmem::Value;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let from = Value::new(100)?;
/// let to = Value::with_lock(0, from.get_lock())?;
///
/// let both = from.get_lock().lock();
/// from.set(from.get() - 30); // takes no lock: this thread has it
/// to.set(to.get() + 30);
/// drop(both);
/// assert_eq!((from.get(), to.get()), (70, 30));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "Synchronized")]
pub struct Value<T> {
    locked: Locked<T>,
}

impl<T: Plain + Copy> Value<T> {
    /// Makes a shared value with a lock of its own.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`](crate::Error::NoMemory); [`Error::Io`](crate::Error::Io) where the process has
    /// no descriptor left.
    pub fn new(value: T) -> Result<Self> {
        Ok(Self { locked: Locked::from_slice("value", &[value], None)? })
    }

    /// Makes a shared value that is guarded by `lock`, as other values and whatever else may be.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Array, Lock, Value};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Lock::new()?;
    /// let count = Value::with_lock(0, &lock)?;
    /// let log = Array::with_lock(&[0.0; 100], &lock)?;
    ///
    /// let both = lock.lock().unwrap();
    /// log.set(count.get(), 2.5)?;
    /// count.set(count.get() + 1);
    /// # drop(both);
    /// # assert_eq!(log.get(0), Some(2.5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_lock(value: T, lock: &Lock) -> Result<Self> {
        Ok(Self { locked: Locked::from_slice("value", &[value], Some(lock))? })
    }

    /// Copies the value out.
    ///
    /// # Panics
    ///
    /// Where this thread has a [`ValueGuard`] of it.
    #[must_use]
    #[doc(alias = "value")]
    #[inline]
    pub fn get(&self) -> T {
        match self.locked.get(0) {
            Some(value) => value,
            None => unreachable!("a value is one element"),
        }
    }

    /// Copies a value in: all of it, or nothing where this process is killed meanwhile.
    ///
    /// # Panics
    ///
    /// Where this thread has a [`ValueGuard`] of it.
    #[doc(alias = "value")]
    #[inline]
    pub fn set(&self, value: T) {
        if let Err(error) = self.locked.set(0, value) {
            unreachable!("a value is one element: {error}");
        }
    }

    /// Changes the value; nobody else comes in between. Gives what `change` gives.
    ///
    /// The lock is held while `change` runs, so it should be short. It works on a copy: if it panics, or the
    /// process is killed meanwhile, the value is as it was before. If that is killed later, it is as `change`
    /// made it; never in part. What `change` does to the value by other
    /// calls is overwritten.
    ///
    /// # Panics
    ///
    /// Where this thread has a [`ValueGuard`] of it, or `change` panics or releases the lock by hand.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let next = mp_shmem::Value::new(1)?;
    /// let ticket = next.update(|next| {
    ///     *next += 1;
    ///     *next - 1
    /// });
    /// assert_eq!((ticket, next.get()), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        match self.locked.update(0, change) {
            Ok(result) => result,
            Err(error) => unreachable!("a value is one element: {error}"),
        }
    }
}

impl<T: Plain> Value<T> {
    /// Waits for the lock, and gives the value as long as the guard lives.
    ///
    /// # Panics
    ///
    /// Where this thread has the lock already, by a guard of this value or of the lock.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// let extremes = mp_shmem::Value::new([f64::MAX, f64::MIN])?;
    /// let mut guard = extremes.lock();
    /// guard[0] = guard[0].min(2.5);
    /// guard[1] = guard[1].max(2.5);
    /// drop(guard);
    /// assert_eq!(extremes.get(), [2.5, 2.5]);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn lock(&self) -> ValueGuard<'_, T> {
        ValueGuard { guard: self.locked.guard() }
    }

    /// Takes the lock if nobody has it, or who has it is dead; does not wait.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] where somebody else has it, [`TryLockError::Deadlock`] where this thread
    /// does; [`TryLockError::Poisoned`], with the guard, where the last holder died while it had it.
    ///
    /// # Example: a holder that dies
    ///
    /// ```
    /// use std::time::Duration;
    /// use mp_shmem::{TryLockError, Value};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let pair = Value::new([0, 0])?; // both are to be the same
    /// # let theirs = pair.clone();
    /// # std::thread::spawn(move || {
    /// #     let mut guard = theirs.lock();
    /// #     guard[0] += 1;
    /// #     std::mem::forget(guard);
    /// # }).join().unwrap();
    /// // ... another process is killed in the middle of a change:
    /// let mut guard = match pair.lock_timeout(Duration::from_secs(10)) {
    ///     Ok(guard) => guard,
    ///     Err(TryLockError::Poisoned(news)) => {
    ///         let mut guard = news.into_inner();
    ///         guard[1] = guard[0]; // repairs it
    ///         guard
    ///     }
    ///     Err(error) => panic!("{error}"),
    /// };
    /// assert_eq!(*guard, [1, 1]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock(&self) -> TryLockResult<ValueGuard<'_, T>> {
        map(self.locked.try_lock())
    }

    /// Waits for the lock no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`]; [`TryLockError::Poisoned`], with the guard, where the last holder died
    /// while it had it; [`TryLockError::Deadlock`] where this thread has it.
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<ValueGuard<'_, T>> {
        map(self.locked.lock_timeout(timeout))
    }

    /// The lock that guards the value: to share it, or to hold it over several calls.
    ///
    /// While this thread has it, `get`, `set` and `update` go on without taking it.
    ///
    /// Python: the same name, for an `RLock`.
    #[must_use]
    pub fn get_lock(&self) -> &Lock {
        self.locked.lock_itself()
    }

    /// Whether somebody died while it had the lock, as far as any call on this value, in any process,
    /// has noticed.
    ///
    /// Stays so until [`clear_owner_died`](Self::clear_owner_died). Of a lock that is shared, whatever
    /// takes it first gets the news, and only that.
    #[must_use]
    pub fn owner_died(&self) -> bool {
        self.locked.owner_died()
    }

    /// Forgets that somebody died while it had the lock: the value was checked.
    pub fn clear_owner_died(&self) {
        self.locked.clear_owner_died();
    }
}

/// The value of a [`Value`], as long as this lives; then the lock is released.
///
/// It derefs into shared memory, and trusts that all who have the value take the lock. It stays with its
/// thread, as the lock is that thread's, and [`Lock::release`] is an error while it lives.
///
/// A guard that a forked child has inherited or captured is not its lock: it stays its parent's, and to drop it there does
/// nothing. But it still leads to the memory, which others may hold by then: do not use it there, take the lock.
///
/// ```compile_fail,E0277
/// let value = mp_shmem::Value::new(1).unwrap();
/// let guard = value.lock();
/// std::thread::scope(|scope| { scope.spawn(move || drop(guard)); });
/// ```
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct ValueGuard<'a, T: Plain> {
    guard: Guard<'a, T>,
}

impl<T: Plain> ValueGuard<'_, T> {
    /// Whether the last holder died while it had the lock, and may have left the value half changed.
    #[must_use]
    pub fn owner_died(guard: &Self) -> bool {
        guard.guard.owner_died
    }
}

impl<T: Plain> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.guard.as_single()
    }
}

impl<T: Plain> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_single_mut()
    }
}

fn map<T: Plain>(tried: TryLockResult<Guard<'_, T>>) -> TryLockResult<ValueGuard<'_, T>> {
    tried.map(|guard| ValueGuard { guard }).map_err(|error| match error {
        TryLockError::Poisoned(error) => {
            TryLockError::Poisoned(PoisonError::new(ValueGuard { guard: error.into_inner() }))
        }
        TryLockError::WouldBlock => TryLockError::WouldBlock,
        TryLockError::TimedOut => TryLockError::TimedOut,
        TryLockError::Deadlock => TryLockError::Deadlock,
    })
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self { locked: self.locked.clone() }
    }
}

impl<T> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value<{}>", std::any::type_name::<T>())
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.locked.serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let locked = Locked::deserialize(deserializer)?;
        locked.single().map(|locked| Self { locked }).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp_core::{decode, encode};

    #[test]
    fn a_copy_that_was_sent_is_the_same_value_and_lock() {
        let value = Value::new([1_i32, 2]).unwrap();
        let sent: Value<[i32; 2]> = decode(encode(&value).unwrap()).unwrap();
        sent.update(|pair| pair[1] = 7);
        assert_eq!(value.get(), [1, 7]);
        let guard = value.lock();
        assert!(matches!(sent.try_lock(), Err(TryLockError::Deadlock | TryLockError::WouldBlock)));
        drop(guard);
        sent.try_lock().unwrap()[0] = 3;
        assert_eq!(*value.lock(), [3, 7]);
    }

    #[test]
    fn a_value_is_one_descriptor_and_two_with_a_lock_of_another() {
        let value = Value::new(1).unwrap();
        let other = Value::with_lock(2, value.get_lock()).unwrap();
        assert_eq!(encode(&value).unwrap().fds().len(), 1);
        let message = encode(&other).unwrap();
        assert_eq!(message.fds().len(), 2);
        let sent: Value<i32> = decode(message).unwrap();
        let guard = value.lock();
        assert!(sent.try_lock().is_err(), "the lock came along");
        drop(guard);
        assert_eq!(sent.get(), 2);
    }

    #[test]
    fn the_lock_alone_can_be_sent() {
        let value = Value::new(1).unwrap();
        let lock: Lock = decode(encode(value.get_lock()).unwrap()).unwrap();
        let _guard = lock.lock().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(value.try_lock(), Err(TryLockError::WouldBlock))));
        });
    }

    #[test]
    fn whoever_has_the_lock_reads_and_writes_without_waiting_for_itself() {
        let value = Value::new(1).unwrap();
        let _guard = value.get_lock().lock().unwrap();
        value.set(value.get() + 1);
        assert_eq!(
            value.update(|value| {
                *value *= 10;
                *value
            }),
            20
        );
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(value.try_lock(), Err(TryLockError::WouldBlock))));
        });
    }

    #[test]
    fn whoever_has_a_guard_is_told_that_it_would_wait_for_itself() {
        let value = Value::new(1).unwrap();
        let sent: Value<i32> = decode(encode(&value).unwrap()).unwrap();
        let mut guard = value.lock();
        for calls in [
            (|value| assert_eq!(value.get(), 1)) as fn(&Value<i32>),
            |value| value.set(1),
            |value| value.update(|value| *value += 1),
            |value| drop(value.lock()),
        ] {
            for value in [&value, &sent] {
                let result =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| calls(value)));
                let panic = result.unwrap_err();
                let message = match panic.downcast_ref::<&str>() {
                    Some(message) => message,
                    None => panic.downcast_ref::<String>().unwrap().as_str(),
                };
                assert!(message.contains("guard"), "{message}");
            }
        }
        *guard = 5;
        drop(guard);
        assert_eq!(sent.get(), 5);
    }

    #[test]
    fn a_change_that_releases_the_lock_is_refused() {
        let value = Value::new(1).unwrap();
        // The lock is pinned where update took it.
        value.update(|value_| {
            assert!(value.get_lock().release().is_err());
            *value_ = 2;
        });
        assert_eq!(value.get(), 2);
        let guard = value.get_lock().lock().unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            value.update(|value| {
                drop(guard);
                *value = 3;
            })
        }));
        assert!(result.is_err());
        assert_eq!(*value.try_lock().unwrap(), 2);
    }

    #[test]
    fn nobody_releases_the_lock_of_a_guard() {
        let value = Value::new(1).unwrap();
        let stale = value.get_lock().lock().unwrap();
        value.get_lock().release().unwrap();
        let guard = value.lock();
        assert!(value.get_lock().release().is_err());
        drop(stale);
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(value.try_lock(), Err(TryLockError::WouldBlock))));
        });
        drop(guard);
        assert!(value.try_lock().is_ok());
    }

    #[test]
    fn a_panic_while_changing_changes_nothing_and_releases_the_lock() {
        let value = Value::new(1).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            value.update(|value| {
                *value = 2;
                assert_eq!(*value, 1, "on purpose");
            })
        }));
        assert!(result.is_err());
        assert_eq!(*value.try_lock().unwrap(), 1, "as it was");
        assert!(!value.owner_died());
    }

    #[test]
    fn a_thread_that_ends_with_the_lock_is_noticed_and_forgotten() {
        let value = Value::new(1).unwrap();
        let leave = || {
            std::thread::scope(|scope| {
                scope.spawn(|| std::mem::forget(value.lock()));
            });
        };
        leave();
        assert!(!value.owner_died(), "nobody looked");
        assert_eq!(value.get(), 1);
        assert!(value.owner_died());
        value.clear_owner_died();
        assert!(!value.owner_died());

        leave();
        let news = value.lock_timeout(Duration::from_secs(20));
        let Err(TryLockError::Poisoned(error)) = news else { panic!("no news: {news:?}") };
        assert!(ValueGuard::owner_died(&error.into_inner()));
        leave();
        assert!(ValueGuard::owner_died(&value.lock()));
        assert!(!ValueGuard::owner_died(&value.lock()), "the news comes once");

        // What is left of the guard does not stop who has the lock by itself.
        leave();
        let _guard = value.get_lock().lock().unwrap_or_else(PoisonError::into_inner);
        value.set(value.get() + 1);
    }

    #[test]
    fn another_type_is_refused() {
        let error = decode::<Value<f32>>(encode(&Value::new(1).unwrap()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("another type"), "{error}");
        let error = decode::<Value<u8>>(encode(&Lock::new().unwrap()).unwrap());
        assert!(error.is_err());
    }

    #[test]
    fn threads_count_exactly() {
        let value = Value::new(0_u64).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|_| value.update(|count| *count += 1)));
            }
        });
        assert_eq!(value.get(), 20_000);
        assert_eq!(format!("{value:?}"), "Value<u64>");
    }
}
