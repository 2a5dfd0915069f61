//! Arrays.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use mp_process::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::Method;
use crate::dict::Element;
use crate::link::{Handle, Link, proxy};
use crate::list::Items;
use crate::makers::Maker;
use crate::object::Repr;
use crate::operation::{Kind, Operation};
use crate::{Result, list, wire};

/// A proxy of an array in a manager's server: a list whose length stays.
///
/// For numbers that processes share at the speed of memory, use `mp_shmem::Array`.
///
/// It prints as Python prints a list.
///
/// Python: `multiprocessing.Manager().Array(typecode, sequence)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let array = manager.array([0.0, 0.5])?; // clone it, and send it to other processes
///     array.set(0, 2.0)?;
///     array.update(1, |x: &mut f64, by: f64| *x += by, (1.0,))?;
///     assert_eq!(array.to_vec()?, [2.0, 1.5]);
///     Ok(())
/// }
/// ```
pub struct Array<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

proxy!(Array<T>);

impl<T: Element> Array<T> {
    pub(crate) fn create(link: &Arc<Link>, items: impl IntoIterator<Item = T>) -> Result<Self> {
        let items: Vec<T> = items.into_iter().collect();
        // Of another program, it is a list with another name.
        let number = Maker::List as u32;
        let maker = Operation { number, function: list::make_array::<T>, kind: Self::kind };
        link.make(maker, |to| wire::put_all(to, &items)).map(Self::from_handle)
    }

    fn kind() -> Kind {
        Kind::of::<T>("Array")
    }

    fn items(&self) -> Items<'_> {
        Items { handle: &self.handle, kind: Self::kind }
    }

    /// The item at `index`, if there is one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        self.items().get(index)
    }

    /// Replaces the item at `index`.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](crate::Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        self.items().set(index, &item)
    }

    /// Calls `function` with the item at `index` and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// `function` cannot call the array by a proxy: [calls within calls](crate#calls-within-calls).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](crate::Error::OutOfRange), [`Panicked`](crate::Error::Panicked); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, index: usize, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        list::update::<T, F, A, R>(&self.handle, index, function, &args)
    }

    /// How many items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        self.items().len::<T>()
    }

    /// Whether there is none.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// All items: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.items().to_vec()
    }

    /// Goes through the items of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>> {
        self.to_vec().map(Vec::into_iter)
    }
}

impl<T: Element + Repr> Repr for Array<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_vec() {
            Ok(items) => items.repr(f),
            Err(error) => write!(f, "<Array: {error}>"),
        }
    }
}

impl<T: Element + Repr> fmt::Display for Array<T> {
    /// The items of this moment, as Python prints a list; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
