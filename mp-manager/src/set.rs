//! Sets.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use crate::Result;
use crate::dict::Key;
use crate::link::{Handle, Link, nothing, proxy};
use crate::object::{Repr, repr_set};
use crate::ordered::Ordered;

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
        let make = link.make(
            |to| to.put(&items).map(drop),
            |from| {
                let mut set = Ordered::default();
                for item in from.get::<Vec<T>>()? {
                    set.insert(item, ());
                }
                Ok(Arc::new(Mutex::new(set)))
            },
        );
        make.map(Self::from_handle)
    }

    /// Adds an item; says whether it is new.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "add")]
    pub fn insert(&self, item: T) -> Result<bool> {
        self.handle.value(
            |to| to.put(&item).map(drop),
            |set: &mut Ordered<T, ()>, from, to| {
                to.put(&set.insert(from.get()?, ()).is_none()).map(drop)
            },
        )
    }

    /// Takes an item out; says whether it was there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "discard")]
    pub fn remove(&self, item: &T) -> Result<bool> {
        self.handle.value(
            |to| to.put(item).map(drop),
            |set: &mut Ordered<T, ()>, from, to| {
                to.put(&set.remove(&from.get()?).is_some()).map(drop)
            },
        )
    }

    /// Takes out the item that was added last.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn pop(&self) -> Result<Option<T>> {
        self.handle.value(nothing, |set: &mut Ordered<T, ()>, _, to| {
            to.put(&set.pop().map(|(item, ())| item)).map(drop)
        })
    }

    /// Whether the item is there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains(&self, item: &T) -> Result<bool> {
        self.handle.value(
            |to| to.put(item).map(drop),
            |set: &mut Ordered<T, ()>, from, to| to.put(&set.contains(&from.get()?)).map(drop),
        )
    }

    /// Adds items, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "update")]
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let items: Vec<T> = items.into_iter().collect();
        self.handle.value(
            |to| to.put(&items).map(drop),
            |set: &mut Ordered<T, ()>, from, to| {
                for item in from.get::<Vec<T>>()? {
                    set.insert(item, ());
                }
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
        self.handle.value(nothing, |set: &mut Ordered<T, ()>, _, to| to.put(&set.len()).map(drop))
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
        self.handle.value(nothing, |set: &mut Ordered<T, ()>, _, to| {
            let items: Vec<&T> = set.iter().map(|(item, ())| item).collect();
            to.put(&items).map(drop)
        })
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
        self.handle.value(nothing, |set: &mut Ordered<T, ()>, _, to| {
            *set = Ordered::default();
            to.put(&()).map(drop)
        })
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
