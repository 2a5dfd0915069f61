//! The three ways to start a process.

pub(crate) mod fork;
pub(crate) mod forkserver;
pub(crate) mod server;
pub(crate) mod spawn;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mp_core::packet::{Channel, Packet};
use mp_core::{Deadline, Error as CoreError};
use serde::{Deserialize, Serialize};

use crate::entry::Address;
use crate::process::Work;
use crate::protocol::{self, Profile, RequestFds, Surroundings};
use crate::{AnyChild, Error, ExitStatus, Result, family};

/// How long a new process may take until it is about to run its target.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How processes are started. What they then do is the same.
///
/// | | `ForkServer` | `Spawn` | `Fork` |
/// | --- | --- | --- | --- |
/// | costs (about) | 0.3 ms, whatever this process's size | 1 ms | 0.2 ms, and 10 ms for each 256 MiB in use |
/// | needs | [`init`](crate::init), or one thread at the first start | [`init`](crate::init) | one thread at each start |
/// | runs capturing closures | no | no | yes, by [`Process::fork`](crate::Process::fork) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[doc(alias("get_context", "get_all_start_methods"))]
pub enum StartMethod {
    /// A small helper process forks every child. The default.
    ///
    /// The helper comes to be at the first start: by executing this program again where
    /// [`init`](crate::init) was called, else as a fork of this process while that has one thread. It ends
    /// when this process does, however that ends, and is replaced when it dies; its children live on. It keeps
    /// two children forked ahead, so that a start does not wait for a fork.
    ///
    /// A child has this process's working directory, environment, CPUs, standard output and error of the moment it
    /// is started. Its users and groups too: where this process changes those, the helper is replaced. Of the moment
    /// the helper was started are limits, priority, scheduling policy, umask, root directory, session, namespaces,
    /// control group, capabilities, `no_new_privs` and filters of system calls (seccomp): a program that gives up one
    /// of these rights does so before its first start, or uses another method from then on.
    #[default]
    ForkServer,
    /// This program is executed again for each child. Right also after its file was replaced or deleted.
    Spawn,
    /// Each child is a fork of this process. Refused while it has more than one thread.
    Fork,
}

impl StartMethod {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ForkServer, Self::Spawn, Self::Fork];

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&method| method as u8 == number)
    }
}

static DEFAULT: AtomicU8 = AtomicU8::new(StartMethod::ForkServer as u8);

/// Sets how processes are started that do not say. Children inherit it.
///
/// Python: may be set again without `force=True`.
///
/// # Example
///
/// ```
/// use mp_process::{StartMethod, set_start_method, start_method};
///
/// assert_eq!(start_method(), StartMethod::ForkServer);
/// set_start_method(StartMethod::Spawn);
/// assert_eq!(start_method(), StartMethod::Spawn);
/// ```
pub fn set_start_method(method: StartMethod) {
    DEFAULT.store(method as u8, Ordering::Relaxed);
}

/// How processes are started that do not say.
#[doc(alias = "get_start_method")]
#[must_use]
pub fn start_method() -> StartMethod {
    StartMethod::from_number(DEFAULT.load(Ordering::Relaxed)).unwrap_or_default()
}

/// Starts `work` by `method`.
pub(crate) fn start(method: StartMethod, profile: Profile, work: Work) -> Result<AnyChild> {
    let (trampoline, arguments) = match work {
        Work::Closure(closure) if method == StartMethod::Fork => {
            return fork::start(profile, fork::Program::Closure(closure));
        }
        Work::Closure(_) => return Err(Error::NeedsFork),
        Work::Call(trampoline, arguments) => (trampoline, arguments),
    };
    match method {
        StartMethod::Fork => fork::start(profile, fork::Program::Call(trampoline, arguments)),
        StartMethod::Spawn | StartMethod::ForkServer => {
            let address = Address::of(trampoline)?;
            let order = Order { profile, address, arguments };
            match method {
                StartMethod::Spawn => spawn::start(&order),
                _ => forkserver::start(&order),
            }
        }
    }
}

/// A start that travels.
pub(crate) struct Order {
    profile: Profile,
    address: Address,
    arguments: mp_core::Message,
}

impl Order {
    /// Sends the request to a child. `surroundings`: for one that has not inherited ours.
    fn send(&self, channel: &Channel, surroundings: Option<&Surroundings>) -> Result<()> {
        let parenthood = family::parenthood()?;
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let streams = match surroundings {
            None => [None, None],
            Some(_) => [stdout.as_fd(), stderr.as_fd()]
                .map(|stream| mp_core::sys::fd::is_open(stream).then_some(stream)),
        };
        let fds = RequestFds {
            parent: parenthood.pidfd.as_fd(),
            lifeline: self.profile.daemon.then_some(parenthood.lifeline.as_fd()),
            streams,
        };
        let (profile, address) = (&self.profile, &self.address);
        protocol::send_request(channel, profile, address, surroundings, &fds, &self.arguments)
            .map_err(|error| match error {
                CoreError::TooManyDescriptors { .. } => Error::Encode(error),
                other => Error::core("send a start request")(other),
            })
    }
}

/// What came of a start.
enum Answer {
    /// The child is about to run its target, and may have sent its process descriptor.
    Hello(Option<OwnedFd>),
    /// The fork server saw it end before.
    Ended(ExitStatus),
    /// Every copy of the other end is closed.
    Silence,
}

/// Waits for the child's first words.
fn listen(channel: &mut Channel, deadline: Deadline) -> Result<Answer> {
    match channel.receive(deadline) {
        Ok(packet) => answer(packet),
        Err(CoreError::Disconnected) => Ok(Answer::Silence),
        Err(CoreError::TimedOut) => Err(Error::StartTimedOut),
        Err(error) => Err(Error::core("hear from a new process")(error)),
    }
}

fn answer(packet: Packet) -> Result<Answer> {
    let unreadable = Error::core("understand a new process");
    match packet.kind {
        protocol::HELLO => Ok(Answer::Hello(packet.fds.into_iter().next())),
        protocol::STATUS => {
            Ok(Answer::Ended(protocol::read_status(&packet.body).map_err(unreadable)?))
        }
        protocol::REFUSED => Err(protocol::read_refusal(&packet.body).map_err(unreadable)?),
        _ => Err(unreadable(CoreError::Protocol("another message than a hello"))),
    }
}

/// The error for a re-executed process that ended before it became what it was to be.
fn died(status: ExitStatus) -> Error {
    // Code 0: it came to the end of main.
    if matches!(status.code(), Some(0 | protocol::MISSED_INIT)) {
        Error::MissedInit
    } else {
        Error::DiedAtStart(status)
    }
}
