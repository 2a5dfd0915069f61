//! Handles as values: how a queue, a dict, a lock is sent.
//!
//! What travels is where it lies: the name of its cluster, and its key. What passes through the server itself (a task of a
//! pool, its result, an item of a queue) needs no more, as whoever receives it is connected to that server: by a way of
//! his own, and as a user of his own. All that a worker of a host sends counts as such. Anything else (arguments of a
//! process, messages of a pipe) has the URL, too, with the password that stands there.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::{PATIENCE, Server, lock};

/// The way to a server, as it travels.
#[derive(Serialize, Deserialize)]
struct Way {
    /// Of the cluster.
    name: String,
    through: Through,
}

#[derive(Serialize, Deserialize)]
enum Through {
    /// This, with all that is needed to be let in.
    Url(String),
    /// The server that serves a pool of this name, or has the object that the handle lies in.
    Itself(String),
}

thread_local! {
    /// The server that what this thread encodes or decodes passes through, if it is one.
    static WITHIN: RefCell<Option<Arc<Server>>> = const { RefCell::new(None) };
}

/// In a worker process of a host: the host's server.
static HOME: OnceLock<Arc<Server>> = OnceLock::new();

/// Servers of engines, whose tasks may return handles.
static ENGINES: Mutex<Vec<Weak<Server>>> = Mutex::new(Vec::new());

/// Servers that handles came with: of several that lead to the same one all share its connections.
static SERVERS: Mutex<Vec<Weak<Server>>> = Mutex::new(Vec::new());

/// Runs `work`, in which values are encoded or decoded that pass through `server`.
pub(crate) fn within<R>(server: &Arc<Server>, work: impl FnOnce() -> R) -> R {
    /// Puts back what was there before, also after a panic.
    struct Restore(Option<Arc<Server>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            WITHIN.set(self.0.take());
        }
    }

    let _restore = Restore(WITHIN.replace(Some(Arc::clone(server))));
    work()
}

/// Makes this process one that works for a host: called in each, before its first task.
pub(crate) fn at_home(url: String, name: String) {
    if let Ok(server) = Server::open(&url, &name, PATIENCE) {
        let _ = HOME.set(Arc::new(server));
    }
}

/// Has handles that come from hosts of this pool be opened by the pool's own way to the server.
pub(crate) fn expect_from_hosts(server: &Arc<Server>) {
    let mut engines = lock(&ENGINES);
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(server));
}

impl Way {
    fn to(server: &Arc<Server>) -> Result<Self, &'static str> {
        if !mp_core::fd::is_in_message() {
            return Err(
                "a handle can only be serialized into a multiprocess message, as a process argument or by a \
                        pipe, queue, pool or manager",
            );
        }
        let name = server.name().to_string();
        let within = WITHIN.with_borrow(Clone::clone);
        let through = match within.as_ref().or(HOME.get()) {
            Some(way) if way.leads_to_the_same_as(server) => {
                Through::Itself(way.name().to_string())
            }
            Some(_) => {
                return Err(
                    "it is of another server than the one that it would pass through, where its URL is \
                            nobody's business: connect both with the same URL, or send its name",
                );
            }
            None => Through::Url(server.url().to_string()),
        };
        Ok(Self { name, through })
    }

    fn open(self) -> Result<Arc<Server>, String> {
        let url = match self.through {
            Through::Url(url) => url,
            Through::Itself(pool) => {
                let within = WITHIN.with_borrow(Clone::clone);
                match within.or_else(|| HOME.get().cloned()) {
                    Some(server) => server.url().to_string(),
                    None => of_engine(&pool)?,
                }
            }
        };
        let mut servers = lock(&SERVERS);
        servers.retain(|server| server.strong_count() > 0);
        let found = servers.iter().filter_map(Weak::upgrade);
        for server in found {
            if server.url() == url && server.name() == self.name {
                return Ok(server);
            }
        }
        let server = Server::open(&url, &self.name, PATIENCE).map_err(|error| error.to_string())?;
        let server = Arc::new(server);
        servers.push(Arc::downgrade(&server));
        Ok(server)
    }
}

/// The URL by which this process is connected to the server of a pool.
fn of_engine(pool: &str) -> Result<String, String> {
    let mut urls: Vec<String> = lock(&ENGINES)
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|server| server.name() == pool)
        .map(|server| server.url().to_string())
        .collect();
    urls.sort_unstable();
    urls.dedup();
    match <[String; 1]>::try_from(urls) {
        Ok([url]) => Ok(url),
        Err(urls) if urls.is_empty() => Err(format!(
            "a handle came without the way to its server, and no pool {pool} is there to have it from"
        )),
        Err(_) => Err(format!(
            "a handle is of the server of the pool {pool}, and there are several of that name"
        )),
    }
}

/// Serializes the way to a server; `rest` is what else the handle is.
pub(crate) fn serialize<S: Serializer>(
    server: &Arc<Server>,
    rest: impl Serialize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let way = Way::to(server).map_err(S::Error::custom)?;
    (way, rest).serialize(serializer)
}

pub(crate) fn deserialize<'de, R: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(Arc<Server>, R), D::Error> {
    if !mp_core::fd::is_in_message() {
        return Err(D::Error::custom("a handle can only be read from a multiprocess message"));
    }
    let (way, rest) = <(Way, R)>::deserialize(deserializer)?;
    Ok((way.open().map_err(D::Error::custom)?, rest))
}
