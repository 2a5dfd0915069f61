//! What becomes of a task, and who waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mp_core::{Deadline, Decoder, catch_panic, spin};
use serde::de::DeserializeOwned;

use crate::TaskError;
use crate::body::Body;
use crate::callbacks::Callbacks;
use crate::engine::Name;
use crate::pool::Core;

/// How a task ended.
pub(crate) type Outcome = Result<Body, TaskError>;

/// Where outcomes go.
pub(crate) trait Sink: Send + Sync {
    /// Takes the outcome of a task; `part` is what the task was submitted with. Does not wait.
    fn deliver(&self, part: usize, outcome: Outcome);
}

/// Locks `mutex`. What lies behind the mutexes of this crate is whole between any two statements, so a panic of
/// another thread is no reason to stop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a change of what `guard` guards, until the deadline. Whether there may be one.
fn sleep<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Deadline,
) -> (MutexGuard<'a, T>, bool) {
    match deadline.remaining() {
        None => (changed.wait(guard).unwrap_or_else(PoisonError::into_inner), true),
        Some(left) if left.is_zero() => (guard, false),
        Some(left) => {
            let (guard, _) =
                changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
            (guard, true)
        }
    }
}

/// The outcomes of the tasks of one call.
#[derive(Debug)]
enum Parts {
    /// Of one task.
    One(Option<Outcome>),
    /// Of several.
    Many(Vec<Option<Outcome>>),
}

struct Progress {
    parts: Parts,
    missing: usize,
    sleepers: usize,
    callbacks: Vec<Box<dyn FnOnce() + Send>>,
}

/// The tasks of one call, which are done together.
pub(crate) struct Pending {
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Set once, with Release, when none is missing; whoever sees it with Acquire sees the outcomes.
    done: AtomicBool,
    callbacks: Arc<Callbacks>,
}

impl Pending {
    /// For one task.
    pub(crate) fn one(callbacks: &Arc<Callbacks>) -> Arc<Self> {
        Self::new(Parts::One(None), 1, callbacks)
    }

    /// For so many.
    pub(crate) fn many(count: usize, callbacks: &Arc<Callbacks>) -> Arc<Self> {
        let none = std::iter::repeat_with(|| None).take(count).collect();
        Self::new(Parts::Many(none), count, callbacks)
    }

    fn new(parts: Parts, missing: usize, callbacks: &Arc<Callbacks>) -> Arc<Self> {
        let progress = Progress { parts, missing, sleepers: 0, callbacks: Vec::new() };
        Arc::new(Self {
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            done: AtomicBool::new(missing == 0),
            callbacks: Arc::clone(callbacks),
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Whether it is done before the deadline.
    fn wait(&self, deadline: Deadline) -> bool {
        if self.is_done() {
            return true;
        }
        if deadline == Deadline::PASSED {
            return false;
        }
        if spin::look_yielding(|| self.is_done(), |&is_done| is_done) {
            return true;
        }
        let mut progress = lock(&self.progress);
        progress.sleepers += 1;
        loop {
            if progress.missing == 0 {
                break;
            }
            let (guard, again) = sleep(&self.changed, progress, deadline);
            progress = guard;
            if !again {
                break;
            }
        }
        progress.sleepers -= 1;
        progress.missing == 0
    }

    /// Calls `read` with the outcomes, in order, of a job that is done.
    fn with_outcomes<Out>(&self, read: impl FnOnce(&[Option<Outcome>]) -> Out) -> Out {
        let progress = lock(&self.progress);
        match &progress.parts {
            Parts::One(outcome) => read(slice::from_ref(outcome)),
            Parts::Many(outcomes) => read(outcomes),
        }
    }

    /// Has `callback` called when it is done, if it is not.
    fn when_done(&self, callback: Box<dyn FnOnce() + Send>) {
        let mut progress = lock(&self.progress);
        if progress.missing > 0 {
            progress.callbacks.push(callback);
        } else {
            drop(progress);
            self.callbacks.call(callback);
        }
    }
}

impl Sink for Pending {
    fn deliver(&self, part: usize, outcome: Outcome) {
        let mut progress = lock(&self.progress);
        let place = match &mut progress.parts {
            Parts::One(place) => Some(place),
            Parts::Many(places) => places.get_mut(part),
        };
        // The first outcome of a task is what became of it.
        let Some(place @ None) = place else { return };
        *place = Some(outcome);
        progress.missing -= 1;
        if progress.missing > 0 {
            return;
        }
        self.done.store(true, Ordering::Release);
        let callbacks = std::mem::take(&mut progress.callbacks);
        let sleepers = progress.sleepers;
        drop(progress);
        if sleepers > 0 {
            self.changed.notify_all();
        }
        for callback in callbacks {
            self.callbacks.call(callback);
        }
    }
}

/// Decodes the value of one task.
pub(crate) fn decode_one<R: DeserializeOwned>(outcome: &Outcome) -> Result<R, TaskError> {
    with_decoder(outcome, |decoder| decoder.get())
}

/// Decodes the values of a chunk and appends them.
pub(crate) fn decode_chunk<R: DeserializeOwned>(
    outcome: &Outcome,
    values: &mut Vec<R>,
) -> Result<(), TaskError> {
    with_decoder(outcome, |decoder| decoder.append_to(values))
}

fn with_decoder<Out>(
    outcome: &Outcome,
    read: impl FnOnce(&mut Decoder<'_>) -> mp_core::Result<Out>,
) -> Result<Out, TaskError> {
    let body = outcome.as_ref().map_err(Clone::clone)?;
    let (bytes, fds) = body
        .read()
        .map_err(|error| TaskError::Decode(format!("the result cannot be taken over: {error}")))?;
    // The value's own code may panic: whoever waits for the task, or has a callback for it, still has to hear of it.
    let read = catch_panic(move || {
        let mut decoder = Decoder::new(&bytes, fds);
        read(&mut decoder).and_then(|out| decoder.finish().map(|()| out))
    });
    match read {
        Ok(read) => read.map_err(|error| TaskError::Decode(error.to_string())),
        Err(panic) => Err(TaskError::Decode(format!("the result's Deserialize panicked: {panic}"))),
    }
}

/// Outcomes as they come, for a consumer that goes on with each.
pub(crate) struct Stream {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

#[derive(Default)]
struct Arrived {
    outcomes: VecDeque<(usize, Outcome)>,
    sleeps: bool,
}

impl Stream {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { arrived: Mutex::default(), changed: Condvar::new() })
    }

    /// Moves all outcomes that are there to `into`.
    pub(crate) fn take_present(&self, into: &mut VecDeque<(usize, Outcome)>) {
        into.append(&mut lock(&self.arrived).outcomes);
    }

    /// Waits for outcomes and moves all that are there to `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<(usize, Outcome)>) {
        let _ =
            spin::look_yielding(|| lock(&self.arrived).outcomes.is_empty(), |&is_empty| !is_empty);
        let mut arrived = lock(&self.arrived);
        while arrived.outcomes.is_empty() {
            arrived.sleeps = true;
            (arrived, _) = sleep(&self.changed, arrived, Deadline::NEVER);
        }
        arrived.sleeps = false;
        into.append(&mut arrived.outcomes);
    }
}

impl Sink for Stream {
    fn deliver(&self, part: usize, outcome: Outcome) {
        let mut arrived = lock(&self.arrived);
        arrived.outcomes.push_back((part, outcome));
        if std::mem::take(&mut arrived.sleeps) {
            drop(arrived);
            self.changed.notify_one();
        }
    }
}

/// What will become of a task, or of the tasks of one `map`.
///
/// Made by [`Pool::apply_async`](crate::Pool::apply_async), [`map_async`](crate::Pool::map_async) and
/// [`starmap_async`](crate::Pool::starmap_async). Dropping it changes nothing: the task runs. It outlives the pool,
/// and may be used by several threads.
///
/// Python: `multiprocessing.pool.AsyncResult`, where a task whose worker died, or whose pool was terminated, never
/// gets ready.
///
/// # Example
///
/// ```standalone_crate
/// use std::time::Duration;
/// use mp_pool::{Pool, TaskError};
///
/// fn slow_square(x: u64) -> u64 {
///     std::thread::sleep(Duration::from_millis(x));
///     x * x
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let pool = Pool::new(2)?;
///     let quick = pool.apply_async(slow_square, (12,));
///     let slow = pool.apply_async(slow_square, (100_000,));
///     assert_eq!(quick.get()?, 144);
///     assert_eq!(quick.get()?, 144); // may be asked again
///
///     assert_eq!(slow.get_timeout(Duration::from_millis(1)), Err(TaskError::TimedOut));
///     assert!(!slow.is_ready());
///     assert!(slow.cancel());
///     assert_eq!(slow.get(), Err(TaskError::Cancelled));
///     assert!(slow.function().ends_with("slow_square"));
///     Ok(())
/// }
/// ```
#[doc(alias("ApplyResult", "MapResult", "Future"))]
#[must_use = "the task runs; this is where its result comes"]
pub struct AsyncResult<R> {
    job: Arc<Pending>,
    core: Arc<Core>,
    function: Name,
    read: fn(&[Option<Outcome>]) -> Result<R, TaskError>,
}

impl<R: DeserializeOwned> AsyncResult<R> {
    /// The result of one task.
    pub(crate) fn of_one(job: Arc<Pending>, core: Arc<Core>, function: Name) -> Self {
        let read = |outcomes: &[Option<Outcome>]| match outcomes {
            [Some(outcome), ..] => decode_one(outcome),
            _ => unreachable!("a job that is done has the outcomes of its tasks"),
        };
        Self { job, core, function, read }
    }
}

impl<R: DeserializeOwned> AsyncResult<Vec<R>> {
    /// The results of several chunks, in one vector.
    pub(crate) fn of_chunks(job: Arc<Pending>, core: Arc<Core>, function: Name) -> Self {
        let read = |outcomes: &[Option<Outcome>]| {
            let mut values = Vec::new();
            for outcome in outcomes.iter().flatten() {
                decode_chunk(outcome, &mut values)?;
            }
            Ok(values)
        };
        Self { job, core, function, read }
    }
}

impl<R> AsyncResult<R> {
    /// Waits for the task to end and gives what it returned.
    ///
    /// May be called again: each call decodes the value anew. The end of a pipe in it goes to the first call, or callback,
    /// and is [`TaskError::Decode`] to others.
    ///
    /// # Errors
    ///
    /// What became of the task instead; of several, of the first in the input that has no result.
    /// [`TaskError::Decode`] also where the value's `Deserialize` panics: the text has the message.
    pub fn get(&self) -> Result<R, TaskError> {
        self.get_until(Deadline::NEVER)
    }

    /// The name of the function that the task runs, as the compiler has it: which task it was, where its error
    /// does not say.
    #[must_use]
    pub fn function(&self) -> &'static str {
        (self.function)()
    }

    /// Gives what the task returned, waiting no longer than `timeout` for it to end.
    ///
    /// # Errors
    ///
    /// [`TaskError::TimedOut`] where it has not ended by then ([`is_ready`](Self::is_ready) is false still); else as
    /// [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.get_until(Deadline::after(timeout))
    }

    fn get_until(&self, deadline: Deadline) -> Result<R, TaskError> {
        if !self.job.wait(deadline) {
            return Err(TaskError::TimedOut);
        }
        self.job.with_outcomes(self.read)
    }

    /// Waits for the task to end, however it does.
    pub fn wait(&self) {
        self.job.wait(Deadline::NEVER);
    }

    /// Waits no longer than `timeout` for the task to end; whether it has.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.job.wait(Deadline::after(timeout))
    }

    /// Whether the task has ended. Does not wait.
    #[doc(alias("ready", "done"))]
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.job.is_done()
    }

    /// Whether the task has ended with a value. Does not wait: false too while it has not ended.
    ///
    /// Python: an error while it has not.
    #[doc(alias("successful", "exception"))]
    #[must_use]
    pub fn is_successful(&self) -> bool {
        self.is_ready()
            && self.job.with_outcomes(|outcomes| outcomes.iter().flatten().all(Result::is_ok))
    }

    /// Ends the task with [`TaskError::Cancelled`], also if it runs: then its worker is killed, and another started.
    /// Whether there was something to end.
    ///
    /// What the task had done by then stays done. Of several tasks those that have not ended are cancelled. Does not
    /// wait.
    ///
    /// Python: `Future.cancel`, which leaves alone what runs, as [`cancel_pending`](Self::cancel_pending) does.
    pub fn cancel(&self) -> bool {
        self.core.cancel(&(Arc::clone(&self.job) as Arc<dyn Sink>), true)
    }

    /// Ends the task with [`TaskError::Cancelled`] if no worker has begun it. Whether that was so; of several tasks,
    /// of one at least.
    ///
    /// Does not wait.
    #[doc(alias = "cancel")]
    pub fn cancel_pending(&self) -> bool {
        self.core.cancel(&(Arc::clone(&self.job) as Arc<dyn Sink>), false)
    }
}

impl<R: 'static> AsyncResult<R> {
    /// Has `callback` called with the result when the task has ended, or at once if it has. The result is what
    /// [`get`](Self::get) gives.
    ///
    /// A thread of the pool calls callbacks one after the other. There they may use the pool, wait, and panic: that
    /// ends the one callback only. [`join`](crate::Pool::join) waits for them.
    ///
    /// Python: `callback` and `error_callback` of `apply_async`, which keep all results back while they run.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use std::sync::mpsc;
    /// use mp_pool::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let pool = Pool::new(2)?;
    ///     let (sender, receiver) = mpsc::channel();
    ///     let result = pool.apply_async(|a: i32, b: i32| a + b, (1, 2));
    ///     result.on_done(move |sum| sender.send(sum).expect("main waits"));
    ///     assert_eq!(receiver.recv()?, Ok(3));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("callback", "error_callback", "add_done_callback"))]
    pub fn on_done(&self, callback: impl FnOnce(Result<R, TaskError>) + Send + 'static) {
        let (job, read) = (Arc::clone(&self.job), self.read);
        self.job.when_done(Box::new(move || callback(job.with_outcomes(read))));
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("function", &self.function())
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}
