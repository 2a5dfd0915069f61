//! What can go wrong with a process, and how a process ends.

use std::fmt;
use std::io;

use mp_core::sys::process::Exit;

/// How a process ended.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::Process;
///
/// fn task() {
///     std::process::exit(3);
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let status = Process::new(task, ()).start()?.join()?;
///     assert_eq!(status.code(), Some(3));
///     assert_eq!(status.to_string(), "exited with code 3");
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExitStatus(Option<Exit>);

impl ExitStatus {
    pub(crate) const UNKNOWN: Self = Self(None);

    pub(crate) const fn from_code(code: i32) -> Self {
        Self(Some(Exit::Code(code)))
    }

    /// Whether it exited with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    /// The code it exited with, 0 to 255; `None` where a signal killed it.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self.0 {
            Some(Exit::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// The signal that killed it, if one did.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self.0 {
            Some(Exit::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// The code, or the negative number of the signal that killed it, as Python's `exitcode`.
    ///
    /// `None` where nobody can tell: something else in this program reaped the process first.
    #[must_use]
    pub fn exit_code(self) -> Option<i32> {
        self.0.map(|exit| match exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => -signal,
        })
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        Self(Some(exit))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Exit::Code(code)) => write!(f, "exited with code {code}"),
            Some(Exit::Signal(signal)) => match signal_name(signal) {
                Some(name) => write!(f, "was killed by signal {signal} ({name})"),
                None => write!(f, "was killed by signal {signal}"),
            },
            None => f.write_str("ended, how is not known"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// What can go wrong when a process is started or watched.
#[non_exhaustive]
pub enum Error {
    /// The start method re-executes this program, which has not called [`init`](crate::init).
    NeedsInit,
    /// A plain fork of a program with several threads can deadlock in the child.
    Multithreaded,
    /// A closure that captures was to be started by something else than a plain fork.
    NeedsFork,
    /// A daemon may not start processes: nobody would be left to end them.
    Daemon,
    /// An argument could not be encoded.
    Encode(mp_core::Error),
    /// The new process ended before it came to run its target.
    DiedAtStart(ExitStatus),
    /// The new process ran `main` instead of becoming a child.
    MissedInit,
    /// The new process did not come to run its target in time, and was killed.
    StartTimedOut,
    /// The new process is another program than this one, so the target's address means nothing in it.
    DifferentProgram {
        /// What identifies this program.
        ours: String,
        /// What identifies the other.
        theirs: String,
    },
    /// The new process could not prepare to run its target.
    Refused(String),
    /// The process still runs.
    StillRunning {
        /// Its number.
        pid: u32,
    },
    /// [`close`](crate::AnyChild::close) was called before.
    Closed,
    /// The process was started by another process than this one.
    NotOurs,
    /// The kernel refused.
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: what was tried when the kernel refused.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { doing, source }
    }

    /// For a process whose children live in another PID namespace.
    pub(crate) fn elsewhere() -> Self {
        let why = "this program has moved its children to another PID namespace (unshare or setns with CLONE_NEWPID), \
                   where they do not see their parent: use StartMethod::Fork, or start a process by \
                   StartMethod::ForkServer before it moves them";
        Self::Refused(why.to_string())
    }

    /// As [`io`](Self::io), for what the ground reports.
    pub(crate) fn core(doing: &'static str) -> impl Fn(mp_core::Error) -> Self + Copy {
        move |error| {
            let source = match error {
                mp_core::Error::Io(source) => source,
                other => io::Error::other(other),
            };
            Self::Io { doing, source }
        }
    }
}

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsInit => f.write_str(
                "starting this process re-executes the program, which must have said what to do then: \
                 put `multiprocess::init();` on the first line of main, or \
                 `multiprocess::test_support!();` into a file of tests (each crate that starts processes has both)",
            ),
            Self::Multithreaded => f.write_str(
                "a program with several threads cannot fork safely: use StartMethod::ForkServer or \
                 StartMethod::Spawn, or fork before the second thread is made",
            ),
            Self::NeedsFork => f.write_str(
                "a closure that captures runs by StartMethod::Fork only: pass what it captures as \
                 arguments to Process::new",
            ),
            Self::Daemon => f.write_str(
                "this process is a daemon, as workers of pools are, and may not start processes: have its parent \
                 start them, or make it without .daemon(true)",
            ),
            Self::Encode(_) => f.write_str("an argument of the process cannot be sent to it"),
            Self::DiedAtStart(status) => {
                write!(f, "the new process {status} before it could run its target")
            }
            Self::MissedInit => f.write_str(
                "the new process ran main instead of becoming a child: `multiprocess::init();` must be \
                 the first line of main, before anything that can return, wait or start processes",
            ),
            Self::StartTimedOut => f.write_str(
                "the new process did not come to run its target within 30 s and was killed: is \
                 `multiprocess::init();` the first line of main?",
            ),
            Self::DifferentProgram { ours, theirs } => write!(
                f,
                "the new process runs another program ({theirs}) than this one ({ours}): a target can \
                 only run in the program it is part of"
            ),
            Self::Refused(why) => write!(f, "the new process could not run its target: {why}"),
            Self::StillRunning { pid } => {
                write!(f, "process {pid} still runs: join or kill it before closing it")
            }
            Self::Closed => f.write_str("the process was closed before"),
            Self::NotOurs => f.write_str("only the process that started this one can wait for it"),
            Self::Io { doing, .. } => write!(f, "cannot {doing}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encode(error) => Some(error),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a process has no result.
#[non_exhaustive]
pub enum ProcessError {
    /// The target panicked, with this message.
    Panicked(String),
    /// The process exited with this code before the target returned, or the target had closed the descriptor through which
    /// the process would have said what it returned.
    Exited(i32),
    /// This signal killed the process before the target returned.
    Signaled(i32),
    /// The process ended before the target returned; how is not known.
    Lost,
    /// The target returned a value that could not be encoded.
    Encode(String),
    /// The arguments could not be decoded in the process, or the result here.
    Decode(String),
    /// Waiting for the process failed.
    Wait(Error),
}

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self {
            Self::Panicked(message) => return write!(f, "the process panicked: {message}"),
            Self::Encode(why) => return write!(f, "the result cannot be sent back: {why}"),
            Self::Decode(why) => {
                return write!(f, "the arguments or the result cannot be read: {why}");
            }
            Self::Wait(_) => return f.write_str("cannot wait for the process"),
            Self::Exited(code) => ExitStatus::from_code(*code),
            Self::Signaled(signal) => Exit::Signal(*signal).into(),
            Self::Lost => {
                return f
                    .write_str("the process ended before its target returned, how is not known");
            }
        };
        write!(f, "the process {status} before its target returned")
    }
}

impl std::error::Error for ProcessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Wait(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for ProcessError {
    fn from(error: Error) -> Self {
        Self::Wait(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_happened_and_what_to_do() {
        let killed = ExitStatus::from(Exit::Signal(9));
        assert_eq!(
            Error::DiedAtStart(killed).to_string(),
            "the new process was killed by signal 9 (SIGKILL) before it could run its target"
        );
        assert_eq!((killed.exit_code(), killed.signal(), killed.code()), (Some(-9), Some(9), None));
        assert!(Error::NeedsInit.to_string().contains("first line of main"));
        assert_eq!(
            ProcessError::Exited(2).to_string(),
            "the process exited with code 2 before its target returned"
        );
        assert_eq!(
            ProcessError::Lost.to_string(),
            "the process ended before its target returned, how is not known"
        );
    }
}
