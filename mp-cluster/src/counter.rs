//! Counters.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::Result;
use crate::cluster::proxy;
use crate::server::{Server, script};

/// A number that many machines count with.
///
/// Each call happens as a whole, and once. Had from [`Cluster::counter`](crate::Cluster::counter).
///
/// # Example
///
/// ```
/// use mp_cluster::Cluster;
///
/// let url = "redis://head:6379/";
/// # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
/// # let url = server.url();
/// let done = Cluster::connect(url, "job7")?.counter("done")?;
/// let now = done.add(16)?; // what it is now: nobody else sees the same
/// println!("{now} of 1000");
/// # Ok::<(), mp_cluster::Error>(())
/// ```
pub struct Counter {
    server: Arc<Server>,
    key: String,
    of: PhantomData<()>,
}

proxy!(Counter);

impl Counter {
    pub(crate) fn open(server: &Arc<Server>, name: &str) -> Self {
        Self { server: Arc::clone(server), key: server.key(&format!("n:{name}")), of: PhantomData }
    }

    /// What it is.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn get(&self) -> Result<i64> {
        let get = |connection: &mut redis::Connection| {
            redis::cmd("GET").arg(&self.key).query::<Option<i64>>(connection)
        };
        Ok(self.server.call(get)?.unwrap_or(0))
    }

    /// Sets it; gives what it was.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn set(&self, value: i64) -> Result<i64> {
        let set = script!("return redis.call('GETSET', KEYS[2], ARGV[3])");
        let old: Option<i64> = self.server.once(set, &[&self.key], |to| {
            to.arg(value);
        })?;
        Ok(old.unwrap_or(0))
    }

    /// Adds to it; gives what it is then.
    ///
    /// # Errors
    ///
    /// [`Server`](crate::Error::Server) beyond 64 bits; [every call's](crate#errors).
    #[doc(alias("increment", "incr"))]
    pub fn add(&self, by: i64) -> Result<i64> {
        // As a text: the script's own numbers are exact to 53 bits only.
        let add = script!(
            "redis.call('INCRBY', KEYS[2], ARGV[3])
            return redis.call('GET', KEYS[2])"
        );
        self.server.once(add, &[&self.key], |to| {
            to.arg(by);
        })
    }
}
