//! Objects of any type.

use std::marker::PhantomData;
use std::sync::Mutex;

use mp_core::{Decoder, Encoder};
use mp_process::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::call::{Method, OfUser, OfUserUnlessPoisoned, OnAny, Stored, WRONG_TYPE};
use crate::error::Fault;
use crate::link::{Handle, nothing, proxy};
use crate::server::Client;

/// A proxy of a `T` in a manager's server, whose functions are called there.
///
/// One call at a time has the object, behind a lock of its own; calls of other objects go on meanwhile. What panics
/// there is [`Panicked`](crate::Error::Panicked) for its caller, and the object stays as the panic left it, for others
/// to use: a panic in one process is no reason for others to end, who cannot know of it. Whoever relies on what a
/// panic may have left half changed asks for the news, as of a lock in std: with the call, by
/// [`call_unless_poisoned`](Self::call_unless_poisoned), or by [`is_poisoned`](Self::is_poisoned).
///
/// Python: a class that is registered with `BaseManager.register`. Here nothing need be registered.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Account {
///     balance: i64,
/// }
///
/// impl Account {
///     fn withdraw(&mut self, amount: i64) -> Result<i64, String> {
///         if amount > self.balance {
///             return Err(format!("there are {} only", self.balance));
///         }
///         self.balance -= amount;
///         Ok(self.balance)
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let account = manager.shared(Account { balance: 100 })?; // clone it, and send it to other processes
///     assert_eq!(account.call(Account::withdraw, (30,))?, Ok(70));
///     assert!(account.call(Account::withdraw, (80,))?.is_err());
///     assert_eq!(account.call(|account: &mut Account| account.balance, ())?, 70);
///     Ok(())
/// }
/// ```
///
/// # Example: what is no function
///
/// ```compile_fail,E0080
/// # fn main() -> mp_manager::Result<()> {
/// # let manager = mp_manager::Manager::new()?;
/// let by = 3;
/// manager.shared(1)?.call(move |n: &mut i32| *n += by, ())?; // pass it as an argument
/// # Ok(())
/// # }
/// ```
#[doc(alias("register", "BaseManager", "BaseProxy", "AutoProxy"))]
pub struct Shared<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

proxy!(Shared<T>);

/// Calls the user's function with a `T` in the server.
pub(crate) fn call<T, F, A, R>(handle: &Handle, function: F, args: &A) -> Result<R>
where
    T: Send + 'static,
    F: Method<T, A, Output = R> + Copy + 'static,
    A: Args,
    R: Serialize + DeserializeOwned,
{
    let _ = function;
    handle.call_by::<F, OfUser<T, A>, R>(|to| args.encode(to), function, |from| from.get())
}

impl<T: Send + 'static> Shared<T> {
    /// Calls `function` with the object and `args`, a tuple of up to seven, in the server, and gives what it returns.
    ///
    /// Waits until it has: for the calls before it too. `function` cannot call the object by a proxy of it: [calls within
    /// calls](crate#calls-within-calls).
    ///
    /// # Errors
    ///
    /// [`Panicked`](crate::Error::Panicked); [every call's](crate#errors).
    #[doc(alias = "_callmethod")]
    pub fn call<F, A, R>(&self, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        call::<T, F, A, R>(&self.handle, function, &args)
    }

    /// As [`call`](Self::call), unless an earlier call has panicked since the object was made, or since
    /// [`clear_poison`](Self::clear_poison).
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::Error::Poisoned), and `function` is not called; else as `call`.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_manager::{Error, Manager};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let manager = Manager::new()?;
    ///     let pair = manager.shared((1, 1))?; // equal, but in the middle of a call
    ///     let raise = |pair: &mut (i32, i32), by: i32| {
    ///         pair.0 += by;
    ///         assert!(by > 0, "down is not up");
    ///         pair.1 += by;
    ///     };
    ///     assert!(matches!(pair.call(raise, (-1,)), Err(Error::Panicked(_))));
    ///     assert!(matches!(pair.call_unless_poisoned(raise, (1,)), Err(Error::Poisoned)));
    ///
    ///     pair.call(|pair: &mut (i32, i32)| pair.0 = pair.1, ())?;
    ///     pair.clear_poison()?;
    ///     pair.call_unless_poisoned(raise, (1,))?;
    ///     assert_eq!(pair.call(|pair: &mut (i32, i32)| *pair, ())?, (2, 2));
    ///     Ok(())
    /// }
    /// ```
    pub fn call_unless_poisoned<F, A, R>(&self, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        let result = self.handle.call_by::<F, OfUserUnlessPoisoned<T, A>, Result<R, Fault>>(
            |to| args.encode(to),
            function,
            |from| from.get(),
        );
        Ok(result??)
    }

    /// Whether a call has panicked since the object was made, or since [`clear_poison`](Self::clear_poison).
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_poisoned(&self) -> Result<bool> {
        self.ask(|object: &Stored, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder| {
            let object = object.downcast_ref::<Mutex<T>>().ok_or(WRONG_TYPE)?;
            to.put(&object.is_poisoned()).map(drop)
        })
    }

    /// Says that the object is in order again.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear_poison(&self) -> Result<()> {
        self.ask(|object: &Stored, _: &Client, _: &mut Decoder<'_>, to: &mut Encoder| {
            object.downcast_ref::<Mutex<T>>().ok_or(WRONG_TYPE)?.clear_poison();
            to.put(&()).map(drop)
        })
    }

    fn ask<R: DeserializeOwned, F>(&self, function: F) -> Result<R>
    where
        F: Fn(&Stored, &Client, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        self.handle.call_by::<F, OnAny, R>(nothing, function, |from| from.get())
    }
}
