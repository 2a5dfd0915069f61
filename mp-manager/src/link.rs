//! The client's side: how a proxy reaches its server.
//!
//! A process has one [`Link`] to each server it has proxies of, and the link a [`Session`] for each thread that calls,
//! made at its first call: a pipe whose other end goes to the server through the front door. It ends with the thread,
//! or with the last proxy here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::thread::in_forked_child;
use mp_core::{Deadline, Decoder, Encoder, Fd, Message, fd};
use mp_pipe::Connection;
use mp_process::{Convention, Function};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::call::{Create, OnAny, OnObject, OnServer, OnValue, Stored};
use crate::error::Fault;
use crate::look::look;
use crate::protocol::{CONNECT, Call, STOP, Status};
use crate::server::Client;
use crate::{Error, Result};

/// A buffer up to this long is kept for the next call.
const KEPT: usize = 1 << 20;

/// How many forks lie between this process and the one that first had a link: a forked child must not use its parent's
/// connections.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static WATCHES_FORKS: Once = Once::new();
static LINKS: Mutex<Vec<Weak<Link>>> = Mutex::new(Vec::new());

extern "C" fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

fn generation() -> u64 {
    // Relaxed: it changes in a fork only, when there is one thread.
    GENERATION.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process's way to one server.
pub(crate) struct Link {
    key: [u64; 2],
    generation: u64,
    door: Channel,
    sessions: Mutex<Vec<(ThreadId, Arc<Session>)>>,
}

/// One thread's connection.
pub(crate) struct Session {
    generation: u64,
    talk: Mutex<Talk>,
}

struct Talk {
    connection: Connection<(), ()>,
    /// The numbers of the functions that the server has.
    functions: HashMap<usize, u32>,
    /// Where calls are encoded.
    buffer: Message,
}

/// What this thread has.
struct Slot {
    link: Weak<Link>,
    session: Weak<Session>,
}

#[derive(Default)]
struct Slots(Vec<Slot>);

impl Drop for Slots {
    /// The thread ends: its connections do.
    fn drop(&mut self) {
        let me = thread::current().id();
        for slot in &self.0 {
            if let Some(link) = slot.link.upgrade() {
                lock(&link.sessions).retain(|(thread, _)| *thread != me);
            }
        }
    }
}

thread_local! {
    static SLOTS: RefCell<Slots> = RefCell::default();
}

impl Link {
    /// The link to the server of that key, whose front door this is.
    pub(crate) fn new(key: [u64; 2], door: OwnedFd) -> Arc<Self> {
        WATCHES_FORKS.call_once(|| _ = in_forked_child(forked));
        let mut links = lock(&LINKS);
        links.retain(|link| link.strong_count() > 0);
        let generation = generation();
        let found = links.iter().filter_map(Weak::upgrade);
        if let Some(link) =
            found.into_iter().find(|link| link.key == key && link.generation == generation)
        {
            return link;
        }
        let door = Channel::from(door);
        let link = Arc::new(Self { key, generation, door, sessions: Mutex::default() });
        links.push(Arc::downgrade(&link));
        link
    }

    /// This thread's connection.
    fn session(self: &Arc<Self>) -> Result<Arc<Session>> {
        let generation = generation();
        let found = SLOTS.try_with(|slots| {
            let slots = slots.try_borrow().ok()?;
            let slot = slots.0.iter().find(|slot| slot.link.as_ptr() == Arc::as_ptr(self))?;
            slot.session.upgrade().filter(|session| session.generation == generation)
        });
        if let Ok(Some(session)) = found {
            return Ok(session);
        }
        self.connect(generation)
    }

    #[cold]
    fn connect(self: &Arc<Self>, generation: u64) -> Result<Arc<Session>> {
        let (ours, theirs) = mp_pipe::duplex::<(), ()>()?;
        let message = mp_core::encode(&theirs)?;
        let fds: Vec<_> = message.fds().iter().map(AsFd::as_fd).collect();
        self.door.send(CONNECT, &[message.bytes()], &fds)?;
        let talk = Talk { connection: ours, functions: HashMap::new(), buffer: Message::default() };
        let session = Arc::new(Session { generation, talk: Mutex::new(talk) });
        // Where the thread is about to end, the connection is for this one call.
        let _ = SLOTS.try_with(|slots| {
            let Ok(mut slots) = slots.try_borrow_mut() else { return };
            slots.0.retain(|slot| {
                slot.session.strong_count() > 0 && slot.link.as_ptr() != Arc::as_ptr(self)
            });
            slots.0.push(Slot { link: Arc::downgrade(self), session: Arc::downgrade(&session) });
            let me = thread::current().id();
            let mut sessions = lock(&self.sessions);
            sessions.retain(|(thread, old)| *thread != me && old.generation == generation);
            sessions.push((me, Arc::clone(&session)));
        });
        Ok(session)
    }

    /// The connection is lost. Says why.
    #[cold]
    fn lost(&self, session: &Arc<Session>) -> Error {
        lock(&self.sessions).retain(|(_, other)| !Arc::ptr_eq(other, session));
        // A process that ends closes its descriptors one after the other.
        let mut door = [PollFd::hung_up(self.door.as_fd())];
        match poll(&mut door, Deadline::after(Duration::from_millis(50))) {
            Ok(0) => Error::Refused,
            _ => Error::ServerDied,
        }
    }

    /// Calls a function in the server.
    fn call<R>(
        self: &Arc<Self>,
        object: u64,
        function: Function,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        decode: impl FnOnce(&mut Decoder<'_>) -> mp_core::Result<R>,
    ) -> Result<R> {
        let session = self.session()?;
        let mut talk = match session.talk.try_lock() {
            Ok(talk) => talk,
            Err(TryLockError::Poisoned(talk)) => talk.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::Nested),
        };
        let talk = &mut *talk;
        let known = talk.functions.get(&function.key()).copied();
        let number = known.unwrap_or(talk.functions.len() as u32);
        let mut encoder = Encoder::reuse(std::mem::take(&mut talk.buffer));
        encoder.put(&Call { object, function: number, define: known.is_none() }.to_words())?;
        if known.is_none() {
            encoder.put(&function)?;
        }
        encode(&mut encoder)?;
        let message = encoder.finish();
        match talk.connection.sender().send_message(&message) {
            Ok(()) => {}
            Err(mp_pipe::Error::Disconnected) => return Err(self.lost(&session)),
            Err(error) => return Err(error.into()),
        }
        if known.is_none() {
            talk.functions.insert(function.key(), number);
        }
        if message.bytes().len() <= KEPT {
            // Without the descriptors: an object lives for as long as there is one.
            talk.buffer = Encoder::reuse(message).finish();
        }
        look(talk.connection.receiver());
        let received = talk.connection.receiver().recv_message_with(|bytes, fds| {
            let mut decoder = Decoder::new(bytes, fds);
            let word = decoder.get::<u64>()?;
            if word == Status::Value as u64 {
                let value = decode(&mut decoder)?;
                return decoder.finish().map(|()| value).map_err(Error::from);
            }
            Err(refusal(word, decoder.get()?))
        });
        match received {
            Ok(result) => result,
            Err(mp_pipe::Error::Disconnected) => Err(self.lost(&session)),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls a function of this crate in the server.
    pub(crate) fn run<R, F>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        R: serde::de::DeserializeOwned,
        F: Fn(&mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        self.call(0, Function::new::<F, OnServer>(function), encode, |from| from.get())
    }

    /// Has the server make an object.
    fn create(
        self: &Arc<Self>,
        function: Function,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<Handle> {
        let (id, life) = self.call(0, function, encode, |from| {
            Ok((from.get::<u64>()?, from.get::<Fd>()?.into_owned()))
        })?;
        Ok(Handle(Arc::new(Object { link: Arc::clone(self), id, life })))
    }

    /// As [`create`](Self::create), with a function of this crate.
    pub(crate) fn make<F>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<Handle>
    where
        F: Fn(&mut Decoder<'_>) -> mp_core::Result<Stored> + Copy + 'static,
    {
        self.create(Function::new::<F, Create>(function), encode)
    }

    /// As [`create`](Self::create), with a function of the user.
    pub(crate) fn make_by<F, C: Convention<F>>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<Handle>
    where
        F: Copy + 'static,
    {
        self.create(Function::new::<F, C>(function), encode)
    }

    /// Tells the server to end.
    pub(crate) fn stop(&self) -> Result<()> {
        Ok(self.door.try_send(STOP, &[], &[])?)
    }
}

fn refusal(word: u64, text: String) -> Error {
    match Status::read(word) {
        Some(Status::Panicked) => Error::Panicked(text),
        Some(Status::Unencodable) => Error::Encode(text),
        Some(Status::NoObject) => Error::NoObject,
        Some(Status::WrongType) => Error::WrongType,
        Some(Status::Io) => Error::Io(io::Error::other(format!("in the manager's server: {text}"))),
        Some(Status::Undecodable) => Error::Decode(text),
        Some(Status::Value) | None => {
            Error::Decode(format!("the result is of no known kind, {word}"))
        }
    }
}

/// What a proxy is: an object's number, the way to it, and a share in its life. A clone shares all of it.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Object>);

struct Object {
    link: Arc<Link>,
    id: u64,
    /// The write end of the object's lifeline: while it is open anywhere, the object stays.
    life: OwnedFd,
}

impl Handle {
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0.link
    }

    pub(crate) fn is_of_same_manager(&self, other: &Self) -> bool {
        self.0.link.key == other.0.link.key
    }

    /// A name of the process that this is in: differs in a forked child.
    pub(crate) fn generation() -> u64 {
        generation()
    }

    /// Calls a function of the user, which follows `C`.
    pub(crate) fn call_by<F, C, R>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
        decode: impl FnOnce(&mut Decoder<'_>) -> mp_core::Result<R>,
    ) -> Result<R>
    where
        F: Copy + 'static,
        C: Convention<F>,
    {
        self.0.link.call(self.0.id, Function::new::<F, C>(function), encode, decode)
    }

    /// Calls a function of this crate with a `T` behind its lock.
    pub(crate) fn value<T, R, F>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        T: Send + 'static,
        R: serde::de::DeserializeOwned,
        F: Fn(&mut T, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        self.call_by::<F, OnValue<T>, R>(encode, function, |from| from.get())
    }

    /// Calls a function of this crate with an `O` that has its locks within. It leaves a value or a fault.
    pub(crate) fn object<O, R, F>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        O: Send + Sync + 'static,
        R: serde::de::DeserializeOwned,
        F: Fn(&Arc<O>, &Client, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let get = |from: &mut Decoder<'_>| from.get::<Result<R, Fault>>();
        Ok(self.call_by::<F, OnObject<O>, _>(encode, function, get)??)
    }

    /// Calls a function of this crate with any object. It leaves a value or a fault.
    pub(crate) fn any<R, F>(
        &self,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        R: serde::de::DeserializeOwned,
        F: Fn(&Stored, &Client, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let get = |from: &mut Decoder<'_>| from.get::<Result<R, Fault>>();
        Ok(self.call_by::<F, OnAny, _>(encode, function, get)??)
    }
}

/// No arguments.
pub(crate) fn nothing(_: &mut Encoder) -> mp_core::Result<()> {
    Ok(())
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.id.fmt(f)
    }
}

/// What of a proxy travels.
#[derive(Serialize)]
struct Sent<'a>([u64; 2], u64, Descriptor<'a>, Descriptor<'a>);

struct Descriptor<'a>(std::os::fd::BorrowedFd<'a>);

impl Serialize for Descriptor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fd::serialize(self.0, serializer)
    }
}

#[derive(Deserialize)]
struct Received([u64; 2], u64, Fd, Fd);

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Object { link, id, life } = &*self.0;
        Sent(link.key, *id, Descriptor(link.door.as_fd()), Descriptor(life.as_fd()))
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Received(key, id, door, life) = Received::deserialize(deserializer)?;
        let link = Link::new(key, door.into_owned());
        Ok(Self(Arc::new(Object { link, id, life: life.into_owned() })))
    }
}

/// What every proxy is but for its methods: shares on clone, travels, says little of itself.
macro_rules! proxy {
    ($name:ident $(<$($parameter:ident),+>)?) => {
        impl$(<$($parameter),+>)? $name$(<$($parameter),+>)? {
            pub(crate) fn from_handle(handle: $crate::link::Handle) -> Self {
                Self { handle, of: std::marker::PhantomData }
            }
        }

        impl$(<$($parameter),+>)? Clone for $name$(<$($parameter),+>)? {
            /// Another proxy of the same object.
            fn clone(&self) -> Self {
                Self::from_handle(self.handle.clone())
            }
        }

        impl$(<$($parameter),+>)? std::fmt::Debug for $name$(<$($parameter),+>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.handle).finish()
            }
        }

        impl$(<$($parameter),+>)? serde::Serialize for $name$(<$($parameter),+>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&self.handle, serializer)
            }
        }

        impl<'de $(, $($parameter),+)?> serde::Deserialize<'de> for $name$(<$($parameter),+>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$crate::link::Handle as serde::Deserialize>::deserialize(deserializer)
                    .map(Self::from_handle)
            }
        }
    };
}

pub(crate) use proxy;
