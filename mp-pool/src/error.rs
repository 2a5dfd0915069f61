//! What can go wrong with a pool, and with a task.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};

use mp_process::ExitStatus;

/// What can go wrong with a pool as a whole.
#[non_exhaustive]
pub enum Error {
    /// A pool of no workers was asked for.
    NoWorkers,
    /// A worker that is to run no tasks was asked for.
    NoTasks,
    /// A worker could not be started.
    Start(mp_process::Error),
    /// The initializer's arguments cannot be encoded.
    Encode(String),
    /// The initializer panicked, or its arguments could not be decoded: the text says which and why.
    Initializer(String),
    /// A worker ended while it ran the initializer.
    DiedInInitializer {
        /// Its number.
        pid: u32,
        /// The code it exited with, or the negative number of the signal that killed it, if known.
        exit_code: Option<i32>,
    },
    /// [`join`](crate::Pool::join) was called on a pool that takes tasks still.
    ///
    /// Python: `ValueError: Pool is still running`.
    StillOpen,
    /// Memory, descriptors or threads are short.
    Io(io::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkers => f.write_str("a pool needs at least one worker"),
            Self::NoTasks => f.write_str("a worker must be allowed at least one task"),
            Self::Start(_) => f.write_str("cannot start a worker of the pool"),
            Self::Encode(why) => write!(f, "cannot send the initializer's arguments: {why}"),
            Self::Initializer(why) => write!(f, "the initializer of the workers failed: {why}"),
            Self::DiedInInitializer { pid, exit_code } => {
                write!(f, "the worker {pid} {} in the initializer", Ending(*exit_code))
            }
            Self::StillOpen => {
                f.write_str("the pool still takes tasks: call close() or terminate() before join()")
            }
            Self::Io(_) => f.write_str("memory, descriptors or threads are short"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<mp_pipe::Error> for Error {
    fn from(error: mp_pipe::Error) -> Self {
        match error {
            mp_pipe::Error::Io(error) => Self::Io(error),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

impl From<mp_shmem::Error> for Error {
    fn from(error: mp_shmem::Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

/// Why a task has no result.
///
/// Every task that a pool accepts ends: with a value or one of these.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// The task panicked, with this message. Its worker goes on.
    Panicked(Panic),
    /// The worker ended while it ran the task: it was killed, or the task ended its process.
    WorkerDied {
        /// The worker's number.
        pid: u32,
        /// The code it exited with, or the negative number of the signal that killed it; `None` where nobody can
        /// tell.
        exit_code: Option<i32>,
        /// Which task it was.
        task: Task,
    },
    /// The task ran longer than the pool's [`task_timeout`](crate::Builder::task_timeout), and its worker was
    /// killed; or the time given to [`get_timeout`](crate::AsyncResult::get_timeout) is over, and the task goes on.
    TimedOut,
    /// The task was [cancelled](crate::AsyncResult::cancel).
    Cancelled,
    /// The pool was terminated, or dropped, before the task ended.
    Terminated,
    /// The pool was closed before the task came.
    ///
    /// Python: `ValueError: Pool not running`.
    Closed,
    /// No worker is left and none can be started; the text says why.
    NoWorkers(String),
    /// The arguments cannot be sent to a worker, or the result cannot be sent back.
    Encode(String),
    /// The arguments or the result are no values of the expected type.
    Decode(String),
    /// Chunks of no items were asked for.
    ///
    /// Python: gives a list of `None`.
    ZeroChunk,
}

/// What a task's panic said, and which task it was.
///
/// Reads as the message: it derefs to it, prints it, and compares with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Panic {
    pub(crate) message: String,
    pub(crate) task: Task,
}

impl Panic {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Which task it was.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }
}

impl Deref for Panic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.message)
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.message, f)
    }
}

impl PartialEq<str> for Panic {
    fn eq(&self, other: &str) -> bool {
        self.message == other
    }
}

impl PartialEq<&str> for Panic {
    fn eq(&self, other: &&str) -> bool {
        self.message == *other
    }
}

impl PartialEq<String> for Panic {
    fn eq(&self, other: &String) -> bool {
        self.message == *other
    }
}

impl From<Panic> for String {
    fn from(panic: Panic) -> Self {
        panic.message
    }
}

/// Which task: its number in the pool, its function, and which items of a call to `map` or `imap` it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub(crate) number: u64,
    pub(crate) function: &'static str,
    pub(crate) items: Option<Range<usize>>,
}

impl Task {
    /// Its number: a pool counts its tasks from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it called, as the compiler names it.
    #[must_use]
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// Which items of the input of `map`, `imap` and the like it had; `None` where it was no such call. Where it is
    /// known which of them failed, that one only.
    #[must_use]
    pub fn items(&self) -> Option<Range<usize>> {
        self.items.clone()
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ({}", self.number, self.function)?;
        match &self.items {
            None => {}
            Some(items) if items.len() == 1 => write!(f, ", item {}", items.start)?,
            Some(items) => write!(f, ", items {}..{}", items.start, items.end)?,
        }
        f.write_str(")")
    }
}

/// How a worker ended, as the verb of a sentence.
struct Ending(Option<i32>);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ended, how is not known,"),
            Some(code) if code < 0 => write!(f, "was killed by signal {}", -code),
            Some(code) => write!(f, "exited with code {code}"),
        }
    }
}

/// An error and what is behind it, as one text.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub(crate) fn exit_code(status: mp_process::Result<Option<ExitStatus>>) -> Option<i32> {
    status.ok().flatten().and_then(ExitStatus::exit_code)
}

/// As its text, with what caused it: `main` and `unwrap` print this.
impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mp_core::describe(self, f)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(panic) => write!(f, "{} panicked: {}", panic.task, panic.message),
            Self::WorkerDied { pid, exit_code, task } => {
                write!(f, "the worker {pid} {} while it ran {task}", Ending(*exit_code))
            }
            Self::TimedOut => f.write_str("timed out"),
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Terminated => f.write_str("the pool was terminated before the task ended"),
            Self::Closed => f.write_str("the pool is closed and takes no tasks"),
            Self::NoWorkers(why) => write!(f, "the pool has no workers left: {why}"),
            Self::Encode(why) => write!(f, "cannot send it: {why}"),
            Self::Decode(why) => write!(f, "cannot read it: {why}"),
            Self::ZeroChunk => f.write_str("a chunk must have at least one item"),
        }
    }
}

impl std::error::Error for TaskError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_task_and_say_what_happened() {
        let task = Task { number: 7, function: "crate::count", items: Some(4..5) };
        let died = TaskError::WorkerDied { pid: 12, exit_code: Some(-9), task: task.clone() };
        assert_eq!(
            died.to_string(),
            "the worker 12 was killed by signal 9 while it ran task 7 (crate::count, item 4)"
        );
        let panic = Panic { message: "boom".to_string(), task };
        assert_eq!(panic, "boom");
        assert!(panic.contains("oom"));
        assert_eq!(
            TaskError::Panicked(panic).to_string(),
            "task 7 (crate::count, item 4) panicked: boom"
        );
        let task = Task { number: 1, function: "f", items: None };
        let died = TaskError::WorkerDied { pid: 1, exit_code: Some(3), task };
        assert_eq!(died.to_string(), "the worker 1 exited with code 3 while it ran task 1 (f)");
    }
}
