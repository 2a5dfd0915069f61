//! Where shared objects are had from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mp_core::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::server::{PATIENCE, Server};
use crate::{Counter, Dict, Error, List, Lock, Queue, Result};

/// Values longer than this are refused: the server takes no more than 512 MiB, and holds up all others meanwhile.
const LONGEST: usize = 64 << 20;

/// A name on a server, below which machines share objects.
///
/// All that connect to the same name have the same objects, by their names; other names are apart. Objects come to be
/// at their first use and stay, whoever ends, until they are cleared or the server forgets them: what it keeps over its
/// own end is for its settings to say (`appendonly yes`). What is in them must be readable to all: the same types, of
/// the same program or another.
///
/// Clones share connections; any thread may use them. Each call is one round trip, and takes a connection for as long;
/// idle ones are kept for the next.
///
/// Python: `BaseManager(address=..)` with a server process of one's own.
///
/// # Example
///
/// ```no_run
/// use mp_cluster::Cluster;
///
/// // On every machine, the same lines:
/// let cluster = Cluster::connect("redis://head:6379/", "job7")?;
/// let seen = cluster.dict::<String, u64>("seen")?;
/// seen.update_or_insert("a".to_string(), 0, |n: &mut u64, by: u64| *n += by, (1,))?;
/// # Ok::<(), mp_cluster::Error>(())
/// ```
#[derive(Clone)]
pub struct Cluster {
    server: Arc<Server>,
}

impl Cluster {
    /// Connects to a server.
    ///
    /// The URL is `redis://[user:password@]host[:port]/[database]`, `rediss://` for TLS (with the feature `tls`), or
    /// `redis+unix:///path[?user=..&pass=..]`. What it has of a password is printed nowhere. Waits for a server that
    /// does not answer as [`patience`](Self::patience) says.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] where the URL or the name is none; [`Error::Denied`] where the server refuses the user;
    /// [`Error::Unreachable`].
    pub fn connect(url: &str, name: &str) -> Result<Self> {
        Ok(Self { server: Arc::new(Server::connect(url, name, PATIENCE)?) })
    }

    /// The same, where calls wait no longer than `patience` for a server that is away or loads its data, and then are
    /// [`Error::Unreachable`]. Without this, 10 s.
    ///
    /// What a call changes is changed once, however often the connection breaks meanwhile.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { server: Arc::new(self.server.again(patience)) }
    }

    /// A queue without bound.
    ///
    /// # Errors
    ///
    /// As [`bounded_queue`](Self::bounded_queue).
    pub fn queue<T>(&self, name: &str) -> Result<Queue<T>> {
        Queue::open(&self.server, name, None)
    }

    /// A queue that holds no more than `capacity` items.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] where it is there with another capacity; [every call's](crate#errors).
    #[doc(alias = "maxsize")]
    pub fn bounded_queue<T>(&self, name: &str, capacity: usize) -> Result<Queue<T>> {
        Queue::open(&self.server, name, Some(capacity))
    }

    /// A dict.
    ///
    /// # Errors
    ///
    /// None today: it is made at its first use.
    pub fn dict<K, V>(&self, name: &str) -> Result<Dict<K, V>> {
        Ok(Dict::open(&self.server, name))
    }

    /// A list.
    ///
    /// # Errors
    ///
    /// None today: it is made at its first use.
    pub fn list<T>(&self, name: &str) -> Result<List<T>> {
        Ok(List::open(&self.server, name))
    }

    /// A counter; zero where it is new.
    ///
    /// # Errors
    ///
    /// None today: it is made at its first use.
    pub fn counter(&self, name: &str) -> Result<Counter> {
        Ok(Counter::open(&self.server, name))
    }

    /// A lock, which its holder loses when `lease` is over, unless it [renews](crate::LockGuard::renew) it.
    ///
    /// # Errors
    ///
    /// None today: it is made at its first use.
    pub fn lock(&self, name: &str, lease: Duration) -> Result<Lock> {
        Ok(Lock::open(&self.server, name, lease))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server.place()).finish_non_exhaustive()
    }
}

/// A value as it lies in the server.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let (bytes, fds) = mp_core::encode(value)?.into_parts();
    if !fds.is_empty() {
        return Err(Error::Encode("handles of this machine mean nothing on another".to_string()));
    }
    if bytes.len() > LONGEST {
        return Err(Error::TooLong { len: bytes.len(), limit: LONGEST });
    }
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: Vec<u8>) -> Result<T> {
    Ok(mp_core::decode(Message::new(bytes, Vec::new()))?)
}

/// What proxies have in common.
macro_rules! proxy {
    ($name:ident $(<$($of:ident),+>)?) => {
        impl $(<$($of),+>)? Clone for $name $(<$($of),+>)? {
            fn clone(&self) -> Self {
                Self {
                    server: std::sync::Arc::clone(&self.server),
                    key: self.key.clone(),
                    of: std::marker::PhantomData,
                }
            }
        }

        impl $(<$($of),+>)? std::fmt::Debug for $name $(<$($of),+>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("server", &self.server.place())
                    .field("key", &self.key)
                    .finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use proxy;
