//! The process that has the objects.
//!
//! One thread at the front door, one for each connection, and one that takes away objects of which no proxy is left.
//! Of that the kernel tells: each proxy has a copy of the write end of a pipe, the object's lifeline, also while it
//! travels in a message, and the server the read end, which ends when the last copy is closed, however that comes
//! about. A connection's end is that of a client's thread: what it held is released.
//!
//! A killed client may have called without hearing what came of it, and its call may lie there for a while, on a busy
//! machine. Who knows of its end is not to see it made afterwards, nor to find what it held still taken: so before the
//! first call of a connection, and before one whose caller has seen a process end, the threads of those whose sockets
//! have hung up are told that it was their last [`Turn`], and are waited for.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{Epoll, PollFd, poll, wait_readable};
use mp_core::sys::process;
use mp_core::{Deadline, Decoder, Encoder, Fd, Message, catch_panic, crash_point};
use mp_pipe::Connection;
use mp_process::Function;

use crate::active::{Active, Member};
use crate::call::{HELD_ABOVE, Made, Stored, set_current, set_held_above};
use crate::link::{Key, is_server_of};
use crate::look;
use crate::makers::makers;
use crate::operation::{Operations, fingerprint};
use crate::protocol::{CONNECT, Call, HEADER, STOP, Status, What};
use crate::remote::{self, HOLDER, Identity, Remotes};
use crate::wait::lock;
use crate::wire::wrapped;

/// The terminal's interrupt, signal(7).
const SIGINT: i32 = 2;
/// No descriptor is left for the process, errno(3).
const EMFILE: i32 = 24;
/// A buffer up to this long is kept for the next result.
const KEPT: usize = 1 << 20;

/// One of the objects.
#[derive(Clone)]
struct Entry {
    object: Stored,
    operations: Operations,
    /// What its proxies are called, and that as a number.
    name: Arc<str>,
    fingerprint: u64,
}

/// The objects.
pub(crate) struct Server {
    objects: RwLock<HashMap<u64, Entry>>,
    /// The read ends of lifelines, and what the clients through TCP know them by.
    lifelines: Mutex<HashMap<u64, (PipeReader, Option<Identity>)>>,
    /// The clients through TCP, once it listens for them. Locked after `lifelines`.
    remotes: Mutex<Option<Remotes>>,
    ended: Epoll,
    /// Those of which no proxy is left, until they are dropped.
    doomed: Mutex<Doomed>,
    came: Condvar,
    /// The threads of clients, by their numbers, and whose sockets have hung up.
    turns: Mutex<HashMap<u64, Arc<Turn>>>,
    hung_up: Epoll,
    next_object: AtomicU64,
    next_client: AtomicU64,
    /// Which threads of clients are served now.
    active: Active,
    /// The sockets it listens at.
    sockets: Mutex<Vec<PathBuf>>,
    /// It is shut down, and answers no more calls.
    ends: AtomicBool,
}

impl Server {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            objects: RwLock::default(),
            lifelines: Mutex::default(),
            remotes: Mutex::default(),
            ended: Epoll::new()?,
            doomed: Mutex::default(),
            came: Condvar::new(),
            turns: Mutex::default(),
            hung_up: Epoll::new()?,
            next_object: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
            active: Active::default(),
            sockets: Mutex::default(),
            ends: AtomicBool::new(false),
        })
    }

    /// Adds an object; gives its number and its lifeline.
    pub(crate) fn insert(&self, made: Made) -> io::Result<(u64, PipeWriter)> {
        let Made { object, operations, name } = made;
        let fingerprint = fingerprint(&name);
        let entry = Entry { object, operations, name: name.into(), fingerprint };
        let (reader, writer) = io::pipe()?;
        // Relaxed: each gets another number, which is all there is to it.
        let id = self.next_object.fetch_add(1, Ordering::Relaxed);
        let mut lifelines = lock(&self.lifelines);
        let mark = match &mut *lock(&self.remotes) {
            Some(remotes) => Some(remotes.know(reader.as_fd(), id)?),
            None => None,
        };
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        crash_point!("server: an object has no lifeline yet");
        if let Err(error) = self.ended.add(reader.as_fd(), id) {
            drop(lifelines);
            drop(self.remove(id));
            return Err(error);
        }
        lifelines.insert(id, (reader, mark));
        Ok((id, writer))
    }

    /// Is ready for clients through TCP, who find the object that has that lifeline; `door` is what proxies have.
    pub(crate) fn expect_remotes(
        &self,
        door: OwnedFd,
        id: u64,
        lifeline: OwnedFd,
    ) -> io::Result<()> {
        let mut lifelines = lock(&self.lifelines);
        let mut remotes = Remotes::new(door)?;
        for (id, (reader, mark)) in &mut *lifelines {
            *mark = Some(remotes.know(reader.as_fd(), *id)?);
        }
        // For ever: there may be clients at any time.
        remotes.lend(id, lifeline);
        *lock(&self.remotes) = Some(remotes);
        Ok(())
    }

    /// Calls `with` with what is known of clients through TCP.
    pub(crate) fn with_remotes<R>(&self, with: impl FnOnce(&mut Remotes) -> R) -> Option<R> {
        lock(&self.remotes).as_mut().map(with)
    }

    /// A client has the object for as long as this connection.
    pub(crate) fn hold(&self, id: u64, connection: Connection<(), ()>) -> io::Result<()> {
        let held = self.with_remotes(|remotes| {
            // Locked meanwhile: an end that is seen at once is found.
            remotes.hold(id, connection, |fd, holder| self.ended.add(fd, holder))
        });
        held.unwrap_or(Ok(()))
    }

    /// Remembers a socket, to remove it at the end.
    pub(crate) fn listens_at(&self, socket: PathBuf) {
        lock(&self.sockets).push(socket);
    }

    pub(crate) fn object(&self, id: u64) -> Option<Stored> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.get(&id).map(|entry| Arc::clone(&entry.object))
    }

    /// What the object's proxies are called, as a number.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn fingerprint(&self, id: u64) -> Option<u64> {
        self.entry(id).map(|entry| entry.fingerprint)
    }

    fn entry(&self, id: u64) -> Option<Entry> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn remove(&self, id: u64) -> Option<Entry> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Sees to it that nothing more is done for clients that have ended, and that what they held is free; `asks` may be
    /// one of them.
    ///
    /// What is being done for them is waited for, but not for long: a function of the user may take its time.
    fn settle(&self, asks: Option<&Client>) {
        let is_over = || asks.is_some_and(Client::is_over);
        // Locked meanwhile: who settles at the same time waits for them too. But who has it waits for this thread, if
        // its client has ended.
        let turns = loop {
            match self.turns.try_lock() {
                Ok(turns) => break turns,
                Err(TryLockError::Poisoned(turns)) => break turns.into_inner(),
                Err(TryLockError::WouldBlock) if asks.is_none() => break lock(&self.turns),
                Err(TryLockError::WouldBlock) if is_over() => return,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_micros(20)),
            }
        };
        let mut limit = None;
        loop {
            let ended = self.hung_up.some().unwrap_or_default();
            if ended.is_empty() {
                break;
            }
            let ended: Vec<_> = ended.iter().filter_map(|client| turns.get(client)).collect();
            ended.iter().for_each(|turn| turn.over.store(true, Ordering::SeqCst));
            let limit = *limit.get_or_insert_with(|| Deadline::after(MOMENT));
            asks.inspect(|client| client.step_back());
            if is_over() {
                asks.inspect(|client| client.abandon());
            }
            for turn in ended {
                let mut pause = Duration::from_micros(1);
                while turn.acts.load(Ordering::SeqCst) && !limit.has_passed() {
                    // More than once, as it may be about to sleep.
                    if let Some(changed) = &*lock(&turn.waits_for) {
                        changed.notify_all();
                    }
                    thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(1));
                }
            }
        }
    }

    /// Takes away objects whose lifelines end.
    fn clear_away(self: &Arc<Self>) -> io::Result<()> {
        // How many drops were begun when one had to wait, and until when another is to begin.
        let mut last: Option<(u64, Deadline)> = None;
        loop {
            let doomed = lock(&self.doomed);
            let begun = (!doomed.objects.is_empty()).then_some(doomed.begun);
            drop(doomed);
            if let (Some(begun), Some((same, limit))) = (begun, last)
                && begun == same
            {
                if limit.has_passed() {
                    // Whoever drops one takes its time.
                    self.drop_more();
                    last = Some((begun, Deadline::after(LONG)));
                }
            } else {
                last = begun.map(|begun| (begun, Deadline::after(LONG)));
            }
            wait_readable(self.ended.as_fd(), last.map_or(Deadline::NEVER, |(_, limit)| limit))?;
            for id in self.ended.some()? {
                if id & HOLDER != 0 {
                    let _ = self.with_remotes(|remotes| remotes.end(id));
                    continue;
                }
                let mut lifelines = lock(&self.lifelines);
                if let Some((_, Some(mark))) = lifelines.remove(&id) {
                    let _ = self.with_remotes(|remotes| remotes.forget(mark));
                }
                drop(lifelines);
                let Some(object) = self.remove(id) else { continue };
                let mut doomed = lock(&self.doomed);
                doomed.objects.push_back(object);
                let nobody = doomed.threads == 0;
                drop(doomed);
                self.came.notify_one();
                if nobody {
                    self.drop_more();
                }
            }
        }
    }

    /// Has one thread more drop objects.
    fn drop_more(self: &Arc<Self>) {
        lock(&self.doomed).threads += 1;
        let us = Arc::clone(self);
        let thread = thread::Builder::new().name("dropper".into());
        if thread.spawn(move || us.drop_doomed()).is_err() {
            // Then this one does what is there.
            self.drop_doomed();
        }
    }

    /// Drops objects until for a while there are none.
    fn drop_doomed(&self) {
        let mut doomed = lock(&self.doomed);
        loop {
            let Some(object) = doomed.objects.pop_front() else {
                let waited = self.came.wait_timeout(doomed, MOMENT);
                let (state, wait) = waited.unwrap_or_else(PoisonError::into_inner);
                doomed = state;
                if wait.timed_out() && doomed.objects.is_empty() {
                    doomed.threads -= 1;
                    return;
                }
                continue;
            };
            doomed.begun += 1;
            drop(doomed);
            // What it is of may do anything when it is dropped.
            let _ = catch_panic(|| drop(object));
            doomed = lock(&self.doomed);
        }
    }
}

/// Objects that are to be dropped: not by who finds that, as what they are of may take its time.
#[derive(Default)]
struct Doomed {
    objects: VecDeque<Entry>,
    /// How many threads drop them, and how many drops they have begun.
    threads: usize,
    begun: u64,
}

/// Where a drop takes so long, another thread drops what comes after it.
const LONG: Duration = Duration::from_millis(10);

/// What is released when the client's thread that holds it ends.
pub(crate) trait Held: Send + Sync {
    /// The client has ended.
    fn abandon(&self, client: u64);
}

/// How long the threads of clients that have ended are waited for.
const MOMENT: Duration = Duration::from_secs(1);

/// What a thread that serves a client has to do with others.
///
/// Each of the two words is stored by one side and then the other loaded, so one side at least sees the other's: all of
/// it is sequentially consistent.
#[derive(Default)]
struct Turn {
    /// The client has ended, and this was its last turn: nothing that it asked for is begun any more.
    over: AtomicBool,
    /// Something may be done for the client, or be held by it: from before its first call until all that it held is free.
    acts: AtomicBool,
    /// What wakes it where it waits for others. It looks at `over` then.
    waits_for: Mutex<Option<Arc<Condvar>>>,
}

/// One thread of a client, as the thread that serves it knows it.
pub(crate) struct Client {
    server: Arc<Server>,
    id: u64,
    turn: Arc<Turn>,
    member: Member,
    connection: Connection<(), ()>,
    /// Through TCP.
    is_remote: bool,
    held: RefCell<Vec<Arc<dyn Held>>>,
}

/// A thread that waits for others.
pub(crate) struct Waits<'a>(&'a Turn);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *lock(&self.0.waits_for) = None;
    }
}

thread_local! {
    static CLIENT: RefCell<Option<Rc<Client>>> = const { RefCell::new(None) };
}

impl Client {
    /// Whom this thread serves.
    ///
    /// # Panics
    ///
    /// Where it serves nobody.
    pub(crate) fn current() -> Rc<Self> {
        CLIENT.with_borrow(Clone::clone).expect("the crate's functions are called for a client")
    }

    /// If this thread serves a client, as [`step_back`](Self::step_back).
    pub(crate) fn steps_back() {
        // A thread that is at its end serves nobody.
        let _ = CLIENT.try_with(|client| {
            client.borrow().iter().for_each(|client| client.step_back());
        });
    }

    /// Whom this thread serves from now on, and nobody who has ended before.
    pub(crate) fn serve(
        server: &Arc<Server>,
        connection: Connection<(), ()>,
        is_remote: bool,
    ) -> io::Result<Rc<Self>> {
        // Relaxed: each gets another number, which is all there is to it.
        let id = server.next_client.fetch_add(1, Ordering::Relaxed);
        let turn = Arc::new(Turn::default());
        let mut turns = lock(&server.turns);
        server.hung_up.add_hang_up(connection.receiver().peer(), id)?;
        turns.insert(id, Arc::clone(&turn));
        drop(turns);
        server.settle(None);
        turn.acts.store(true, Ordering::SeqCst);
        let (server, member, held) = (Arc::clone(server), Member::default(), RefCell::default());
        let client = Rc::new(Self { server, id, turn, member, connection, is_remote, held });
        CLIENT.replace(Some(Rc::clone(&client)));
        Ok(client)
    }

    /// The client has ended: what it held is others'.
    pub(crate) fn leave(client: &Rc<Self>) {
        client.step_back();
        client.abandon();
        lock(&client.server.turns).remove(&client.id);
        CLIENT.replace(None);
    }

    /// Frees what it held; nothing is done for it any more.
    fn abandon(&self) {
        for held in self.held.take() {
            held.abandon(self.id);
        }
        self.turn.acts.store(false, Ordering::SeqCst);
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Its number, never given to another.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has ended while it waits for the result of a call.
    pub(crate) fn is_gone(&self) -> bool {
        if self.is_over() {
            return true;
        }
        // It sends nothing meanwhile, so what there is to receive can only be the end. A try to receive would not always
        // ask the kernel.
        match self.connection.receiver().bell() {
            None => true,
            Some(bell) => {
                poll(&mut [PollFd::hung_up(bell)], Deadline::PASSED).is_ok_and(|ended| ended > 0)
            }
        }
    }

    /// Waits for a call, and for this thread's turn to make it; or for the end.
    fn wait(&self) {
        let (connection, member, active) = (&self.connection, &self.member, &self.server.active);
        // Who may have others wait for it waits for nobody.
        let holds = !self.held.borrow().is_empty();
        let takes_turns = member.takes_turns() && !holds;
        if member.goes_on(active) {
            if look::as_active(connection) {
                return;
            }
            member.leave(active);
        } else if !takes_turns && look::as_server(connection, || self.is_over()) {
            return;
        }
        look::sleep(connection, || self.is_over());
        // Where that was the end, nobody is to wait for what the client held.
        if member.takes_turns() && !holds && !connection.receiver().is_empty() {
            let _waits = self.waits_for(member.changed());
            member.enter(active, || self.is_over());
        }
    }

    /// It waits for others: another client is to be served meanwhile.
    pub(crate) fn step_back(&self) {
        self.member.waits_for_others(&self.server.active);
    }

    /// In a call: waits for a lock.
    pub(crate) fn waits_for_lock<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.member.waits_for_lock(wait)
    }

    /// Whether it has ended, and others rely on that.
    fn is_over(&self) -> bool {
        self.turn.over.load(Ordering::SeqCst)
    }

    /// This thread waits for `changed` as long as what is given lives, and looks whether it is gone whenever it is woken.
    pub(crate) fn waits_for(&self, changed: &Arc<Condvar>) -> Waits<'_> {
        *lock(&self.turn.waits_for) = Some(Arc::clone(changed));
        Waits(&self.turn)
    }

    /// Remembers that it holds something.
    pub(crate) fn hold(&self, held: Arc<dyn Held>) {
        self.held.borrow_mut().push(held);
    }

    /// Forgets that it holds something, once.
    pub(crate) fn let_go(&self, held: &Arc<dyn Held>) {
        let mut all = self.held.borrow_mut();
        if let Some(place) = all.iter().rposition(|other| Arc::ptr_eq(other, held)) {
            all.swap_remove(place);
        }
    }
}

/// The function that a server is started with.
pub(crate) fn serve(door: Fd, key: Key) {
    is_server_of(key);
    // At a terminal it comes to the whole group: when the server ends is for its parent to say.
    process::disregard_signal(SIGINT);
    // Each object takes a descriptor, each connection a few.
    process::raise_descriptor_limit();
    let Ok(server) = Server::new().map(Arc::new) else { return };
    let remover = Arc::clone(&server);
    if thread::Builder::new().name("remover".into()).spawn(move || remover.clear_away()).is_err() {
        return;
    }
    let mut door = Channel::from(door.into_owned());
    loop {
        match door.receive(Deadline::NEVER) {
            Ok(packet) if packet.kind == CONNECT => {
                let Ok(connection) = mp_core::decode(Message::new(packet.body, packet.fds)) else {
                    continue;
                };
                let server = Arc::clone(&server);
                // Where there is no thread for it, the client sees the end of its connection.
                let _ = thread::Builder::new()
                    .name("client".into())
                    .spawn(move || converse(server, connection, false));
            }
            Ok(packet) if packet.kind == STOP => break,
            // The manager is gone, and every proxy.
            Err(mp_core::Error::Disconnected) => break,
            // A connection for which there were no descriptors left.
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    // Who calls from now on finds the door closed, and no object missing. The lock of the objects orders it.
    server.ends.store(true, Ordering::Relaxed);
    drop(door);
    // While it listens there, they are nobody else's.
    for socket in lock(&server.sockets).drain(..) {
        let _ = fs::remove_file(socket);
    }
    let objects = mem::take(&mut *server.objects.write().unwrap_or_else(PoisonError::into_inner));
    let doomed = mem::take(&mut lock(&server.doomed).objects);
    for object in doomed.into_iter().chain(objects.into_values()) {
        let _ = catch_panic(|| drop(object));
    }
}

/// Serves one thread of a client until that ends.
pub(crate) fn converse(server: Arc<Server>, connection: Connection<(), ()>, is_remote: bool) {
    // Where it cannot be watched, the client sees the end of its connection.
    let Ok(client) = Client::serve(&server, connection, is_remote) else { return };
    let mut talk = Talk::new(&client);
    let receiver = client.connection.receiver();
    loop {
        if !is_remote {
            client.wait();
            if client.is_over() {
                break;
            }
        }
        let answer = |bytes: &_, fds| client.member.call(|| talk.answer(bytes, fds));
        let next = match receiver.recv_message_with(answer) {
            Ok(next) => next,
            // There were no numbers left for what came with the call, which is lost.
            Err(mp_pipe::Error::Io(error)) if error.raw_os_error() == Some(EMFILE) => {
                talk.refuse(Refusal { status: Status::Lost, ..error.into() })
            }
            Err(_) => None,
        };
        if next.is_none() {
            break;
        }
    }
    talk.arrived();
    crash_point!("server: a client has ended");
    Client::leave(&client);
}

/// Why there is no result.
struct Refusal {
    status: Status,
    why: String,
    /// What the kernel said, where it is that.
    errno: i32,
}

impl Refusal {
    fn new(status: Status, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), errno: 0 }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self { status: Status::Io, why: error.to_string(), errno }
    }
}

impl From<mp_core::Error> for Refusal {
    fn from(error: mp_core::Error) -> Self {
        match error {
            mp_core::Error::Io(error) => error.into(),
            mp_core::Error::Encode(why) => Self::new(Status::Unencodable, why),
            mp_core::Error::Decode(why) => Self::new(Status::Undecodable, why),
            other => Self::new(Status::Io, other.to_string()),
        }
    }
}

/// The calls of one thread of a client.
pub(crate) struct Talk<'a> {
    client: &'a Client,
    /// By their numbers. A text says why there is none.
    functions: Vec<Result<Function, String>>,
    /// Where results are encoded.
    buffer: Message,
    /// The object of the last call, which often is that of the next.
    last: Option<(u64, Weak<dyn Any + Send + Sync>)>,
    /// The objects of the last result, through TCP: they stay until the client has them.
    lent: Vec<u64>,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        let (functions, lent) = (Vec::new(), Vec::new());
        Self { client, functions, buffer: Message::default(), last: None, lent }
    }

    /// The object of that number.
    fn object(&mut self, id: u64) -> Option<Stored> {
        if let Some((last, object)) = &self.last
            && *last == id
            && let Some(object) = object.upgrade()
        {
            return Some(object);
        }
        let object = self.client.server.object(id)?;
        self.last = Some((id, Arc::downgrade(&object)));
        Some(object)
    }

    /// The client has the last result, or never will.
    fn arrived(&mut self) {
        if !self.lent.is_empty() {
            let _ = self.client.server.with_remotes(|remotes| remotes.let_go(&self.lent));
            self.lent.clear();
        }
    }

    /// Makes one call; `None` where the connection is of no use any more.
    pub(crate) fn answer(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Option<()> {
        crash_point!("server: a call has come");
        self.arrived();
        // It has only said that.
        if bytes.is_empty() {
            return Some(());
        }
        if self.client.is_over() {
            return None;
        }
        let (bytes, fds) = if self.client.is_remote {
            let (numbers, bytes) = remote::split(bytes)?;
            let found = self.client.server.with_remotes(|remotes| remotes.descriptors(&numbers));
            match found? {
                Ok(Some(fds)) => (bytes, fds),
                Ok(None) => return self.refuse(Refusal::new(Status::NoObject, "")),
                Err(error) => return self.refuse(error.into()),
            }
        } else {
            (bytes, fds)
        };
        let (call, body) = Call::read(bytes)?;
        // Others may wait for the objects of the call that this one is made within.
        self.client.member.is_called(call.is_eager && !call.is_within);
        if call.after_end {
            self.client.server.settle(Some(self.client));
            if self.client.is_over() {
                return None;
            }
        }
        let mut arguments = Decoder::new(body, fds);
        if call.is_within {
            set_held_above(arguments.get().ok()?);
        }
        if let What::New(number) = call.what {
            if number as usize != self.functions.len() {
                return None;
            }
            self.functions.push(arguments.get().map_err(|error| error.to_string()));
        }
        let mut result = Encoder::reuse(std::mem::take(&mut self.buffer));
        let refusal = self.call(call, &mut arguments, &mut result)?;
        if call.is_within {
            set_held_above(Vec::new());
        }
        crash_point!("server: a call is made");
        // Descriptors that the call has left go no further.
        drop(arguments);
        if let Err(refusal) = refusal {
            return self.refuse(refusal);
        }
        let message = result.finish();
        if let Err(error) = self.send(&message) {
            return match error {
                mp_pipe::Error::Encode(why) => self.refuse(Refusal::new(Status::Unencodable, why)),
                mp_pipe::Error::Io(error) => self.refuse(error.into()),
                _ => None,
            };
        }
        crash_point!("server: the answer is sent");
        if message.bytes().len() <= KEPT {
            // Without the descriptors: they are others' ends.
            self.buffer = Encoder::reuse(message).finish();
        }
        Some(())
    }

    fn send(&mut self, message: &Message) -> mp_pipe::Result<()> {
        let sender = self.client.connection.sender();
        if !self.client.is_remote {
            return sender.send_message(message);
        }
        let copies: Result<Vec<_>, _> = message.fds().iter().map(OwnedFd::try_clone).collect();
        let copies = copies?;
        let server = &self.client.server;
        let numbers = server.with_remotes(|remotes| remotes.numbers(copies));
        let numbers = numbers.ok_or(mp_pipe::Error::Disconnected)??;
        remote::send(sender, &numbers, message.bytes())?;
        self.lent = numbers;
        Ok(())
    }

    /// Says why there is no result.
    fn refuse(&mut self, refusal: Refusal) -> Option<()> {
        let Refusal { status, why, errno } = refusal;
        let mut refusal = Encoder::new();
        refusal.put(&(status as u64)).ok()?.put(&why).ok()?.put(&errno).ok()?;
        self.send(&refusal.finish()).ok()
    }

    fn call(
        &mut self,
        call: Call,
        arguments: &mut Decoder<'_>,
        result: &mut Encoder,
    ) -> Option<Result<(), Refusal>> {
        let server = &self.client.server;
        let (function, object, name) = match call.what {
            What::Known(number) | What::New(number) => {
                match self.functions.get(number as usize)? {
                    Ok(function) => (*function, self.object(call.object), None),
                    Err(why) => {
                        return Some(Err(Refusal::new(Status::Undecodable, why.clone())));
                    }
                }
            }
            What::Operation(number) => {
                let fingerprint = match arguments.get::<u64>() {
                    Ok(fingerprint) => fingerprint,
                    Err(error) => return Some(Err(error.into())),
                };
                let entry = server.entry(call.object);
                if let Some(entry) = &entry
                    && entry.fingerprint != fingerprint
                {
                    return Some(Err(Refusal::new(Status::WrongType, &*entry.name)));
                }
                let operations = match &entry {
                    Some(entry) => entry.operations,
                    None => makers,
                };
                let Some(function) = operations(number) else {
                    return Some(Err(Refusal::new(Status::NoOperation, "")));
                };
                let (object, name) = entry.map(|entry| (entry.object, entry.name)).unzip();
                (function, object, name)
            }
        };
        if object.is_none() {
            // Relaxed: the lock of the objects orders it.
            if server.ends.load(Ordering::Relaxed) {
                return None;
            }
            if call.object != 0 {
                return Some(Err(Refusal::new(Status::NoObject, "")));
            }
        }
        result.put(&(Status::Value as u64)).ok()?;
        set_current(call.object, object);
        let ended = wrapped(matches!(call.what, What::Operation(_)), || {
            function.try_call(arguments, result)
        });
        set_current(0, None);
        let name = || {
            let name = name.or_else(|| Some(server.entry(call.object)?.name));
            name.map_or_else(String::new, |name| name.to_string())
        };
        Some(match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(mp_core::Error::Protocol(HELD_ABOVE))) => {
                Err(Refusal::new(Status::Deadlock, ""))
            }
            Ok(Err(mp_core::Error::Protocol(_))) => Err(Refusal::new(Status::WrongType, name())),
            Ok(Err(other)) => Err(other.into()),
            Err(panic) => Err(Refusal::new(Status::Panicked, panic)),
        })
    }
}

const _: () = assert!(HEADER == 2 * size_of::<u64>());
