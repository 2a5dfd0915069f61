//! Sets.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use mp_core::{Decoder, Encoder};
use serde::de::DeserializeOwned;

use crate::call::{Made, OnValue};
use crate::dict::Key;
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::object::{Repr, repr_set};
use crate::operation::{Kind, Operation, operations};
use crate::ordered::Ordered;
use crate::wire::{Got, Put};
use crate::{Result, wire};

type Items<T> = Ordered<T, ()>;
type Reply = mp_core::Result<()>;

operations! {
    [T: Key]
    OnValue<Items<T>>: insert remove pop contains extend len to_vec clear;
}

pub(crate) fn make<T: Key>(from: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let mut set = Items::<T>::default();
    for item in wire::get_all(from)? {
        set.insert(item, ());
    }
    Ok(Made::new(Arc::new(Mutex::new(set)), operation::<T>, Set::<T>::kind()))
}

fn insert<T: Key>(set: &mut Items<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&set.insert(wire::get(from)?, ()).is_none()).map(drop)
}

fn remove<T: Key>(set: &mut Items<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&set.remove(&wire::get(from)?).is_some()).map(drop)
}

fn pop<T: Key>(set: &mut Items<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let item = set.pop();
    to.put(&item.as_ref().map(|(item, ())| Put(item))).map(drop)
}

fn contains<T: Key>(set: &mut Items<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&set.contains(&wire::get(from)?)).map(drop)
}

fn extend<T: Key>(set: &mut Items<T>, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    for item in wire::get_all(from)? {
        set.insert(item, ());
    }
    to.put(&()).map(drop)
}

fn len<T: Key>(set: &mut Items<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&set.len()).map(drop)
}

fn to_vec<T: Key>(set: &mut Items<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&set.iter().map(|(item, ())| Put(item)).collect::<Vec<_>>()).map(drop)
}

fn clear<T: Key>(set: &mut Items<T>, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    *set = Items::default();
    to.put(&()).map(drop)
}

/// A proxy of a set in a manager's server.
///
/// Keeps the order in which items were added. It prints as Python prints a set.
///
/// Python: `multiprocessing.Manager().set()`, from 3.14 on.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let seen = manager.set(["a".to_string()])?; // clone it, and send it to other processes
///     assert!(seen.insert("b".to_string())?);
///     assert!(!seen.insert("a".to_string())?);
///     assert_eq!(seen.to_string(), "{'a', 'b'}");
///     Ok(())
/// }
/// ```
#[doc(alias = "SetProxy")]
pub struct Set<T> {
    handle: Handle,
    of: PhantomData<fn(T) -> T>,
}

proxy!(Set<T>);

impl<T: Key> Set<T> {
    pub(crate) fn create(link: &Arc<Link>, items: impl IntoIterator<Item = T>) -> Result<Self> {
        let items: Vec<T> = items.into_iter().collect();
        let maker = Operation { number: Maker::Set as u32, function: make::<T>, kind: Self::kind };
        link.make(maker, |to| wire::put_all(to, &items)).map(Self::from_handle)
    }

    fn kind() -> Kind {
        Kind::of::<T>("Set")
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&mut Items<T>, &mut Decoder<'_>, &mut Encoder) -> Reply + Copy + 'static,
    {
        let operation = Operation { number: op as u32, function, kind: Self::kind };
        self.handle.value(operation, encode)
    }

    /// Adds an item; says whether it is new.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "add")]
    pub fn insert(&self, item: T) -> Result<bool> {
        self.call(Op::insert, insert, |to| wire::put(to, &item).map(drop))
    }

    /// Takes an item out; says whether it was there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "discard")]
    pub fn remove(&self, item: &T) -> Result<bool> {
        self.call(Op::remove, remove, |to| wire::put(to, item).map(drop))
    }

    /// Takes out the item that was added last.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn pop(&self) -> Result<Option<T>> {
        let item: Option<Got<T>> = self.call(Op::pop, pop, nothing)?;
        Ok(item.map(|item| item.0))
    }

    /// Whether the item is there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains(&self, item: &T) -> Result<bool> {
        self.call(Op::contains, contains, |to| wire::put(to, item).map(drop))
    }

    /// Adds items, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "update")]
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let items: Vec<T> = items.into_iter().collect();
        self.call(Op::extend, extend, |to| wire::put_all(to, &items))
    }

    /// How many items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        self.call(Op::len, len, nothing)
    }

    /// Whether there is none.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// All items, in the order they were added: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let items: Vec<Got<T>> = self.call(Op::to_vec, to_vec, nothing)?;
        Ok(items.into_iter().map(|item| item.0).collect())
    }

    /// All items, as a set in this process.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "copy")]
    pub fn to_set(&self) -> Result<HashSet<T>> {
        self.to_vec().map(|items| items.into_iter().collect())
    }

    /// Goes through the items of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>> {
        self.to_vec().map(Vec::into_iter)
    }

    /// Takes all items out.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.call(Op::clear, clear, nothing)
    }
}

impl<T: Key + Repr> Repr for Set<T> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_vec() {
            Ok(items) => repr_set(f, &items),
            Err(error) => write!(f, "<Set: {error}>"),
        }
    }
}

impl<T: Key + Repr> fmt::Display for Set<T> {
    /// The items of this moment, as Python prints a set; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
