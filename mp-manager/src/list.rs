//! Lists.
#![expect(clippy::ptr_arg, reason = "what runs in the server is called with what it has, a vector")]

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use mp_core::{Decoder, Encoder};
use mp_process::{Args, Convention};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Made, Method, OnValue, current, lock_current};
use crate::dict::Element;
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::object::Repr;
use crate::operation::{Kind, Operation, operations};
use crate::wire::{self, Got, Put};
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
        let mut items = lock_current(&items)?.unwrap_or_else(PoisonError::into_inner);
        let len = items.len();
        let output = match items.get_mut(index) {
            Some(item) => Ok(function.call(item, arguments)),
            None => Err(Fault::OutOfRange(index, len)),
        };
        result.put(&output).map(drop)
    }
}

// What runs in the server, for lists and arrays.

type Reply = mp_core::Result<()>;

operations! {
    [T: Element]
    OnValue<Vec<T>>:
        get set to_vec len push pop insert remove extend reverse clear
        index_by_encoding count_by_encoding remove_by_encoding reorder;
}

pub(crate) fn make<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let items: Vec<T> = wire::get_all(from)?;
    Ok(Made::new(Arc::new(Mutex::new(items)), operation::<T>, List::<T>::kind()))
}

pub(crate) fn make_array<T: Element>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let name = Kind::of::<T>("Array").to_string();
    Ok(Made { name, ..make::<T>(from)? })
}

fn get<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    wire::put_option(to, items.get(from.get::<usize>()?))
}

fn set<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let (index, item) = (from.get()?, wire::get(from)?);
    let len = items.len();
    let set = match items.get_mut(index) {
        Some(place) => {
            *place = item;
            Ok(())
        }
        None => Err(Fault::OutOfRange(index, len)),
    };
    to.put(&set).map(drop)
}

fn to_vec<T: Element>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    wire::put_all(to, items)
}

fn len<T: Element>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&items.len()).map(drop)
}

fn push<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    items.push(wire::get(from)?);
    to.put(&()).map(drop)
}

fn pop<T: Element>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let item = items.pop();
    to.put(&item.as_ref().map(Put)).map(drop)
}

fn insert<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let (index, item) = (from.get()?, wire::get(from)?);
    let len = items.len();
    let fits = if index <= len { Ok(()) } else { Err(Fault::OutOfRange(index, len)) };
    if fits.is_ok() {
        items.insert(index, item);
    }
    to.put(&fits).map(drop)
}

fn remove<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let (index, len) = (from.get()?, items.len());
    let item = (index < len).then(|| items.remove(index));
    to.put(&item.as_ref().map(Put).ok_or(Fault::OutOfRange(index, len))).map(drop)
}

fn extend<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    wire::append_all(from, items)?;
    to.put(&()).map(drop)
}

fn reverse<T: Element>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    items.reverse();
    to.put(&()).map(drop)
}

fn clear<T: Element>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    *items = Vec::new();
    to.put(&()).map(drop)
}

/// What is equal, for a type that is `PartialEq`.
fn equal<T: Element + PartialEq>(
    items: &[T],
    from: &mut Decoder<'_>,
) -> mp_core::Result<impl Iterator<Item = usize>> {
    let item: T = wire::get(from)?;
    let places = items.iter().enumerate().filter(move |(_, other)| **other == item);
    Ok(places.map(|(place, _)| place))
}

/// What is equal, for any: what has the same encoding.
fn alike<T: Element>(
    items: &[T],
    from: &mut Decoder<'_>,
) -> mp_core::Result<impl Iterator<Item = usize>> {
    let item: T = wire::get(from)?;
    let item = wire::encoding(&item)?.into_owned();
    let is_alike = move |other: &T| wire::encoding(other).is_ok_and(|other| *other == *item);
    let places = items.iter().enumerate().filter(move |(_, other)| is_alike(other));
    Ok(places.map(|(place, _)| place))
}

fn index<T: Element + PartialEq>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&equal(items, from)?.next()).map(drop)
}

fn index_by_encoding<T: Element>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&alike(items, from)?.next()).map(drop)
}

fn count<T: Element + PartialEq>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&equal(items, from)?.count()).map(drop)
}

fn count_by_encoding<T: Element>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&alike(items, from)?.count()).map(drop)
}

fn remove_item<T: Element + PartialEq>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let place = equal(items, from)?.next();
    to.put(&place.map(|place| items.remove(place)).is_some()).map(drop)
}

fn remove_by_encoding<T: Element>(
    items: &mut Vec<T>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let place = alike(items, from)?.next();
    to.put(&place.map(|place| items.remove(place)).is_some()).map(drop)
}

fn sort<T: Element + Ord>(items: &mut Vec<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    items.sort();
    to.put(&()).map(drop)
}

/// A number for what is in a list.
fn contents<T: Element>(items: &[T]) -> mp_core::Result<u64> {
    // Of one version of the library on both sides.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for item in items {
        let item = wire::encoding(item)?;
        for &byte in item.len().to_le_bytes().iter().chain(&*item) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}

/// Puts the items into another order, if they are those that the caller knows; says whether they are.
fn reorder<T: Element>(items: &mut Vec<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let (known, order): (u64, Vec<usize>) = (from.get()?, from.get()?);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..items.len()) || contents(items)? != known {
        return to.put(&false).map(drop);
    }
    let mut old: Vec<Option<T>> = items.drain(..).map(Some).collect();
    items.extend(order.into_iter().filter_map(|place| old[place].take()));
    to.put(&true).map(drop)
}

/// How the functions above are called, with what the proxy is of.
#[derive(Clone, Copy)]
pub(crate) struct Items<'a> {
    pub(crate) handle: &'a Handle,
    pub(crate) kind: fn() -> Kind,
}

impl Items<'_> {
    fn call<T: Element, R: DeserializeOwned, F>(
        self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&mut Vec<T>, &mut Decoder<'_>, &mut Encoder) -> Reply + Copy + 'static,
    {
        let operation = Operation { number: op as u32, function, kind: self.kind };
        self.handle.value(operation, encode)
    }

    pub(crate) fn get<T: Element>(self, index: usize) -> Result<Option<T>> {
        let operation = Operation { number: Op::get as u32, function: get::<T>, kind: self.kind };
        self.handle.value_as(operation, |to| to.put(&index).map(drop), wire::get_option)
    }

    pub(crate) fn set<T: Element>(self, index: usize, item: &T) -> Result<()> {
        let encode = |to: &mut Encoder| wire::put(to.put(&index)?, item).map(drop);
        let set: Result<(), Fault> = self.call(Op::set, set::<T>, encode)?;
        Ok(set?)
    }

    pub(crate) fn to_vec<T: Element>(self) -> Result<Vec<T>> {
        let number = Op::to_vec as u32;
        let operation = Operation { number, function: to_vec::<T>, kind: self.kind };
        self.handle.value_as(operation, nothing, wire::get_all)
    }

    pub(crate) fn len<T: Element>(self) -> Result<usize> {
        self.call(Op::len, len::<T>, nothing)
    }
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

impl<T: Element> List<T> {
    pub(crate) fn create(link: &Arc<Link>, items: impl IntoIterator<Item = T>) -> Result<Self> {
        let items: Vec<T> = items.into_iter().collect();
        let maker = Operation { number: Maker::List as u32, function: make::<T>, kind: Self::kind };
        link.make(maker, |to| wire::put_all(to, &items)).map(Self::from_handle)
    }

    fn kind() -> Kind {
        Kind::of::<T>("List")
    }

    fn items(&self) -> Items<'_> {
        Items { handle: &self.handle, kind: Self::kind }
    }

    fn call_op<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&mut Vec<T>, &mut Decoder<'_>, &mut Encoder) -> Reply + Copy + 'static,
    {
        self.items().call(op, function, encode)
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "append")]
    pub fn push(&self, item: T) -> Result<()> {
        self.call_op(Op::push, push, |to| wire::put(to, &item).map(drop))
    }

    /// Takes the last item out.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn pop(&self) -> Result<Option<T>> {
        let item: Option<Got<T>> = self.call_op(Op::pop, pop, nothing)?;
        Ok(item.map(|item| item.0))
    }

    /// Puts an item before the one at `index`, or at the end.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    pub fn insert(&self, index: usize, item: T) -> Result<()> {
        let encode = |to: &mut Encoder| wire::put(to.put(&index)?, &item).map(drop);
        let inserted: Result<(), Fault> = self.call_op(Op::insert, insert, encode)?;
        Ok(inserted?)
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
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        self.items().set(index, &item)
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
        let item: Result<Got<T>, Fault> =
            self.call_op(Op::remove, remove, |to| to.put(&index).map(drop))?;
        Ok(item?.0)
    }

    /// Adds items at the end, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let items: Vec<T> = items.into_iter().collect();
        self.call_op(Op::extend, extend, |to| wire::put_all(to, &items))
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
    #[doc(alias = "copy")]
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

    /// Turns the order around.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn reverse(&self) -> Result<()> {
        self.call_op(Op::reverse, reverse, nothing)
    }

    /// Takes all items out.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.call_op(Op::clear, clear, nothing)
    }

    /// Calls `function` with the item at `index` and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// Nobody else has the list meanwhile. `function` cannot call it by a proxy: [calls within
    /// calls](crate#calls-within-calls).
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
    /// `function` cannot call the list by a proxy: [calls within calls](crate#calls-within-calls).
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

/// So often a list of another program is sorted anew because it has changed meanwhile.
const SORTS: usize = 100;

/// Between different programs, items are equal here whose encodings are.
impl<T: Element + PartialEq> List<T> {
    /// Where the first such item is.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn index(&self, item: &T) -> Result<Option<usize>> {
        self.call_op(Op::index_by_encoding, index, |to| wire::put(to, item).map(drop))
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
        self.call_op(Op::count_by_encoding, count, |to| wire::put(to, item).map(drop))
    }

    /// Takes out the first such item; says whether there was one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn remove_item(&self, item: &T) -> Result<bool> {
        self.call_op(Op::remove_by_encoding, remove_item, |to| wire::put(to, item).map(drop))
    }
}

impl<T: Element + Ord> List<T> {
    /// Sorts it. Equal items stay in their order.
    ///
    /// For items that have no order of their own, as floats: [`call`](Self::call) a sort of your own. From another
    /// program than the server's, the items are sorted here, and again where the list changes meanwhile.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](Error::WouldBlock) where another program's list changed again and again;
    /// [every call's](crate#errors).
    pub fn sort(&self) -> Result<()> {
        if self.handle.is_direct() {
            return self.call_op(Op::reorder, sort, nothing);
        }
        for _ in 0..SORTS {
            let items = self.to_vec()?;
            let mut order: Vec<usize> = (0..items.len()).collect();
            order.sort_by(|&one, &other| items[one].cmp(&items[other]));
            let known = contents(&items)?;
            let encode = |to: &mut Encoder| to.put(&known)?.put(&order).map(drop);
            if self.call_op(Op::reorder, reorder, encode)? {
                return Ok(());
            }
        }
        Err(Error::WouldBlock)
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
