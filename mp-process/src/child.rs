//! A process after its start.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::process::{self, Reaped};
use mp_core::{Deadline, Error as CoreError, crash_point};
use serde::de::DeserializeOwned;

use crate::entry::Outcome;
use crate::start::forkserver;
use crate::sync::lock;
use crate::{Error, ExitStatus, ProcessError, Result, family, protocol};

/// How long the end of a process may be known before the fork server has told how it ended, or has reaped it. What counts
/// is how long was to be waited, so much at a time: a machine that stood still meanwhile has used up one of those, and not
/// the time that the fork server needs.
const GRACE: Duration = Duration::from_secs(5);
const AT_A_TIME: Duration = Duration::from_millis(250);

/// For how long a wait for the end of a process is for its being reaped.
const SOON: Duration = Duration::from_millis(10);

/// A started process whose target returns `R`.
///
/// Has every method of [`AnyChild`], and [`result`](Self::result). All of them may be called from any
/// thread, several at a time.
///
/// Dropping it detaches the process: it goes on, its result is lost, and it is still joined (a daemon:
/// terminated) when this program ends. No zombie stays behind: children of the fork server are reaped at once;
/// one made by `Spawn` or `Fork` that ends after it was detached is reaped when this program next starts,
/// joins or lists processes.
///
/// # Example
///
/// ```standalone_crate
/// use std::time::Duration;
/// use mp_process::Process;
///
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let child = Process::new(square, (12,)).start()?;
///     assert_ne!(child.pid(), std::process::id());
///     let status = child.join_timeout(Duration::from_secs(30))?.expect("is quick");
///     assert!(status.success() && !child.is_alive());
///     assert_eq!(child.result()?, 144);
///     Ok(())
/// }
/// ```
pub struct Child<R> {
    any: AnyChild,
    result: PhantomData<fn() -> R>,
}

impl<R> Child<R> {
    pub(crate) fn new(any: AnyChild) -> Self {
        Self { any, result: PhantomData }
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits for the process to end and gives what its target returned.
    ///
    /// What the target returns is data: an `Err` comes back inside the `Ok`, and the exit code is 0.
    ///
    /// Python: `Process` gives no result back.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Panicked`] with the message of the target's panic; [`Exited`] or [`Signaled`] where
    /// the process ended before its target did; [`Encode`] and [`Decode`] where the value or the arguments
    /// could not travel.
    ///
    /// # Panics
    ///
    /// Where `Deserialize` of `R` does.
    ///
    /// [`Exited`]: ProcessError::Exited
    /// [`Signaled`]: ProcessError::Signaled
    /// [`Encode`]: ProcessError::Encode
    /// [`Decode`]: ProcessError::Decode
    ///
    /// # Example: a panic
    ///
    /// ```standalone_crate
    /// use mp_process::{Process, ProcessError};
    ///
    /// fn fail(why: String) {
    ///     panic!("{why}");
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let error = Process::new(fail, ("no luck".to_string(),)).start()?.result().unwrap_err();
    ///     assert!(matches!(error, ProcessError::Panicked(message) if message == "no luck"));
    ///     Ok(())
    /// }
    /// ```
    pub fn result(self) -> Result<R, ProcessError> {
        let status = self.any.join()?;
        let mut state = lock(&self.any.0.state);
        let (outcome, lost) = (state.outcome.take(), state.lost.take());
        drop(state);
        if let (None, Some(error)) = (&outcome, lost) {
            return Err(ProcessError::Wait(Error::io("receive the result")(error)));
        }
        match outcome {
            Some(Outcome::Value(message)) => {
                mp_core::decode(message).map_err(|error| ProcessError::Decode(error.to_string()))
            }
            Some(Outcome::Panicked(message)) => Err(ProcessError::Panicked(message)),
            Some(Outcome::Unencodable(why)) => Err(ProcessError::Encode(why)),
            Some(Outcome::Undecodable(why)) => Err(ProcessError::Decode(why)),
            None => Err(match (status.code(), status.signal()) {
                (Some(code), _) => ProcessError::Exited(code),
                (_, Some(signal)) => ProcessError::Signaled(signal),
                _ => ProcessError::Lost,
            }),
        }
    }
}

impl<R> Deref for Child<R> {
    type Target = AnyChild;

    fn deref(&self) -> &AnyChild {
        &self.any
    }
}

impl<R> AsFd for Child<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.fmt(f)
    }
}

/// A started process, whatever its target returns.
///
/// What [`Child`] derefs to, and what [`active_children`](crate::active_children) lists. Clones are the same
/// process.
#[derive(Clone)]
pub struct AnyChild(Arc<Inner>);

pub(crate) struct Inner {
    /// No other object of this process has it. Another process may have had its number.
    key: u64,
    name: String,
    pid: u32,
    daemon: bool,
    /// The process that started it: after a fork, the child has this object too.
    owner: u32,
    reaper: Reaper,
    pidfd: OwnedFd,
    state: Mutex<State>,
}

/// Who learns from the kernel how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaper {
    /// This process: it is its child.
    Us,
    /// The fork server of that generation. It then `tells` over the channel, or leaves that to the kernel.
    ForkServer { tells: bool, generation: u64 },
}

/// What is known so far.
struct State {
    /// Where the outcome, and the fork server's report, come from. `None` once both ends are done with it.
    channel: Option<Channel<Arc<OwnedFd>>>,
    outcome: Option<Outcome>,
    /// Why the outcome has come and cannot be had.
    lost: Option<io::Error>,
    /// Whether the report comes there, behind the outcome.
    is_told: bool,
    exit: Option<ExitStatus>,
    /// What is left of [`GRACE`].
    grace: Duration,
    closed: bool,
}

impl AnyChild {
    pub(crate) fn new(
        name: String,
        pid: u32,
        daemon: bool,
        reaper: Reaper,
        pidfd: OwnedFd,
        channel: Channel,
    ) -> Self {
        let is_told = matches!(reaper, Reaper::ForkServer { tells: true, .. });
        let state = State {
            channel: Some(channel.share()),
            outcome: None,
            lost: None,
            is_told,
            exit: None,
            grace: GRACE,
            closed: false,
        };
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = KEYS.fetch_add(1, Ordering::Relaxed);
        let (owner, state) = (std::process::id(), Mutex::new(state));
        Self(Arc::new(Inner { key, name, pid, daemon, owner, reaper, pidfd, state }))
    }

    pub(crate) fn key(&self) -> u64 {
        self.0.key
    }

    /// Its name: as set before it was started, else `Process-1` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number.
    #[doc(alias = "ident")]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it ends with this process.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it still runs. Does not wait for it to end; where it has, and its fork server has yet to tell
    /// how, waits for that for up to five seconds.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        if self.0.owner != std::process::id() {
            return !process::wait_ended(self.as_fd(), Deadline::PASSED).unwrap_or(false);
        }
        !matches!(self.look(Deadline::NEVER), Ok(Some(_)))
    }

    /// Reaps it if it has ended. Does not wait.
    pub(crate) fn reap(&self) {
        let _ = self.look(Deadline::PASSED);
    }

    /// How it ended: the code it exited with, or the negative number of the signal that killed it; `None`
    /// while it runs. Waits no more than [`is_alive`](Self::is_alive).
    ///
    /// `None` too where nobody can tell (see [`ExitStatus::exit_code`]).
    #[doc(alias = "exitcode")]
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.look(Deadline::NEVER).ok().flatten().and_then(ExitStatus::exit_code)
    }

    /// Waits until it has ended. May be called again.
    ///
    /// Unlike in Python, a child never waits for its result to be read: joining it first is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after [`close`](Self::close), [`Error::NotOurs`] in another process than the one
    /// that started it, [`Error::Io`] where the kernel refuses to wait.
    pub fn join(&self) -> Result<ExitStatus> {
        match self.join_until(Deadline::NEVER)? {
            Some(status) => Ok(status),
            None => unreachable!("a wait without deadline ends with the process"),
        }
    }

    /// Waits until it has ended or the time is over; then `None`.
    ///
    /// # Errors
    ///
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.join_until(Deadline::after(timeout))
    }

    pub(crate) fn join_until(&self, deadline: Deadline) -> Result<Option<ExitStatus>> {
        if self.0.owner != std::process::id() {
            return Err(Error::NotOurs);
        }
        if lock(&self.0.state).closed {
            return Err(Error::Closed);
        }
        family::sweep();
        // That it is reaped follows on its end, where the kernel does that: then once is enough to be woken. Not where
        // its fork server has ended.
        let kernel_reaps = matches!(self.0.reaper, Reaper::ForkServer { tells: false, .. });
        let mut soon = kernel_reaps.then(|| Deadline::after(SOON));
        loop {
            if let Some(status) = self.look(deadline)? {
                return Ok(Some(status));
            }
            // It may have ended, and how is not known yet.
            if deadline.has_passed() {
                return Ok(None);
            }
            // Shared, as another thread may be done with the channel meanwhile.
            let channel = lock(&self.0.state).channel.as_ref().map(|it| it.socket().clone());
            let end = if soon.is_some() { PollFd::hung_up } else { PollFd::readable };
            let mut fds = vec![end(self.as_fd())];
            fds.extend(channel.as_ref().map(|channel| PollFd::readable(channel.as_fd())));
            crash_point!("parent: waits for an end, about to sleep");
            let limit = soon.map_or(deadline, |soon| soon.min(deadline));
            let ready = poll(&mut fds, limit).map_err(Error::io("wait for a process"))?;
            if ready == 0 && soon.take().is_none() {
                return Ok(None);
            }
        }
    }

    /// Takes in what has come, reaps the process if it has ended; says how, if so.
    ///
    /// Waits until the deadline, but no longer than [`GRACE`], and only for a fork server that has not yet told of an end
    /// already known.
    fn look(&self, deadline: Deadline) -> Result<Option<ExitStatus>> {
        let mut state = lock(&self.0.state);
        if state.exit.is_some() {
            return Ok(state.exit);
        }
        let refused = Error::io("reap a process");
        match self.0.reaper {
            Reaper::Us => match process::reap(self.as_fd()).map_err(refused)? {
                Reaped::Running => state.drain(Deadline::PASSED),
                Reaped::Ended(exit) => {
                    state.drain(Deadline::PASSED);
                    state.exit = Some(exit.into());
                }
                Reaped::Unknown => {
                    let ended = process::wait_ended(self.as_fd(), Deadline::PASSED);
                    state.drain(Deadline::PASSED);
                    if ended.map_err(refused)? {
                        state.exit = Some(self.guess(&state));
                    }
                }
            },
            Reaper::ForkServer { tells, generation } => {
                let ended = process::wait_ended(self.as_fd(), Deadline::PASSED).map_err(refused)?;
                state.drain(Deadline::PASSED);
                if ended && state.exit.is_none() {
                    loop {
                        let left = deadline.remaining().unwrap_or(Duration::MAX);
                        let time = AT_A_TIME.min(state.grace).min(left);
                        let is_over = if tells {
                            state.drain(Deadline::after(time));
                            state.channel.is_none()
                        } else {
                            let is_orphan = forkserver::has_ended(generation);
                            self.learn(&mut state, is_orphan, Deadline::after(time))
                                .map_err(refused)?;
                            // Who takes over its orphans may not reap them.
                            forkserver::has_ended(generation)
                        };
                        state.grace -= time;
                        if state.exit.is_none() && (is_over || state.grace.is_zero()) {
                            state.exit = Some(self.guess(&state));
                        }
                        if state.exit.is_some() || time == left {
                            break;
                        }
                    }
                }
            }
        }
        if state.exit.is_some() {
            crash_point!("parent: a child's end is known");
            state.channel = None;
            family::forget(self);
        }
        Ok(state.exit)
    }

    /// Waits until the kernel tells how it ended, which it does of who is reaped. An orphan may never be reaped, but can be
    /// looked at.
    fn learn(&self, state: &mut State, is_orphan: bool, deadline: Deadline) -> io::Result<()> {
        if is_orphan {
            // This process may be who takes over orphans: process 1, or a subreaper (prctl(2)).
            let exit = match process::reap(self.as_fd())? {
                Reaped::Ended(exit) => Some(exit),
                _ => process::exit_before_reaping(self.pid(), self.as_fd()),
            };
            state.exit = exit.map(ExitStatus::from);
        }
        state.exit =
            state.exit.or_else(|| process::exit_after_reaping(self.as_fd()).map(Into::into));
        if state.exit.is_some() {
            return Ok(());
        }
        // A process descriptor hangs up when the process is reaped (since Linux 6.9; `pidfd_poll` in fs/pidfs.c).
        poll(&mut [PollFd::hung_up(self.as_fd())], deadline)?;
        Ok(())
    }

    /// How it ended, where it was reaped by somebody who does not tell.
    fn guess(&self, state: &State) -> ExitStatus {
        let exit = match process::reap(self.as_fd()) {
            // Left to this process by a fork server that has ended.
            Ok(Reaped::Ended(exit)) => Some(exit),
            _ => process::exit_before_reaping(self.pid(), self.as_fd())
                .or_else(|| process::exit_after_reaping(self.as_fd())),
        };
        match (exit, &state.outcome) {
            (Some(exit), _) => exit.into(),
            (None, Some(outcome)) => ExitStatus::from_code(protocol::exit_code(outcome)),
            (None, None) => ExitStatus::UNKNOWN,
        }
    }

    /// Asks it to end, by SIGTERM. Nothing happens where it has ended already.
    ///
    /// Processes it started itself go on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it is not ours to signal any more: it changed its user.
    pub fn terminate(&self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Ends it, by SIGKILL. Nothing happens where it has ended already.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        process::pidfd_send_signal(self.as_fd(), signal)
            .map(|_| ())
            .map_err(Error::io("signal a process"))
    }

    /// Lets go of what is kept for it. Afterwards [`join`](Self::join) is an error; closing again is not.
    ///
    /// Dropping does the same, running or not; this is there for whoever wants to know.
    ///
    /// # Errors
    ///
    /// [`Error::StillRunning`] while it runs.
    pub fn close(&self) -> Result<()> {
        if self.is_alive() {
            return Err(Error::StillRunning { pid: self.pid() });
        }
        let mut state = lock(&self.0.state);
        state.closed = true;
        state.channel = None;
        Ok(())
    }
}

/// Readable once the process has ended: for poll, epoll and whatever waits for descriptors.
impl AsFd for AnyChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

impl fmt::Debug for AnyChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.0.name)
            .field("pid", &self.0.pid)
            .field("daemon", &self.0.daemon)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Takes in messages until the deadline passes or the fork server's report is among them.
    fn drain(&mut self, deadline: Deadline) {
        while let Some(channel) = &mut self.channel {
            match channel.receive(deadline) {
                Ok(packet) => match packet.kind {
                    protocol::OUTCOME => {
                        self.outcome = protocol::read_outcome(packet).ok();
                        if !self.is_told {
                            self.channel = None;
                        }
                    }
                    protocol::STATUS => {
                        self.exit = protocol::read_status(&packet.body).ok();
                        return;
                    }
                    _ => {}
                },
                Err(CoreError::TimedOut) => return,
                Err(error) => {
                    self.channel = None;
                    if let CoreError::Io(error) = error {
                        self.lost = Some(error);
                    }
                }
            }
        }
    }
}
