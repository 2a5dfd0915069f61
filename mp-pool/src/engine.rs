//! Where the tasks of a pool run: the seam between what users call and what schedules.
//!
//! A [`Pool`](crate::Pool) encodes arguments, cuts input into chunks, keeps windows, decodes results and calls back.
//! Whatever is between a task and its outcome is its [`Engine`]'s: worker processes of this program by default, or
//! what [`Builder::engine`](crate::Builder::engine) is given.
//!
//! An engine takes [`Job`]s, one at a time, and ends each of them, once, in any order and from any thread:
//! [`Job::end`]. How it puts them together, sends them, and sends them again, is its own affair. A job that it drops
//! ends too, with [`TaskError::Terminated`]: so a task cannot be forgotten.
//!
//! # On other machines
//!
//! [`Job::to_bytes`] is a task as bytes, for the same program elsewhere. There [`Pool::submit_bytes`] runs them in a
//! pool of that machine, and gives the outcome as bytes, of which [`Job::end_with_bytes`] makes an outcome here.
//!
//! ```text
//! here    Pool -> Engine::submit(job), job.to_bytes() ~~> there   pool.submit_bytes(bytes, ..)
//!         Pool <- job.end_with_bytes(outcome)         <~~         outcome
//! ```
//!
//! [`Pool::submit_bytes`]: crate::Pool::submit_bytes

use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use mp_process::Function;

use crate::TaskError;
use crate::body::Body;
use crate::error::Task;
use crate::result::{Outcome, Sink};
pub use crate::wire::{Submitted, outcome_to_bytes};

/// What runs the tasks of a pool.
///
/// Its methods are called by any number of threads at a time, and must not wait, but for [`join`](Self::join).
///
/// # Example: tasks on a thread of this process
///
/// ```
/// use std::sync::{Mutex, PoisonError, mpsc};
/// use std::thread::{self, JoinHandle};
///
/// use mp_core::{Decoder, Encoder};
/// use mp_pool::engine::{Call, Engine, Job};
/// use mp_pool::{Panic, Pool, TaskError};
///
/// struct Thread {
///     jobs: Mutex<Option<mpsc::Sender<Job>>>,
///     thread: Mutex<Option<JoinHandle<()>>>,
/// }
///
/// fn run(job: &Job) -> Result<Vec<u8>, TaskError> {
///     let arguments = job.arguments()?;
///     let mut value = Encoder::new();
///     match job.function().try_call(&mut Decoder::new(&arguments, Vec::new()), &mut value) {
///         Ok(Ok(())) => Ok(value.finish().into_parts().0),
///         Ok(Err(error)) => Err(TaskError::Encode(error.to_string())),
///         Err(message) => Err(TaskError::Panicked(Panic::new(message, job.task()))),
///     }
/// }
///
/// impl Thread {
///     fn new() -> Self {
///         let (sender, jobs) = mpsc::channel::<Job>();
///         let thread = thread::spawn(move || {
///             for job in jobs {
///                 let outcome = run(&job);
///                 job.end(outcome);
///             }
///         });
///         Self { jobs: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) }
///     }
/// }
///
/// impl Engine for Thread {
///     fn workers(&self) -> usize {
///         1
///     }
///
///     fn submit(&self, job: Job) {
///         match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
///             Some(jobs) => jobs.send(job).expect("the thread is there as long as this is"),
///             None => job.end(Err(TaskError::Closed)),
///         }
///     }
///
///     fn cancel(&self, _: Call, _running: bool) -> bool {
///         false // a better one has a list of them
///     }
///
///     fn close(&self) {
///         self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
///     }
///
///     fn terminate(&self) {
///         self.close(); // a better one drops them
///     }
///
///     fn join(&self) {
///         let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
///         if let Some(thread) = thread {
///             thread.join().expect("panics of tasks end in try_call");
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder().engine(Thread::new()).build()?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
pub trait Engine: Send + Sync + 'static {
    /// How many tasks it runs at a time, as far as it knows; zero counts as one. Into how many chunks an input is cut
    /// and how many of them are under way follows from it, each time anew.
    fn workers(&self) -> usize;

    /// How many chunks of an input are under way at a time, for each of [`workers`](Self::workers). More than the eight
    /// that are the default where the way to them is long.
    fn ahead(&self) -> usize {
        8
    }

    /// Takes a task, and ends it some time: at once where it can take none, with the reason.
    ///
    /// Must not wait, as [`Pool::apply_async`](crate::Pool::apply_async) does not: what there is no room for yet it
    /// keeps.
    fn submit(&self, job: Job);

    /// Calls `encode`, once, which encodes arguments of tasks that are to be submitted: on the thread of whoever calls the
    /// pool. Where values are to know by which way they leave, this is where to tell them.
    fn encoding(&self, encode: &mut dyn FnMut()) {
        encode();
    }

    /// Ends with [`TaskError::Cancelled`] the jobs of a call that have not begun, and where `running` is set those
    /// that have, too, with whatever that takes. Whether there were any.
    fn cancel(&self, call: Call, running: bool) -> bool;

    /// Takes no more tasks, and stops once those it has are ended. May be called again.
    fn close(&self);

    /// Ends all tasks with [`TaskError::Terminated`] (dropping them does), and stops. May be called again, and after
    /// [`close`](Self::close).
    fn terminate(&self);

    /// Waits until it has stopped. Called after [`close`](Self::close) or [`terminate`](Self::terminate), possibly
    /// more than once, and possibly from where jobs are ended: there it must not wait for itself.
    fn join(&self);

    /// The numbers of the processes of this machine that work now.
    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// Which call of the pool's methods a job is of: what is cancelled together. Means something as long as one of its
/// jobs has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call(usize);

impl Call {
    pub(crate) fn of(sink: &Arc<dyn Sink>) -> Self {
        Self(Arc::as_ptr(sink).cast::<()>().addr())
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({:#x})", self.0)
    }
}

/// A task that a pool has accepted, until it ends.
///
/// One that is dropped ends with [`TaskError::Terminated`].
pub struct Job {
    pub(crate) number: u64,
    pub(crate) function: Function,
    /// None where it came as bytes: then who sent it knows.
    pub(crate) name: Option<Name>,
    /// Which items of the call's input it has: the first, and how many.
    pub(crate) items: Option<(usize, NonZero<usize>)>,
    /// In nanoseconds.
    pub(crate) timeout: u64,
    pub(crate) body: Body,
    /// There until the job is ended.
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// Which part of the sink's it is.
    pub(crate) part: usize,
}

// Each task is moved half a dozen times on its way.
const _: () = assert!(size_of::<Job>() <= 112);

/// Gives the name of a function's type.
pub(crate) type Name = fn() -> &'static str;

/// The timeout of a task that may run for ever.
pub(crate) const NO_TIMEOUT: u64 = u64::MAX;

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NO_TIMEOUT)
}

impl Job {
    /// Number and time limit come with its submission.
    pub(crate) fn new(
        (function, name): (Function, Name),
        items: Option<(usize, usize)>,
        body: Body,
        sink: Arc<dyn Sink>,
        part: usize,
    ) -> Self {
        let items = items.and_then(|(first, len)| Some((first, NonZero::new(len)?)));
        let (name, sink) = (Some(name), Some(sink));
        Self { number: 0, function, name, items, timeout: NO_TIMEOUT, body, sink, part }
    }

    /// Its number: a pool counts its jobs from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Which call it is of.
    #[must_use]
    pub fn call(&self) -> Call {
        match &self.sink {
            Some(sink) => Call::of(sink),
            None => Call(0),
        }
    }

    /// What to call with the [arguments](Self::arguments).
    #[must_use]
    pub fn function(&self) -> Function {
        self.function
    }

    /// How long it may run: then it is to end with [`TaskError::TimedOut`]. The time that it waits does not count.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout != NO_TIMEOUT).then(|| Duration::from_nanos(self.timeout))
    }

    /// Its arguments, encoded.
    ///
    /// # Errors
    ///
    /// [`TaskError::Encode`] where handles stand among them, such as queues, locks, or ends of pipes: their descriptors
    /// are of this machine, and bytes cannot carry them.
    pub fn arguments(&self) -> Result<Cow<'_, [u8]>, TaskError> {
        if !self.body.fds().is_empty() {
            let text = format!(
                "the arguments of {}: they hold handles (a queue, a lock, an end of a pipe, ...), which do not leave \
                 this machine, and the pool's engine sends bytes only",
                self.task()
            );
            return Err(TaskError::Encode(text));
        }
        self.body.bytes().map_err(|error| TaskError::Encode(error.to_string()))
    }

    /// What it is called in errors.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task_at(None)
    }

    /// The same, where it is known which of its items it was.
    pub(crate) fn task_at(&self, item: Option<u32>) -> Task {
        let items = self.items.map(|(start, len)| match item {
            Some(item) if (item as usize) < len.get() => {
                start + item as usize..start + item as usize + 1
            }
            _ => start..start + len.get(),
        });
        Task::new(self.number, self.name.map_or("", |name| name()), items)
    }

    /// A text that says whose it is, where it is of whom to know that.
    pub(crate) fn explain(&self, what: &str, why: &str) -> String {
        match self.name {
            Some(_) => format!("{what} of {}: {why}", self.task()),
            None => format!("{what}: {why}"),
        }
    }

    /// Ends it: with the value that its function made, encoded, or with what became of it instead.
    ///
    /// Whoever waits for it is woken, callbacks are called by a thread of their own. Does not wait.
    pub fn end(self, outcome: Result<Vec<u8>, TaskError>) {
        self.finish(outcome.map(|bytes| Body::with(bytes, Vec::new())));
    }

    pub(crate) fn finish(mut self, outcome: Outcome) {
        if let Some(sink) = self.sink.take() {
            sink.deliver(self.part, outcome);
        }
    }

    /// Sets down the outcome, for [`deliver`] to end it with later.
    pub(crate) fn with(mut self, outcome: Outcome) -> Done {
        Done { sink: self.sink.take(), part: self.part, outcome }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.deliver(self.part, Err(TaskError::Terminated));
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&format_args!("{}", self.task())).finish()
    }
}

/// An outcome on its way to whoever waits.
pub(crate) struct Done {
    sink: Option<Arc<dyn Sink>>,
    part: usize,
    outcome: Outcome,
}

pub(crate) fn deliver(done: Vec<Done>) {
    for done in done {
        if let Some(sink) = done.sink {
            sink.deliver(done.part, done.outcome);
        }
    }
}
