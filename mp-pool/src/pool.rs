//! The pool.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mp_core::Encoder;
use mp_process::{Args, Function, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::Body;
use crate::builder::Builder;
use crate::call::{Each, EachOf, Once, encode_each_of};
use crate::callbacks::Callbacks;
use crate::chunk;
use crate::engine::{Call, Engine, Job, NO_TIMEOUT, Name, nanos};
use crate::iter::{Flow, Imap, ImapUnordered, pack};
use crate::result::{AsyncResult, Pending, Sink, decode_chunk};
use crate::{Error, Result, TaskError};

/// Processes that wait for tasks, and run them.
///
/// A task is a function by its name or a closure that captures nothing, with its arguments. It runs in one of the
/// workers; what it returns comes back. All methods take `&self`: any number of threads may use a pool at a time.
///
/// Every task ends: with its value, or with a [`TaskError`] that says what became of it. A task that panics costs no
/// process. A worker that dies, or is killed, costs the task that it runs and no other, and is replaced.
///
/// Dropping the pool [terminates](Self::terminate) it. To have all tasks done first, [`close`](Self::close) and
/// [`join`](Self::join) it, or wait for their results.
///
/// Workers are daemons: they end with this process, also when that is killed, and may not start processes. So a pool
/// cannot be made in a worker of another: that is an error.
///
/// Python: `multiprocessing.Pool`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_pool::Pool;
///
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let pool = Pool::new(2)?;
///     assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
///
///     let one = pool.apply_async(square, (12,));
///     let two = pool.apply_async(|name: String, times: usize| name.repeat(times), ("ha".into(), 2));
///     assert_eq!((one.get()?, two.get()?), (144, "haha".to_string()));
///
///     pool.close();
///     pool.join()?;
///     Ok(())
/// }
/// ```
///
/// # Example: a worker that dies
///
/// ```standalone_crate
/// use mp_pool::{Pool, TaskError};
///
/// fn crash(code: i32) {
///     std::process::exit(code);
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let pool = Pool::new(1)?;
///     let crashes = pool.apply_async(crash, (3,));
///     let goes_on = pool.apply_async(|x: i32| x + 1, (1,));
///     assert!(matches!(crashes.get(), Err(TaskError::WorkerDied { exit_code: Some(3), .. })));
///     assert_eq!(goes_on.get()?, 2);
///     Ok(())
/// }
/// ```
///
/// # Example: what is no task
///
/// A closure that captures does not compile: pass what it needs as an argument.
///
/// ```compile_fail,E0080
/// let pool = mp_pool::Pool::new(2).unwrap();
/// let factor = 3;
/// let _ = pool.map(move |x: i32| x * factor, 0..10);
/// ```
#[doc(alias("multiprocessing.Pool", "ProcessPoolExecutor"))]
pub struct Pool {
    core: Arc<Core>,
}

/// What a pool, its results and its iterators share.
pub(crate) struct Core {
    engine: Box<dyn Engine>,
    /// How many tasks there were.
    accepted: AtomicU64,
    /// Whether no more are taken.
    closed: AtomicBool,
    /// In nanoseconds, of tasks without a limit of their own.
    task_timeout: u64,
    callbacks: Arc<Callbacks>,
    /// The process that has the workers: one that is forked from it has this object too.
    owner: u32,
}

impl Core {
    /// How many tasks are run at a time.
    pub(crate) fn size(&self) -> usize {
        self.engine.workers().max(1)
    }

    /// Encodes arguments.
    pub(crate) fn encode<R>(&self, encode: impl FnOnce() -> R) -> R {
        let (mut encode, mut encoded) = (Some(encode), None);
        self.engine.encoding(&mut || encoded = encode.take().map(|encode| encode()));
        encoded.expect("an engine calls `encode`")
    }

    /// Whether tasks are refused.
    fn is_closed(&self) -> bool {
        // Relaxed, as for the number: what comes while the pool is closed is for the engine to refuse.
        self.closed.load(Ordering::Relaxed)
    }

    /// Gives a task to the engine.
    pub(crate) fn submit(&self, mut job: Job) {
        if self.is_closed() {
            return job.finish(Err(TaskError::Closed));
        }
        job.number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        if job.timeout == NO_TIMEOUT {
            job.timeout = self.task_timeout;
        }
        self.engine.submit(job);
    }

    pub(crate) fn cancel(&self, sink: &Arc<dyn Sink>, running: bool) -> bool {
        self.engine.cancel(Call::of(sink), running)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.engine.close();
    }

    fn terminate(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.engine.terminate();
    }

    fn join(&self) {
        self.engine.join();
        self.callbacks.finish();
    }
}

impl Pool {
    /// Starts a pool of so many workers.
    ///
    /// Returns once they all run. [`builder`](Self::builder) sets more than their number.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    pub fn new(workers: usize) -> Result<Self> {
        Self::builder().workers(workers).build()
    }

    /// What a pool can be: number of workers, initializer, limits.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn with(engine: Box<dyn Engine>, task_timeout: Option<Duration>) -> Self {
        Self {
            core: Arc::new(Core {
                engine,
                accepted: AtomicU64::new(0),
                closed: AtomicBool::new(false),
                task_timeout: task_timeout.map_or(NO_TIMEOUT, nanos),
                callbacks: Arc::default(),
                owner: std::process::id(),
            }),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Runs a task and gives what it returns.
    ///
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// What became of the task instead.
    pub fn apply<F, A, R>(&self, function: F, args: A) -> Result<R, TaskError>
    where
        F: Target<A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        self.apply_async(function, args).get()
    }

    /// Submits a task.
    ///
    /// Does not wait: for a worker to be free, or to take its arguments, however large they are. They are encoded
    /// here and now. What goes wrong is in the result.
    #[doc(alias("submit", "args", "kwds"))]
    pub fn apply_async<F, A, R>(&self, function: F, args: A) -> AsyncResult<R>
    where
        F: Target<A, Output = R> + Copy + 'static,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        let job = Pending::one(&self.core.callbacks);
        let mut encoder = Encoder::new();
        let encoded = self.core.encode(|| args.encode(&mut encoder));
        drop(args);
        match pack(encoded.map(|()| encoder.finish())) {
            Ok(body) => {
                let function = (Function::new::<F, Once<A>>(function), type_name::<F> as Name);
                let sink = Arc::clone(&job) as Arc<dyn Sink>;
                self.core.submit(Job::new(function, None, body, sink, 0));
            }
            Err(error) => job.deliver(0, Err(error)),
        }
        AsyncResult::of_one(job, Arc::clone(&self.core), type_name::<F>)
    }

    /// Calls `function` with each item of `input` and gives the results, in that order.
    ///
    /// Waits for them all. The items go to the workers in chunks: four for each worker, or more where that would make
    /// them longer than 32 KiB of items, or of results in so far as their type tells. Chunks of numbers are copied as a
    /// whole, and no more of them is under way than keeps the workers busy. If the length of the input is not known it is
    /// collected first.
    ///
    /// # Errors
    ///
    /// What became of the first item without a result: then what no worker has begun is not run.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_pool::{Pool, TaskError};
    ///
    /// fn invert(x: i32) -> i32 {
    ///     assert_ne!(x, 0, "zero has no inverse");
    ///     1000 / x
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let pool = Pool::new(2)?;
    ///     assert_eq!(pool.map(invert, [1, 2, 4])?, [1000, 500, 250]);
    ///     let Err(TaskError::Panicked(message)) = pool.map(invert, -3..3) else {
    ///         panic!("there is no inverse of zero");
    ///     };
    ///     assert!(message.contains("zero has no inverse"));
    ///     assert_eq!(message.task().items(), Some(3..4)); // the fourth item
    ///     Ok(())
    /// }
    /// ```
    pub fn map<F, I, A, R>(&self, function: F, input: I) -> Result<Vec<R>, TaskError>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let input = input.into_iter();
        match exact_len(&input) {
            Some(len) => self.map_in_chunks(function, input, self.next::<A, R>(len), len),
            None => {
                let items: Vec<A> = input.collect();
                let len = items.len();
                self.map_in_chunks(function, items.into_iter(), self.next::<A, R>(len), len)
            }
        }
    }

    /// As [`map`](Self::map), in chunks of so many items.
    ///
    /// # Errors
    ///
    /// [`TaskError::ZeroChunk`] for zero; else as there.
    #[doc(alias = "chunksize")]
    pub fn map_chunked<F, I, A, R>(
        &self,
        function: F,
        input: I,
        chunk: usize,
    ) -> Result<Vec<R>, TaskError>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        if chunk == 0 {
            return Err(TaskError::ZeroChunk);
        }
        let input = input.into_iter();
        let len = input.size_hint().0;
        self.map_in_chunks(function, input, chunk::Next::fixed(chunk), len)
    }

    /// As [`map`](Self::map), but does not wait.
    ///
    /// Takes the whole input. Python: `map_async`.
    pub fn map_async<F, I, A, R>(&self, function: F, input: I) -> AsyncResult<Vec<R>>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let function = (Function::new::<F, Each<A>>(function), type_name::<F> as Name);
        self.submit_chunks(function, input.into_iter().collect(), |items: &[A], encoder| {
            encoder.put(items).map(drop)
        })
    }

    /// Calls `function` with each tuple of `input` as its arguments and gives the results, in that order.
    ///
    /// Waits for them all; as [`map`](Self::map).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_pool::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let pool = Pool::new(2)?;
    ///     let power = |base: u64, exponent: u32| base.pow(exponent);
    ///     assert_eq!(pool.starmap(power, [(2, 10), (3, 4)])?, [1024, 81]);
    ///     Ok(())
    /// }
    /// ```
    pub fn starmap<F, I, A, R>(&self, function: F, input: I) -> Result<Vec<R>, TaskError>
    where
        F: Target<A, Output = R> + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        self.starmap_async(function, input).get()
    }

    /// As [`starmap`](Self::starmap), but does not wait.
    pub fn starmap_async<F, I, A, R>(&self, function: F, input: I) -> AsyncResult<Vec<R>>
    where
        F: Target<A, Output = R> + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        let function = (Function::new::<F, EachOf<A>>(function), type_name::<F> as Name);
        self.submit_chunks(function, input.into_iter().collect(), encode_each_of::<A>)
    }

    /// Calls `function` with each item of `input`; gives the results one by one, in that order, as soon as they are
    /// there.
    ///
    /// No more of the input is taken than a [window](Imap::window) ahead of the results, so it may be endless. An item
    /// without a result is an error in its place, and those behind it follow. Where the length of the input is known,
    /// so is that of the results: a progress bar can show how much is left.
    ///
    /// The input is taken by whoever calls `next`, in that call, and by this one only where it says that it has more,
    /// as ranges and vectors do: a channel does not keep this call. Results that are there come before such an input is
    /// asked. But while an input waits it holds back results that come meanwhile, and one that waits for results still
    /// to come never ends, unless the window is small enough: [`window`](Imap::window) has more.
    ///
    /// Python: a thread takes the input, and all of it at once, so an input may wait for results.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use mp_pool::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let pool = Pool::new(2)?;
    ///     let endless = pool.imap(|x: u64| x * x, 1..);
    ///     let large = endless.map_while(Result::ok).find(|square| *square > 1000);
    ///     assert_eq!(large, Some(1024));
    ///
    ///     let results = pool.imap(|x: i32| 6 / x, [3, 0, 2]);
    ///     assert_eq!(results.len(), 3);
    ///     let results: Vec<_> = results.collect();
    ///     assert_eq!((&results[0], &results[2]), (&Ok(2), &Ok(3)));
    ///     assert!(results[1].is_err());
    ///     Ok(())
    /// }
    /// ```
    pub fn imap<F, I, A, R>(&self, function: F, input: I) -> Imap<I::IntoIter, F, R>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Imap::new(&self.core, function, input.into_iter())
    }

    /// As [`imap`](Self::imap), but gives the results in the order they come.
    ///
    /// The input is taken by whoever calls `next` here too: one that waits holds back results that come meanwhile, and
    /// one that waits for results still to come never ends, unless the [`window`](ImapUnordered::window) is small
    /// enough.
    pub fn imap_unordered<F, I, A, R>(
        &self,
        function: F,
        input: I,
    ) -> ImapUnordered<I::IntoIter, F, R>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        ImapUnordered::new(&self.core, function, input.into_iter())
    }

    fn next<A, R>(&self, len: usize) -> chunk::Next {
        let size = size_of::<A>().max(size_of::<R>());
        chunk::Next::up_to::<A>(chunk::default_size(len, self.core.size(), size))
    }

    fn map_in_chunks<F, I, A, R>(
        &self,
        function: F,
        mut input: I,
        mut next: chunk::Next,
        len: usize,
    ) -> Result<Vec<R>, TaskError>
    where
        F: Fn(A) -> R + Copy + 'static,
        I: Iterator<Item = A>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let mut flow = Flow::new::<F>(&self.core, Function::new::<F, Each<A>>(function));
        let window = self.core.size().saturating_mul(self.core.engine.ahead().max(1));
        let mut results = Vec::new();
        results.try_reserve_exact(len).map_err(|error| {
            TaskError::Decode(format!("no memory for the results of {len} items: {error}"))
        })?;
        let mut items = Vec::new();
        let mut first = 0;
        loop {
            while flow.in_flight() < window {
                items.extend(input.by_ref().take(next.items()));
                if items.is_empty() {
                    break;
                }
                encode_chunk(
                    &self.core,
                    &items,
                    first,
                    &|items, encoder| encoder.put(items).map(drop),
                    &mut |chunk| {
                        chunk.measure(&mut next);
                        flow.submit(chunk.body, chunk.first, chunk.len);
                    },
                );
                first += items.len();
                items.clear();
            }
            if flow.in_flight() == 0 {
                // No task was refused where there was none.
                let is_refused = first == 0 && self.core.is_closed();
                return if is_refused { Err(TaskError::Closed) } else { Ok(results) };
            }
            decode_chunk(&flow.next_in_order(), &mut results)?;
        }
    }

    fn submit_chunks<A, R>(
        &self,
        (function, name): (Function, Name),
        items: Vec<A>,
        encode: impl Fn(&[A], &mut Encoder) -> mp_core::Result<()>,
    ) -> AsyncResult<Vec<R>>
    where
        R: DeserializeOwned,
    {
        let mut next = self.next::<A, R>(items.len());
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < items.len() {
            let end = items.len().min(first + next.items());
            let mut keep = |chunk: Chunk| {
                chunk.measure(&mut next);
                chunks.push(chunk);
            };
            encode_chunk(&self.core, &items[first..end], first, &encode, &mut keep);
            first = end;
        }
        drop(items);
        if chunks.is_empty() && self.core.is_closed() {
            // There is no task to be refused.
            let job = Pending::many(1, &self.core.callbacks);
            job.deliver(0, Err(TaskError::Closed));
            return AsyncResult::of_chunks(job, Arc::clone(&self.core), name);
        }
        let job = Pending::many(chunks.len(), &self.core.callbacks);
        for (part, chunk) in chunks.into_iter().enumerate() {
            match chunk.body {
                Ok(body) => {
                    let sink = Arc::clone(&job) as Arc<dyn Sink>;
                    let items = Some((chunk.first, chunk.len));
                    self.core.submit(Job::new((function, name), items, body, sink, part));
                }
                Err(error) => job.deliver(part, Err(error)),
            }
        }
        AsyncResult::of_chunks(job, Arc::clone(&self.core), name)
    }

    /// Takes no more tasks; those it has are done, and then the workers end. Does not wait for that.
    ///
    /// Further tasks are [`TaskError::Closed`]. Closing again changes nothing.
    pub fn close(&self) {
        self.core.close();
    }

    /// Ends the workers at once, by SIGKILL, and with [`TaskError::Terminated`] all tasks that have not ended.
    ///
    /// Does not wait. A worker that this process may not signal, as it has changed its user since, ends by itself: at
    /// once where it runs no task, else once the task has ended.
    ///
    /// Python: the results of tasks that have not ended are never ready.
    pub fn terminate(&self) {
        self.core.terminate();
    }

    /// Waits until the workers of a pool that was closed or terminated have ended, and all callbacks were called. For a
    /// worker that is to end and does not, for five seconds: then it is killed, and where that is not allowed left to end
    /// by itself.
    ///
    /// # Errors
    ///
    /// [`Error::StillOpen`] where it was not.
    pub fn join(&self) -> Result<()> {
        if !self.core.is_closed() {
            return Err(Error::StillOpen);
        }
        self.core.join();
        Ok(())
    }

    /// The numbers of the processes that work now.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        self.core.engine.pids()
    }
}

/// Chunks with more descriptors are cut in two, down to single items: those that are under way are open here too.
const MOST_DESCRIPTORS: usize = 16;

/// A chunk of the input, to be sent.
struct Chunk {
    body: Result<Body, TaskError>,
    first: usize,
    len: usize,
}

impl Chunk {
    fn measure(&self, next: &mut chunk::Next) {
        if let Ok(body) = &self.body {
            next.took(self.len, body.bytes.len());
        }
    }
}

/// Encodes items, the first of which is number `first` of the input, and gives them to `take`, in order.
fn encode_chunk<A>(
    core: &Core,
    items: &[A],
    first: usize,
    encode: &impl Fn(&[A], &mut Encoder) -> mp_core::Result<()>,
    take: &mut impl FnMut(Chunk),
) {
    let len = items.len();
    let mut encoder = Encoder::new();
    let encoded = core.encode(|| encode(items, &mut encoder)).map(|()| encoder.finish());
    // One item that cannot be encoded fails alone; and of many with descriptors there may be too many for this
    // process to have at a time.
    let cut = match &encoded {
        Ok(message) => message.fds().len() > MOST_DESCRIPTORS,
        Err(_) => true,
    };
    if cut && len > 1 {
        drop(encoded);
        let (some, others) = items.split_at(len / 2);
        encode_chunk(core, some, first, encode, take);
        encode_chunk(core, others, first + some.len(), encode, take);
    } else {
        take(Chunk { body: pack(encoded), first, len });
    }
}

/// The length of what is to come, where that is known.
fn exact_len(input: &impl Iterator) -> Option<usize> {
    match input.size_hint() {
        (least, Some(most)) if least == most => Some(least),
        _ => None,
    }
}

impl Drop for Pool {
    /// Terminates the pool, and waits until its processes have ended.
    fn drop(&mut self) {
        if self.core.owner == std::process::id() {
            self.core.terminate();
            self.core.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.core.size()).finish_non_exhaustive()
    }
}
