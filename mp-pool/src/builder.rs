//! What a pool is to be, before it is.

use std::fmt;
use std::time::Duration;

use mp_core::Encoder;
use mp_process::{Args, Function, StartMethod, Target, cpu_count, start_method};

use crate::body::Body;
use crate::call::{Begin, Prepare};
use crate::engine::Engine;
use crate::local::{Local, Settings};
use crate::{Error, Pool, Result};

/// What a pool is to be. Made by [`Pool::builder`].
///
/// # Example
///
/// ```standalone_crate
/// use std::sync::OnceLock;
/// use std::time::Duration;
/// use mp_pool::Pool;
///
/// static MODEL: OnceLock<String> = OnceLock::new();
///
/// fn load(path: String) {
///     MODEL.set(format!("the model in {path}")).expect("is loaded once in each worker");
/// }
///
/// fn ask(question: String) -> String {
///     format!("{question} {}", MODEL.get().expect("was loaded"))
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let pool = Pool::builder()
///         .workers(2)
///         .initializer(load, ("weights.bin".to_string(),))
///         .max_tasks_per_child(1000)
///         .task_timeout(Duration::from_secs(60))
///         .build()?;
///     assert_eq!(pool.apply(ask, ("which?".to_string(),))?, "which? the model in weights.bin");
///     Ok(())
/// }
/// ```
#[must_use = "there is no pool before it is built"]
pub struct Builder {
    workers: Option<usize>,
    initializer: Option<(Function, Result<Body>)>,
    tasks_per_worker: Option<u64>,
    task_timeout: Option<Duration>,
    method: Option<StartMethod>,
    engine: Option<Box<dyn Engine>>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            workers: None,
            initializer: None,
            tasks_per_worker: None,
            task_timeout: None,
            method: None,
            engine: None,
        }
    }

    /// How many workers there are; without this, one for each CPU that this process may use.
    #[doc(alias = "processes")]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Has each worker call `initializer` with `args` before its first task. What it returns is dropped.
    ///
    /// A function by its name or a closure that captures nothing, and a tuple, as for
    /// [`Process::new`](mp_process::Process::new). [`build`](Self::build) waits for it. Where it panics or ends the
    /// worker, the pool is not built; if that happens to the worker that replaces one, another is tried, with pauses,
    /// and after eight in a row no more.
    ///
    /// Python: `initializer` and `initargs`. There a failing one is called again and again, for ever.
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(mut self, initializer: F, args: A) -> Self
    where
        F: Target<A> + Copy + 'static,
        A: Args,
    {
        let mut encoder = Encoder::new();
        let body = match args.encode(&mut encoder) {
            Ok(()) => Ok(Body::new(encoder.finish())),
            Err(error) => Err(Error::Encode(format!("{error:?}"))),
        };
        self.initializer = Some((Function::new::<F, Begin<A>>(initializer), body));
        self
    }

    /// Has each worker call `function` with `args` before the [`initializer`](Self::initializer) that is set already, if
    /// there is one: for who makes a pool with what others have set of it. As for that in all else.
    ///
    /// Arguments with descriptors are [`Error::Encode`].
    pub fn prepare<F, A>(mut self, function: F, args: A) -> Self
    where
        F: Target<A> + Copy + 'static,
        A: Args,
    {
        let (next, body) = match self.initializer.take() {
            Some((next, body)) => (Some(next), body),
            None => (None, Ok(Body::default())),
        };
        let prepared = body.and_then(|mut body| {
            let mut encoder = Encoder::new();
            let encoded = args.encode(&mut encoder).and_then(|()| encoder.put(&next).map(drop));
            encoded.map_err(|error| Error::Encode(error.to_string()))?;
            let (mut bytes, fds) = encoder.finish().into_parts();
            if !fds.is_empty() {
                let why = "descriptors come with the initializer only";
                return Err(Error::Encode(why.to_string()));
            }
            bytes.append(&mut body.bytes);
            body.bytes = bytes;
            Ok(body)
        });
        self.initializer = Some((Function::new::<F, Prepare<A>>(function), prepared));
        self
    }

    /// How many tasks a worker runs before another takes its place, so that what it leaks goes back to the system.
    /// Without this, as many as come. A chunk of `map` is one task.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, tasks: usize) -> Self {
        self.tasks_per_worker = Some(tasks as u64);
        self
    }

    /// How long a task may run. One that does not end in time is
    /// [`TaskError::TimedOut`](crate::TaskError::TimedOut); its worker is killed, and another started. The time that a
    /// task waits for its turn does not count.
    ///
    /// Python: has none.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.task_timeout = Some(timeout);
        self
    }

    /// How workers are started; without this, by [`mp_process::start_method`].
    ///
    /// The pool has a thread, and a program with threads cannot fork: by [`StartMethod::Fork`] only the first workers
    /// are started, and those that replace them by [`StartMethod::ForkServer`]. Without
    /// [`init`](mp_process::init) those cannot be started: once no worker is left, tasks end with
    /// [`TaskError::NoWorkers`](crate::TaskError::NoWorkers).
    #[doc(alias = "context")]
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// Has the tasks run by `engine`, and not by workers of the pool's own: on other machines, say. All else that is
    /// done with the pool stays as it is.
    ///
    /// What is set here of workers is an error then, as they are started elsewhere;
    /// [`task_timeout`](Self::task_timeout) goes with each task. See [`engine`](crate::engine) for how to make one.
    pub fn engine(mut self, engine: impl Engine) -> Self {
        self.engine = Some(Box::new(engine));
        self
    }

    /// Starts the workers. Returns once all run, and have called the initializer if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::NoWorkers`] and [`Error::NoTasks`] for numbers that are zero; [`Error::Start`] where a worker cannot
    /// be started: in a worker, or another daemon, for one, which may not start processes;
    /// [`Error::Initializer`], [`Error::DiedInInitializer`] and [`Error::Encode`] where the initializer fails;
    /// [`Error::Io`] where memory, descriptors or threads are short. With an [`engine`](Self::engine)
    /// [`Error::NotOurWorkers`] only.
    pub fn build(self) -> Result<Pool> {
        if let Some(engine) = self.engine {
            let set = [
                ("workers", self.workers.is_some()),
                ("initializer", self.initializer.is_some()),
                ("max_tasks_per_child", self.tasks_per_worker.is_some()),
                ("start_method", self.method.is_some()),
            ];
            return match set.into_iter().find(|(_, is_set)| *is_set) {
                Some((name, _)) => Err(Error::NotOurWorkers(name)),
                None => Ok(Pool::with(engine, self.task_timeout)),
            };
        }
        let workers = self.workers.unwrap_or_else(cpu_count);
        if workers == 0 {
            return Err(Error::NoWorkers);
        }
        if self.tasks_per_worker == Some(0) {
            return Err(Error::NoTasks);
        }
        let initializer = match self.initializer {
            None => None,
            Some((function, body)) => Some((function, body?)),
        };
        let settings = Settings {
            workers,
            initializer,
            tasks_per_worker: self.tasks_per_worker,
            method: self.method.unwrap_or_else(start_method),
        };
        Ok(Pool::with(Box::new(Local::start(settings)?), self.task_timeout))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("tasks_per_worker", &self.tasks_per_worker)
            .field("task_timeout", &self.task_timeout)
            .field("method", &self.method)
            .field("has_engine", &self.engine.is_some())
            .finish_non_exhaustive()
    }
}
