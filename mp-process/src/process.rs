//! A process before its start.

use std::fmt;
use std::marker::PhantomData;

use mp_core::{Encoder, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::current::{current_process, next_path};
use crate::entry::{self, Outcome, Trampoline};
use crate::protocol::Profile;
use crate::target::{Args, Run, Target};
use crate::{Child, Error, Result, StartMethod, boot, family, start, start_method};

/// A process that has not been started: what it runs, and how.
///
/// What it runs is a function by its name or a closure that captures nothing, with its arguments in a tuple
/// ([`new`](Self::new)); a task, as a subclass is in Python ([`of`](Self::of)); or, by plain fork only, a
/// closure with captures ([`fork`](Self::fork)).
///
/// In the child there is nothing but the arguments: only the descriptors among them are open, besides
/// standard output and error; standard input is empty. What it changes, it changes for itself.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::Process;
///
/// fn task(name: String, times: usize) -> String {
///     name.repeat(times)
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let one = Process::new(task, ("p1".to_string(), 2)).start()?;
///     let two = Process::new(task, ("p2".to_string(), 1)).name("second").start()?;
///     assert_eq!((two.name(), one.result()?.as_str()), ("second", "p1p1"));
///     assert_eq!(two.result()?, "p2");
///     Ok(())
/// }
/// ```
///
/// # Example: what is no target
///
/// A closure that captures, or a pointer to a function, does not compile:
///
/// ```compile_fail,E0080
/// let factor = 3;
/// let scale = move |x: i32| x * factor;
/// let child = mp_process::Process::new(scale, (1,)).start();
/// ```
#[must_use = "a process does nothing before it is started"]
pub struct Process<R> {
    work: Result<Work>,
    path: String,
    name: Option<String>,
    daemon: bool,
    method: Option<StartMethod>,
    result: PhantomData<fn() -> R>,
}

/// What a process runs.
pub(crate) enum Work {
    /// A function and its encoded arguments.
    Call(Trampoline, Message),
    /// Something that only a copy of this process has.
    Closure(Box<dyn FnOnce() -> Outcome>),
}

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// A process that calls `target` with `args`, a tuple of up to eight values.
    ///
    /// The arguments are encoded here and now; handles among them are duplicated, and the originals dropped.
    /// If one cannot be encoded, [`start`](Self::start) says so. The target owns what it gets: its parameters are
    /// `String` and `Vec<T>`, not `&str` and `&[T]`, which the compiler reports as `Deserialize` that is not general
    /// enough.
    ///
    /// Python: `Process(target=..., args=...)`. There are no `kwargs`: what has names goes in a struct.
    #[doc(alias("args", "kwargs"))]
    pub fn new<F, A>(target: F, args: A) -> Self
    where
        F: Target<A, Output = R> + Copy + 'static,
        A: Args,
    {
        let _ = target;
        let mut encoder = Encoder::new();
        let work = args.encode(&mut encoder).map(|()| encoder.finish()).map_err(Error::Encode);
        Self::with(
            work.map(|message| Work::Call(entry::trampoline_of_call::<F, A>(), message)),
            None,
        )
    }

    /// A process that runs `task`: Python's way of subclassing `Process`. See [`Run`].
    pub fn of<T>(task: T) -> Self
    where
        T: Run<Output = R> + Serialize + DeserializeOwned,
    {
        let work = mp_core::encode(&task).map_err(Error::Encode);
        Self::with(work.map(|message| Work::Call(entry::trampoline_of_run::<T>(), message)), None)
    }

    /// A process that is a copy of this one and calls `closure`, which may capture.
    ///
    /// By plain fork, so this process must have one thread when it is started. Everything that this process
    /// has is in the child too, open descriptors included: an end of a pipe that is open here stays open
    /// there.
    ///
    /// What it captures is dropped in both processes, here as soon as the child is started. Connections, listeners and
    /// managers know that: here only their descriptors are closed, and from then on they are the child's, which ends
    /// them. Not so what this process keeps another `Rc` of: that stays its own. Your own types are dropped as ever, so
    /// one that removes a file, say, does so here, while the child uses it.
    ///
    /// A lock is held by whoever took it, and that is not the child: a guard that the closure has captured, or that is
    /// held here meanwhile, locks nothing for the child. Take locks in the closure.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_process::Process;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let words = vec!["copied", "not", "sent"];
    ///     let child = Process::fork(move || words.join(" ")).start()?;
    ///     assert_eq!(child.result()?, "copied not sent");
    ///     Ok(())
    /// }
    /// ```
    pub fn fork(closure: impl FnOnce() -> R + 'static) -> Self {
        let run = move || entry::run(|| Ok(closure()));
        Self::with(Ok(Work::Closure(Box::new(run))), Some(StartMethod::Fork))
    }

    fn with(work: Result<Work>, method: Option<StartMethod>) -> Self {
        Self { work, path: next_path(), name: None, daemon: false, method, result: PhantomData }
    }

    /// Starts it. Returns once the child is about to run its target.
    ///
    /// Cannot hang: a child that dies before is an error that says how it died, at once; one that does not
    /// come to its target within 30 seconds is killed.
    ///
    /// # Errors
    ///
    /// [`Error::NeedsInit`], [`Error::Multithreaded`] and [`Error::NeedsFork`] where the start method does
    /// not suit this program; [`Error::Daemon`] in a daemon; [`Error::Encode`] for an argument that cannot
    /// be encoded; [`Error::DiedAtStart`], [`Error::StartTimedOut`], [`Error::MissedInit`],
    /// [`Error::DifferentProgram`] and [`Error::Refused`] for a child that did not come to its target;
    /// [`Error::Io`] where the kernel refused.
    pub fn start(self) -> Result<Child<R>> {
        boot::stop_if_init_was_missed();
        let current = current_process();
        if current.daemon() {
            return Err(Error::Daemon);
        }
        let work = self.work?;
        let method = self.method.unwrap_or_else(start_method);
        let profile = Profile {
            name: self.name.unwrap_or_else(|| format!("Process-{}", self.path)),
            path: self.path,
            daemon: self.daemon,
            parent_name: current.name().to_string(),
            parent_pid: current.pid(),
            default_method: start_method(),
        };
        family::sweep();
        let child = start::start(method, profile, work)?;
        family::add(&child);
        Ok(Child::new(child))
    }
}

impl<R> Process<R> {
    /// Names it. Without a name it is `Process-1` and so on, in the order of making; a process made within
    /// `Process-1` is `Process-1:1`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it ends with this process: terminated when this one exits, killed when this one is killed. A
    /// daemon may not start processes.
    ///
    /// Python: a killed parent's daemons live on.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// How it is started; without this, by [`start_method`](crate::start_method()).
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("daemon", &self.daemon)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
