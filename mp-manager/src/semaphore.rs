//! Semaphores in the server.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mp_core::{Decoder, Encoder};

use crate::Result;
use crate::call::{Made, OnObject};
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::operation::{Kind, Operation, operations};
use crate::server::{Client, Held};
use crate::wait::{Limit, lock, wait_for};

/// A semaphore, in the server.
pub(crate) struct SemaphoreObject {
    /// How many permits it began with, if there may not be more.
    bound: Option<u32>,
    permits: Mutex<u32>,
    released: Arc<Condvar>,
}

impl SemaphoreObject {
    pub(crate) fn new(permits: u32, bounded: bool) -> Arc<Self> {
        let bound = bounded.then_some(permits);
        Arc::new(Self { bound, permits: Mutex::new(permits), released: Arc::default() })
    }

    fn acquire(&self, client: &Client, limit: Limit) -> Result<(), Fault> {
        wait_for(&self.permits, &self.released, limit, client, |permits| {
            *permits = permits.checked_sub(1)?;
            Some(())
        })
    }

    fn release(&self) -> Result<(), Fault> {
        let mut permits = lock(&self.permits);
        match self.bound {
            Some(initial) if *permits >= initial => return Err(Fault::TooManyReleases(initial)),
            _ => *permits = permits.checked_add(1).ok_or(Fault::Overflow)?,
        }
        drop(permits);
        self.released.notify_one();
        Ok(())
    }
}

impl Held for SemaphoreObject {
    fn abandon(&self, _: u64) {
        // At its bound it has all that it may.
        let _ = self.release();
    }
}

// What runs in the server.

type Reply = mp_core::Result<()>;

operations! {
    []
    OnObject<SemaphoreObject>: take give count;
}

pub(crate) fn make(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let semaphore = SemaphoreObject::new(from.get()?, false);
    Ok(Made::new(semaphore, operation, Semaphore::kind()))
}

pub(crate) fn make_bounded(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let semaphore = SemaphoreObject::new(from.get()?, true);
    Ok(Made::new(semaphore, operation, BoundedSemaphore::kind()))
}

/// Takes a permit; if so asked, such that it comes back when this client ends.
fn take(
    object: &Arc<SemaphoreObject>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (limit, held) = (from.get()?, from.get()?);
    let result = object.acquire(client, limit);
    if held && result.is_ok() {
        client.hold(Arc::clone(object) as Arc<dyn Held>);
    }
    to.put(&result).map(drop)
}

fn give(
    object: &Arc<SemaphoreObject>,
    client: &Client,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    if from.get()? {
        client.let_go(&(Arc::clone(object) as Arc<dyn Held>));
    }
    to.put(&object.release()).map(drop)
}

fn count(
    object: &Arc<SemaphoreObject>,
    _: &Client,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&Ok::<u32, Fault>(*lock(&object.permits))).map(drop)
}

/// How a semaphore is called for, with what the proxy is of.
#[derive(Clone, Copy)]
struct Counting<'a> {
    handle: &'a Handle,
    kind: fn() -> Kind,
}

impl<'a> Counting<'a> {
    /// Takes a permit; with `held`, such that it comes back when this thread ends.
    fn acquire(self, limit: Limit, held: bool) -> Result<()> {
        let take = Operation { number: Op::take as u32, function: take, kind: self.kind };
        self.handle.object(take, |to| to.put(&limit)?.put(&held).map(drop))
    }

    fn permit(self, limit: Limit) -> Result<Permit<'a>> {
        self.acquire(limit, true).map(|()| Permit::new(self))
    }

    fn release(self, held: bool) -> Result<()> {
        let give = Operation { number: Op::give as u32, function: give, kind: self.kind };
        self.handle.object(give, |to| to.put(&held).map(drop))
    }

    fn value(self) -> Result<u32> {
        let count = Operation { number: Op::count as u32, function: count, kind: self.kind };
        self.handle.object(count, nothing)
    }
}

/// A permit of a manager's semaphore, which goes back when this is dropped, or with its thread or process, however
/// that ends.
#[must_use = "the permit goes back when this is dropped"]
pub struct Permit<'a> {
    of: Counting<'a>,
    generation: u64,
    of_thread: PhantomData<*const ()>,
}

impl<'a> Permit<'a> {
    fn new(of: Counting<'a>) -> Self {
        Self { of, generation: Handle::generation(), of_thread: PhantomData }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.generation == Handle::generation() {
            // A server that died holds nobody up.
            let _ = self.of.release(true);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// The calls of semaphores.
macro_rules! counting {
    ($($name:ident by $make:ident)*) => {$(
        proxy!($name);

        impl $name {
            pub(crate) fn create(link: &Arc<Link>, permits: u32) -> Result<Self> {
                let number = Maker::$name as u32;
                let maker = Operation { number, function: $make, kind: Self::kind };
                link.make(maker, |to| to.put(&permits).map(drop)).map(Self::from_handle)
            }

            fn kind() -> Kind {
                Kind::plain(stringify!($name))
            }

            fn counting(&self) -> Counting<'_> {
                Counting { handle: &self.handle, kind: Self::kind }
            }

            /// Takes a permit for as long as the guard lives; waits while there is none.
            ///
            /// It comes back too when this thread ends, or its process.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn permit(&self) -> Result<Permit<'_>> {
                self.counting().permit(Limit::Forever)
            }

            /// As [`permit`](Self::permit), if there is one.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::Error::WouldBlock) where there is none; [every call's](crate#errors).
            pub fn try_permit(&self) -> Result<Permit<'_>> {
                self.counting().permit(Limit::Try)
            }

            /// As [`permit`](Self::permit), waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::Error::TimedOut); [every call's](crate#errors).
            pub fn permit_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
                self.counting().permit(Limit::For(timeout))
            }

            /// Takes a permit, which anybody may give back by [`release`](Self::release); waits while there is none.
            ///
            /// If this process ends, it stays taken: nobody knows who was to give it back. So may one that comes just when
            /// it is killed. [`permit`](Self::permit) is for what is to come back.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            pub fn acquire(&self) -> Result<()> {
                self.counting().acquire(Limit::Forever, false)
            }

            /// As [`acquire`](Self::acquire), if there is a permit.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::Error::WouldBlock) where there is none; [every call's](crate#errors).
            pub fn try_acquire(&self) -> Result<()> {
                self.counting().acquire(Limit::Try, false)
            }

            /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::Error::TimedOut); [every call's](crate#errors).
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<()> {
                self.counting().acquire(Limit::For(timeout), false)
            }

            /// Gives a permit back, or adds one.
            ///
            /// # Errors
            ///
            /// [`TooManyReleases`](crate::Error::TooManyReleases) where a bounded one has all it began with,
            /// [`Overflow`](crate::Error::Overflow) where there would be 2³²; [every call's](crate#errors).
            pub fn release(&self) -> Result<()> {
                self.counting().release(false)
            }

            /// How many permits are to be had, at this moment.
            ///
            /// # Errors
            ///
            /// As [every call](crate#errors).
            #[doc(alias = "get_value")]
            pub fn value(&self) -> Result<u32> {
                self.counting().value()
            }
        }
    )*};
}

/// A proxy of a semaphore in a manager's server: a number of permits, to be taken and given back.
///
/// Python: `multiprocessing.Manager().Semaphore(n)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let seats = manager.semaphore(2)?; // clone it, and send it to other processes
///     let seat = seats.permit()?;
///     assert_eq!(seats.value()?, 1);
///     drop(seat);
///     assert_eq!(seats.value()?, 2);
///     Ok(())
/// }
/// ```
pub struct Semaphore {
    handle: Handle,
    of: PhantomData<()>,
}

/// A proxy of a semaphore in a manager's server that never has more permits than it began with.
///
/// In all else as [`Semaphore`].
///
/// Python: `multiprocessing.Manager().BoundedSemaphore(n)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Error, Manager};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let seats = manager.bounded_semaphore(2)?;
///     assert!(matches!(seats.release(), Err(Error::TooManyReleases { initial: 2 })));
///     Ok(())
/// }
/// ```
pub struct BoundedSemaphore {
    handle: Handle,
    of: PhantomData<()>,
}

counting! { Semaphore by make BoundedSemaphore by make_bounded }
