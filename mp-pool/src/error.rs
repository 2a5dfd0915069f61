//! What can go wrong with a pool, and with a task.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};

use mp_core::sys::process::Exit;
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
    /// Something was set that is for workers of the pool's own, as the text names it, for a pool on another
    /// [engine](crate::Builder::engine).
    NotOurWorkers(&'static str),
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
            Self::NotOurWorkers(what) => {
                write!(
                    f,
                    "{what}() is for workers of the pool's own: set it where this engine's are started"
                )
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
    #[doc(alias = "TimeoutError")]
    TimedOut,
    /// The task was [cancelled](crate::AsyncResult::cancel).
    Cancelled,
    /// The pool was terminated, or dropped, before the task ended.
    Terminated,
    /// The pool was closed before the task came.
    ///
    /// Python: `ValueError: Pool not running`.
    Closed,
    /// There is no worker, and none can be started, or be reached on other machines; the text says why. Where descriptors,
    /// memory or the like were short, later tasks have workers once they are there again.
    #[doc(alias = "BrokenProcessPool")]
    NoWorkers(String),
    /// The arguments cannot be sent to a worker, or the result cannot be sent back.
    #[doc(alias = "MaybeEncodingError")]
    Encode(String),
    /// The arguments or the result are no values of the expected type, or cannot be taken over as memory or descriptors are
    /// short; the text says why.
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
    message: Box<str>,
    task: Task,
}

impl Panic {
    /// For what runs tasks: an [engine](crate::engine).
    #[must_use]
    pub fn new(message: String, task: Task) -> Self {
        Self { message: message.into(), task }
    }

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
        *self.message == *other
    }
}

impl PartialEq<&str> for Panic {
    fn eq(&self, other: &&str) -> bool {
        *self.message == **other
    }
}

impl PartialEq<String> for Panic {
    fn eq(&self, other: &String) -> bool {
        *self.message == **other
    }
}

impl From<Panic> for String {
    fn from(panic: Panic) -> Self {
        panic.message.into()
    }
}

/// Which task: its number in the pool, its function, and which items of a call to `map` or `imap` it had.
#[derive(Clone, PartialEq, Eq)]
pub struct Task {
    // Apart, as results of tasks that went well are moved about with room for this.
    about: Box<About>,
}

#[derive(Clone, PartialEq, Eq)]
struct About {
    number: u64,
    function: &'static str,
    items: Option<Range<usize>>,
    attempts: Vec<String>,
}

impl Task {
    pub(crate) fn new(number: u64, function: &'static str, items: Option<Range<usize>>) -> Self {
        Self { about: Box::new(About { number, function, items, attempts: Vec::new() }) }
    }

    /// The same, with what became of the attempts to run it. For an [engine](crate::engine) that makes several.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<String>) -> Self {
        self.about.attempts = attempts;
        self
    }

    /// Its number: a pool counts its tasks from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.about.number
    }

    /// What it called, as the compiler names it.
    #[must_use]
    pub fn function(&self) -> &'static str {
        self.about.function
    }

    /// Which items of the input of `map`, `imap` and the like it had; `None` where it was no such call. Where it is
    /// known which of them failed, that one only.
    #[must_use]
    pub fn items(&self) -> Option<Range<usize>> {
        self.about.items.clone()
    }

    /// What became of each attempt to run it, where the pool's [engine](crate::engine) makes several; else empty.
    #[must_use]
    pub fn attempts(&self) -> &[String] {
        &self.about.attempts
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("number", &self.about.number)
            .field("function", &self.about.function)
            .field("items", &self.about.items)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let About { number, function, items, attempts } = &*self.about;
        write!(f, "task {number} ({function}")?;
        match items {
            None => {}
            Some(items) if items.len() == 1 => write!(f, ", item {}", items.start)?,
            Some(items) => write!(f, ", items {}..{}", items.start, items.end)?,
        }
        f.write_str(")")?;
        if !attempts.is_empty() {
            write!(f, ", tried {} times: {}", attempts.len(), attempts.join("; "))?;
        }
        Ok(())
    }
}

/// How a worker ended, as the verb of a sentence.
struct Ending(Option<i32>);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ended, how is not known,"),
            Some(code) if code < 0 => ExitStatus::from(Exit::Signal(code.wrapping_neg())).fmt(f),
            Some(code) => ExitStatus::from(Exit::Code(code)).fmt(f),
        }
    }
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
            Self::TimedOut => f.write_str(
                "timed out: the wait was over before the task, or the task took longer than the pool's task_timeout",
            ),
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Terminated => f.write_str("the pool was terminated before the task ended"),
            Self::Closed => f.write_str("the pool is closed and takes no tasks"),
            Self::NoWorkers(why) => write!(f, "the pool has no workers: {why}"),
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
        let task = Task::new(7, "crate::count", Some(4..5));
        let died = TaskError::WorkerDied { pid: 12, exit_code: Some(-9), task: task.clone() };
        assert_eq!(
            died.to_string(),
            "the worker 12 was killed by signal 9 (SIGKILL) while it ran task 7 (crate::count, item 4)"
        );
        let panic = Panic::new("boom".to_string(), task);
        assert_eq!(panic, "boom");
        assert!(panic.contains("oom"));
        assert_eq!(
            TaskError::Panicked(panic).to_string(),
            "task 7 (crate::count, item 4) panicked: boom"
        );
        let task = Task::new(1, "f", None);
        let died = TaskError::WorkerDied { pid: 1, exit_code: Some(3), task };
        assert_eq!(died.to_string(), "the worker 1 exited with code 3 while it ran task 1 (f)");
        let task = Task::new(1, "f", None).with_attempts(vec!["a died".into(), "b died".into()]);
        assert_eq!(task.to_string(), "task 1 (f), tried 2 times: a died; b died");
    }
}
