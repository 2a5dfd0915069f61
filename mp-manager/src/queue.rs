//! Queues.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::dict::Element;
use crate::error::{Fault, PutError};
use crate::link::{Handle, Link, nothing, proxy};
use crate::server::Client;
use crate::wait::{Limit, lock, wait_for};
use crate::{Error, Result};

/// A queue, in the server.
struct QueueObject<T> {
    /// 0: without limit.
    capacity: usize,
    state: Mutex<QueueState<T>>,
    filled: Condvar,
    emptied: Condvar,
    done: Condvar,
}

struct QueueState<T> {
    items: VecDeque<T>,
    /// How many were put and are not done.
    unfinished: usize,
}

impl<T: Element> QueueObject<T> {
    fn create(link: &Arc<Link>, capacity: usize) -> Result<Handle> {
        link.make(
            |to| to.put(&capacity).map(drop),
            |from| {
                Ok(Arc::new(Self {
                    capacity: from.get()?,
                    state: Mutex::new(QueueState { items: VecDeque::new(), unfinished: 0 }),
                    filled: Condvar::new(),
                    emptied: Condvar::new(),
                    done: Condvar::new(),
                }))
            },
        )
    }

    fn put(&self, client: &Client, limit: Limit, item: T) -> Result<(), Fault> {
        let mut item = Some(item);
        let put = wait_for(&self.state, &self.emptied, limit, client, |state| {
            if self.capacity != 0 && state.items.len() >= self.capacity {
                return None;
            }
            state.items.push_back(item.take()?);
            state.unfinished += 1;
            Some(())
        });
        if put.is_ok() {
            self.filled.notify_one();
        }
        put
    }

    fn get(&self, client: &Client, limit: Limit, max: usize) -> Result<Vec<T>, Fault> {
        let got = wait_for(&self.state, &self.filled, limit, client, |state| {
            let count = state.items.len().min(max);
            (count > 0).then(|| {
                let items: Vec<T> = state.items.drain(..count).collect();
                if state.items.capacity() > 4 * state.items.len() + 1024 {
                    state.items.shrink_to_fit();
                }
                items
            })
        });
        if let Ok(items) = &got {
            for _ in items {
                self.emptied.notify_one();
            }
        }
        got
    }

    fn task_done(&self) -> Result<(), Fault> {
        let mut state = lock(&self.state);
        state.unfinished = state.unfinished.checked_sub(1).ok_or(Fault::TooManyDone)?;
        if state.unfinished == 0 {
            self.done.notify_all();
        }
        Ok(())
    }
}

fn put<T: Element>(handle: &Handle, limit: Limit, value: T) -> Result<(), PutError<T>> {
    let result = handle.object(
        |to| to.put(&limit)?.put(&value).map(drop),
        |queue: &Arc<QueueObject<T>>, client, from, to| {
            let (limit, item) = (from.get()?, from.get()?);
            to.put(&queue.put(client, limit, item)).map(drop)
        },
    );
    result.map_err(|reason| match reason {
        Error::WouldBlock => PutError { value, reason: Error::Full },
        reason => PutError { value, reason },
    })
}

fn get_many<T: Element>(handle: &Handle, limit: Limit, max: usize) -> Result<Vec<T>> {
    let result = handle.object(
        |to| to.put(&limit)?.put(&max).map(drop),
        |queue: &Arc<QueueObject<T>>, client, from, to| {
            let (limit, max) = (from.get()?, from.get()?);
            to.put(&queue.get(client, limit, max)).map(drop)
        },
    );
    result.map_err(|error| if matches!(error, Error::WouldBlock) { Error::Empty } else { error })
}

fn get<T: Element>(handle: &Handle, limit: Limit) -> Result<T> {
    // There is one, or an error.
    get_many(handle, limit, 1)?.pop().ok_or(Error::Empty)
}

/// How many items there are, and how many there may be.
fn look<T: Element>(handle: &Handle) -> Result<(usize, usize)> {
    handle.object(nothing, |queue: &Arc<QueueObject<T>>, _, _, to| {
        let len = lock(&queue.state).items.len();
        to.put(&Ok::<_, Fault>((len, queue.capacity))).map(drop)
    })
}

/// The calls of queues.
macro_rules! queueing {
    ($($name:ident)*) => {$(
        proxy!($name<T>);

        impl<T: Element> $name<T> {
            pub(crate) fn create(link: &Arc<Link>, capacity: usize) -> Result<Self> {
                QueueObject::<T>::create(link, capacity).map(Self::from_handle)
            }

            /// Puts an item at the end; waits while the queue is full.
            ///
            /// # Errors
            ///
            /// [Every call's](crate#errors), with the item.
            pub fn put(&self, item: T) -> Result<(), PutError<T>> {
                put(&self.handle, Limit::Forever, item)
            }

            /// Puts an item at the end if there is room.
            ///
            /// # Errors
            ///
            /// [`Full`](Error::Full); [every call's](crate#errors); with the item.
            #[doc(alias = "put_nowait")]
            pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
                put(&self.handle, Limit::Try, item)
            }

            /// Puts an item at the end, waiting no longer than `timeout` for room.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](Error::TimedOut); [every call's](crate#errors); with the item.
            pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
                put(&self.handle, Limit::For(timeout), item)
            }

            /// Puts items at the end, in their order, in one round trip; waits for room before each.
            ///
            /// Others may put theirs in between.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
                let items: Vec<T> = items.into_iter().collect();
                self.handle.object(
                    |to| to.put(&items).map(drop),
                    |queue: &Arc<QueueObject<T>>, client, from, to| {
                        let mut items = from.get::<Vec<T>>()?.into_iter();
                        let put = items.try_for_each(|item| queue.put(client, Limit::Forever, item));
                        to.put(&put).map(drop)
                    },
                )
            }

            /// Takes the first item; waits while there is none.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn get(&self) -> Result<T> {
                get(&self.handle, Limit::Forever)
            }

            /// Takes the first item, if there is one.
            ///
            /// # Errors
            ///
            /// [`Empty`](Error::Empty); [every call's](crate#errors).
            #[doc(alias = "get_nowait")]
            pub fn try_get(&self) -> Result<T> {
                get(&self.handle, Limit::Try)
            }

            /// Takes the first item, waiting no longer than `timeout` for one.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](Error::TimedOut); [every call's](crate#errors).
            pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
                get(&self.handle, Limit::For(timeout))
            }

            /// Takes the first items, up to `max`, in one round trip; waits while there is none.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn get_many(&self, max: usize) -> Result<Vec<T>> {
                if max == 0 { Ok(Vec::new()) } else { get_many(&self.handle, Limit::Forever, max) }
            }

            /// How many items there are, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "qsize")]
            pub fn len(&self) -> Result<usize> {
                look::<T>(&self.handle).map(|(len, _)| len)
            }

            /// Whether there is no item, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "empty")]
            pub fn is_empty(&self) -> Result<bool> {
                self.len().map(|len| len == 0)
            }

            /// Whether there is no room, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "full")]
            pub fn is_full(&self) -> Result<bool> {
                look::<T>(&self.handle).map(|(len, capacity)| capacity != 0 && len >= capacity)
            }

            /// For how many items there is room; `None`: for any number.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "maxsize")]
            pub fn capacity(&self) -> Result<Option<usize>> {
                look::<T>(&self.handle).map(|(_, capacity)| (capacity != 0).then_some(capacity))
            }
        }
    )*};
}

/// A proxy of a queue in a manager's server.
///
/// Items come out in the order they went in. A client that is killed while it waits takes none with it; one that is
/// killed just when an item comes to it may.
///
/// `mp_queue::Queue` needs no server; this one is for those who share a manager anyway, or are [connected](crate::Manager::connect) to one.
///
/// Python: `multiprocessing.Manager().Queue(maxsize)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Error, Manager};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let queue = manager.queue(1)?; // clone it, and send it to other processes
///     queue.put("first".to_string())?;
///     let refused = queue.try_put("second".to_string()).unwrap_err();
///     assert!(matches!(refused.reason, Error::Full));
///     assert_eq!(refused.value, "second");
///     assert_eq!(queue.get()?, "first");
///     Ok(())
/// }
/// ```
pub struct Queue<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

/// A proxy of a queue in a manager's server that knows when all that was put has been dealt with.
///
/// In all else as [`Queue`].
///
/// Python: `multiprocessing.Manager().JoinableQueue(maxsize)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let tasks = manager.joinable_queue(0)?;
///     let theirs = tasks.clone(); // or sent to another process
///     tasks.put_many(1..=3)?;
///     let worker = std::thread::spawn(move || -> mp_manager::Result<i32> {
///         let mut sum = 0;
///         for _ in 0..3 {
///             sum += theirs.get()?;
///             theirs.task_done()?;
///         }
///         Ok(sum)
///     });
///     tasks.join()?;
///     assert_eq!(worker.join().unwrap()?, 6);
///     Ok(())
/// }
/// ```
pub struct JoinableQueue<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

queueing! { Queue JoinableQueue }

impl<T: Element> JoinableQueue<T> {
    /// Says that an item that was got has been dealt with.
    ///
    /// # Errors
    ///
    /// [`TooManyDone`](Error::TooManyDone); [every call's](crate#errors).
    pub fn task_done(&self) -> Result<()> {
        self.handle.object(nothing, |queue: &Arc<QueueObject<T>>, _, _, to| {
            to.put(&queue.task_done()).map(drop)
        })
    }

    /// Waits until all items that were put have been dealt with.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn join(&self) -> Result<()> {
        self.join_limit(Limit::Forever)
    }

    /// As [`join`](Self::join), no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](Error::TimedOut); [every call's](crate#errors).
    pub fn join_timeout(&self, timeout: Duration) -> Result<()> {
        self.join_limit(Limit::For(timeout))
    }

    fn join_limit(&self, limit: Limit) -> Result<()> {
        self.handle.object(
            |to| to.put(&limit).map(drop),
            |queue: &Arc<QueueObject<T>>, client, from, to| {
                let limit = from.get()?;
                let joined = wait_for(&queue.state, &queue.done, limit, client, |state| {
                    (state.unfinished == 0).then_some(())
                });
                to.put(&joined).map(drop)
            },
        )
    }
}
