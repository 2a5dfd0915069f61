//! Queues.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mp_core::{Decoder, Encoder};
use serde::de::DeserializeOwned;

use crate::call::{Made, OnObject};
use crate::dict::Element;
use crate::error::{Fault, PutError};
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::Client;
use crate::wait::{Limit, lock, wait_for};
use crate::wire::{self, Got, Put};
use crate::{Error, Result};

/// A queue, in the server.
struct QueueObject<T> {
    /// 0: without limit.
    capacity: usize,
    state: Mutex<QueueState<T>>,
    filled: Arc<Condvar>,
    emptied: Arc<Condvar>,
    done: Arc<Condvar>,
}

struct QueueState<T> {
    items: VecDeque<T>,
    /// How many were put and are not done.
    unfinished: usize,
}

impl<T: Element> QueueObject<T> {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            state: Mutex::new(QueueState { items: VecDeque::new(), unfinished: 0 }),
            filled: Arc::default(),
            emptied: Arc::default(),
            done: Arc::default(),
        })
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

// What runs in the server.

type Reply = mp_core::Result<()>;

operations! {
    [T: Element]
    OnObject<QueueObject<T>>: put put_many get_many look task_done join;
}

pub(crate) fn make<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let queue = QueueObject::<T>::new(from.get()?);
    Ok(Made::new(queue, operation::<T>, Queue::<T>::kind()))
}

fn make_joinable<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let name = JoinableQueue::<T>::kind().to_string();
    Ok(Made { name, ..make::<T>(from)? })
}

fn put<T: Element>(
    queue: &Arc<QueueObject<T>>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (limit, item) = (from.get()?, wire::get(from)?);
    to.put(&queue.put(client, limit, item)).map(drop)
}

fn put_many<T: Element>(
    queue: &Arc<QueueObject<T>>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let mut items = wire::get_all(from)?.into_iter();
    let put = items.try_for_each(|item| queue.put(client, Limit::Forever, item));
    to.put(&put).map(drop)
}

fn get_many<T: Element>(
    queue: &Arc<QueueObject<T>>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (limit, max) = (from.get()?, from.get()?);
    let items = queue.get(client, limit, max);
    let items = items.as_ref().map(|items| items.iter().map(Put).collect::<Vec<_>>());
    to.put(&items).map(drop)
}

/// How many items there are, and how many there may be.
fn look<T: Element>(
    queue: &Arc<QueueObject<T>>,
    _: &Client,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let len = lock(&queue.state).items.len();
    to.put(&Ok::<_, Fault>((len, queue.capacity))).map(drop)
}

fn task_done<T: Element>(
    queue: &Arc<QueueObject<T>>,
    _: &Client,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&queue.task_done()).map(drop)
}

fn join<T: Element>(
    queue: &Arc<QueueObject<T>>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let joined = wait_for(&queue.state, &queue.done, from.get()?, client, |state| {
        (state.unfinished == 0).then_some(())
    });
    to.put(&joined).map(drop)
}

/// The calls of queues.
macro_rules! queueing {
    ($($name:ident by $make:ident)*) => {$(
        proxy!($name<T>);

        impl<T: Element> $name<T> {
            pub(crate) fn create(link: &Arc<Link>, capacity: usize) -> Result<Self> {
                // Of another program, they differ in their names only.
                let number = Maker::Queue as u32;
                let maker = Operation { number, function: $make::<T>, kind: Self::kind };
                link.make(maker, |to| to.put(&capacity).map(drop)).map(Self::from_handle)
            }

            fn kind() -> Kind {
                Kind::of::<T>(stringify!($name))
            }

            fn call<R: DeserializeOwned, F>(
                &self,
                op: Op,
                function: F,
                encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
            ) -> Result<R>
            where
                F: Fn(&Arc<QueueObject<T>>, &Client, &mut Decoder<'_>, &mut Encoder) -> Reply
                    + Copy
                    + 'static,
            {
                self.handle.object(Operation { number: op as u32, function, kind: Self::kind }, encode)
            }

            fn put_within(&self, limit: Limit, value: T) -> Result<(), PutError<T>> {
                let encode = |to: &mut Encoder| wire::put(to.put(&limit)?, &value).map(drop);
                let put: Result<()> = self.call(Op::put, put, encode);
                put.map_err(|reason| match reason {
                    Error::WouldBlock => PutError { value, reason: Error::Full },
                    reason => PutError { value, reason },
                })
            }

            fn get_within(&self, limit: Limit, max: usize) -> Result<Vec<T>> {
                let encode = |to: &mut Encoder| to.put(&limit)?.put(&max).map(drop);
                let got: Result<Vec<Got<T>>> = self.call(Op::get_many, get_many, encode);
                match got {
                    Ok(items) => Ok(items.into_iter().map(|item| item.0).collect()),
                    Err(Error::WouldBlock) => Err(Error::Empty),
                    Err(error) => Err(error),
                }
            }

            fn get_one(&self, limit: Limit) -> Result<T> {
                // There is one, or an error.
                self.get_within(limit, 1)?.pop().ok_or(Error::Empty)
            }

            fn look(&self) -> Result<(usize, usize)> {
                self.call(Op::look, look, nothing)
            }

            /// Puts an item at the end; waits while the queue is full.
            ///
            /// # Errors
            ///
            /// [Every call's](crate#errors), with the item.
            pub fn put(&self, item: T) -> Result<(), PutError<T>> {
                self.put_within(Limit::Forever, item)
            }

            /// Puts an item at the end if there is room.
            ///
            /// # Errors
            ///
            /// [`Full`](Error::Full); [every call's](crate#errors); with the item.
            #[doc(alias = "put_nowait")]
            pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
                self.put_within(Limit::Try, item)
            }

            /// Puts an item at the end, waiting no longer than `timeout` for room.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](Error::TimedOut); [every call's](crate#errors); with the item.
            pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
                self.put_within(Limit::For(timeout), item)
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
                self.call(Op::put_many, put_many, |to| wire::put_all(to, &items))
            }

            /// Takes the first item; waits while there is none.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn get(&self) -> Result<T> {
                self.get_one(Limit::Forever)
            }

            /// Takes the first item, if there is one.
            ///
            /// # Errors
            ///
            /// [`Empty`](Error::Empty); [every call's](crate#errors).
            #[doc(alias = "get_nowait")]
            pub fn try_get(&self) -> Result<T> {
                self.get_one(Limit::Try)
            }

            /// Takes the first item, waiting no longer than `timeout` for one.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](Error::TimedOut); [every call's](crate#errors).
            pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
                self.get_one(Limit::For(timeout))
            }

            /// Takes the first items, up to `max`, in one round trip; waits while there is none.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn get_many(&self, max: usize) -> Result<Vec<T>> {
                if max == 0 { Ok(Vec::new()) } else { self.get_within(Limit::Forever, max) }
            }

            /// How many items there are, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "qsize")]
            pub fn len(&self) -> Result<usize> {
                self.look().map(|(len, _)| len)
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
                self.look().map(|(len, capacity)| capacity != 0 && len >= capacity)
            }

            /// For how many items there is room; `None`: for any number.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "maxsize")]
            pub fn capacity(&self) -> Result<Option<usize>> {
                self.look().map(|(_, capacity)| (capacity != 0).then_some(capacity))
            }
        }
    )*};
}

/// A proxy of a queue in a manager's server.
///
/// Items come out in the order they went in, each once: what a client had got that is killed is lost with it. A client
/// that is killed while it waits takes no item with it that is put once the server has seen its end. That is a moment
/// after the signal: an item that is put meanwhile may be handed to the dead and lost. Who has
/// [joined](crate#after-a-death) the client before it puts need not fear that.
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

queueing! { Queue by make JoinableQueue by make_joinable }

impl<T: Element> JoinableQueue<T> {
    /// Says that an item that was got has been dealt with.
    ///
    /// # Errors
    ///
    /// [`TooManyDone`](Error::TooManyDone); [every call's](crate#errors).
    pub fn task_done(&self) -> Result<()> {
        self.call(Op::task_done, task_done, nothing)
    }

    /// Waits until all items that were put have been dealt with.
    ///
    /// An item that is lost with a client that was killed never is, unless another says [`task_done`](Self::task_done)
    /// for it.
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
        self.call(Op::join, join, |to| to.put(&limit).map(drop))
    }
}
