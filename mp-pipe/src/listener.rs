//! Waiting at an address for processes that connect.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use mp_core::Deadline;
use mp_core::sys::fd::{Epoll, wait_readable};
use mp_core::sys::{net, socket};

use crate::auth::{self, Answering, AuthKey, Reason, Step};
use crate::bound::{self, Bound};
use crate::greet::{Heard, Line};
use crate::{Address, Connection, Error, Result, duplex, stream};

/// How many clients may wait to be accepted, unless said otherwise.
const BACKLOG: u32 = 128;
/// How long a client may take for each of its three messages of the hand-shake, unless said otherwise.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many hand-shakes are under way at most.
const PENDING: usize = 64;
/// Where so many are, a client that has not said anything for so long may have to go.
const SILENT: Duration = Duration::from_millis(5);
/// The same for one that has.
const SLOW: Duration = Duration::from_millis(250);
/// Where none has to go, it is looked again after this.
const PAUSE: Duration = Duration::from_millis(1);
/// How many times in a row it is looked who is ready.
const ROUNDS: usize = 16;
/// The socket that listens, among those that are ready.
const LISTENING: u64 = 0;

/// Waits at an address for processes that connect, of this program or another one that uses this library.
///
/// [`accept`](Self::accept) gives a [`Connection`] for each [`Client`](crate::Client) that connects. Over a
/// Unix socket that is a pipe in shared memory, as [`duplex`] makes, and carries handles; over TCP it carries
/// values without handles. What the connection sends and receives is chosen by the types that `accept` and
/// `connect` are called with, and the two have to fit, the one's first to the other's second: nobody checks
/// that, and a message that is no value of the type expected is [`Error::Decode`] when it is received.
///
/// It can be [waited for](crate::wait()) with other things: it is ready when somebody connects.
///
/// Dropping it, or [`close`](Self::close), ends it, and removes the file of a Unix socket. Connections live on.
/// A process that is killed leaves the file behind; who binds the path next replaces it.
///
/// Python: `multiprocessing.connection.Listener`.
///
/// # Who may connect
///
/// At a Unix socket, processes of the same user and of root, which the kernel tells. With an
/// [authkey](ListenerBuilder::authkey), those that have the same key: both sides prove that they do without
/// sending it, by HMAC-SHA-256 over random numbers of both (see [`AuthKey`] for what is a good one).
/// Without a key, TCP is for this machine alone: at the loopback address any of its users can connect, and any
/// other address is [`Error::KeyNeeded`].
///
/// The key says who connects. What is sent over TCP afterwards is neither hidden nor protected from who can
/// change it under way: between machines, use a network that is trusted, or a tunnel.
///
/// # Clients that are slow, silent or hostile
///
/// Nobody waits for them. While `accept` waits, hand-shakes of several clients go on at the same time, and the
/// first to be done is accepted. Each has a [limit](ListenerBuilder::handshake_timeout); 64 are under way at
/// most, and others wait for their turn as in the [backlog](ListenerBuilder::backlog). Where some wait, one that
/// is silent for 5 ms has to go, or for 250 ms once it has said something. What is not a client of this library
/// is hung up on, and nobody hears of it.
///
/// # Example
///
/// ```
/// use std::thread;
/// use mp_pipe::{AuthKey, Client, Listener};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = AuthKey::random()?;
/// let listener = Listener::builder().authkey(&key).bind("127.0.0.1:0")?;
/// let address = listener.address().clone();
///
/// // In another process, or on another machine, which were given address and key:
/// let client = thread::spawn(move || -> mp_pipe::Result<u64> {
///     let connection = Client::builder().authkey(&key).connect::<String, u64>(address)?;
///     connection.send("how long?".to_string())?;
///     connection.recv()
/// });
///
/// let connection = listener.accept::<u64, String>()?;
/// let question = connection.recv()?;
/// connection.send(question.len() as u64)?;
/// assert_eq!(client.join().unwrap()?, 9);
/// # Ok(())
/// # }
/// ```
///
/// # Example: a server that goes on
///
/// ```no_run
/// use mp_pipe::{Error, Listener};
///
/// # fn main() -> mp_pipe::Result<()> {
/// let listener = Listener::builder().authkey(b"from a file").bind("0.0.0.0:4000")?;
/// loop {
///     match listener.accept::<String, String>() {
///         Ok(connection) => println!("{:?} connected", listener.last_accepted()),
///         Err(Error::Authentication(why)) => eprintln!("turned away: {why}"),
///         Err(error) => return Err(error),
///     }
/// }
/// # }
/// ```
#[doc(alias = "SocketListener")]
pub struct Listener {
    /// First, so that the file goes before the socket does.
    bound: Bound,
    key: Option<AuthKey>,
    patience: Duration,
    ready: Epoll,
    pending: RefCell<Vec<Pending>>,
    /// How many clients there were, to name them by.
    count: Cell<u64>,
    last: Cell<Option<Peer>>,
}

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A process on this machine.
    Unix {
        /// Its number, when it connected.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// A process somewhere.
    Tcp(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A client whose hand-shake is under way.
#[derive(Debug)]
struct Pending {
    token: u64,
    line: Line,
    side: Answering,
    peer: Peer,
    deadline: Deadline,
    /// From then on it has to go if there is no room for others.
    grace: Deadline,
}

/// How it stands with a client.
enum Standing {
    Waiting,
    Done,
    /// Nobody has to know why.
    Gone,
    Denied(Error),
}

impl Pending {
    fn advance(&mut self, patience: Duration) -> Standing {
        loop {
            let message = match self.line.hear() {
                Heard::Nothing => return Standing::Waiting,
                Heard::End | Heard::Garbage => return Standing::Gone,
                Heard::Message(message) => message,
            };
            match self.side.step(message) {
                Ok(Step::Answer(answer)) => {
                    if self.line.send(&[&answer], &[]).is_err() {
                        return Standing::Gone;
                    }
                    self.deadline = Deadline::after(patience);
                    self.grace = Deadline::after(SLOW);
                }
                Ok(Step::Done(_)) => return Standing::Done,
                Ok(Step::Refuse(answer, error)) => {
                    if !answer.is_empty() {
                        let _ = self.line.send(&[&answer], &[]);
                    }
                    return error.map_or(Standing::Gone, Standing::Denied);
                }
                Err(_) => return Standing::Gone,
            }
        }
    }
}

impl Listener {
    /// Listens at a new path, in a directory of its own that only this user can enter.
    ///
    /// [`address`](Self::address) tells which. Both are removed with the listener.
    ///
    /// Python: `Listener()`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidAddress`] where the directory for temporary files (`TMPDIR`, or `/tmp`) is not there or cannot be
    /// written to; [`Error::Io`] where descriptors are short.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_pipe::{Client, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::new()?;
    /// let address = listener.address().clone();
    /// let client = std::thread::spawn(move || Client::connect::<i32, ()>(address));
    /// let connection = listener.accept::<(), i32>()?;
    /// client.join().unwrap()?.send(7)?;
    /// assert_eq!(connection.recv()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new() -> Result<Self> {
        Self::builder().bind_private()
    }

    /// Listens at `address`: a path, a socket address, or a text that is one of the two.
    ///
    /// The socket of a listener that is no more is replaced, if it was this user's; that takes 10 ms.
    ///
    /// # Errors
    ///
    /// [`Error::AddressInUse`], [`Error::KeyNeeded`] for an address that other machines reach,
    /// [`Error::InvalidAddress`] where nothing can listen there; [`Error::Io`] for all else.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_pipe::{Error, Listener};
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let listener = Listener::bind("127.0.0.1:0")?;
    /// assert_ne!(listener.address().port(), Some(0)); // the kernel has chosen one
    ///
    /// let again = Listener::bind(listener.address());
    /// assert!(matches!(again, Err(Error::AddressInUse { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(address: impl TryInto<Address, Error: Into<Error>>) -> Result<Self> {
        Self::builder().bind(address)
    }

    /// Sets what is not as usual before it listens.
    pub fn builder() -> ListenerBuilder {
        ListenerBuilder { key: None, backlog: BACKLOG, patience: HANDSHAKE }
    }

    /// Waits for a client, and gives the connection to it, which sends `S` and receives `R`.
    ///
    /// Clients that do not get through the hand-shake do not keep it waiting.
    ///
    /// Python: `Listener.accept`.
    ///
    /// # Errors
    ///
    /// [`Error::Authentication`] for a client without the key, which gets that error too: call it again for the
    /// next one. [`Error::Io`] where memory or descriptors are short.
    pub fn accept<S, R>(&self) -> Result<Connection<S, R>> {
        self.accept_until(Deadline::NEVER)
    }

    /// Gives the connection to a client if one is there and has done its part of the hand-shake.
    ///
    /// Does not wait. Call it when the listener is [ready](crate::wait()), or now and then: each call takes the
    /// hand-shakes under way a step further.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] where none is; else as [`accept`](Self::accept).
    pub fn try_accept<S, R>(&self) -> Result<Connection<S, R>> {
        self.accept_until(Deadline::PASSED).map_err(|error| match error {
            Error::TimedOut => Error::WouldBlock,
            other => other,
        })
    }

    /// Waits for a client no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; else as [`accept`](Self::accept).
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mp_pipe::{Error, Listener};
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let listener = Listener::new()?;
    /// let nobody = listener.accept_timeout::<(), ()>(Duration::from_millis(1));
    /// assert!(matches!(nobody, Err(Error::TimedOut)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept_timeout<S, R>(&self, timeout: Duration) -> Result<Connection<S, R>> {
        self.accept_until(Deadline::after(timeout))
    }

    fn accept_until<S, R>(&self, deadline: Deadline) -> Result<Connection<S, R>> {
        loop {
            while let Some(client) = self.look()? {
                if let Some(connection) = self.connect(client)? {
                    return Ok(connection);
                }
            }
            if deadline.has_passed() {
                return Err(Error::TimedOut);
            }
            if self.is_full() {
                // Somebody waits to be let in, so that it would be ready at once.
                thread::sleep(PAUSE);
                continue;
            }
            let first = self.pending.borrow().iter().map(|client| client.deadline).min();
            let until = first.map_or(deadline, |first| first.min(deadline));
            wait_readable(self.ready.as_fd(), until)?;
        }
    }

    /// Takes all hand-shakes as far as they go, until one is done.
    fn look(&self) -> Result<Option<Pending>> {
        for _ in 0..ROUNDS {
            let tokens = self.ready.some()?;
            if tokens.is_empty() {
                break;
            }
            // First those who are here: for others there may be room then.
            for token in tokens.iter().filter(|&&token| token != LISTENING) {
                if let Some(done) = self.advance(*token)? {
                    return Ok(Some(done));
                }
            }
            if tokens.contains(&LISTENING) {
                self.admit()?;
            }
        }
        // Who has sent something in time is heard, however late we look.
        let late = |client: &Pending| client.deadline.has_passed();
        let late: Vec<_> =
            self.pending.borrow().iter().filter(|client| late(client)).map(|c| c.token).collect();
        for token in late {
            if let Some(done) = self.advance(token)? {
                return Ok(Some(done));
            }
            self.remove(|client| client.token == token && client.deadline.has_passed());
        }
        Ok(None)
    }

    /// Takes one hand-shake further; gives the client when it is done.
    fn advance(&self, token: u64) -> Result<Option<Pending>> {
        let standing = {
            let mut pending = self.pending.borrow_mut();
            let Some(client) = pending.iter_mut().find(|client| client.token == token) else {
                return Ok(None);
            };
            client.advance(self.patience)
        };
        match standing {
            Standing::Waiting => Ok(None),
            Standing::Done => Ok(self.remove(|client| client.token == token)),
            Standing::Gone => {
                self.remove(|client| client.token == token);
                Ok(None)
            }
            Standing::Denied(error) => {
                self.remove(|client| client.token == token);
                Err(error)
            }
        }
    }

    fn remove(&self, which: impl Fn(&Pending) -> bool) -> Option<Pending> {
        let mut pending = self.pending.borrow_mut();
        let index = pending.iter().position(which)?;
        let client = pending.swap_remove(index);
        // Closing it is not enough while a process that was forked meanwhile has it too (epoll(7)).
        self.ready.remove(client.line.as_fd());
        Some(client)
    }

    /// Whether there is no room for others.
    fn is_full(&self) -> bool {
        self.pending.borrow().len() >= PENDING
    }

    /// Hangs up on the client that has done least, of those that `may` go.
    fn evict(&self, may: impl Fn(&Pending) -> bool) -> bool {
        let worst = {
            let pending = self.pending.borrow();
            let rank = |client: &&Pending| (client.side.progress(), client.deadline);
            let may_go = pending.iter().filter(|client| may(client));
            may_go.min_by_key(rank).map(|client| client.token)
        };
        worst.is_some_and(|token| self.remove(|client| client.token == token).is_some())
    }

    /// Begins the hand-shakes of those who have connected.
    fn admit(&self) -> Result<()> {
        for _ in 0..PENDING / 2 {
            if self.is_full() && !self.evict(|client| client.grace.has_passed()) {
                break;
            }
            let socket = match net::accept(self.bound.socket.as_fd()) {
                Ok(socket) => socket,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if self.evict(|_| true) {
                            continue;
                        }
                        return Err(error.into());
                    }
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                        return Err(error.into());
                    }
                    // The client has left meanwhile, or its network has (accept(2)).
                    _ => continue,
                },
            };
            let Some((socket, peer)) = self.identify(socket) else { continue };
            let token = self.count.get() + 1;
            self.count.set(token);
            self.ready.add(socket.as_fd(), token)?;
            let packets = self.bound.packets;
            self.pending.borrow_mut().push(Pending {
                token,
                line: Line::new(socket, packets),
                side: Answering::new(self.key.as_ref(), packets),
                peer,
                deadline: Deadline::after(self.patience),
                grace: Deadline::after(SILENT),
            });
        }
        Ok(())
    }

    /// Who it is; `None` for those who may not connect.
    fn identify(&self, client: OwnedFd) -> Option<(OwnedFd, Peer)> {
        if self.bound.packets {
            let who = net::peer_credentials(client.as_fd()).ok()?;
            if !is_friend(who.uid) {
                let refusal = auth::refusal(Reason::User);
                let _ = socket::send(client.as_fd(), &[IoSlice::new(&refusal)], &[], true);
                return None;
            }
            return Some((client, Peer::Unix { pid: who.pid, uid: who.uid }));
        }
        let stream = TcpStream::from(client);
        let address = stream.peer_addr().ok()?;
        let may = self.key.is_some() || bound::is_local(address.ip());
        may.then(|| (stream.into(), Peer::Tcp(address)))
    }

    /// Makes the connection to a client that has done its part; `None` where it has left meanwhile.
    fn connect<S, R>(&self, client: Pending) -> Result<Option<Connection<S, R>>> {
        let Pending { line, peer, .. } = client;
        let connection = if self.bound.packets {
            let (here, there) = match duplex::<S, R>() {
                Ok(ends) => ends,
                Err(error) => {
                    let _ = line.send(&[&auth::refusal(Reason::Failed)], &[]);
                    return Err(error);
                }
            };
            let message = mp_core::encode(&there)?;
            match line.send(&[&[CONNECTION], message.bytes()], message.fds()) {
                Ok(()) => here,
                Err(error) if stream::is_gone(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        } else {
            let (sender, receiver) = stream::pair(line.into_socket())?;
            Connection::from_stream(sender, receiver)
        };
        self.last.set(Some(peer));
        Ok(Some(connection))
    }

    /// Where it listens: for port 0 with the port that the kernel has chosen.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.bound.address
    }

    /// Who was accepted last.
    #[must_use]
    pub fn last_accepted(&self) -> Option<Peer> {
        self.last.get()
    }

    /// Ends it, as dropping it does. Clients that are not accepted yet get [`Error::Disconnected`].
    pub fn close(self) {}
}

/// Before a packet that brings an end of a connection. No kind of message of the hand-shake.
pub(crate) const CONNECTION: u8 = 0xC0;

/// Whether a process of that user may be at the other end.
pub(crate) fn is_friend(uid: u32) -> bool {
    uid == net::effective_user() || uid == 0
}

impl AsFd for Listener {
    /// Can be read while somebody connects, or a hand-shake can go on: call
    /// [`try_accept`](Listener::try_accept) then. It may be [`Error::WouldBlock`] some times before there is a
    /// connection.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.bound.address)
            .field("authkey", &self.key)
            .finish_non_exhaustive()
    }
}

/// A listener that does not listen yet.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mp_pipe::{AuthKey, Listener};
///
/// # fn main() -> mp_pipe::Result<()> {
/// let listener = Listener::builder()
///     .authkey(AuthKey::random()?)
///     .handshake_timeout(Duration::from_secs(1))
///     .bind("127.0.0.1:0")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ListenerBuilder {
    /// `None` within for one that is none.
    key: Option<Option<AuthKey>>,
    backlog: u32,
    patience: Duration,
}

impl ListenerBuilder {
    /// Lets only those connect who have the same key.
    ///
    /// An [`AuthKey`] or bytes. The empty key is an error when it binds.
    pub fn authkey(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(AuthKey::new(key.as_ref()).ok());
        self
    }

    /// Lets about so many clients wait until they are accepted, 128 if it is not said; further ones wait in
    /// `connect`, or are turned away. The kernel has a limit of its own, `net.core.somaxconn`.
    ///
    /// Python: 1 if it is not said.
    pub fn backlog(mut self, clients: u32) -> Self {
        self.backlog = clients;
        self
    }

    /// Gives a client so long for each of its three messages of the hand-shake, 5 s if it is not said.
    ///
    /// It counts from when the listener has answered the one before. A client that has sent its message in
    /// time is not late because the listener has not called `accept` meanwhile.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.patience = timeout;
        self
    }

    /// Listens: see [`Listener::bind`].
    ///
    /// # Errors
    ///
    /// As there; [`Error::EmptyKey`].
    pub fn bind(self, address: impl TryInto<Address, Error: Into<Error>>) -> Result<Listener> {
        let address = address.try_into().map_err(Into::into)?;
        let key = take_key(self.key.clone())?;
        let bound = bound::bind(address, self.backlog, key.is_some())?;
        self.listen(bound, key)
    }

    /// Listens at a new path: see [`Listener::new`].
    ///
    /// # Errors
    ///
    /// As there; [`Error::EmptyKey`].
    pub fn bind_private(self) -> Result<Listener> {
        let key = take_key(self.key.clone())?;
        let bound = bound::bind_private(self.backlog)?;
        self.listen(bound, key)
    }

    fn listen(self, bound: Bound, key: Option<AuthKey>) -> Result<Listener> {
        let ready = Epoll::new()?;
        ready.add(bound.socket.as_fd(), LISTENING)?;
        Ok(Listener {
            bound,
            key,
            patience: self.patience,
            ready,
            pending: RefCell::default(),
            count: Cell::new(LISTENING),
            last: Cell::new(None),
        })
    }
}

/// A builder's key, which may turn out to be none.
pub(crate) fn take_key(key: Option<Option<AuthKey>>) -> Result<Option<AuthKey>> {
    match key {
        None => Ok(None),
        Some(Some(key)) => Ok(Some(key)),
        Some(None) => Err(Error::EmptyKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, SendError};
    use std::io::{Read, Write};
    use std::thread;
    use std::time::Instant;

    const HANG: Duration = Duration::from_secs(20);

    /// One of each kind, with that key.
    fn listeners(key: Option<&[u8]>) -> [Listener; 2] {
        let builder = || match key {
            Some(key) => Listener::builder().authkey(key),
            None => Listener::builder(),
        };
        [builder().bind_private().unwrap(), builder().bind("127.0.0.1:0").unwrap()]
    }

    fn client<S: Send + 'static, R: Send + 'static>(
        listener: &Listener,
        key: Option<&'static [u8]>,
    ) -> thread::JoinHandle<Result<Connection<S, R>>> {
        let address = listener.address().clone();
        thread::spawn(move || {
            let builder = Client::builder().timeout(HANG);
            let builder = if let Some(key) = key { builder.authkey(key) } else { builder };
            builder.connect(address)
        })
    }

    fn is_denied<T>(result: &Result<T>) -> bool {
        matches!(result, Err(Error::Authentication(_)))
    }

    #[test]
    fn values_go_both_ways_over_either_kind_of_socket_with_and_without_a_key() {
        for key in [None, Some(&b"secret"[..])] {
            for listener in listeners(key) {
                let client = client::<(i32, String), Vec<u8>>(&listener, key);
                let here = listener.accept_timeout::<Vec<u8>, (i32, String)>(HANG).unwrap();
                let there = client.join().unwrap().unwrap();
                there.send((1, "one".to_string())).unwrap();
                assert_eq!(here.recv().unwrap(), (1, "one".to_string()));
                let long: Vec<u8> = (0..3_000_000).map(|i| i as u8).collect();
                let expected = long.clone();
                let writer = thread::spawn(move || {
                    here.send(long).unwrap();
                    here
                });
                assert!(there.recv().unwrap() == expected);
                let here = writer.join().unwrap();
                drop(there);
                assert!(matches!(here.recv(), Err(Error::Disconnected)));
                match (listener.last_accepted().unwrap(), listener.bound.packets) {
                    (Peer::Unix { pid, .. }, true) => assert_eq!(pid, std::process::id()),
                    (Peer::Tcp(address), false) => assert!(address.ip().is_loopback()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn handles_travel_over_a_unix_socket_and_are_refused_over_tcp() {
        type Handle = (crate::Sender<i32>, u8);
        for listener in listeners(None) {
            let client = client::<Handle, ()>(&listener, None);
            let here = listener.accept::<(), Handle>().unwrap();
            let there = client.join().unwrap().unwrap();
            let (receiver, sender) = crate::simplex().unwrap();
            let sent = there.send((sender, 7));
            if listener.bound.packets {
                sent.unwrap();
                let (sender, _) = here.recv().unwrap();
                sender.send(3).unwrap();
                assert_eq!(receiver.recv().unwrap(), 3);
            } else {
                let SendError { value, reason } = sent.unwrap_err();
                assert!(reason.to_string().contains("TCP"), "{reason}");
                value.0.send(4).unwrap();
                assert_eq!(receiver.recv().unwrap(), 4);
            }
            // And the connection itself can move.
            let moved = mp_core::encode(&here).unwrap();
            drop(here);
            let moved: Connection<(), Handle> = mp_core::decode(moved).unwrap();
            moved.send(()).unwrap();
            there.recv().unwrap();
            drop(there);
            assert!(matches!(moved.recv(), Err(Error::Disconnected)));
        }
    }

    #[test]
    fn another_key_or_none_is_an_error_on_both_sides_and_the_next_is_accepted() {
        for (mine, theirs) in
            [(Some(&b"one"[..]), Some(&b"two"[..])), (Some(b"one"), None), (None, Some(b"two"))]
        {
            for listener in listeners(mine) {
                let wrong = client::<(), ()>(&listener, theirs);
                assert!(is_denied(&listener.accept_timeout::<(), ()>(HANG)));
                assert!(is_denied(&wrong.join().unwrap()));
                let right = client::<(), ()>(&listener, mine);
                listener.accept_timeout::<(), ()>(HANG).unwrap();
                right.join().unwrap().unwrap();
            }
        }
    }

    #[test]
    fn an_empty_key_is_an_error() {
        let empty = Listener::builder().authkey(b"").bind_private();
        assert!(matches!(empty, Err(Error::EmptyKey)));
        let empty = Client::builder().authkey(b"").connect::<(), ()>("/not/there");
        assert!(matches!(empty, Err(Error::EmptyKey)));
    }

    #[test]
    fn no_key_is_printed() {
        let [listener, _] = listeners(Some(b"secret"));
        let builder = Listener::builder().authkey(b"secret");
        let client = Client::builder().authkey(b"secret");
        let text = format!("{listener:?} {builder:?} {client:?}");
        // Nor as numbers.
        assert!(!text.contains("secret") && !text.contains("115, 101"), "{text}");
        assert!(text.contains("***"));
    }

    /// Connects without being a client.
    fn stranger(listener: &Listener) -> OwnedFd {
        match listener.address() {
            Address::Unix(path) => net::connect_packets(path, Deadline::NEVER).unwrap(),
            Address::Tcp(host, port) => TcpStream::connect((&**host, *port)).unwrap().into(),
        }
    }

    fn say(stranger: &OwnedFd, bytes: &[u8]) {
        net::send_some(stranger.as_fd(), &[IoSlice::new(bytes)]).unwrap();
    }

    #[test]
    fn silent_slow_and_strange_clients_keep_nobody_waiting() {
        for key in [None, Some(&b"key"[..])] {
            for listener in listeners(key) {
                let (_, hello) =
                    crate::auth::Asking::new(listener.key.as_ref(), listener.bound.packets)
                        .unwrap();
                let strangers: Vec<OwnedFd> = (0..30).map(|_| stranger(&listener)).collect();
                for (index, stranger) in strangers.iter().enumerate() {
                    match index % 6 {
                        0 => {}
                        1 => say(stranger, b"GET / HTTP/1.1\r\n\r\n"),
                        2 => say(stranger, &[0xff; 300]),
                        3 => say(stranger, &hello[..20]),
                        4 => say(stranger, &hello),
                        _ => say(stranger, &hello[..1]),
                    }
                }
                let client = client::<(), ()>(&listener, key);
                listener.accept_timeout::<(), ()>(HANG).unwrap();
                client.join().unwrap().unwrap();
                drop(strangers);
                let nobody = listener.accept_timeout::<(), ()>(Duration::from_millis(20));
                assert!(matches!(nobody, Err(Error::TimedOut)));
                assert!(listener.pending.borrow().is_empty());
            }
        }
    }

    #[test]
    fn a_client_may_leave_after_each_step() {
        for listener in listeners(Some(b"key")) {
            let key = listener.key.clone();
            for step in 0..6 {
                let (mut side, hello) =
                    crate::auth::Asking::new(key.as_ref(), listener.bound.packets).unwrap();
                let mut line = Line::new(stranger(&listener), listener.bound.packets);
                let mut message = hello;
                for step in 0..step {
                    let cut = if step == 2 { message.len() - 1 } else { message.len() };
                    let _ = line.send(&[&message[..cut]], &[]);
                    let accepted = listener.try_accept::<(), ()>();
                    assert!(!is_denied(&accepted));
                    match line.hear() {
                        Heard::Message(answer) => match side.step(answer) {
                            Step::Answer(next) | Step::Done(next) => message = next,
                            Step::Refuse(..) => break,
                        },
                        _ => break,
                    }
                }
                drop(line);
                let _ = listener.try_accept::<(), ()>();
                let client = client::<(), ()>(&listener, Some(b"key"));
                listener.accept_timeout::<(), ()>(HANG).unwrap();
                client.join().unwrap().unwrap();
            }
        }
    }

    #[test]
    fn who_takes_too_long_for_a_message_is_hung_up_on() {
        let listener = Listener::builder()
            .authkey(b"key")
            .handshake_timeout(Duration::from_millis(100))
            .bind("127.0.0.1:0")
            .unwrap();
        let mut slow = TcpStream::from(stranger(&listener));
        let dripping = thread::spawn(move || {
            // A byte now and then, of a message that is right.
            let (_, hello) =
                crate::auth::Asking::new(Some(&AuthKey::new(b"key").unwrap()), false).unwrap();
            let start = Instant::now();
            // But for the last one, so that it is never whole, whoever is held up.
            for &byte in &hello[..hello.len() - 1] {
                if slow.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(30));
            }
            let gone = slow.read(&mut [0]);
            assert!(matches!(gone, Ok(0) | Err(_)), "it was answered after {:?}", start.elapsed());
        });
        while !dripping.is_finished() {
            let nobody = listener.accept_timeout::<(), ()>(Duration::from_millis(400));
            assert!(matches!(nobody, Err(Error::TimedOut)));
        }
        dripping.join().unwrap();
    }

    #[test]
    fn who_was_in_time_is_heard_by_a_listener_that_was_away() {
        for listener in [
            Listener::builder().authkey(b"k").handshake_timeout(Duration::from_millis(1)),
            Listener::builder().handshake_timeout(Duration::from_millis(1)),
        ] {
            let key = listener.key.clone().flatten().map(|_| &b"k"[..]);
            let listener = listener.bind_private().unwrap();
            let client = client::<(), ()>(&listener, key);
            // Now and then only, with more than the limit in between.
            let start = Instant::now();
            while matches!(listener.try_accept::<(), ()>(), Err(Error::WouldBlock)) {
                assert!(start.elapsed() < HANG);
                thread::sleep(Duration::from_millis(20));
            }
            client.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_flood_of_silent_connections_does_not_keep_clients_out() {
        for listener in listeners(Some(b"key")) {
            let address = listener.address().clone();
            let flood = thread::spawn(move || {
                let mut held = Vec::new();
                for _ in 0..1000 {
                    held.extend(match &address {
                        Address::Unix(path) => {
                            net::connect_packets(path, Deadline::after(Duration::from_secs(5))).ok()
                        }
                        Address::Tcp(host, port) => {
                            TcpStream::connect((&**host, *port)).ok().map(OwnedFd::from)
                        }
                    });
                }
                held
            });
            for _ in 0..20 {
                let address = listener.address().clone();
                let client = thread::spawn(move || {
                    // Who is preempted before its first word may have to go, and comes again.
                    loop {
                        let builder = Client::builder().authkey(b"key").timeout(HANG);
                        match builder.connect::<i32, ()>(&address) {
                            Err(Error::Disconnected) => {}
                            result => return result.unwrap().send(1).unwrap(),
                        }
                    }
                });
                let here = listener.accept_timeout::<(), i32>(HANG).unwrap();
                client.join().unwrap();
                assert_eq!(here.recv().unwrap(), 1);
                assert!(listener.pending.borrow().len() <= PENDING);
            }
            while !flood.is_finished() {
                let _ = listener.accept_timeout::<(), ()>(Duration::from_millis(1));
            }
            drop(flood.join().unwrap());
        }
    }

    #[test]
    fn as_many_as_the_backlog_holds_are_accepted_however_late() {
        for listener in listeners(Some(b"key")) {
            let clients: Vec<_> =
                (0..120).map(|_| client::<(), ()>(&listener, Some(b"key"))).collect();
            thread::sleep(Duration::from_millis(100));
            let accepted: Vec<_> =
                clients.iter().map(|_| listener.accept_timeout::<(), ()>(HANG).unwrap()).collect();
            assert!(clients.into_iter().all(|client| client.join().unwrap().is_ok()));
            drop(accepted);
        }
    }

    #[test]
    fn it_can_be_waited_for_with_other_things() {
        for listener in listeners(Some(b"key")) {
            let (other, _sender) = crate::simplex::<()>().unwrap();
            assert!(crate::wait(&[&listener, &other], Some(Duration::ZERO)).unwrap().is_empty());
            let client = client::<(), ()>(&listener, Some(b"key"));
            let start = Instant::now();
            loop {
                assert_eq!(crate::wait(&[&other, &listener], Some(HANG)).unwrap(), [1]);
                match listener.try_accept::<(), ()>() {
                    Ok(_) => break,
                    Err(Error::WouldBlock) => assert!(start.elapsed() < HANG),
                    Err(error) => panic!("{error}"),
                }
            }
            client.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_connection_over_tcp_can_be_waited_for() {
        let [_, listener] = listeners(None);
        let client = client::<String, ()>(&listener, None);
        let here = listener.accept::<(), String>().unwrap();
        let there = client.join().unwrap().unwrap();
        assert!(crate::wait(&[&here], Some(Duration::ZERO)).unwrap().is_empty());
        there.send("one".to_string()).unwrap();
        there.send("two".to_string()).unwrap();
        for expected in ["one", "two"] {
            assert_eq!(crate::wait(&[&here], Some(HANG)).unwrap(), [0]);
            assert!(here.poll(Duration::ZERO).unwrap());
            assert_eq!(crate::wait(&[&here], Some(HANG)).unwrap(), [0]);
            assert_eq!(here.try_recv().unwrap(), expected);
        }
        assert!(matches!(here.try_recv(), Err(Error::WouldBlock)));
        let late = here.recv_timeout(Duration::from_millis(1));
        assert!(matches!(late, Err(Error::TimedOut)));
        there.send_bytes(b"bytes").unwrap();
        let short = here.recv_bytes_into(&mut [0; 2]);
        assert!(matches!(short, Err(Error::TooShort { needed: 5 })));
        assert_eq!(here.recv_bytes_into(&mut [0; 9]).unwrap(), 5);
        drop(there);
        assert_eq!(crate::wait(&[&here], Some(HANG)).unwrap(), [0]);
    }

    #[test]
    fn a_client_of_what_is_no_listener_learns_so() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        for answer in [&b"220 mail.example ESMTP\r\n"[..], b"", &[0xff; 1000]] {
            let talk = thread::spawn({
                let server = server.try_clone().unwrap();
                move || {
                    let mut peer = server.accept().unwrap().0;
                    peer.read_exact(&mut [0; 40]).unwrap();
                    peer.write_all(answer).unwrap();
                }
            });
            let result = Client::connect_timeout::<(), ()>(address, HANG);
            talk.join().unwrap();
            if answer.is_empty() {
                assert!(matches!(result, Err(Error::Disconnected)));
            } else {
                assert!(is_denied(&result), "{result:?}");
            }
        }
        let late = Client::connect_timeout::<(), ()>(address, Duration::from_millis(20));
        assert!(matches!(late, Err(Error::TimedOut)));
        drop(server);
        let nobody = Client::connect::<(), ()>(address);
        assert!(matches!(nobody, Err(Error::Connect { .. })), "{nobody:?}");
    }

    #[test]
    fn an_impostor_without_the_key_gets_no_connection() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let impostor = thread::spawn(move || {
            let mut line = Line::new(server.accept().unwrap().0.into(), false);
            let mut side = Answering::new(Some(&AuthKey::new(b"guess").unwrap()), false);
            wait_readable(line.as_fd(), Deadline::NEVER).unwrap();
            let Heard::Message(hello) = line.hear() else { panic!() };
            let Step::Answer(challenge) = side.step(hello).unwrap() else { panic!() };
            line.send(&[&challenge], &[]).unwrap();
            wait_readable(line.as_fd(), Deadline::NEVER).unwrap();
            // Whatever the proof is, it says welcome, with the client's own bytes.
            let Heard::Message(proof) = line.hear() else { panic!() };
            let mut welcome = proof.to_vec();
            welcome[2] = 4;
            line.send(&[&welcome], &[]).unwrap();
            wait_readable(line.as_fd(), Deadline::NEVER).unwrap();
            assert!(matches!(line.hear(), Heard::Message(&[2, 0, 6, 2])));
        });
        let result = Client::builder().authkey(b"key").timeout(HANG).connect::<(), ()>(address);
        assert!(is_denied(&result));
        impostor.join().unwrap();
    }

    #[test]
    fn auto_traits() {
        fn send<T: Send>() {}
        fn both<T: Send + Sync>() {}
        send::<Listener>();
        both::<ListenerBuilder>();
        both::<crate::ClientBuilder>();
        both::<Client>();
        both::<AuthKey>();
        both::<Address>();
        both::<Peer>();
    }

    #[test]
    fn nothing_stays_open() {
        // Other tests open descriptors at the same time; here only those of a kind that is ours are counted.
        let count = |address: &Address| {
            let Some(path) = address.as_path() else { return 0 };
            let text = std::fs::read_to_string("/proc/net/unix").unwrap();
            text.lines().filter(|line| line.ends_with(&*path.to_string_lossy())).count()
        };
        let [listener, _] = listeners(Some(b"key"));
        let address = listener.address().clone();
        let before = count(&address);
        for index in 0..200 {
            let key: &[u8] = if index % 2 == 0 { b"key" } else { b"other" };
            let client = client::<(), ()>(&listener, Some(key));
            assert_eq!(is_denied(&listener.accept::<(), ()>()), index % 2 == 1);
            let _ = client.join().unwrap();
        }
        assert_eq!(count(&address), before);
        drop(listener);
        assert_eq!(count(&address), 0);
    }
}
