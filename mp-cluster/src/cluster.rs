//! Where shared objects are had from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::{PATIENCE, Server};
use crate::{Counter, Dict, List, Lock, Queue, Result, handle};

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
/// It and what is had from it can be sent to other processes, as arguments, messages or results: there they are the
/// same objects. In a task of an [`Engine`](crate::Engine), its result, or an item of such an object, what travels is the
/// name: who gets it comes by his own connection, as his own user; an object of another server is an error there.
/// Elsewhere, in arguments of a process or a message of a pipe, the URL goes along, with the password that stands there.
///
/// Python: `BaseManager(address=..)` with a server process of one's own.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mp_cluster::{Cluster, LockGuard};
///
/// fn main() -> Result<(), mp_cluster::Error> {
///     // On every machine, the same lines:
///     let url = "redis://head:6379/";
///     # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
///     # let url = server.url();
///     let cluster = Cluster::connect(url, "job7")?;
///     let queue = cluster.bounded_queue::<String>("pages", 1000)?;
///     queue.put("https://example.org/".to_string())?;
///     let counts = cluster.dict::<String, u64>("words")?;
///     counts.update_or_insert("be".to_string(), 0, |n: &mut u64| *n += 1, ())?;
///     let lock = cluster.lock("index", Duration::from_secs(30))?;
///     let guard = lock.lock()?;
///     println!("{}", LockGuard::fence(&guard)); // larger than that of any holder before
///     Ok(())
/// }
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
    /// [`Address`](crate::Error::Address) where the URL or the name is none; [`Denied`](crate::Error::Denied) where the
    /// server refuses the user; [`Unreachable`](crate::Error::Unreachable).
    pub fn connect(url: &str, name: &str) -> Result<Self> {
        Ok(Self { server: Arc::new(Server::connect(url, name, PATIENCE)?) })
    }

    /// The same, where calls wait no longer than `patience` for a server that is away or loads its data, and then are
    /// [`Unreachable`](crate::Error::Unreachable). Without this, 10 s.
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
    /// [`WrongType`](crate::Error::WrongType) where it is there with another capacity; [every call's](crate#errors).
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

impl Serialize for Cluster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.server, (), serializer)
    }
}

impl<'de> Deserialize<'de> for Cluster {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (server, ()) = handle::deserialize(deserializer)?;
        Ok(Self { server })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server.place()).finish_non_exhaustive()
    }
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

        impl $(<$($of),+>)? serde::Serialize for $name $(<$($of),+>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                crate::handle::serialize(&self.server, &self.key, serializer)
            }
        }

        impl<'de $(, $($of),+)?> serde::Deserialize<'de> for $name $(<$($of),+>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (server, key) = crate::handle::deserialize(deserializer)?;
                Ok(Self { server, key, of: std::marker::PhantomData })
            }
        }
    };
}
pub(crate) use proxy;
