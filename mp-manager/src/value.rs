//! Single values.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use mp_core::{Decoder, Encoder};
use mp_process::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Made, Method, OnValue};
use crate::dict::Element;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::object::Repr;
use crate::operation::{Kind, Operation, operations};
use crate::{Result, shared, wire};

operations! {
    [T: Element]
    OnValue<T>: get set;
}

pub(crate) fn make<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let value = Mutex::new(wire::get::<T>(from)?);
    Ok(Made::new(Arc::new(value), operation::<T>, Value::<T>::kind()))
}

fn get<T: Element>(value: &mut T, _: &mut Decoder<'_>, to: &mut Encoder) -> mp_core::Result<()> {
    wire::put(to, value).map(drop)
}

fn set<T: Element>(value: &mut T, from: &mut Decoder<'_>, to: &mut Encoder) -> mp_core::Result<()> {
    *value = wire::get(from)?;
    to.put(&()).map(drop)
}

/// A proxy of a value in a manager's server.
///
/// For numbers that processes share at the speed of memory, use `mp_shmem::Value`.
///
/// It prints as its value does in Python.
///
/// Python: `multiprocessing.Manager().Value(typecode, value)`, whose `v.value += 1` loses counts where several do it:
/// [`update`](Self::update) does not.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let value = manager.value("a".to_string())?; // clone it, and send it to other processes
///     value.update(|text: &mut String, more: String| text.push_str(&more), ("b".to_string(),))?;
///     assert_eq!(value.get()?, "ab");
///     assert_eq!(value.to_string(), "'ab'");
///     Ok(())
/// }
/// ```
#[doc(alias = "ValueProxy")]
pub struct Value<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

proxy!(Value<T>);

impl<T: Element> Value<T> {
    pub(crate) fn create(link: &Arc<Link>, value: &T) -> Result<Self> {
        let maker =
            Operation { number: Maker::Value as u32, function: make::<T>, kind: Self::kind };
        link.make(maker, |to| wire::put(to, value).map(drop)).map(Self::from_handle)
    }

    fn kind() -> Kind {
        Kind::of::<T>("Value")
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "value")]
    pub fn get(&self) -> Result<T> {
        let get = Operation { number: Op::get as u32, function: get::<T>, kind: Self::kind };
        self.handle.value_as(get, nothing, wire::get)
    }

    /// Replaces the value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn set(&self, value: T) -> Result<()> {
        let set = Operation { number: Op::set as u32, function: set::<T>, kind: Self::kind };
        self.handle.value(set, |to| wire::put(to, &value).map(drop))
    }

    /// Calls `function` with the value and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// `function` cannot call the value by a proxy: [calls within calls](crate#calls-within-calls).
    ///
    /// # Errors
    ///
    /// [`Panicked`](crate::Error::Panicked); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        shared::call::<T, F, A, R>(&self.handle, function, &args)
    }
}

impl<T: Element + Repr> Repr for Value<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Ok(value) => value.repr(f),
            Err(error) => write!(f, "<Value: {error}>"),
        }
    }
}

impl<T: Element + Repr> fmt::Display for Value<T> {
    /// The value of this moment, as Python prints it; where it cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
