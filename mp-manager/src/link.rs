//! The client's side: how a proxy reaches its server.
//!
//! A process has one [`Link`] to each server it has proxies of, and the link a [`Session`] for each thread that calls,
//! made at its first call: a pipe whose other end goes to the server through the front door, or a connection to its
//! address. It ends with the thread, or with the last proxy here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::thread::in_forked_child;
use mp_core::{Deadline, Decoder, Encoder, Fd, Message, crash_point, fd};
use mp_pipe::{Connection, Sender};
use mp_process::{Convention, Function};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::active::Pace;
use crate::call::{Create, Made, OnAny, OnObject, OnServer, OnValue, Stored, held};
use crate::error::{Fault, InServer};
use crate::look;
use crate::operation::{Operation, fingerprint};
use crate::protocol::{CONNECT, Call, STOP, Status, What};
use crate::remote::{self, Identity, Remote, identity};
use crate::server::Client;
use crate::wire::wrapped;
use crate::{Error, Result};

/// A buffer up to this long is kept for the next call.
const KEPT: usize = 1 << 20;

/// How many forks lie between this process and the one that first had a link: a forked child must not use its parent's
/// connections.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static WATCHES_FORKS: Once = Once::new();
static LINKS: Mutex<Vec<Weak<Link>>> = Mutex::new(Vec::new());
/// The server that this process is, of that generation.
static SERVER: Mutex<Option<(Key, u64)>> = Mutex::new(None);

fn watch_forks() {
    WATCHES_FORKS.call_once(|| _ = in_forked_child(forked));
}

/// This process is the server of that key.
pub(crate) fn is_server_of(key: Key) {
    watch_forks();
    *lock(&SERVER) = Some((key, generation()));
}

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

/// A number of this program's build.
pub(crate) fn program() -> u64 {
    static PROGRAM: OnceLock<u64> = OnceLock::new();
    // A program that cannot be told from others is refused where its functions are received.
    *PROGRAM.get_or_init(|| mp_process::build_id().map_or(0, |id| fingerprint(&id)))
}

/// What tells a server from others: a random number, and its program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) server: [u64; 2],
    pub(crate) program: u64,
}

/// How a server is reached.
enum Door {
    /// A socket, through which go the ends of pipes.
    Here(Channel),
    /// An address.
    There(Remote),
}

impl Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Here(door) => door.as_fd(),
            Self::There(remote) => remote.paper(),
        }
    }
}

/// This process's way to one server.
pub(crate) struct Link {
    key: Key,
    generation: u64,
    /// It is in the server itself, whose functions call.
    is_within: bool,
    door: Door,
    sessions: Mutex<Vec<(ThreadId, Arc<Session>)>>,
    objects: Mutex<Objects>,
}

/// The objects that there are proxies of here.
#[derive(Default)]
struct Objects {
    by_number: HashMap<u64, Weak<Object>>,
    /// The lifelines, where they are connections.
    lives: HashMap<Identity, u64>,
}

/// One thread's connection.
pub(crate) struct Session {
    generation: u64,
    talk: Mutex<Talk>,
}

struct Talk {
    connection: Connection<(), ()>,
    /// The functions that the server has, in the order of their numbers: so few that looking for one takes no time.
    functions: Vec<usize>,
    /// How many ends of children this process had seen at the last call.
    ends_seen: u64,
    pace: Pace,
    /// How long the last answer took of those that were slept for.
    last_wait: Duration,
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

/// A message, its descriptors, and what stays until they are read.
type Unpacked<'a> = (&'a [u8], Vec<OwnedFd>, Vec<Arc<Object>>);

/// What is called.
#[derive(Clone, Copy)]
enum Callee {
    Function(Function),
    /// An operation by its number, and the fingerprint of the proxy.
    Operation(u32, u64),
}

impl Link {
    /// The link to the server of that key, whose front door `door` gives if there is no link yet.
    pub(crate) fn new(
        key: Key,
        door: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<Arc<Self>> {
        Self::find(key, || {
            Ok(match Remote::read(door()?) {
                Ok(remote) => Door::There(remote),
                Err(door) => Door::Here(Channel::from(door)),
            })
        })
    }

    /// The link to the server of that key, which is reached at an address.
    pub(crate) fn to(key: Key, remote: Remote) -> io::Result<Arc<Self>> {
        Self::find(key, || Ok(Door::There(remote)))
    }

    fn find(key: Key, door: impl FnOnce() -> io::Result<Door>) -> io::Result<Arc<Self>> {
        watch_forks();
        let mut links = lock(&LINKS);
        links.retain(|link| link.strong_count() > 0);
        let generation = generation();
        let found = links.iter().filter_map(Weak::upgrade);
        if let Some(link) =
            found.into_iter().find(|link| link.key == key && link.generation == generation)
        {
            return Ok(link);
        }
        let link = Arc::new(Self {
            key,
            generation,
            is_within: *lock(&SERVER) == Some((key, generation)),
            door: door()?,
            sessions: Mutex::default(),
            objects: Mutex::default(),
        });
        links.push(Arc::downgrade(&link));
        Ok(link)
    }

    /// What others reach the server by.
    pub(crate) fn door(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }

    /// Whether the server has this program's functions.
    fn is_of_this_program(&self) -> bool {
        self.key.program == program()
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
        let ends_seen = mp_process::ends_seen();
        let connection = match &self.door {
            Door::There(remote) => remote.session()?,
            Door::Here(door) => {
                let (ours, theirs) = mp_pipe::duplex::<(), ()>()?;
                let message = mp_core::encode(&theirs)?;
                let fds: Vec<_> = message.fds().iter().map(AsFd::as_fd).collect();
                crash_point!("client: about to connect");
                door.send(CONNECT, &[message.bytes()], &fds)?;
                crash_point!("client: connected");
                ours
            }
        };
        let (functions, buffer) = (Vec::new(), Message::default());
        let (pace, last_wait) = (Pace::default(), Duration::MAX);
        let talk = Talk { connection, functions, ends_seen, pace, last_wait, buffer };
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
        let Door::Here(door) = &self.door else { return Error::ServerDied };
        // A process that ends closes its descriptors one after the other.
        let mut door = [PollFd::hung_up(door.as_fd())];
        match poll(&mut door, Deadline::after(Duration::from_millis(50))) {
            Ok(0) => Error::Refused,
            _ => Error::ServerDied,
        }
    }

    /// Calls something in the server.
    fn call<R>(
        self: &Arc<Self>,
        object: u64,
        callee: Callee,
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
        let mut encoder = Encoder::reuse(std::mem::take(&mut talk.buffer));
        let mut new = None;
        let ends_seen = mp_process::ends_seen();
        let after_end = ends_seen != talk.ends_seen;
        let held = if self.is_within { held() } else { Vec::new() };
        let is_within = !held.is_empty();
        if self.is_within {
            Client::steps_back();
        }
        let is_eager = talk.pace.is_eager();
        let begin = |what, encoder: &mut Encoder| -> mp_core::Result<()> {
            Call { object, what, after_end, is_within, is_eager }.put(encoder)?;
            if is_within { encoder.put(&held).map(drop) } else { Ok(()) }
        };
        let wrap = match callee {
            Callee::Function(function) => {
                let known = talk.functions.iter().position(|&key| key == function.key());
                let what = match known {
                    Some(number) => What::Known(number as u32),
                    None => What::New(talk.functions.len() as u32),
                };
                begin(what, &mut encoder)?;
                if known.is_none() {
                    encoder.put(&function)?;
                    new = Some(function);
                }
                false
            }
            Callee::Operation(number, fingerprint) => {
                begin(What::Operation(number), &mut encoder)?;
                encoder.put(&fingerprint)?;
                true
            }
        };
        wrapped(wrap, || encode(&mut encoder))?;
        let message = encoder.finish();
        crash_point!("client: about to call");
        match self.send(talk.connection.sender(), &message) {
            Ok(()) => {}
            Err(Error::ServerDied) => return Err(self.lost(&session)),
            Err(error) => return Err(error),
        }
        crash_point!("client: called");
        if message.bytes().len() <= KEPT {
            // Without the descriptors: an object lives for as long as there is one.
            talk.buffer = Encoder::reuse(message).finish();
        }
        if matches!(self.door, Door::Here(_)) {
            look::as_client(&talk.connection, &mut talk.last_wait);
        }
        let (mut is_lost, mut is_lent) = (false, false);
        let received = talk.connection.receiver().recv_message_with(|bytes, fds| {
            crash_point!("client: the answer is there");
            let (bytes, fds, _kept) = self.descriptors(bytes, fds)?;
            is_lent = !fds.is_empty();
            let mut decoder = Decoder::new(bytes, fds);
            let word = decoder.get::<u64>()?;
            if word == Status::Value as u64 {
                let value = wrapped(wrap, || decode(&mut decoder))?;
                crash_point!("client: the answer is read");
                return decoder.finish().map(|()| value).map_err(Error::from);
            }
            is_lost = word == Status::Lost as u64;
            Err(refusal(word, decoder.get()?, decoder.get()?))
        });
        talk.pace.is_answered();
        if is_lent && matches!(self.door, Door::There(_)) {
            // What came has its own lifelines now, or is gone. Where it fails, the next call will.
            let _ = talk.connection.send_bytes(&[]);
        }
        if !is_lost {
            talk.ends_seen = ends_seen;
            talk.functions.extend(new.map(|function| function.key()));
        }
        match received {
            Ok(result) => result,
            Err(mp_pipe::Error::Disconnected) => Err(self.lost(&session)),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, sender: &Sender<()>, message: &Message) -> Result<()> {
        match &self.door {
            Door::Here(_) => sender.send_message(message)?,
            Door::There(remote) => {
                let numbers = remote.numbers(message.fds(), &lock(&self.objects).lives)?;
                remote::send(sender, &numbers, message.bytes())?;
            }
        }
        Ok(())
    }

    /// A message, and the descriptors it came with or that stand for what it came with. Objects that are here
    /// already stay meanwhile.
    fn descriptors<'a>(&self, bytes: &'a [u8], fds: Vec<OwnedFd>) -> Result<Unpacked<'a>> {
        let Door::There(remote) = &self.door else { return Ok((bytes, fds, Vec::new())) };
        let cut = || Error::Decode("it ends before its descriptors".to_string());
        let (numbers, bytes) = remote::split(bytes).ok_or_else(cut)?;
        let mut kept = Vec::new();
        let fds = remote.descriptors(&numbers, |id| {
            let object = self.object(id)?;
            let life = object.life.try_clone().ok()?;
            kept.push(object);
            Some(life)
        })?;
        Ok((bytes, fds, kept))
    }

    /// The object of that number, if there are proxies of it.
    fn object(&self, id: u64) -> Option<Arc<Object>> {
        lock(&self.objects).by_number.get(&id)?.upgrade()
    }

    /// A proxy of that object, which shares what other proxies of it have here.
    fn handle(self: &Arc<Self>, id: u64, raw: bool, life: OwnedFd) -> io::Result<Handle> {
        let mark = match &self.door {
            Door::Here(_) => None,
            Door::There(_) => Some(identity(life.as_fd())?),
        };
        let mut objects = lock(&self.objects);
        if let Some(object) = objects.by_number.get(&id).and_then(Weak::upgrade) {
            drop(objects);
            return Ok(Handle(object));
        }
        let direct = !raw && self.is_of_this_program();
        let object = Arc::new(Object { link: Arc::clone(self), id, raw, direct, life, mark });
        objects.by_number.insert(id, Arc::downgrade(&object));
        objects.lives.extend(mark.map(|mark| (mark, id)));
        drop(objects);
        Ok(Handle(object))
    }

    /// A proxy of an object of a server at an address.
    pub(crate) fn remote_handle(self: &Arc<Self>, id: u64) -> Result<Handle> {
        if let Some(object) = self.object(id) {
            return Ok(Handle(object));
        }
        let Door::There(remote) = &self.door else { return Err(Error::NoObject) };
        Ok(self.handle(id, false, remote.life(id)?)?)
    }

    /// Calls a function of this crate in the server, which is of this program.
    pub(crate) fn run<R, F>(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        function: F,
    ) -> Result<R>
    where
        R: serde::de::DeserializeOwned,
        F: Fn(&mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        let function = Function::new::<F, OnServer>(function);
        self.call(0, Callee::Function(function), encode, |from| from.get())
    }

    /// Has the server make an object; `raw` where it has parcels for elements.
    fn create(
        self: &Arc<Self>,
        callee: Callee,
        raw: bool,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<Handle> {
        let (id, life) = self.call(0, callee, encode, |from| {
            Ok((from.get::<u64>()?, from.get::<Fd>()?.into_owned()))
        })?;
        crash_point!("client: an object is made");
        Ok(self.handle(id, raw, life)?)
    }

    /// As [`create`](Self::create), with a function of this crate.
    pub(crate) fn make<F>(
        self: &Arc<Self>,
        maker: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<Handle>
    where
        F: Fn(&mut Decoder<'_>) -> mp_core::Result<Made> + Copy + 'static,
    {
        if self.is_of_this_program() {
            let function = Function::new::<F, Create>(maker.function);
            return self.create(Callee::Function(function), false, encode);
        }
        self.create(Callee::Operation(maker.number, 0), true, |to| {
            to.put(&(maker.kind)().to_string())?;
            encode(to)
        })
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
        if !self.is_of_this_program() {
            return Err(Error::OtherProgram);
        }
        self.create(Callee::Function(Function::new::<F, C>(function)), false, encode)
    }

    /// Tells the server to end.
    pub(crate) fn stop(&self) -> Result<()> {
        match &self.door {
            Door::Here(door) => Ok(door.try_send(STOP, &[], &[])?),
            Door::There(_) => Ok(()),
        }
    }
}

fn refusal(word: u64, text: String, errno: i32) -> Error {
    match Status::read(word) {
        Some(Status::Panicked) => Error::Panicked(text),
        Some(Status::Unencodable) => Error::Encode(text),
        Some(Status::NoObject) => Error::NoObject,
        Some(Status::WrongType) => Error::WrongType { object: text },
        Some(Status::NoOperation) => Error::OtherProgram,
        Some(Status::Deadlock) => Error::Deadlock,
        Some(Status::Io | Status::Lost) => Error::Io(InServer::error(text, errno)),
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
    /// The server keeps its elements as parcels.
    raw: bool,
    /// The server has this program's functions for it.
    direct: bool,
    /// The write end of the object's lifeline: while it is open anywhere, the object stays.
    life: OwnedFd,
    /// What the lifeline is found by, where it is a connection.
    mark: Option<Identity>,
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut objects = lock(&self.link.objects);
        // Another proxy may have come meanwhile.
        if objects.by_number.get(&self.id).is_some_and(|object| object.strong_count() == 0) {
            objects.by_number.remove(&self.id);
        }
        if let Some(mark) = self.mark {
            objects.lives.remove(&mark);
        }
    }
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

    /// The key of its server, its number and a copy of its lifeline.
    pub(crate) fn parts(&self) -> Result<(Key, u64, OwnedFd)> {
        Ok((self.0.link.key, self.0.id, self.0.life.try_clone()?))
    }

    /// Whether functions of this program can be called with the object.
    pub(crate) fn is_direct(&self) -> bool {
        self.0.direct
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
        if !self.0.direct {
            return Err(Error::OtherProgram);
        }
        let callee = Callee::Function(Function::new::<F, C>(function));
        self.0.link.call(self.0.id, callee, encode, decode)
    }

    /// Calls a function of this crate, which follows `C`.
    fn operate<F, C, R>(
        &self,
        operation: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        decode: impl FnOnce(&mut Decoder<'_>) -> mp_core::Result<R>,
    ) -> Result<R>
    where
        F: Copy + 'static,
        C: Convention<F>,
    {
        let callee = if self.0.direct {
            Callee::Function(Function::new::<F, C>(operation.function))
        } else {
            Callee::Operation(operation.number, (operation.kind)().fingerprint())
        };
        self.0.link.call(self.0.id, callee, encode, decode)
    }

    /// Calls a function of this crate with a `T` behind its lock.
    pub(crate) fn value<T, R, F>(
        &self,
        operation: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        T: Send + 'static,
        R: serde::de::DeserializeOwned,
        F: Fn(&mut T, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        self.operate::<F, OnValue<T>, R>(operation, encode, |from| from.get())
    }

    /// As [`value`](Self::value), for a result that is read as `decode` does.
    pub(crate) fn value_as<T, R, F>(
        &self,
        operation: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
        decode: impl FnOnce(&mut Decoder<'_>) -> mp_core::Result<R>,
    ) -> Result<R>
    where
        T: Send + 'static,
        F: Fn(&mut T, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()> + Copy + 'static,
    {
        self.operate::<F, OnValue<T>, R>(operation, encode, decode)
    }

    /// Calls a function of this crate with an `O` that has its locks within. It leaves a value or a fault.
    pub(crate) fn object<O, R, F>(
        &self,
        operation: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        O: Send + Sync + 'static,
        R: serde::de::DeserializeOwned,
        F: Fn(&Arc<O>, &Client, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let get = |from: &mut Decoder<'_>| from.get::<Result<R, Fault>>();
        Ok(self.operate::<F, OnObject<O>, _>(operation, encode, get)??)
    }

    /// Calls a function of this crate with any object. It leaves a value or a fault.
    pub(crate) fn any<R, F>(
        &self,
        operation: Operation<F>,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        R: serde::de::DeserializeOwned,
        F: Fn(&Stored, &Client, &mut Decoder<'_>, &mut Encoder) -> mp_core::Result<()>
            + Copy
            + 'static,
    {
        let get = |from: &mut Decoder<'_>| from.get::<Result<R, Fault>>();
        Ok(self.operate::<F, OnAny, _>(operation, encode, get)??)
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
struct Sent<'a>(Key, u64, bool, SentDoor<'a>, Lifeline<'a>);

/// Once for all proxies of the message.
struct SentDoor<'a>(BorrowedFd<'a>);

impl Serialize for SentDoor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fd::serialize_shared(self.0, serializer)
    }
}

struct Lifeline<'a>(BorrowedFd<'a>);

impl Serialize for Lifeline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fd::serialize(self.0, serializer)
    }
}

#[derive(Deserialize)]
struct Received(Key, u64, bool, fd::Shared, Fd);

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Object { link, id, raw, life, .. } = &*self.0;
        Sent(link.key, *id, *raw, SentDoor(link.door.as_fd()), Lifeline(life.as_fd()))
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Received(key, id, raw, door, life) = Received::deserialize(deserializer)?;
        let handle = Link::new(key, || door.duplicate())
            .and_then(|link| link.handle(id, raw, life.into_owned()));
        handle.map_err(|error| D::Error::custom(fd::short(error)))
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
