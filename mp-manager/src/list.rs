//! Lists.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use mp_core::{Decoder, Encoder};
use mp_process::{Args, Convention};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Method, current};
use crate::dict::Element;
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::object::Repr;
use crate::wait::lock;
use crate::{Error, Result, shared};

/// A proxy of a list in a manager's server.
///
/// Items are copies: what changes in one that was got changes nothing in the server. An item may be a proxy. What
/// depends on what is there runs in the server, undisturbed: [`update`](Self::update) with an item,
/// [`call`](Self::call) with the whole vector.
///
/// It prints as Python prints a list.
///
/// Python: `multiprocessing.Manager().list()`. `append` is `push`, `l[i]` is `get` and `set`, `pop(i)` is `remove`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
/// use mp_process::Process;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let list = manager.list(0..3)?;
///     let child = Process::new(|list: mp_manager::List<i32>| list.push(7).unwrap(), (list.clone(),)).start()?;
///     child.result()?;
///     assert_eq!(list.to_vec()?, [0, 1, 2, 7]);
///     assert_eq!(list.to_string(), "[0, 1, 2, 7]");
///     Ok(())
/// }
/// ```
#[doc(alias = "ListProxy")]
pub struct List<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

proxy!(List<T>);

/// The user's function, on an item of a vector.
pub(crate) struct OnItem<T, A>(PhantomData<(T, A)>);

impl<F, T, A> Convention<F> for OnItem<T, A>
where
    F: Method<T, A>,
    F::Output: Serialize,
    T: Element,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> mp_core::Result<()> {
        let items = current::<Mutex<Vec<T>>>()?;
        let index: usize = arguments.get()?;
        let arguments = A::decode(arguments)?;
        let mut items = lock(&items);
        let len = items.len();
        let output = match items.get_mut(index) {
            Some(item) => Ok(function.call(item, arguments)),
            None => Err(Fault::OutOfRange(index, len)),
        };
        result.put(&output).map(drop)
    }
}

/// Makes a vector in the server.
pub(crate) fn create<T: Element>(
    link: &Arc<Link>,
    items: impl IntoIterator<Item = T>,
) -> Result<Handle> {
    let items: Vec<T> = items.into_iter().collect();
    link.make(|to| to.put(&items).map(drop), |from| Ok(Arc::new(Mutex::new(from.get::<Vec<T>>()?))))
}

/// The item of a vector in the server.
pub(crate) fn get<T: Element>(handle: &Handle, index: usize) -> Result<Option<T>> {
    handle.value(
        |to| to.put(&index).map(drop),
        |items: &mut Vec<T>, from, to| to.put(&items.get(from.get::<usize>()?)).map(drop),
    )
}

/// Sets the item of a vector in the server.
pub(crate) fn set<T: Element>(handle: &Handle, index: usize, item: &T) -> Result<()> {
    let set: Result<(), Fault> = handle.value(
        |to| to.put(&index)?.put(item).map(drop),
        |items: &mut Vec<T>, from, to| {
            let (index, item) = (from.get()?, from.get()?);
            let len = items.len();
            let set = match items.get_mut(index) {
                Some(place) => {
                    *place = item;
                    Ok(())
                }
                None => Err(Fault::OutOfRange(index, len)),
            };
            to.put(&set).map(drop)
        },
    )?;
    Ok(set?)
}

/// Calls the user's function with the item of a vector in the server.
pub(crate) fn update<T, F, A, R>(handle: &Handle, index: usize, function: F, args: &A) -> Result<R>
where
    T: Element,
    F: Method<T, A, Output = R> + Copy + 'static,
    A: Args,
    R: Serialize + DeserializeOwned,
{
    let result = handle.call_by::<F, OnItem<T, A>, Result<R, Fault>>(
        |to| {
            to.put(&index)?;
            args.encode(to)
        },
        function,
        |from| from.get(),
    );
    result?.map_err(Error::from)
}

/// A copy of a vector in the server.
pub(crate) fn to_vec<T: Element>(handle: &Handle) -> Result<Vec<T>> {
    handle.value(nothing, |items: &mut Vec<T>, _, to| to.put(items).map(drop))
}

/// The length of a vector in the server.
pub(crate) fn len<T: Element>(handle: &Handle) -> Result<usize> {
    handle.value(nothing, |items: &mut Vec<T>, _, to| to.put(&items.len()).map(drop))
}

impl<T: Element> List<T> {
    pub(crate) fn create(link: &Arc<Link>, items: impl IntoIterator<Item = T>) -> Result<Self> {
        create(link, items).map(Self::from_handle)
    }

    fn try_value<R: DeserializeOwned, F>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        F: Fn(&mut Vec<T>, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        let result: Result<R, Fault> = self.handle.value(encode, function)?;
        Ok(result?)
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "append")]
    pub fn push(&self, item: T) -> Result<()> {
        self.handle.value(
            |to| to.put(&item).map(drop),
            |items: &mut Vec<T>, from, to| {
                items.push(from.get()?);
                to.put(&()).map(drop)
            },
        )
    }

    /// Takes the last item out.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn pop(&self) -> Result<Option<T>> {
        self.handle.value(nothing, |items: &mut Vec<T>, _, to| to.put(&items.pop()).map(drop))
    }

    /// Puts an item before the one at `index`, or at the end.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    pub fn insert(&self, index: usize, item: T) -> Result<()> {
        self.try_value(
            |to| to.put(&index)?.put(&item).map(drop),
            |items, from, to| {
                let (index, item) = (from.get()?, from.get()?);
                let len = items.len();
                let fits = if index <= len { Ok(()) } else { Err(Fault::OutOfRange(index, len)) };
                if fits.is_ok() {
                    items.insert(index, item);
                }
                to.put(&fits).map(drop)
            },
        )
    }

    /// The item at `index`, if there is one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        get(&self.handle, index)
    }

    /// Replaces the item at `index`.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        set(&self.handle, index, &item)
    }

    /// Takes out the item at `index`; those behind it move up.
    ///
    /// Python: `pop(index)`, `del l[index]`. Its `remove` is [`remove_item`](Self::remove_item).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias = "__delitem__")]
    pub fn remove(&self, index: usize) -> Result<T> {
        self.try_value(
            |to| to.put(&index).map(drop),
            |items, from, to| {
                let (index, len) = (from.get()?, items.len());
                let item = (index < len).then(|| items.remove(index));
                to.put(&item.ok_or(Fault::OutOfRange(index, len))).map(drop)
            },
        )
    }

    /// Adds items at the end, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let items: Vec<T> = items.into_iter().collect();
        self.handle.value(
            |to| to.put(&items).map(drop),
            |items: &mut Vec<T>, from, to| {
                from.append_to(items)?;
                to.put(&()).map(drop)
            },
        )
    }

    /// How many items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        len::<T>(&self.handle)
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
    #[doc(alias = "copy")]
    pub fn to_vec(&self) -> Result<Vec<T>> {
        to_vec(&self.handle)
    }

    /// Goes through the items of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>> {
        self.to_vec().map(Vec::into_iter)
    }

    /// Turns the order around.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn reverse(&self) -> Result<()> {
        self.handle.value(nothing, |items: &mut Vec<T>, _, to| {
            items.reverse();
            to.put(&()).map(drop)
        })
    }

    /// Takes all items out.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.handle.value(nothing, |items: &mut Vec<T>, _, to| {
            *items = Vec::new();
            to.put(&()).map(drop)
        })
    }

    /// Calls `function` with the item at `index` and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// Nobody else has the list meanwhile.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange), [`Panicked`](Error::Panicked); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, index: usize, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        update::<T, F, A, R>(&self.handle, index, function, &args)
    }

    /// Calls `function` with the whole vector and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// # Errors
    ///
    /// [`Panicked`](Error::Panicked); [every call's](crate#errors).
    pub fn call<F, A, R>(&self, function: F, args: A) -> Result<R>
    where
        F: Method<Vec<T>, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        shared::call::<Vec<T>, F, A, R>(&self.handle, function, &args)
    }
}

impl<T: Element + PartialEq> List<T> {
    /// Where the first such item is.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn index(&self, item: &T) -> Result<Option<usize>> {
        self.handle.value(
            |to| to.put(item).map(drop),
            |items: &mut Vec<T>, from, to| {
                let item: T = from.get()?;
                to.put(&items.iter().position(|other| *other == item)).map(drop)
            },
        )
    }

    /// Whether there is such an item.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains(&self, item: &T) -> Result<bool> {
        self.index(item).map(|index| index.is_some())
    }

    /// How many such items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn count(&self, item: &T) -> Result<usize> {
        self.handle.value(
            |to| to.put(item).map(drop),
            |items: &mut Vec<T>, from, to| {
                let item: T = from.get()?;
                to.put(&items.iter().filter(|other| **other == item).count()).map(drop)
            },
        )
    }

    /// Takes out the first such item; says whether there was one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn remove_item(&self, item: &T) -> Result<bool> {
        self.handle.value(
            |to| to.put(item).map(drop),
            |items: &mut Vec<T>, from, to| {
                let item: T = from.get()?;
                let place = items.iter().position(|other| *other == item);
                if let Some(place) = place {
                    items.remove(place);
                }
                to.put(&place.is_some()).map(drop)
            },
        )
    }
}

impl<T: Element + Ord> List<T> {
    /// Sorts it. Equal items stay in their order.
    ///
    /// For items that have no order of their own, as floats: [`call`](Self::call) a sort of your own.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn sort(&self) -> Result<()> {
        self.handle.value(nothing, |items: &mut Vec<T>, _, to| {
            items.sort();
            to.put(&()).map(drop)
        })
    }
}

impl<T: Element + Repr> Repr for List<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_vec() {
            Ok(items) => items.repr(f),
            Err(error) => write!(f, "<List: {error}>"),
        }
    }
}

impl<T: Element + Repr> fmt::Display for List<T> {
    /// The items of this moment, as Python prints a list; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
