//! The one who starts the server.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mp_core::sys::{process, random, socket};
use mp_core::{Deadline, Fd, heirs};
use mp_pipe::{Address, AuthKey};
use mp_process::{AnyChild, Args, Process, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::CreateOf;
use crate::dict::{Element, Key};
use crate::link::{Key as ServerKey, Link, program};
use crate::listen::{Names, connect, listen};
use crate::server::serve;
use crate::wire::Parcel;
use crate::{
    Array, Barrier, BoundedSemaphore, Condition, Dict, Error, Event, JoinableQueue, List, Lock,
    Namespace, Queue, RLock, Result, Semaphore, Set, Shared, Value,
};

/// How long each step of a shutdown may take before the next: so many times so long, as a machine that stood still
/// meanwhile has used up one of them, and not the time that the server needs.
const PATIENCE: [Duration; 20] = [Duration::from_millis(100); 20];

/// A server process and what makes objects in it.
///
/// Dropping it shuts the server down, and with it all objects, whoever has proxies of them. It also ends with the
/// process that made it, however that ends.
///
/// Python: `multiprocessing.Manager()`. To leave a `with` block is to drop it.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Dict, List, Manager, Object};
/// use mp_process::Process;
///
/// fn task(dict: Dict<Object, Object>, list: List<i32>, n: i32) -> Result<(), String> {
///     let work = || -> mp_manager::Result<()> {
///         dict.insert(n.into(), "1".into())?;
///         dict.insert("2".into(), 2.into())?;
///         list.push(n)
///     };
///     work().map_err(|error| error.to_string())
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init(); // the first line of main
///     let manager = Manager::new()?;
///     let dict = manager.dict()?;
///     let list = manager.list(0..2)?;
///     for n in 0..2 {
///         Process::new(task, (dict.clone(), list.clone(), n)).start()?.result()??;
///     }
///     assert_eq!(dict.to_string(), "{0: '1', '2': 2, 1: '1'}");
///     assert_eq!(list.to_string(), "[0, 1, 0, 1]");
///     Ok(())
/// }
/// ```
#[doc(alias("SyncManager", "BaseManager"))]
pub struct Manager {
    link: Arc<Link>,
    pid: u32,
    /// The server, where this manager started it.
    server: Option<AnyChild>,
    /// Who started it; a forked child does not shut it down, unless it was captured for that child.
    owner: u32,
    /// Where it listens, and what is published.
    served: Option<(Address, Names)>,
}

impl Manager {
    /// Starts a server.
    ///
    /// It is a daemon: a process that is one itself cannot have any.
    ///
    /// # Errors
    ///
    /// [`Start`](Error::Start) where it cannot be started, as with any process; [`Io`](Error::Io).
    pub fn new() -> Result<Self> {
        let (ours, theirs) = socket::pair()?;
        let mut key = [0; 16];
        random::fill(&mut key)?;
        let key = u128::from_le_bytes(key);
        let key = ServerKey { server: [key as u64, (key >> 64) as u64], program: program() };
        let server = Process::new(serve, (Fd::from(theirs), key)).name("Manager").daemon(true);
        let server = server.start().map_err(Error::Start)?;
        let link = Link::new(key, || Ok(ours))?;
        Ok(Self {
            link,
            pid: server.pid(),
            server: Some(AnyChild::clone(&server)),
            owner: std::process::id(),
            served: None,
        })
    }

    /// Starts a server that others can [`connect`](Self::connect) to, who have `key`: at the path of a Unix socket, or
    /// at an address on the network.
    ///
    /// What they are to find is [published](Self::publish) under a name. The server ends with this manager, as any.
    ///
    /// Processes of this program can do all that this one can. Those of other programs, built with the same version of
    /// this library, can use the built-in types and make objects of them, also of types that this program does not
    /// have; what takes a function of theirs is [`OtherProgram`](Error::OtherProgram). Through TCP go values and
    /// proxies of this manager, nothing else that has descriptors. There, calls are neither hidden nor protected under
    /// way, as [with listeners](mp_pipe::Listener#who-may-connect).
    ///
    /// Python: `BaseManager(address, authkey).start()`, where what is found was registered.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); [`Address`](Error::Address) where it cannot listen there.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_manager::{Manager, Value};
    /// use mp_pipe::AuthKey;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let key = AuthKey::new(b"a secret of the two")?;
    ///     let manager = Manager::serve("127.0.0.1:0", &key)?; // or the path of a Unix socket
    ///     let address = manager.address().expect("it listens").clone();
    ///     manager.publish("answer", &manager.value(42)?)?;
    ///
    ///     // In another process, or on another machine, which were given address and key:
    ///     let connected = Manager::connect(address, &key)?;
    ///     let answer: Value<i32> = connected.find("answer")?;
    ///     assert_eq!(answer.get()?, 42);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("start", "serve_forever", "get_server"))]
    pub fn serve(
        address: impl TryInto<Address, Error: Into<mp_pipe::Error>>,
        key: &AuthKey,
    ) -> Result<Self> {
        let address = resolve(address)?;
        let mut manager = Self::new()?;
        let names = manager.dict()?;
        let address = listen(&names, &address, key)?;
        manager.served = Some((address, names));
        Ok(manager)
    }

    /// Connects to the server of a manager that was made by [`serve`](Self::serve), in this program or another.
    ///
    /// What this makes lies in that server; to drop this leaves the server as it is. In the server of another program,
    /// objects are of encoded values: keys are equal whose encodings are, and what such an object has is looked into
    /// where its proxies are. Proxies that are found have to be of the types that they were published as, by their full
    /// names (`std::any::type_name`): the first call says so, [`WrongType`](Error::WrongType). Not so in the program of the
    /// server: there, what is kept alike (a list and an array, a lock and a reentrant one) is found as either.
    ///
    /// A client through TCP has a connection for each object, and one for each thread that calls. One that ends,
    /// however it does, leaves nothing behind, as on this machine; one that vanishes without a word, as its machine
    /// has lost power, is noticed after a minute.
    ///
    /// # Errors
    ///
    /// [`Address`](Error::Address) where no connection comes about, for a wrong key say, or another version of this
    /// library.
    pub fn connect(
        address: impl TryInto<Address, Error: Into<mp_pipe::Error>>,
        key: &AuthKey,
    ) -> Result<Self> {
        let address = resolve(address)?;
        let (pid, names) = connect(address.clone(), key)?;
        Ok(Self {
            link: Arc::clone(names.link()),
            pid,
            server: None,
            owner: std::process::id(),
            served: Some((address, names)),
        })
    }

    /// Where the server listens, if it does.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.served.as_ref().map(|(address, _)| address)
    }

    fn names(&self) -> Result<&Names> {
        self.served.as_ref().map(|(_, names)| names).ok_or(Error::NotServed)
    }

    /// Has others who connect find `value`, a proxy say, by this name, instead of what was there.
    ///
    /// A proxy that is published keeps its object.
    ///
    /// Python: `BaseManager.register(name, callable=...)`.
    ///
    /// # Errors
    ///
    /// [`NotServed`](Error::NotServed) where nobody can connect; [every call's](crate#errors).
    #[doc(alias = "register")]
    pub fn publish<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let names = self.names()?;
        names.insert(name.to_string(), Parcel::new(value)?)?;
        Ok(())
    }

    /// What was published by this name, as a `T`.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing), [`NotServed`](Error::NotServed); [every call's](crate#errors).
    pub fn find<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.names()?.get(&name.to_string())?.ok_or(Error::KeyMissing)?.open().map_err(Error::from)
    }

    /// The server's process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the server: asks it to, sends it SIGTERM after two seconds, and SIGKILL after another two.
    ///
    /// All calls, waiting ones too, are [`ServerDied`](Error::ServerDied) from then on. Dropping the manager does the
    /// same. Of a manager that was [connected](Self::connect) to, the server is somebody else's: nothing happens.
    ///
    /// # Errors
    ///
    /// [`Start`](Error::Start) where the process cannot be waited for.
    pub fn shutdown(&self) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let has_ended = || -> Result<bool> {
            for time in PATIENCE {
                let ended = match server.join_timeout(time) {
                    Ok(status) => status.is_some(),
                    // A child of the one who started it, which alone can join it.
                    Err(mp_process::Error::NotOurs) => {
                        process::wait_ended(server.as_fd(), Deadline::after(time))?
                    }
                    Err(error) => return Err(Error::Start(error)),
                };
                if ended {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // Where it cannot be asked, it is told.
        if self.link.stop().is_ok() && has_ended()? {
            return Ok(());
        }
        server.terminate().map_err(Error::Start)?;
        if !has_ended()? {
            server.kill().map_err(Error::Start)?;
            while !has_ended()? {}
        }
        Ok(())
    }

    /// Makes an empty dict.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn dict<K: Key, V: Element>(&self) -> Result<Dict<K, V>> {
        Dict::create(&self.link)
    }

    /// Makes a dict of these rows.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn dict_of<K: Key, V: Element>(
        &self,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Dict<K, V>> {
        let dict = Dict::create(&self.link)?;
        dict.extend(rows)?;
        Ok(dict)
    }

    /// Makes a list of these items.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn list<T: Element>(&self, items: impl IntoIterator<Item = T>) -> Result<List<T>> {
        List::create(&self.link, items)
    }

    /// Makes a set of these items.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn set<T: Key>(&self, items: impl IntoIterator<Item = T>) -> Result<Set<T>> {
        Set::create(&self.link, items)
    }

    /// Makes an empty namespace.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn namespace(&self) -> Result<Namespace> {
        Namespace::create(&self.link)
    }

    /// Makes a value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn value<T: Element>(&self, value: T) -> Result<Value<T>> {
        Value::create(&self.link, &value)
    }

    /// Makes an array of these items.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn array<T: Element>(&self, items: impl IntoIterator<Item = T>) -> Result<Array<T>> {
        Array::create(&self.link, items)
    }

    /// Makes a queue for `maxsize` items; for any number with 0.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn queue<T: Element>(&self, maxsize: usize) -> Result<Queue<T>> {
        Queue::create(&self.link, maxsize)
    }

    /// Makes a queue that can be joined, for `maxsize` items; for any number with 0.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn joinable_queue<T: Element>(&self, maxsize: usize) -> Result<JoinableQueue<T>> {
        JoinableQueue::create(&self.link, maxsize)
    }

    /// Makes a lock.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn lock(&self) -> Result<Lock> {
        Lock::create(&self.link)
    }

    /// Makes a lock that its holder may take again.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn rlock(&self) -> Result<RLock> {
        RLock::create(&self.link)
    }

    /// Makes a semaphore with `permits`.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn semaphore(&self, permits: u32) -> Result<Semaphore> {
        Semaphore::create(&self.link, permits)
    }

    /// Makes a semaphore that never has more than `permits`.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn bounded_semaphore(&self, permits: u32) -> Result<BoundedSemaphore> {
        BoundedSemaphore::create(&self.link, permits)
    }

    /// Makes a condition, with an [`RLock`] of its own.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn condition(&self) -> Result<Condition> {
        Condition::create(&self.link)
    }

    /// Makes an event, not set.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn event(&self) -> Result<Event> {
        Event::create(&self.link)
    }

    /// Makes a barrier.
    ///
    /// # Errors
    ///
    /// [`NoParties`](Error::NoParties) for 0; [every call's](crate#errors).
    pub fn barrier(&self, parties: usize) -> Result<Barrier> {
        if parties == 0 {
            return Err(Error::NoParties);
        }
        Barrier::create(&self.link, parties)
    }

    /// Makes a barrier with an action, which is called in the server when all parties wait, before any goes on.
    ///
    /// The barrier can do nothing else meanwhile, and the action must not use it. If it panics, the barrier is broken.
    ///
    /// Python: `multiprocessing.Manager().Barrier(n, action)`.
    ///
    /// # Errors
    ///
    /// [`NoParties`](Error::NoParties) for 0; [every call's](crate#errors).
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_manager::{Error, Manager};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let manager = Manager::new()?;
    ///     let barrier = manager.barrier_with(2, || eprintln!("all are here"))?;
    ///     let theirs = barrier.clone(); // or sent to another process
    ///     let other = std::thread::spawn(move || theirs.wait());
    ///     barrier.wait()?;
    ///     other.join().unwrap()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn barrier_with<F>(&self, parties: usize, action: F) -> Result<Barrier>
    where
        F: Fn() + Copy + Send + Sync + 'static,
    {
        if parties == 0 {
            return Err(Error::NoParties);
        }
        Barrier::create_with(&self.link, parties, action)
    }

    /// Moves an object of any type into the server.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn shared<T: Element>(&self, object: T) -> Result<Shared<T>> {
        self.shared_by(|object: T| object, (object,))
    }

    /// Has `make` called with `args`, a tuple, in the server, and keeps there what it returns.
    ///
    /// For types that cannot travel: the object is made where it stays.
    ///
    /// # Errors
    ///
    /// [`Panicked`](Error::Panicked); [every call's](crate#errors).
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use std::fs::File;
    /// use std::io::Write;
    /// use mp_manager::Manager;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let manager = Manager::new()?;
    ///     let log = manager.shared_by(|path: String| File::create(path).unwrap(), ("/dev/null".to_string(),))?;
    ///     log.call(|log: &mut File, line: String| writeln!(log, "{line}").is_ok(), ("hello".to_string(),))?;
    ///     Ok(())
    /// }
    /// ```
    pub fn shared_by<T, F, A>(&self, make: F, args: A) -> Result<Shared<T>>
    where
        T: Send + 'static,
        F: Target<A, Output = T> + Copy + 'static,
        A: Args,
    {
        let made = self.link.make_by::<F, CreateOf<A>>(|to| args.encode(to), make);
        made.map(Shared::from_handle)
    }
}

fn resolve(address: impl TryInto<Address, Error: Into<mp_pipe::Error>>) -> Result<Address> {
    address.try_into().map_err(|error| Error::Address(error.into().to_string()))
}

impl Drop for Manager {
    fn drop(&mut self) {
        if !heirs::is_ours(self.owner) {
            return;
        }
        // What cannot be ended so ends with the process that started it.
        let _ = self.shutdown();
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("pid", &self.pid()).finish_non_exhaustive()
    }
}
