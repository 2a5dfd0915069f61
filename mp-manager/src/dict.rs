//! Dicts.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use mp_core::{Decoder, Encoder};
use mp_process::{Args, Convention};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Method, WRONG_TYPE};
use crate::error::Fault;
use crate::link::{Handle, Link, nothing, proxy};
use crate::object::{Repr, repr_rows};
use crate::ordered::Ordered;
use crate::{Error, Result};

/// A proxy of a dict in a manager's server.
///
/// Keeps the order in which keys were inserted. Each call is one round trip; for many rows at once there are
/// [`extend`](Self::extend), [`get_many`](Self::get_many), and for what depends on the value that is there
/// [`update`](Self::update), which runs in the server, undisturbed.
///
/// Values are copies: what changes in one that was got changes nothing in the server. A value may be a proxy, as of a
/// [`List`](crate::List), and then all have the same.
///
/// It prints as Python prints a dict.
///
/// Python: `multiprocessing.Manager().dict()`. `d[k]` is `get`, `d[k] = v` is `insert`, `del d[k]` is `remove`,
/// `k in d` is `contains_key`.
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
///     let counts = manager.dict::<String, u32>()?;
///     let task = |counts: mp_manager::Dict<String, u32>, text: String| {
///         for word in text.split_whitespace() {
///             counts.update_or_insert(word.to_string(), 0, |n: &mut u32, by: u32| *n += by, (1,)).unwrap();
///         }
///     };
///     let child = Process::new(task, (counts.clone(), "to be or not to be".to_string())).start()?;
///     child.result()?;
///     assert_eq!(counts.get(&"be".to_string())?, Some(2));
///     assert_eq!(counts.to_string(), "{'to': 2, 'be': 2, 'or': 1, 'not': 1}");
///     Ok(())
/// }
/// ```
#[doc(alias = "DictProxy")]
pub struct Dict<K, V> {
    handle: Handle,
    of: PhantomData<fn(K, V) -> K>,
}

proxy!(Dict<K, V>);

/// What a key must be to travel and be found.
///
/// Implemented for all that is.
pub trait Key: Serialize + DeserializeOwned + Eq + Hash + Send + Sync + 'static {}

impl<K: Serialize + DeserializeOwned + Eq + Hash + Send + Sync + 'static> Key for K {}

/// What a value must be to travel and be kept in the server.
///
/// Implemented for all that is.
pub trait Element: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Element for T {}

/// The user's function, on a value of a dict, which another one makes if it is missing.
struct Update<K, V, A, const INSERT: bool>(PhantomData<(K, V, A)>);

impl<F, K, V, A, const INSERT: bool> Convention<F> for Update<K, V, A, INSERT>
where
    F: Method<V, A>,
    F::Output: Serialize,
    K: Key,
    V: Element,
    A: Args,
{
    fn call(function: F, arguments: &mut Decoder<'_>, result: &mut Encoder) -> mp_core::Result<()> {
        let dict = crate::call::current::<Mutex<Ordered<K, V>>>().map_err(|_| WRONG_TYPE)?;
        let key: K = arguments.get()?;
        let default = if INSERT { Some(arguments.get::<V>()?) } else { None };
        let arguments = A::decode(arguments)?;
        let mut dict = dict.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = dict.get_mut(&key) {
            let output = function.call(value, arguments);
            return result.put(&Ok::<_, Fault>(output)).map(drop);
        }
        let Some(mut value) = default else {
            return result.put(&Err::<F::Output, _>(Fault::KeyMissing)).map(drop);
        };
        // In the dict only if this does not panic.
        let output = function.call(&mut value, arguments);
        dict.insert(key, value);
        result.put(&Ok::<_, Fault>(output)).map(drop)
    }
}

/// How many rows go into one message of [`Dict::extend`]: such that each may hold a proxy or two.
const BATCH: usize = 1000;

impl<K: Key, V: Element> Dict<K, V> {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        link.make(nothing, |_| Ok(Arc::new(Mutex::new(Ordered::<K, V>::default()))))
            .map(Self::from_handle)
    }

    /// The way to its server.
    pub(crate) fn link(&self) -> &Arc<Link> {
        self.handle.link()
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        F: Fn(&mut Ordered<K, V>, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        self.handle.value(encode, function)
    }

    /// Sets the value of a key; gives the one that was there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        self.call(
            |to| to.put(&key)?.put(&value).map(drop),
            |dict, from, to| {
                let (key, value) = (from.get()?, from.get()?);
                to.put(&dict.insert(key, value)).map(drop)
            },
        )
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.call(
            |to| to.put(key).map(drop),
            |dict, from, to| to.put(&dict.get(&from.get()?)).map(drop),
        )
    }

    /// The values of several keys, in their order, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        let keys: Vec<&K> = keys.into_iter().collect();
        self.call(
            |to| to.put(&keys).map(drop),
            |dict, from, to| {
                let keys: Vec<K> = from.get()?;
                let values: Vec<Option<&V>> = keys.iter().map(|key| dict.get(key)).collect();
                to.put(&values).map(drop)
            },
        )
    }

    /// Removes a key; gives its value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias("pop", "__delitem__"))]
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        self.call(
            |to| to.put(key).map(drop),
            |dict, from, to| to.put(&dict.remove(&from.get()?)).map(drop),
        )
    }

    /// Removes the row that was inserted last.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "popitem")]
    pub fn pop_item(&self) -> Result<Option<(K, V)>> {
        self.call(nothing, |dict, _, to| to.put(&dict.pop()).map(drop))
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.call(
            |to| to.put(key).map(drop),
            |dict, from, to| to.put(&dict.contains(&from.get()?)).map(drop),
        )
    }

    /// How many rows there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        self.call(nothing, |dict, _, to| to.put(&dict.len()).map(drop))
    }

    /// Whether there is none.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// All keys, in their order.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn keys(&self) -> Result<Vec<K>> {
        self.call(nothing, |dict, _, to| {
            let keys: Vec<&K> = dict.iter().map(|(key, _)| key).collect();
            to.put(&keys).map(drop)
        })
    }

    /// All values, in the order of the keys.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn values(&self) -> Result<Vec<V>> {
        self.call(nothing, |dict, _, to| {
            let values: Vec<&V> = dict.iter().map(|(_, value)| value).collect();
            to.put(&values).map(drop)
        })
    }

    /// All rows, in their order: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "copy")]
    pub fn items(&self) -> Result<Vec<(K, V)>> {
        self.call(nothing, |dict, _, to| {
            let rows: Vec<(&K, &V)> = dict.iter().collect();
            to.put(&rows).map(drop)
        })
    }

    /// Goes through the rows of this moment, in their order.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn iter(&self) -> Result<std::vec::IntoIter<(K, V)>> {
        self.items().map(Vec::into_iter)
    }

    /// All rows, as a map in this process.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn to_map(&self) -> Result<HashMap<K, V>> {
        self.items().map(|rows| rows.into_iter().collect())
    }

    /// The value of a key, which is inserted with `value` where it is missing.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "setdefault")]
    pub fn get_or_insert(&self, key: K, value: V) -> Result<V> {
        self.call(
            |to| to.put(&key)?.put(&value).map(drop),
            |dict, from, to| {
                let (key, value): (K, V) = (from.get()?, from.get()?);
                if let Some(value) = dict.get(&key) {
                    return to.put(value).map(drop);
                }
                to.put(&value)?;
                dict.insert(key, value);
                Ok(())
            },
        )
    }

    /// Calls `function` with the value of a key and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// Nobody else has the dict meanwhile: so `update(&k, |n: &mut u64| *n += 1, ())` counts right whoever counts
    /// with it.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing), [`Panicked`](Error::Panicked); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, key: &K, function: F, args: A) -> Result<R>
    where
        F: Method<V, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        let result = self.handle.call_by::<F, Update<K, V, A, false>, Result<R, Fault>>(
            |to| {
                to.put(key)?;
                args.encode(to)
            },
            function,
            |from| from.get(),
        );
        result?.map_err(Error::from)
    }

    /// As [`update`](Self::update); a key that is missing is inserted with what `function` makes of `value`.
    ///
    /// # Errors
    ///
    /// [`Panicked`](Error::Panicked); [every call's](crate#errors).
    pub fn update_or_insert<F, A, R>(&self, key: K, value: V, function: F, args: A) -> Result<R>
    where
        F: Method<V, A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        let result = self.handle.call_by::<F, Update<K, V, A, true>, Result<R, Fault>>(
            |to| {
                to.put(&key)?.put(&value)?;
                args.encode(to)
            },
            function,
            |from| from.get(),
        );
        result?.map_err(Error::from)
    }

    /// Sets the values of many keys, a thousand in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors). Rows before those that failed are in the dict.
    #[doc(alias = "update")]
    pub fn extend(&self, rows: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let mut rows = rows.into_iter();
        loop {
            let batch: Vec<(K, V)> = rows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.call::<(), _>(
                |to| to.put(&batch).map(drop),
                |dict, from, to| {
                    for (key, value) in from.get::<Vec<(K, V)>>()? {
                        dict.insert(key, value);
                    }
                    to.put(&()).map(drop)
                },
            )?;
        }
    }

    /// Removes all rows.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.call(nothing, |dict, _, to| {
            *dict = Ordered::default();
            to.put(&()).map(drop)
        })
    }
}

impl<K: Key + Repr, V: Element + Repr> Repr for Dict<K, V> {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.items() {
            Ok(rows) => repr_rows(f, rows.iter().map(|(key, value)| (key, value))),
            Err(error) => write!(f, "<Dict: {error}>"),
        }
    }
}

impl<K: Key + Repr, V: Element + Repr> fmt::Display for Dict<K, V> {
    /// The rows of this moment, as Python prints a dict; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
