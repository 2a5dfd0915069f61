//! Dicts.

use std::collections::HashMap;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use redis::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::proxy;
use crate::method::Method;
use crate::server::{Pause, Server, script};
use crate::{Error, Result};

/// So many rows go into one call.
const BATCH: usize = 1000;

/// Rows that many machines share.
///
/// Each call is one round trip and happens as a whole; for what depends on the value that is there, there is
/// [`update`](Self::update). Keys are equal where their encodings are: a key with a `HashMap` in it is not to be found
/// again. The rows have no order. Had from [`Cluster::dict`](crate::Cluster::dict).
///
/// Python: `Manager().dict()`, on one machine. `d[k]` is `get`, `d[k] = v` is `insert`, `del d[k]` is `remove`, `k in d`
/// is `contains_key`.
///
/// # Example
///
/// ```
/// use mp_cluster::Cluster;
///
/// let url = "redis://head:6379/";
/// # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
/// # let url = server.url();
/// let counts = Cluster::connect(url, "job7")?.dict::<String, u64>("words")?;
/// for word in "to be or not to be".split(' ') {
///     counts.update_or_insert(word.to_string(), 0, |n: &mut u64| *n += 1, ())?;
/// }
/// assert_eq!(counts.get(&"be".to_string())?, Some(2));
/// # Ok::<(), mp_cluster::Error>(())
/// ```
pub struct Dict<K, V> {
    server: Arc<Server>,
    key: String,
    of: PhantomData<fn(K, V) -> K>,
}

proxy!(Dict<K, V>);

impl<K, V> Dict<K, V> {
    pub(crate) fn open(server: &Arc<Server>, name: &str) -> Self {
        let key = server.key(&format!("d:{name}"));
        Self { server: Arc::clone(server), key, of: PhantomData }
    }

    /// How many rows there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        self.server.call(|connection| redis::cmd("HLEN").arg(&self.key).query(connection))
    }

    /// Whether there is none.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Removes all rows.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        let clear = script!("return redis.call('UNLINK', KEYS[2])");
        self.server.once::<u8>(clear, &[&self.key], |_| {}).map(drop)
    }
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn rows<R: redis::FromRedisValue>(&self, command: &str) -> Result<R> {
        self.server.call(|connection| redis::cmd(command).arg(&self.key).query(connection))
    }

    fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let get = |connection: &mut Connection| {
            redis::cmd("HGET").arg(&self.key).arg(key).query(connection)
        };
        self.server.call(get)
    }

    /// Sets the value of a key; gives the one that was there.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        let insert = script!(
            "local old = redis.call('HGET', KEYS[2], ARGV[3])
            redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
            return old"
        );
        let (key, value) = (self.server.encode(&key)?, self.server.encode(&value)?);
        let old: Option<Vec<u8>> = self.server.once(insert, &[&self.key], |to| {
            to.arg(&key).arg(&value);
        })?;
        old.map(|bytes| self.server.decode(bytes)).transpose()
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.bytes(&self.server.encode(key)?)?.map(|bytes| self.server.decode(bytes)).transpose()
    }

    /// The values of several keys, in their order, in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>>
    where
        K: 'a,
    {
        let keys: Vec<_> =
            keys.into_iter().map(|key| self.server.encode(key)).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<Option<Vec<u8>>> = self
            .server
            .call(|connection| redis::cmd("HMGET").arg(&self.key).arg(&keys).query(connection))?;
        values
            .into_iter()
            .map(|value| value.map(|bytes| self.server.decode(bytes)).transpose())
            .collect()
    }

    /// Removes a key; gives its value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias("pop", "__delitem__"))]
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        let remove = script!(
            "local old = redis.call('HGET', KEYS[2], ARGV[3])
            redis.call('HDEL', KEYS[2], ARGV[3])
            return old"
        );
        let key = self.server.encode(key)?;
        let old: Option<Vec<u8>> = self.server.once(remove, &[&self.key], |to| {
            to.arg(&key);
        })?;
        old.map(|bytes| self.server.decode(bytes)).transpose()
    }

    /// Removes some row.
    ///
    /// Python: `popitem`, which takes the one that was inserted last.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "popitem")]
    pub fn pop_item(&self) -> Result<Option<(K, V)>> {
        let pop = script!(
            "local key = redis.call('HRANDFIELD', KEYS[2])
            if not key then return {} end
            local value = redis.call('HGET', KEYS[2], key)
            redis.call('HDEL', KEYS[2], key)
            return {key, value}"
        );
        let row: Vec<Vec<u8>> = self.server.once(pop, &[&self.key], |_| {})?;
        match <[Vec<u8>; 2]>::try_from(row) {
            Ok([key, value]) => Ok(Some((self.server.decode(key)?, self.server.decode(value)?))),
            Err(_) => Ok(None),
        }
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        let key = self.server.encode(key)?;
        let has = |connection: &mut Connection| {
            redis::cmd("HEXISTS").arg(&self.key).arg(&key).query(connection)
        };
        self.server.call(has)
    }

    /// All keys.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn keys(&self) -> Result<Vec<K>> {
        self.rows::<Vec<Vec<u8>>>("HKEYS")?
            .into_iter()
            .map(|bytes| self.server.decode(bytes))
            .collect()
    }

    /// All values.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn values(&self) -> Result<Vec<V>> {
        self.rows::<Vec<Vec<u8>>>("HVALS")?
            .into_iter()
            .map(|bytes| self.server.decode(bytes))
            .collect()
    }

    /// All rows: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "copy")]
    pub fn items(&self) -> Result<Vec<(K, V)>> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.rows("HGETALL")?;
        rows.into_iter()
            .map(|(key, value)| Ok((self.server.decode(key)?, self.server.decode(value)?)))
            .collect()
    }

    /// As [`items`](Self::items), one by one.
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
    pub fn to_map(&self) -> Result<HashMap<K, V>>
    where
        K: Eq + Hash,
    {
        self.items().map(|rows| rows.into_iter().collect())
    }

    /// The value of a key, which is inserted with `value` where it is missing.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "setdefault")]
    pub fn get_or_insert(&self, key: K, value: V) -> Result<V> {
        let get = script!(
            "redis.call('HSETNX', KEYS[2], ARGV[3], ARGV[4])
            return redis.call('HGET', KEYS[2], ARGV[3])"
        );
        let (key, value) = (self.server.encode(&key)?, self.server.encode(&value)?);
        let value: Vec<u8> = self.server.once(get, &[&self.key], |to| {
            to.arg(&key).arg(&value);
        })?;
        self.server.decode(value)
    }

    /// Puts `new` in the place of `old`, if that is what is there.
    fn exchange(&self, key: &[u8], old: Option<&[u8]>, new: &[u8]) -> Result<bool> {
        let exchange = script!(
            "local old = redis.call('HGET', KEYS[2], ARGV[3])
            if ARGV[4] == '' then
                if old then return 0 end
            elseif old ~= ARGV[5] then
                return 0
            end
            redis.call('HSET', KEYS[2], ARGV[3], ARGV[6])
            return 1"
        );
        let known = if old.is_some() { "1" } else { "" };
        let exchanged: u8 = self.server.once(exchange, &[&self.key], |to| {
            to.arg(key).arg(known).arg(old.unwrap_or_default()).arg(new);
        })?;
        Ok(exchanged != 0)
    }

    fn change<F, A, R>(&self, key: &K, default: Option<&[u8]>, function: F, args: A) -> Result<R>
    where
        F: Method<V, A, Output = R>,
        A: Clone,
    {
        let key = self.server.encode(key)?;
        let mut pause = Pause::new();
        loop {
            let old = self.bytes(&key)?;
            let seen = old.as_deref().or(default).ok_or(Error::KeyMissing)?;
            let mut value = self.server.decode(seen.to_vec())?;
            let output = function.call(&mut value, args.clone());
            if self.exchange(&key, old.as_deref(), &self.server.encode(&value)?)? {
                return Ok(output);
            }
            pause.sleep()?;
        }
    }

    /// Calls `function` with the value of a key and `args`, a tuple, keeps what it makes of it, and gives what it
    /// returns.
    ///
    /// It runs here, and again where somebody else has changed the value meanwhile: so
    /// `update(&k, |n: &mut u64| *n += 1, ())` counts right whoever counts with it, and what it does beside that may be
    /// done more than once.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, key: &K, function: F, args: A) -> Result<R>
    where
        F: Method<V, A, Output = R>,
        A: Clone,
    {
        self.change(key, None, function, args)
    }

    /// As [`update`](Self::update); a key that is missing is inserted with what `function` makes of `value`.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn update_or_insert<F, A, R>(&self, key: K, value: V, function: F, args: A) -> Result<R>
    where
        F: Method<V, A, Output = R>,
        A: Clone,
    {
        self.change(&key, Some(&self.server.encode(&value)?), function, args)
    }

    /// Sets the values of many keys, a thousand in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors). Rows before those that failed are in the dict.
    #[doc(alias = "update")]
    pub fn extend(&self, rows: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let set = script!(
            "for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
            return 0"
        );
        let mut rows = rows.into_iter();
        loop {
            let batch: Vec<_> = rows
                .by_ref()
                .take(BATCH)
                .map(|(key, value)| Ok((self.server.encode(&key)?, self.server.encode(&value)?)))
                .collect::<Result<_>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            self.server.once::<u8>(set, &[&self.key], |to| {
                for (key, value) in &batch {
                    to.arg(key).arg(value);
                }
            })?;
        }
    }
}
