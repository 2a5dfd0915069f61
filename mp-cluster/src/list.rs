//! Lists.

use std::marker::PhantomData;
use std::sync::Arc;

use redis::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::proxy;
use crate::method::Method;
use crate::protocol::plain_script;
use crate::server::{Pause, Server, random_id, script};
use crate::{Error, Result};

/// So many items go into one call.
const BATCH: usize = 1000;

/// Items in an order, that many machines share.
///
/// Each call is one round trip and happens as a whole. Ends are reached at once, the middle by steps. Had from
/// [`Cluster::list`](crate::Cluster::list).
///
/// Python: `Manager().list()`, on one machine. `l[i]` is `get`, `l[i] = x` is `set`, `l.append(x)` is `push`, `l.pop(i)`
/// is `remove`.
///
/// # Example
///
/// ```
/// use mp_cluster::Cluster;
///
/// let url = "redis://head:6379/";
/// # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
/// # let url = server.url();
/// let lines = Cluster::connect(url, "job7")?.list::<String>("log")?;
/// lines.push("host 3 is ready".to_string())?;
/// for line in lines.iter()? {
///     println!("{line}");
/// }
/// # Ok::<(), mp_cluster::Error>(())
/// ```
pub struct List<T> {
    server: Arc<Server>,
    key: String,
    of: PhantomData<fn(T) -> T>,
}

proxy!(List<T>);

/// What a script found in the place that it was to change.
fn in_range(index: usize, (done, len): (u8, usize)) -> Result<()> {
    if done == 0 { Err(Error::OutOfRange { index, len }) } else { Ok(()) }
}

impl<T> List<T> {
    pub(crate) fn open(server: &Arc<Server>, name: &str) -> Self {
        let key = server.key(&format!("a:{name}"));
        Self { server: Arc::clone(server), key, of: PhantomData }
    }

    /// How many items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn len(&self) -> Result<usize> {
        self.server.call(|connection| redis::cmd("LLEN").arg(&self.key).query(connection))
    }

    /// Whether there is none.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Removes all items.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn clear(&self) -> Result<()> {
        let clear = script!("return redis.call('UNLINK', KEYS[2])");
        self.server.once::<u8>(clear, &[&self.key], |_| {}).map(drop)
    }
}

impl<T: Serialize + DeserializeOwned> List<T> {
    fn bytes(&self, index: usize) -> Result<Option<Vec<u8>>> {
        let get = |connection: &mut Connection| {
            redis::cmd("LINDEX").arg(&self.key).arg(index).query(connection)
        };
        self.server.call(get)
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "append")]
    pub fn push(&self, item: T) -> Result<()> {
        self.extend([item])
    }

    /// Appends many items, a thousand in one round trip.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors). Items before those that failed are in the list.
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let push = script!(
            "for i = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
            return 0"
        );
        let mut items = items.into_iter();
        loop {
            let batch: Vec<_> = items
                .by_ref()
                .take(BATCH)
                .map(|item| self.server.encode(&item))
                .collect::<Result<_>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            self.server.once::<u8>(push, &[&self.key], |to| {
                for item in &batch {
                    to.arg(item);
                }
            })?;
        }
    }

    /// Removes the last item.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn pop(&self) -> Result<Option<T>> {
        let pop = script!("return redis.call('RPOP', KEYS[2])");
        let item: Option<Vec<u8>> = self.server.once(pop, &[&self.key], |_| {})?;
        item.map(|bytes| self.server.decode(bytes)).transpose()
    }

    /// The item at a place.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        self.bytes(index)?.map(|bytes| self.server.decode(bytes)).transpose()
    }

    /// Sets the item at a place.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        let set = script!(
            "local len = redis.call('LLEN', KEYS[2])
            if tonumber(ARGV[3]) >= len then return {0, len} end
            redis.call('LSET', KEYS[2], ARGV[3], ARGV[4])
            return {1, len}"
        );
        let item = self.server.encode(&item)?;
        let done = self.server.once(set, &[&self.key], |to| {
            to.arg(index).arg(&item);
        })?;
        in_range(index, done)
    }

    /// Inserts an item before the one at a place, or at the end.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    pub fn insert(&self, index: usize, item: T) -> Result<()> {
        // What is at the place is a mark for a moment, to insert before.
        let insert = script!(
            "local len, at = redis.call('LLEN', KEYS[2]), tonumber(ARGV[3])
            if at > len then return {0, len} end
            if at == len then redis.call('RPUSH', KEYS[2], ARGV[4]) return {1, len} end
            local old = redis.call('LINDEX', KEYS[2], at)
            redis.call('LSET', KEYS[2], at, ARGV[5])
            redis.call('LINSERT', KEYS[2], 'BEFORE', ARGV[5], ARGV[4])
            redis.call('LSET', KEYS[2], at + 1, old)
            return {1, len}"
        );
        let (item, mark) = (self.server.encode(&item)?, random_id()?);
        let done = self.server.once(insert, &[&self.key], |to| {
            to.arg(index).arg(&item).arg(&mark);
        })?;
        in_range(index, done)
    }

    /// Removes the item at a place.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    #[doc(alias("pop", "__delitem__"))]
    pub fn remove(&self, index: usize) -> Result<T> {
        let remove = script!(
            "local len = redis.call('LLEN', KEYS[2])
            if tonumber(ARGV[3]) >= len then return {0, len, ''} end
            local old = redis.call('LINDEX', KEYS[2], ARGV[3])
            redis.call('LSET', KEYS[2], ARGV[3], ARGV[4])
            redis.call('LREM', KEYS[2], 1, ARGV[4])
            return {1, len, old}"
        );
        let mark = random_id()?;
        let (done, len, item): (u8, usize, Vec<u8>) =
            self.server.once(remove, &[&self.key], |to| {
                to.arg(index).arg(&mark);
            })?;
        in_range(index, (done, len))?;
        self.server.decode(item)
    }

    /// All items: a copy of this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "copy")]
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let items: Vec<Vec<u8>> = self.server.call(|connection| {
            redis::cmd("LRANGE").arg(&self.key).arg(0).arg(-1).query(connection)
        })?;
        items.into_iter().map(|bytes| self.server.decode(bytes)).collect()
    }

    /// As [`to_vec`](Self::to_vec), one by one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>> {
        self.to_vec().map(Vec::into_iter)
    }

    /// Where the first equal item is. Items are equal where their encodings are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn index(&self, item: &T) -> Result<Option<usize>> {
        let item = self.server.encode(item)?;
        let find = |connection: &mut Connection| {
            redis::cmd("LPOS").arg(&self.key).arg(&item).query(connection)
        };
        self.server.call(find)
    }

    /// Whether there is an equal item.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "__contains__")]
    pub fn contains(&self, item: &T) -> Result<bool> {
        self.index(item).map(|index| index.is_some())
    }

    /// Removes the first equal item; whether there was one.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "remove")]
    pub fn remove_item(&self, item: &T) -> Result<bool> {
        let remove = script!("return redis.call('LREM', KEYS[2], 1, ARGV[3])");
        let item = self.server.encode(item)?;
        self.server.once(remove, &[&self.key], |to| {
            to.arg(&item);
        })
    }

    /// How many equal items there are.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn count(&self, item: &T) -> Result<usize> {
        let item = self.server.encode(item)?;
        let find = |connection: &mut Connection| {
            let mut find = redis::cmd("LPOS");
            find.arg(&self.key).arg(&item).arg("COUNT").arg(0);
            find.query::<Vec<usize>>(connection)
        };
        self.server.call(find).map(|places| places.len())
    }

    /// Puts the items in the opposite order. They stay in the server.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn reverse(&self) -> Result<()> {
        let reverse = script!(
            "local items = redis.call('LRANGE', KEYS[2], 0, -1)
            redis.call('DEL', KEYS[2])
            for i = 1, #items do redis.call('LPUSH', KEYS[2], items[i]) end
            return 0"
        );
        self.server.once::<u8>(reverse, &[&self.key], |_| {}).map(drop)
    }

    /// Sorts the items; equal ones stay in their order. As [`call`](Self::call), all of them come here.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn sort(&self) -> Result<()>
    where
        T: Ord,
    {
        self.call(|items: &mut Vec<T>| items.sort(), ())
    }

    /// Calls `function` with all items, a `Vec`, and `args`, a tuple, keeps what it makes of them, and gives what it
    /// returns.
    ///
    /// All items come here, and go back; and again where somebody else has changed one meanwhile, as
    /// [`update`](Self::update) does with one item.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn call<F, A, R>(&self, function: F, args: A) -> Result<R>
    where
        F: Method<Vec<T>, A, Output = R>,
        A: Clone,
    {
        let read = plain_script!(
            "local items = redis.call('LRANGE', KEYS[1], 0, -1)
            return {redis.sha1hex(cmsgpack.pack(items)), items}"
        );
        let exchange = script!(
            "local items = redis.call('LRANGE', KEYS[2], 0, -1)
            if redis.sha1hex(cmsgpack.pack(items)) ~= ARGV[3] then return 0 end
            redis.call('DEL', KEYS[2])
            for i = 4, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
            return 1"
        );
        let mut pause = Pause::new();
        loop {
            let (seen, old): (String, Vec<Vec<u8>>) =
                self.server.call(|connection| read.key(&self.key).invoke(connection))?;
            let decode = |bytes| self.server.decode(bytes);
            let mut items = old.into_iter().map(decode).collect::<Result<Vec<T>>>()?;
            let output = function.call(&mut items, args.clone());
            let encode = |item| self.server.encode(item);
            let new = items.iter().map(encode).collect::<Result<Vec<_>>>()?;
            let exchanged: u8 = self.server.once(exchange, &[&self.key], |to| {
                to.arg(&seen);
                for item in &new {
                    to.arg(item);
                }
            })?;
            if exchanged != 0 {
                return Ok(output);
            }
            pause.sleep()?;
        }
    }

    /// Calls `function` with the item at a place and `args`, a tuple, keeps what it makes of it, and gives what it
    /// returns.
    ///
    /// It runs here, and again where somebody else has changed the item meanwhile, as
    /// [`Dict::update`](crate::Dict::update).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Error::OutOfRange); [every call's](crate#errors).
    pub fn update<F, A, R>(&self, index: usize, function: F, args: A) -> Result<R>
    where
        F: Method<T, A, Output = R>,
        A: Clone,
    {
        let exchange = script!(
            "if redis.call('LINDEX', KEYS[2], ARGV[3]) ~= ARGV[4] then return 0 end
            redis.call('LSET', KEYS[2], ARGV[3], ARGV[5])
            return 1"
        );
        let mut pause = Pause::new();
        loop {
            let Some(old) = self.bytes(index)? else {
                return Err(Error::OutOfRange { index, len: self.len()? });
            };
            let mut item = self.server.decode(old.clone())?;
            let output = function.call(&mut item, args.clone());
            let new = self.server.encode(&item)?;
            let exchanged: u8 = self.server.once(exchange, &[&self.key], |to| {
                to.arg(index).arg(&old).arg(&new);
            })?;
            if exchanged != 0 {
                return Ok(output);
            }
            pause.sleep()?;
        }
    }
}
