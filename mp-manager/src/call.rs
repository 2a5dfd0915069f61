//! How functions are called in the server: on what, with which arguments, and what becomes of their results.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::sync::{Arc, LockResult, Mutex, MutexGuard, PoisonError, TryLockError};

use mp_core::{Decoder, Encoder, Result};
use mp_process::{Args, Convention, Target};
use serde::Serialize;

use crate::error::Fault;
use crate::operation::{Kind, Operations, none};
use crate::server::Client;
use crate::wire::is_wrapped;

/// An object in the server: a `Mutex<T>`, or what has its locks within.
pub(crate) type Stored = Arc<dyn Any + Send + Sync>;

/// What there is to know of the call that this thread of the server makes, beside its object.
struct Now {
    /// Its object's number; 0: there is none.
    id: Cell<u64>,
    /// The function has the object's lock.
    locks: Cell<bool>,
    /// A function in the server makes it, which waits for it.
    is_within: Cell<bool>,
}

thread_local! {
    // With no destructor: each call comes by.
    static NOW: Now = const {
        Now { id: Cell::new(0), locks: Cell::new(false), is_within: Cell::new(false) }
    };
    /// The object of the call, until the function has it.
    static CURRENT: Cell<Option<Stored>> = const { Cell::new(None) };
    /// The objects whose locks are held until the call has ended, where it is made within another.
    static ABOVE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Sets the object that the next call of this thread is for; `None` after a call.
pub(crate) fn set_current(id: u64, object: Option<Stored>) {
    NOW.with(|now| {
        now.id.set(id);
        now.locks.set(false);
    });
    CURRENT.set(object);
}

/// Sets which objects are held for who makes the next call of this thread; none after the call.
pub(crate) fn set_held_above(ids: Vec<u64>) {
    NOW.with(|now| now.is_within.set(!ids.is_empty()));
    ABOVE.set(ids);
}

/// The objects whose locks are not to be had before a call that this thread makes now has ended.
pub(crate) fn held() -> Vec<u64> {
    // A thread that is at its end makes no call for anybody.
    let mut held = ABOVE.try_with(|above| above.borrow().clone()).unwrap_or_default();
    NOW.with(|now| held.extend(now.locks.get().then(|| now.id.get())));
    held
}

/// Locks the object of the call, unless that has to wait for this very call.
pub(crate) fn lock_current<T>(object: &Mutex<T>) -> Result<LockResult<MutexGuard<'_, T>>> {
    if NOW.with(|now| now.is_within.get()) && is_held_above() {
        return Err(mp_core::Error::Protocol(HELD_ABOVE));
    }
    let locked = lock_stepping_back(object);
    NOW.with(|now| now.locks.set(true));
    Ok(locked)
}

/// So often who has an object is looked for to be done with it: most are at once.
const TRIES: u32 = 100;

/// Locks it. If that takes its time, another client is served meanwhile: it may be one that has the object.
fn lock_stepping_back<T>(object: &Mutex<T>) -> LockResult<MutexGuard<'_, T>> {
    for _ in 0..TRIES {
        match object.try_lock() {
            Ok(object) => return Ok(object),
            Err(TryLockError::Poisoned(object)) => return Err(object),
            Err(TryLockError::WouldBlock) => spin_loop(),
        }
    }
    Client::steps_back();
    object.lock()
}

#[cold]
fn is_held_above() -> bool {
    let id = NOW.with(|now| now.id.get());
    ABOVE.with_borrow(|above| above.contains(&id))
}

/// What a [`Deadlock`](crate::Error::Deadlock) is until it is sent.
pub(crate) const HELD_ABOVE: &str = "the call is made by a function that has the object";

/// What a [`WrongType`](crate::Error::WrongType) is until it is sent.
pub(crate) const WRONG_TYPE: mp_core::Error =
    mp_core::Error::Protocol("the object is of another type than the proxy");

pub(crate) fn current<O: Send + Sync + 'static>() -> Result<Arc<O>> {
    CURRENT.take().and_then(|object| object.downcast().ok()).ok_or(WRONG_TYPE)
}

/// A function that is called with an object and a tuple of arguments: `fn(&mut T, A, B) -> R`.
///
/// Implemented for functions and closures of an object and up to seven arguments. A closure names the type of its
/// first parameter: `|count: &mut u64| ...`. What is sent to the server must also be zero-sized: a function by its
/// name, or a closure that captures nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with `&mut {T}` and the arguments `{A}`",
    note = "a method that takes `&self` goes in a closure: `|object: &mut T| object.get()`; the other arguments are a \
            tuple, `(x,)` for one"
)]
pub trait Method<T: ?Sized, A> {
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(self, object: &mut T, args: A) -> Self::Output;
}

macro_rules! methods {
    ($(($($arg:ident)*))*) => {$(
        #[allow(non_snake_case, reason = "a parameter is named as its type is")]
        impl<F, T: ?Sized, R, $($arg),*> Method<T, ($($arg,)*)> for F
        where
            F: for<'a> FnOnce(&'a mut T, $($arg),*) -> R,
        {
            type Output = R;

            fn call(self, object: &mut T, ($($arg,)*): ($($arg,)*)) -> R {
                self(object, $($arg),*)
            }
        }
    )*};
}

methods! {
    () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E G) (A B C D E G H)
}

/// The user's function, on an object behind its lock, and whatever earlier ones have done to it.
pub(crate) struct OfUser<T, A>(PhantomData<(T, A)>);

/// The user's function, on an object behind its lock that no earlier one has left by a panic. Leaves a value or a fault.
pub(crate) struct OfUserUnlessPoisoned<T, A>(PhantomData<(T, A)>);

impl<F, T, A> Convention<F> for OfUserUnlessPoisoned<T, A>
where
    F: Method<T, A>,
    F::Output: Serialize,
    T: Send + 'static,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let object = current::<Mutex<T>>()?;
        let arguments = A::decode(arguments)?;
        let Ok(mut object) = lock_current(&object)? else {
            return result.put(&Err::<F::Output, _>(Fault::Poisoned)).map(drop);
        };
        let value = function.call(&mut object, arguments);
        result.put(&Ok::<_, Fault>(value)).map(drop)
    }
}

impl<F, T, A> Convention<F> for OfUser<T, A>
where
    F: Method<T, A>,
    F::Output: Serialize,
    T: Send + 'static,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let object = current::<Mutex<T>>()?;
        let arguments = A::decode(arguments)?;
        // Whether an earlier call panicked can be asked for.
        let mut object = lock_current(&object)?.unwrap_or_else(PoisonError::into_inner);
        let value = function.call(&mut object, arguments);
        result.put(&value)?;
        Ok(())
    }
}

/// This crate's function, on an object behind its lock.
pub(crate) struct OnValue<T>(PhantomData<T>);

impl<F, T> Convention<F> for OnValue<T>
where
    F: Fn(&mut T, &mut Decoder<'_>, &mut Encoder) -> Result<()>,
    T: Send + 'static,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let object = current::<Mutex<T>>()?;
        let mut object = lock_current(&object)?.unwrap_or_else(PoisonError::into_inner);
        function(&mut object, arguments, result)
    }
}

/// This crate's function, on an object that has its locks within, and for a client, who may have to wait.
pub(crate) struct OnObject<O>(PhantomData<O>);

impl<F, O> Convention<F> for OnObject<O>
where
    F: Fn(&Arc<O>, &Client, &mut Decoder<'_>, &mut Encoder) -> Result<()>,
    O: Send + Sync + 'static,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let object = current::<O>()?;
        let client = Client::current();
        function(&object, &client, arguments, result)
    }
}

/// This crate's function, on an object of any type.
pub(crate) struct OnAny;

impl<F> Convention<F> for OnAny
where
    F: Fn(&Stored, &Client, &mut Decoder<'_>, &mut Encoder) -> Result<()>,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let object = CURRENT.take().ok_or(WRONG_TYPE)?;
        function(&object, &Client::current(), arguments, result)
    }
}

/// This crate's function, on the server itself.
pub(crate) struct OnServer;

impl<F> Convention<F> for OnServer
where
    F: Fn(&mut Decoder<'_>, &mut Encoder) -> Result<()>,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        function(arguments, result)
    }
}

/// A new object for the server.
pub(crate) struct Made {
    pub(crate) object: Stored,
    /// What other programs can do with it.
    pub(crate) operations: Operations,
    /// What a proxy of it is called.
    pub(crate) name: String,
}

impl Made {
    pub(crate) fn new<O: Send + Sync + 'static>(
        object: Arc<O>,
        operations: Operations,
        kind: Kind,
    ) -> Self {
        Self { object, operations, name: kind.to_string() }
    }
}

/// Puts an object into the server and leaves how to find it.
pub(crate) fn leave(made: Made, result: &mut Encoder) -> Result<()> {
    let (id, life) = Client::current().server().insert(made).map_err(mp_core::Error::Io)?;
    // Said as what it is, not as a value that cannot be encoded.
    drop(life.try_clone().map_err(mp_core::Error::Io)?);
    result.put(&id)?.put(&mp_core::Fd::from(life))?;
    Ok(())
}

/// This crate's function that makes an object.
pub(crate) struct Create;

impl<F> Convention<F> for Create
where
    F: Fn(&mut Decoder<'_>) -> Result<Made>,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        // Another program says what its proxy is of: here it is of parcels.
        let name = if is_wrapped() { Some(arguments.get::<String>()?) } else { None };
        let mut made = function(arguments)?;
        if let Some(name) = name {
            made.name = name;
        }
        leave(made, result)
    }
}

/// The user's function that makes an object.
pub(crate) struct CreateOf<A>(PhantomData<A>);

impl<F, A> Convention<F> for CreateOf<A>
where
    F: Target<A>,
    F::Output: Send + 'static,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> Result<()> {
        let arguments = A::decode(arguments)?;
        let object = Arc::new(Mutex::new(function.call(arguments)));
        leave(Made::new(object, none, Kind::of::<F::Output>("Shared")), result)
    }
}
