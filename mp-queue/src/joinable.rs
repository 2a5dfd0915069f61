//! A queue that tells when all that was put is done.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::blocking::{Core, Limit};
use crate::queue::{deserialize, get, get_many, kind, put, put_many, serialize, surface};
use crate::{Builder, Error, GetManyError, IntoIter, Iter, PutError, PutManyError, Result};

/// A [`Queue`](crate::Queue) that counts what was put and not yet done, and can wait until all is.
///
/// Each item counts as unfinished from the moment it is in the queue, in the same step, until
/// [`task_done`](Self::task_done) is called once more. In all else it is as a queue.
///
/// # When a process dies
///
/// As for a queue. An item that it had got, and for which it had not called `task_done`, stays unfinished:
/// nobody can know how far it was. [`join`](Self::join) then waits until somebody calls `task_done` in its
/// place, so use [`join_timeout`](Self::join_timeout) where workers may die, or a pool, which knows who has
/// what.
///
/// Python: `multiprocessing.JoinableQueue`.
///
/// # Example
///
/// ```
/// use mp_queue::JoinableQueue;
///
/// # fn main() -> mp_queue::Result<()> {
/// let tasks = JoinableQueue::unbounded()?;
/// let theirs: JoinableQueue<String> = tasks.clone();
/// std::thread::spawn(move || { // or a process
///     for task in &theirs {
///         println!("doing {}", task.unwrap());
///         theirs.task_done().unwrap();
///     }
/// });
/// tasks.put("this".to_string())?;
/// tasks.put("that".to_string())?;
/// tasks.join()?; // both are done, not only got
/// assert!(tasks.task_done().is_err()); // once too often
/// # tasks.close();
/// # Ok(())
/// # }
/// ```
pub struct JoinableQueue<T> {
    core: Arc<Core>,
    of: PhantomData<fn(T) -> T>,
}

impl Builder {
    /// Makes a joinable queue.
    ///
    /// # Errors
    ///
    /// As [`queue`](Self::queue).
    pub fn joinable_queue<T>(&self) -> Result<JoinableQueue<T>> {
        Ok(JoinableQueue { core: self.core(kind::JOINABLE, true)?, of: PhantomData })
    }
}

surface!(JoinableQueue, kind::JOINABLE, true, joinable_queue);

impl<T> JoinableQueue<T> {
    /// Counts one item as done. Call it once for each item that was got, when its work is.
    ///
    /// Whoever waits in [`join`](Self::join) goes on when it was the last.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyDone`] where no item is unfinished.
    pub fn task_done(&self) -> Result<()> {
        self.core.task_done()
    }

    /// Waits until no item is unfinished: each that was put is done.
    ///
    /// What is put meanwhile is waited for too.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn join(&self) -> Result<()> {
        self.core.join(Limit::Forever)
    }

    /// As [`join`](Self::join), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.core.join(Limit::after(timeout))
    }

    /// How many items were put and are not done.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.core.unfinished() as usize
    }
}
