//! Queues.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use mp_core::Deadline;
use redis::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::proxy;
use crate::error::PutError;
use crate::server::{Attempt, Server, script};
use crate::{Error, Result};

/// So many items go into one call.
const BATCH: usize = 1000;

/// Items that any machine puts, and any machine gets, in their order.
///
/// An item is got once: by whoever gets it, also when the connection breaks meanwhile. A process that ends after it got
/// an item takes it along. Had from [`Cluster::queue`](crate::Cluster::queue) and
/// [`bounded_queue`](crate::Cluster::bounded_queue).
///
/// Python: `multiprocessing.Queue`, on one machine.
///
/// # Example
///
/// ```
/// use mp_cluster::Cluster;
///
/// let url = "redis://head:6379/";
/// # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
/// # let url = server.url();
/// let pages = Cluster::connect(url, "job7")?.queue::<String>("pages")?;
/// pages.put("https://example.org/".to_string())?;
/// let page = pages.get()?; // on another machine
/// # Ok::<(), mp_cluster::Error>(())
/// ```
pub struct Queue<T> {
    server: Arc<Server>,
    key: String,
    of: PhantomData<fn(T) -> T>,
}

proxy!(Queue<T>);

#[derive(Clone, Copy)]
enum Limit {
    Try,
    Until(Deadline),
}

impl<T> Queue<T> {
    pub(crate) fn open(server: &Arc<Server>, name: &str, capacity: Option<usize>) -> Result<Self> {
        let key = server.key(&format!("q:{name}"));
        let queue = Self { server: Arc::clone(server), key, of: PhantomData };
        let wanted = capacity.map_or(String::new(), |capacity| capacity.to_string());
        let set = |connection: &mut Connection| {
            redis::pipe()
                .atomic()
                .cmd("HSETNX")
                .arg(queue.about())
                .arg("cap")
                .arg(&wanted)
                .ignore()
                .cmd("HGET")
                .arg(queue.about())
                .arg("cap")
                .query::<(String,)>(connection)
        };
        let (found,) = server.call(set)?;
        if found != wanted {
            let with = |capacity: &str| match capacity {
                "" => "without bound".to_string(),
                capacity => format!("for {capacity} items"),
            };
            return Err(Error::WrongType(format!(
                "the queue {name} is one {}, not {}",
                with(&found),
                with(&wanted)
            )));
        }
        Ok(queue)
    }

    /// Where its capacity stands, and whether it is closed.
    fn about(&self) -> String {
        format!("{}:about", self.key)
    }

    /// What rings when there are items.
    fn filled(&self) -> String {
        format!("{}:filled", self.key)
    }

    /// What rings when there is room.
    fn freed(&self) -> String {
        format!("{}:freed", self.key)
    }

    /// How many items it holds, at this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "qsize")]
    pub fn len(&self) -> Result<usize> {
        self.server.call(|connection| redis::cmd("LLEN").arg(&self.key).query(connection))
    }

    /// Whether it holds none, at this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether it holds as many as it may, at this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "full")]
    pub fn is_full(&self) -> Result<bool> {
        Ok(self.capacity()?.is_some_and(|capacity| self.len().is_ok_and(|len| len >= capacity)))
    }

    /// How many items it may hold; `None` for any number.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "maxsize")]
    pub fn capacity(&self) -> Result<Option<usize>> {
        let get = |connection: &mut Connection| {
            redis::cmd("HGET").arg(self.about()).arg("cap").query::<Option<String>>(connection)
        };
        Ok(self.server.call(get)?.and_then(|capacity| capacity.parse().ok()))
    }

    /// Has it take no more items, from anybody. Those it holds can be got; then it is [`Error::Closed`].
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn close(&self) -> Result<()> {
        let close = script!(
            "redis.call('HSET', KEYS[2], 'closed', '1')
            ring(KEYS[3], 64) ring(KEYS[4], 64)
            return 0"
        );
        self.server.once(close, &[&self.about(), &self.filled(), &self.freed()], |_| {})
    }

    /// Whether it is closed.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn is_closed(&self) -> Result<bool> {
        self.server.call(|connection| {
            redis::cmd("HEXISTS").arg(self.about()).arg("closed").query(connection)
        })
    }
}

impl<T: Serialize + DeserializeOwned> Queue<T> {
    /// Puts as many as there is room for; gives how many.
    fn put_some(&self, items: &[Vec<u8>]) -> Result<usize> {
        let put = script!(
            "local about = redis.call('HMGET', KEYS[3], 'cap', 'closed')
            if about[2] then return -1 end
            local n = #ARGV - 2
            local cap = tonumber(about[1])
            if cap then n = math.min(n, math.max(cap - redis.call('LLEN', KEYS[2]), 0)) end
            for i = 1, n do redis.call('RPUSH', KEYS[2], ARGV[2 + i]) end
            if n > 0 then ring(KEYS[4], n) end
            return n"
        );
        let keys: [&str; 3] = [&self.key, &self.about(), &self.filled()];
        let put: i64 = self.server.once(put, &keys, |to| {
            for item in items {
                to.arg(item);
            }
        })?;
        usize::try_from(put).map_err(|_| Error::Closed)
    }

    fn put_one(&self, item: T, limit: Limit) -> Result<(), PutError<T>> {
        let result = self.server.encode(&item).and_then(|bytes| {
            let items = [bytes];
            let deadline = match limit {
                Limit::Try if self.put_some(&items)? == 0 => return Err(Error::Full),
                Limit::Try => return Ok(()),
                Limit::Until(deadline) => deadline,
            };
            let put = || match self.put_some(&items)? {
                0 => Ok(Attempt::NotYet),
                _ => Ok(Attempt::Done(())),
            };
            self.server.wait(&self.freed(), deadline, put)?.ok_or(Error::TimedOut)
        });
        result.map_err(|reason| PutError { value: item, reason })
    }

    fn get_some(&self, max: usize, limit: Limit) -> Result<Vec<T>> {
        let take = script!(
            "local items = redis.call('LPOP', KEYS[2], ARGV[3])
            local about = redis.call('HMGET', KEYS[3], 'cap', 'closed')
            if items and about[1] and about[1] ~= '' then ring(KEYS[4], #items) end
            return {about[2] and 1 or 0, items or {}}"
        );
        let keys: [&str; 3] = [&self.key, &self.about(), &self.freed()];
        let get = || {
            let (closed, items): (u8, Vec<Vec<u8>>) = self.server.once(take, &keys, |to| {
                to.arg(max);
            })?;
            match (items.is_empty(), closed != 0) {
                (true, true) => Err(Error::Closed),
                (true, false) => Ok(Attempt::NotYet),
                (false, _) => Ok(Attempt::Done(items)),
            }
        };
        let items = match limit {
            Limit::Try => match get()? {
                Attempt::Done(items) => items,
                Attempt::NotYet | Attempt::NoLongerThan(_) => return Err(Error::Empty),
            },
            Limit::Until(deadline) => {
                self.server.wait(&self.filled(), deadline, get)?.ok_or(Error::TimedOut)?
            }
        };
        items.into_iter().map(|bytes| self.server.decode(bytes)).collect()
    }

    fn get_one(&self, limit: Limit) -> Result<T> {
        self.get_some(1, limit)?.pop().ok_or(Error::Empty)
    }

    /// Puts an item; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`Closed`](Error::Closed), [`Encode`](Error::Encode), [`TooLong`](Error::TooLong); [every call's](crate#errors).
    /// The item comes back.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_one(item, Limit::Until(Deadline::NEVER))
    }

    /// Puts an item if there is room.
    ///
    /// # Errors
    ///
    /// [`Full`](Error::Full) where there is none; else as [`put`](Self::put).
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_one(item, Limit::Try)
    }

    /// Puts an item; waits no longer than `timeout` for room.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](Error::TimedOut); else as [`put`](Self::put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_one(item, Limit::Until(Deadline::after(timeout)))
    }

    /// Puts many items, a thousand in one round trip; waits for room.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put). Items before the one that failed are in the queue.
    pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
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
            let mut rest = &batch[..];
            let put = || match self.put_some(rest)? {
                n if n == rest.len() => Ok(Attempt::Done(())),
                n => {
                    rest = &rest[n..];
                    Ok(Attempt::NotYet)
                }
            };
            self.server.wait(&self.freed(), Deadline::NEVER, put)?;
        }
    }

    /// Gets the item that is first; waits while there is none.
    ///
    /// # Errors
    ///
    /// [`Closed`](Error::Closed) where it is closed and has none; [`Decode`](Error::Decode) where the item is of another
    /// type, and gone; [every call's](crate#errors).
    pub fn get(&self) -> Result<T> {
        self.get_one(Limit::Until(Deadline::NEVER))
    }

    /// Gets an item if there is one.
    ///
    /// # Errors
    ///
    /// [`Empty`](Error::Empty) where there is none; else as [`get`](Self::get).
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T> {
        self.get_one(Limit::Try)
    }

    /// Gets an item; waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](Error::TimedOut); else as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_one(Limit::Until(Deadline::after(timeout)))
    }

    /// Gets as many items as there are, up to `max`, in one round trip; waits while there is none.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_many(&self, max: usize) -> Result<Vec<T>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        self.get_some(max, Limit::Until(Deadline::NEVER))
    }

    /// As [`get_many`](Self::get_many), of what there is already.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    pub fn try_get_many(&self, max: usize) -> Result<Vec<T>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        self.get_some(max, Limit::Try)
    }

    /// As [`get_many`](Self::get_many); waits no longer than `timeout` for the first.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Self::get_timeout).
    pub fn get_many_timeout(&self, max: usize, timeout: Duration) -> Result<Vec<T>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        self.get_some(max, Limit::Until(Deadline::after(timeout)))
    }
}
