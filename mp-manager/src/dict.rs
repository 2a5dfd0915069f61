//! Dicts.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use mp_core::{Decoder, Encoder, crash_point};
use mp_process::{Args, Convention};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Made, Method, OnValue, current, lock_current};
use crate::error::Fault;
use crate::link::{Handle, Key as ServerKey, Link, nothing, proxy};
use crate::makers::Maker;
use crate::object::{Repr, repr_rows};
use crate::operation::{Kind, Operation, operations};
use crate::ordered::Ordered;
use crate::wire::{self, Got, Put};
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
        let dict = current::<Mutex<Ordered<K, V>>>()?;
        let key: K = arguments.get()?;
        let default = if INSERT { Some(arguments.get::<V>()?) } else { None };
        let arguments = A::decode(arguments)?;
        let mut dict = lock_current(&dict)?.unwrap_or_else(PoisonError::into_inner);
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

// What runs in the server.

type Reply = mp_core::Result<()>;

operations! {
    [K: Key, V: Element]
    OnValue<Ordered<K, V>>:
        insert get get_many remove pop contains len keys values items get_or_insert extend clear;
}

pub(crate) fn make<K: Key, V: Element>(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    let dict = Mutex::new(Ordered::<K, V>::default());
    Ok(Made::new(Arc::new(dict), operation::<K, V>, Dict::<K, V>::kind()))
}

fn insert<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (key, value) = (wire::get(from)?, wire::get(from)?);
    crash_point!("server: a value is about to be set");
    let old = dict.insert(key, value);
    crash_point!("server: a value is set");
    wire::put_option(to, old.as_ref())
}

fn get<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    wire::put_option(to, dict.get(&wire::get(from)?))
}

fn get_many<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let keys: Vec<K> = wire::get_all(from)?;
    let values: Vec<_> = keys.iter().map(|key| dict.get(key).map(Put)).collect();
    to.put(&values).map(drop)
}

fn remove<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    wire::put_option(to, dict.remove(&wire::get(from)?).as_ref())
}

fn pop<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let row = dict.pop();
    to.put(&row.as_ref().map(|(key, value)| (Put(key), Put(value)))).map(drop)
}

fn contains<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&dict.contains(&wire::get(from)?)).map(drop)
}

fn len<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&dict.len()).map(drop)
}

fn keys<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&dict.iter().map(|(key, _)| Put(key)).collect::<Vec<_>>()).map(drop)
}

fn values<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&dict.iter().map(|(_, value)| Put(value)).collect::<Vec<_>>()).map(drop)
}

fn items<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    to.put(&dict.iter().map(|(key, value)| (Put(key), Put(value))).collect::<Vec<_>>()).map(drop)
}

fn get_or_insert<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    let (key, value): (K, V) = (wire::get(from)?, wire::get(from)?);
    if let Some(value) = dict.get(&key) {
        return wire::put(to, value).map(drop);
    }
    wire::put(to, &value)?;
    dict.insert(key, value);
    Ok(())
}

fn extend<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    from: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    for (Got(key), Got(value)) in from.get::<Vec<(Got<K>, Got<V>)>>()? {
        dict.insert(key, value);
    }
    to.put(&()).map(drop)
}

fn clear<K: Key, V: Element>(
    dict: &mut Ordered<K, V>,
    _: &mut Decoder<'_>,
    to: &mut Encoder,
) -> Reply {
    *dict = Ordered::default();
    to.put(&()).map(drop)
}

/// How many rows go into one message of [`Dict::extend`]: such that each may hold a proxy or two.
const BATCH: usize = 1000;

impl<K: Key, V: Element> Dict<K, V> {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        let maker =
            Operation { number: Maker::Dict as u32, function: make::<K, V>, kind: Self::kind };
        link.make(maker, nothing).map(Self::from_handle)
    }

    fn kind() -> Kind {
        Kind::of_both::<K, V>("Dict")
    }

    /// The key of its server, its number and its lifeline.
    pub(crate) fn parts(&self) -> Result<(ServerKey, u64, OwnedFd)> {
        self.handle.parts()
    }

    /// The way to its server.
    pub(crate) fn link(&self) -> &Arc<Link> {
        self.handle.link()
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&mut Ordered<K, V>, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let operation = Operation { number: op as u32, function, kind: Self::kind };
        self.handle.value(operation, encode)
    }

    /// As [`call`](Self::call), for a value or none.
    fn find<F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<Option<V>>
    where
        F: Fn(&mut Ordered<K, V>, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let operation = Operation { number: op as u32, function, kind: Self::kind };
        self.handle.value_as(operation, encode, wire::get_option)
    }

    /// Sets the value of a key; gives the one that was there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        let encode = |to: &mut Encoder| wire::put(wire::put(to, &key)?, &value).map(drop);
        self.find(Op::insert, insert, encode)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.find(Op::get, get, |to| wire::put(to, key).map(drop))
    }

    /// The values of several keys, in their order, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        let keys: Vec<Put<'_, K>> = keys.into_iter().map(Put).collect();
        let values: Vec<Option<Got<V>>> =
            self.call(Op::get_many, get_many, |to| to.put(&keys).map(drop))?;
        Ok(values.into_iter().map(|value| value.map(|value| value.0)).collect())
    }

    /// Removes a key; gives its value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias("pop", "__delitem__"))]
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        self.find(Op::remove, remove, |to| wire::put(to, key).map(drop))
    }

    /// Removes the row that was inserted last.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "popitem")]
    pub fn pop_item(&self) -> Result<Option<(K, V)>> {
        let row: Option<(Got<K>, Got<V>)> = self.call(Op::pop, pop, nothing)?;
        Ok(row.map(|(key, value)| (key.0, value.0)))
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.call(Op::contains, contains, |to| wire::put(to, key).map(drop))
    }

    /// How many rows there are.
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

    /// All keys, in their order.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn keys(&self) -> Result<Vec<K>> {
        let keys: Vec<Got<K>> = self.call(Op::keys, keys, nothing)?;
        Ok(keys.into_iter().map(|key| key.0).collect())
    }

    /// All values, in the order of the keys.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn values(&self) -> Result<Vec<V>> {
        let values: Vec<Got<V>> = self.call(Op::values, values, nothing)?;
        Ok(values.into_iter().map(|value| value.0).collect())
    }

    /// All rows, in their order: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "copy")]
    pub fn items(&self) -> Result<Vec<(K, V)>> {
        let rows: Vec<(Got<K>, Got<V>)> = self.call(Op::items, items, nothing)?;
        Ok(rows.into_iter().map(|(key, value)| (key.0, value.0)).collect())
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
        let operation = Operation {
            number: Op::get_or_insert as u32,
            function: get_or_insert::<K, V>,
            kind: Self::kind,
        };
        let encode = |to: &mut Encoder| wire::put(wire::put(to, &key)?, &value).map(drop);
        self.handle.value_as(operation, encode, wire::get)
    }

    /// Calls `function` with the value of a key and `args`, a tuple, in the server, and gives what it returns.
    ///
    /// Nobody else has the dict meanwhile: so `update(&k, |n: &mut u64| *n += 1, ())` counts right whoever counts
    /// with it. If it panics, the value stays as it left it, and the dict goes on. `function` cannot call the dict by a
    /// proxy: [calls within calls](crate#calls-within-calls).
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
            self.call::<(), _>(Op::extend, extend, |to| {
                let rows: Vec<_> =
                    batch.iter().map(|(key, value)| (Put(key), Put(value))).collect();
                to.put(&rows).map(drop)
            })?;
        }
    }

    /// Removes all rows.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        self.call(Op::clear, clear, nothing)
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
