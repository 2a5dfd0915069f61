//! Connecting to a listener.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mp_core::sys::fd::wait_readable;
use mp_core::sys::{net, socket};
use mp_core::{Deadline, Message};

use crate::auth::{self, Asking, AuthKey, Frame, Step};
use crate::bound::{check_key, resolve};
use crate::greet::{Heard, Line};
use crate::listener::{CONNECTION, is_friend, take_key};
use crate::stream::{self, is_gone};
use crate::{Address, Connection, Error, Result};

/// Connects to a [`Listener`](crate::Listener).
///
/// Python: `multiprocessing.connection.Client`, a function. The family follows from the address.
#[derive(Debug)]
#[non_exhaustive]
pub struct Client;

impl Client {
    /// Connects to the listener at `address`; the connection sends `S` and receives `R`.
    ///
    /// Waits until the listener accepts, however long that takes; [`connect_timeout`](Self::connect_timeout)
    /// does not. Nobody listening there is an error at once: so start the listener first, or try again.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where nobody listens or the host is not reached, [`Error::Authentication`] where the
    /// listener wants a key or belongs to another user, [`Error::Disconnected`] where it ends before it accepts,
    /// [`Error::KeyNeeded`] for an address on another machine, [`Error::InvalidAddress`] where none can be there.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_pipe::{Client, Error};
    ///
    /// let nobody = Client::connect::<(), ()>("/not/there");
    /// assert!(matches!(nobody, Err(Error::Connect { .. })));
    /// let far = Client::connect::<(), ()>("192.0.2.7:4000");
    /// assert!(matches!(far, Err(Error::KeyNeeded { .. })));
    /// ```
    pub fn connect<S, R>(
        address: impl TryInto<Address, Error: Into<Error>>,
    ) -> Result<Connection<S, R>> {
        Self::builder().connect(address)
    }

    /// Connects as [`connect`](Self::connect) does, within `timeout`.
    ///
    /// To find out a host's number is not part of that: it takes as long as the system's resolver takes.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; else as `connect`.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mp_pipe::{Client, Error, Listener};
    ///
    /// # fn main() -> mp_pipe::Result<()> {
    /// let listener = Listener::new()?; // which never accepts
    /// let late = Client::connect_timeout::<(), ()>(listener.address(), Duration::from_millis(1));
    /// assert!(matches!(late, Err(Error::TimedOut)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect_timeout<S, R>(
        address: impl TryInto<Address, Error: Into<Error>>,
        timeout: Duration,
    ) -> Result<Connection<S, R>> {
        Self::builder().timeout(timeout).connect(address)
    }

    /// Sets key and timeout before it connects.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { key: None, timeout: None }
    }
}

/// A client that is not connected yet.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    /// `None` within for one that is none.
    key: Option<Option<AuthKey>>,
    timeout: Option<Duration>,
}

impl ClientBuilder {
    /// Connects to a listener that has the same key, and to no other.
    ///
    /// An [`AuthKey`] or bytes. The empty key is an error when it connects.
    pub fn authkey(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(AuthKey::new(key.as_ref()).ok());
        self
    }

    /// Gives up after `timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects: see [`Client::connect`].
    ///
    /// # Errors
    ///
    /// As there; [`Error::EmptyKey`], and [`Error::TimedOut`] where there is a timeout.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mp_pipe::{AuthKey, Client};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let key = AuthKey::new(&std::fs::read("/etc/jobs.key")?)?;
    /// let connection = Client::builder()
    ///     .authkey(&key)
    ///     .timeout(Duration::from_secs(10))
    ///     .connect::<String, u64>("worker-7:4000")?;
    /// connection.send("a job".to_string())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect<S, R>(
        self,
        address: impl TryInto<Address, Error: Into<Error>>,
    ) -> Result<Connection<S, R>> {
        let deadline = Deadline::after_option(self.timeout);
        let address: Address = address.try_into().map_err(Into::into)?;
        let key = take_key(self.key)?;
        address.check()?;
        match &address {
            Address::Unix(path) => {
                let socket = connect_path(path, deadline).map_err(|e| said(&address, e))?;
                if !is_friend(net::peer_credentials(socket.as_fd())?.uid) {
                    let why = "the listener belongs to another user".to_string();
                    return Err(Error::Authentication(why));
                }
                let mut line = Line::new(socket, true);
                shake_hands(&mut line, key.as_ref(), true, deadline)?;
                receive_connection(line, deadline)
            }
            Address::Tcp(host, port) => {
                let numbers = resolve(&address, host, *port)?;
                for number in &numbers {
                    check_key(&address, number.ip(), key.is_some())?;
                }
                let socket = connect_tcp(&numbers, deadline).map_err(|e| said(&address, e))?;
                let mut line = Line::new(socket, false);
                shake_hands(&mut line, key.as_ref(), false, deadline)?;
                let (sender, receiver) = stream::pair(line.into_socket())?;
                Ok(Connection::from_stream(sender, receiver))
            }
        }
    }
}

fn connect_path(path: &Path, deadline: Deadline) -> io::Result<OwnedFd> {
    net::connect_packets(path, deadline)
}

fn connect_tcp(numbers: &[SocketAddr], deadline: Deadline) -> io::Result<OwnedFd> {
    let mut result = Err(io::ErrorKind::TimedOut.into());
    for number in numbers {
        result = match deadline.remaining() {
            None => TcpStream::connect(number),
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            Some(left) => TcpStream::connect_timeout(number, left),
        };
        if result.is_ok() {
            break;
        }
    }
    result.map(OwnedFd::from)
}

fn said(address: &Address, error: io::Error) -> Error {
    // Our time is over: the kernel's own patience has a number.
    if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
        return Error::TimedOut;
    }
    Error::Connect { address: address.to_string(), source: error }
}

fn wait(line: &Line, deadline: Deadline) -> Result<()> {
    if wait_readable(line.as_fd(), deadline)? { Ok(()) } else { Err(Error::TimedOut) }
}

/// Sends, to one who may have hung up already: what it said before is to be heard then.
fn send(line: &Line, message: &[u8]) -> Result<()> {
    match line.send(&[message], &[]) {
        Err(error) if is_gone(&error) => Ok(()),
        result => Ok(result?),
    }
}

fn shake_hands(
    line: &mut Line,
    key: Option<&AuthKey>,
    packets: bool,
    deadline: Deadline,
) -> Result<()> {
    let (mut side, hello) = Asking::new(key, packets)?;
    send(line, &hello)?;
    loop {
        let step = match line.hear() {
            Heard::Nothing => {
                wait(line, deadline)?;
                continue;
            }
            Heard::End => return Err(Error::Disconnected),
            Heard::Garbage => return Err(auth::no_listener()),
            Heard::Message(message) => side.step(message),
        };
        match step {
            Step::Answer(answer) => send(line, &answer)?,
            Step::Done(answer) => return send(line, &answer),
            Step::Refuse(answer, error) => {
                if !answer.is_empty() {
                    send(line, &answer)?;
                }
                return Err(error.unwrap_or(Error::Disconnected));
            }
        }
    }
}

/// The end of the pipe that the listener has made, through the socket of the hand-shake.
fn receive_connection<S, R>(line: Line, deadline: Deadline) -> Result<Connection<S, R>> {
    let mut buffer = vec![0; 64 << 10];
    wait(&line, deadline)?;
    let received = match socket::receive(line.as_fd(), &mut buffer, true) {
        Err(error) if is_gone(&error) => return Err(Error::Disconnected),
        result => result?,
    };
    if received.len == 0 {
        return Err(Error::Disconnected);
    }
    if received.truncated {
        return Err(io::Error::from_raw_os_error(libc::EMFILE).into());
    }
    match buffer[..received.len].split_first() {
        Some((&CONNECTION, bytes)) => {
            Ok(mp_core::decode(Message::new(bytes.to_vec(), received.fds))?)
        }
        _ => match auth::parse(&buffer[..received.len]) {
            Some(Frame::Refused(reason)) => Err(reason.to_client()),
            _ => Err(auth::no_listener()),
        },
    }
}
