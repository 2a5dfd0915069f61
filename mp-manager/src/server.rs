//! The process that has the objects.
//!
//! One thread at the front door, one for each connection, and one that takes away objects of which no proxy is left.
//! Of that the kernel tells: each proxy has a copy of the write end of a pipe, the object's lifeline, also while it
//! travels in a message, and the server the read end, which ends when the last copy is closed, however that comes
//! about. A connection's end is that of a client's thread: what it held is released.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{Epoll, PollFd, poll, wait_readable};
use mp_core::sys::process;
use mp_core::{Deadline, Decoder, Encoder, Fd, Message};
use mp_pipe::Connection;
use mp_process::Function;

use crate::call::{Stored, set_current};
use crate::look::look;
use crate::protocol::{CONNECT, Call, HEADER, STOP, Status};

/// The terminal's interrupt, signal(7).
const SIGINT: i32 = 2;
/// A buffer up to this long is kept for the next result.
const KEPT: usize = 1 << 20;

/// The objects.
pub(crate) struct Server {
    objects: RwLock<HashMap<u64, Stored>>,
    /// The read ends of lifelines.
    lifelines: Mutex<HashMap<u64, PipeReader>>,
    ended: Epoll,
    next_object: AtomicU64,
    next_client: AtomicU64,
    /// The sockets it listens at.
    sockets: Mutex<Vec<PathBuf>>,
    /// It is shut down, and answers no more calls.
    ends: AtomicBool,
}

impl Server {
    fn new() -> io::Result<Self> {
        Ok(Self {
            objects: RwLock::default(),
            lifelines: Mutex::default(),
            ended: Epoll::new()?,
            next_object: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
            sockets: Mutex::default(),
            ends: AtomicBool::new(false),
        })
    }

    /// Adds an object; gives its number and its lifeline.
    pub(crate) fn insert(&self, object: Stored) -> io::Result<(u64, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        // Relaxed: each gets another number, which is all there is to it.
        let id = self.next_object.fetch_add(1, Ordering::Relaxed);
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(id, object);
        let mut lifelines = self.lifelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.ended.add(reader.as_fd(), id) {
            drop(lifelines);
            drop(self.remove(id));
            return Err(error);
        }
        lifelines.insert(id, reader);
        Ok((id, writer))
    }

    /// Remembers a socket, to remove it at the end.
    pub(crate) fn listens_at(&self, socket: PathBuf) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    }

    pub(crate) fn object(&self, id: u64) -> Option<Stored> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn remove(&self, id: u64) -> Option<Stored> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Drops objects whose lifelines end.
    fn clear_away(&self) -> io::Result<()> {
        loop {
            wait_readable(self.ended.as_fd(), Deadline::NEVER)?;
            for id in self.ended.some()? {
                let mut lifelines = self.lifelines.lock().unwrap_or_else(PoisonError::into_inner);
                drop(lifelines.remove(&id));
                drop(lifelines);
                let object = self.remove(id);
                // What it is of may do anything when it is dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
            }
        }
    }
}

/// What is released when the client's thread that holds it ends.
pub(crate) trait Held: Send + Sync {
    /// The client has ended.
    fn abandon(&self, client: u64);
}

/// One thread of a client, as the thread that serves it knows it.
pub(crate) struct Client {
    server: Arc<Server>,
    id: u64,
    connection: Connection<(), ()>,
    held: RefCell<Vec<Arc<dyn Held>>>,
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

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Its number, never given to another.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has ended while it waits for the result of a call.
    pub(crate) fn is_gone(&self) -> bool {
        // It sends nothing meanwhile, so what there is to receive can only be the end. A try to receive would not always
        // ask the kernel.
        match self.connection.receiver().bell() {
            None => true,
            Some(bell) => {
                poll(&mut [PollFd::hung_up(bell)], Deadline::PASSED).is_ok_and(|ended| ended > 0)
            }
        }
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
pub(crate) fn serve(door: Fd) {
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
                    .spawn(move || converse(server, connection));
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
    for socket in server.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = fs::remove_file(socket);
    }
    let objects =
        std::mem::take(&mut *server.objects.write().unwrap_or_else(PoisonError::into_inner));
    for object in objects.into_values() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
    }
}

/// Serves one thread of a client until that ends.
fn converse(server: Arc<Server>, connection: Connection<(), ()>) {
    let id = server.next_client.fetch_add(1, Ordering::Relaxed);
    let client = Rc::new(Client { server, id, connection, held: RefCell::default() });
    CLIENT.replace(Some(Rc::clone(&client)));
    let mut talk = Talk { client: &client, functions: Vec::new(), buffer: Message::default() };
    let receiver = client.connection.receiver();
    loop {
        look(receiver);
        let Ok(Some(())) = receiver.recv_message_with(|bytes, fds| talk.answer(bytes, fds)) else {
            break;
        };
    }
    let held = client.held.take();
    for held in held {
        held.abandon(id);
    }
    CLIENT.replace(None);
}

struct Talk<'a> {
    client: &'a Client,
    /// By their numbers. A text says why there is none.
    functions: Vec<Result<Function, String>>,
    /// Where results are encoded.
    buffer: Message,
}

impl Talk<'_> {
    /// Makes one call; `None` where the connection is of no use any more.
    fn answer(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Option<()> {
        let (call, body) = Call::read(bytes)?;
        let mut arguments = Decoder::new(body, fds);
        if call.define {
            if call.function as usize != self.functions.len() {
                return None;
            }
            self.functions.push(arguments.get().map_err(|error| error.to_string()));
        }
        let mut result = Encoder::reuse(std::mem::take(&mut self.buffer));
        let (status, why) = self.call(call, &mut arguments, &mut result)?;
        // Descriptors that the call has left go no further.
        drop(arguments);
        if status != Status::Value {
            result.clear();
            result.put(&(status as u64)).ok()?.put(&why).ok()?;
        }
        let message = result.finish();
        let sender = self.client.connection.sender();
        match sender.send_message(&message) {
            Ok(()) => {}
            Err(mp_pipe::Error::Encode(why)) => {
                let mut refusal = Encoder::new();
                refusal.put(&(Status::Unencodable as u64)).ok()?.put(&why).ok()?;
                sender.send_message(&refusal.finish()).ok()?;
            }
            Err(_) => return None,
        }
        if message.bytes().len() <= KEPT {
            // Without the descriptors: they are others' ends.
            self.buffer = Encoder::reuse(message).finish();
        }
        Some(())
    }

    fn call(
        &self,
        call: Call,
        arguments: &mut Decoder<'_>,
        result: &mut Encoder,
    ) -> Option<(Status, String)> {
        let function = match self.functions.get(call.function as usize)? {
            Ok(function) => *function,
            Err(why) => return Some((Status::Undecodable, why.clone())),
        };
        let object = self.client.server.object(call.object);
        if object.is_none() {
            if self.client.server.ends.load(Ordering::Relaxed) {
                return None;
            }
            if call.object != 0 {
                return Some((Status::NoObject, String::new()));
            }
        }
        result.put(&(Status::Value as u64)).ok()?;
        set_current(object);
        let ended = function.try_call(arguments, result);
        set_current(None);
        Some(match ended {
            Ok(Ok(())) => (Status::Value, String::new()),
            Ok(Err(mp_core::Error::Encode(why))) => (Status::Unencodable, why),
            Ok(Err(mp_core::Error::Decode(why))) => (Status::Undecodable, why),
            Ok(Err(mp_core::Error::Protocol(_))) => (Status::WrongType, String::new()),
            Ok(Err(other)) => (Status::Io, other.to_string()),
            Err(panic) => (Status::Panicked, panic),
        })
    }
}

const _: () = assert!(HEADER == 2 * size_of::<u64>());
