//! The whole of what a pool does, on its own workers and on another engine.
//!
//! [`Relay`] stands for engines that send tasks away: they are bytes on their way, run by a second pool, and
//! each outcome comes twice.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use multiprocess::pool::engine::{Call, Engine, Job, Submitted, outcome_to_bytes};
use multiprocess::pool::{Builder, Error};
use multiprocess::{Event, Pool, TaskError};

use crate::support::{Folder, Outcome, at_last, eventually};

crate::cases! {
    ONCE:
        calls_and_errors_are_the_same_on_each_engine
        imap_keeps_its_window_on_each_engine
        callbacks_are_called_on_each_engine
        tasks_are_timed_and_cancelled_on_each_engine
        close_and_terminate_end_all_tasks_on_each_engine
        what_an_engine_cannot_carry_or_does_not_have_is_an_error
        bytes_that_are_no_task_are_refused
    ;
}

type Table = HashMap<u64, (Job, Option<Submitted>)>;

/// Has another pool run the tasks.
struct Relay {
    pool: Pool,
    jobs: Arc<Mutex<Table>>,
}

fn lock(jobs: &Mutex<Table>) -> MutexGuard<'_, Table> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    fn new() -> Self {
        Self { pool: Pool::new(2).expect("a pool"), jobs: Arc::default() }
    }

    /// Ends a job, if it has not ended.
    fn end(jobs: &Mutex<Table>, number: u64, outcome: Vec<u8>) {
        let ended = lock(jobs).remove(&number);
        if let Some((job, _)) = ended {
            job.end_with_bytes(outcome);
        }
    }
}

impl Engine for Relay {
    fn workers(&self) -> usize {
        self.pool.workers().len()
    }

    fn submit(&self, job: Job) {
        let task = match job.to_bytes() {
            Ok(task) => task,
            Err(error) => return job.end(Err(error)),
        };
        let (number, jobs) = (job.number(), Arc::clone(&self.jobs));
        lock(&self.jobs).insert(number, (job, None));
        let submitted = self.pool.submit_bytes(&task, move |outcome| {
            Self::end(&jobs, number, outcome.clone());
            Self::end(&jobs, number, outcome);
        });
        match submitted {
            Ok(submitted) => {
                if let Some((_, handle)) = lock(&self.jobs).get_mut(&number) {
                    *handle = Some(submitted);
                }
            }
            Err(error) => Self::end(&self.jobs, number, outcome_to_bytes(Err(error))),
        }
    }

    fn cancel(&self, call: Call, running: bool) -> bool {
        let jobs = lock(&self.jobs);
        let of_call = jobs.values().filter(|(job, _)| job.call() == call);
        let handles: Vec<u64> = of_call.map(|(job, _)| job.number()).collect();
        drop(jobs);
        let mut cancelled = false;
        for number in handles {
            let handle = lock(&self.jobs).get_mut(&number).and_then(|(_, handle)| handle.take());
            let Some(handle) = handle else { continue };
            let ended = if running { handle.cancel() } else { handle.cancel_pending() };
            if let Some((_, place)) = lock(&self.jobs).get_mut(&number) {
                *place = Some(handle);
            }
            cancelled |= ended;
        }
        cancelled
    }

    fn close(&self) {
        self.pool.close();
    }

    fn terminate(&self) {
        self.pool.terminate();
    }

    fn join(&self) {
        self.pool.join().expect("is closed");
    }

    fn pids(&self) -> Vec<u32> {
        self.pool.workers()
    }
}

/// One pool on each.
fn each(build: impl Fn(Builder) -> Builder) -> [Pool; 2] {
    let own = build(Pool::builder()).workers(2).build();
    let relayed = build(Pool::builder()).engine(Relay::new()).build();
    [own, relayed].map(|pool| pool.expect("a pool"))
}

fn square(x: u64) -> u64 {
    x * x
}

fn for_ever() {
    loop {
        std::thread::park();
    }
}

/// Leaves a file that says that it runs.
fn runs_for_ever(file: PathBuf) {
    std::fs::write(file, "").expect("writes");
    for_ever();
}

fn fussy(x: i32) -> i32 {
    assert!(x != 17, "not {x}");
    if x == 1000 {
        std::process::exit(5);
    }
    x
}

fn calls_and_errors_are_the_same_on_each_engine() -> Outcome {
    for pool in each(|builder| builder) {
        assert_eq!(pool.workers().len(), 2);
        assert_eq!(pool.apply(square, (12,))?, 144);
        let squares: Vec<u64> = (0..10_000).map(square).collect();
        assert_eq!(pool.map(square, 0..10_000)?, squares);
        assert_eq!(pool.map_chunked(square, 0..10_000, 7)?, squares);
        assert_eq!(pool.map_async(square, 0..10_000).get()?, squares);
        assert_eq!(pool.starmap(u64::pow, [(2, 10), (3, 4)])?, [1024, 81]);
        assert_eq!(pool.map(square, [])?, []);
        let long = pool.apply(|bytes: Vec<u8>| bytes, (vec![7; 1 << 20],))?;
        assert!(long.len() == 1 << 20 && long.iter().all(|byte| *byte == 7));

        let Err(TaskError::Panicked(panic)) = pool.map_chunked(fussy, 10..20, 5) else {
            panic!("no panic");
        };
        assert_eq!(panic, "not 17");
        assert_eq!(panic.task().items(), Some(7..8));
        assert!(panic.task().number() > 0 && panic.task().function().ends_with("fussy"));
        let Err(TaskError::WorkerDied { exit_code, pid, task }) =
            pool.map_chunked(fussy, [1, 1000], 1)
        else {
            panic!("nobody died");
        };
        assert!(pid > 0 && exit_code == Some(5) && task.items() == Some(1..2), "{task}");
        assert!(task.function().ends_with("fussy"));
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
    }
    Ok(())
}

fn imap_keeps_its_window_on_each_engine() -> Outcome {
    for pool in each(|builder| builder) {
        let taken = std::cell::Cell::new(0);
        let input = (0..).inspect(|_| taken.set(taken.get() + 1));
        let mut results = pool.imap(square, input).window(5);
        for n in 0..100 {
            assert_eq!(results.next(), Some(Ok(n * n)));
            assert!(taken.get() <= n + 1 + 5, "{} taken at {n}", taken.get());
        }
        drop(results);
        let mut some: Vec<u64> = pool.imap_unordered(square, 0..500).collect::<Result<_, _>>()?;
        some.sort_unstable();
        assert!(some.into_iter().eq((0..500).map(square)));
        let results: Vec<_> = pool.imap(fussy, [16, 17, 18]).collect();
        assert!(results[0] == Ok(16) && results[1].is_err() && results[2] == Ok(18));
    }
    Ok(())
}

fn callbacks_are_called_on_each_engine() -> Outcome {
    for pool in each(|builder| builder) {
        let (sender, receiver) = mpsc::channel();
        for n in 0..100 {
            let sender = sender.clone();
            pool.apply_async(square, (n,)).on_done(move |result| {
                sender.send(result.expect("a square")).expect("is awaited");
                panic!("callbacks may");
            });
        }
        drop(sender);
        pool.close();
        pool.join()?;
        assert_eq!(receiver.iter().sum::<u64>(), (0..100).map(square).sum());
    }
    Ok(())
}

fn tasks_are_timed_and_cancelled_on_each_engine() -> Outcome {
    for pool in each(|builder| builder.task_timeout(Duration::from_millis(200))) {
        // The first, and alone: nothing else wakes who watches the time.
        assert_eq!(pool.apply(for_ever, ()), Err(TaskError::TimedOut));
        let more = pool.apply_async(for_ever, ());
        // Even this takes longer where the machine stands still.
        at_last(|| pool.apply(square, (3,)), |result| *result == Ok(9))?;
        assert_eq!(more.get(), Err(TaskError::TimedOut));
    }
    for pool in each(|builder| builder) {
        let folder = Folder::new()?;
        let files = ["one", "two"].map(|name| folder.path(name));
        let running = files.clone().map(|file| pool.apply_async(runs_for_ever, (file,)));
        eventually("both run", || files.iter().all(|file| file.exists()))?;
        let waiting = pool.apply_async(square, (3,));
        assert_eq!(waiting.get_timeout(Duration::from_millis(50)), Err(TaskError::TimedOut));
        assert!(waiting.cancel_pending() && !waiting.cancel());
        assert_eq!(waiting.get(), Err(TaskError::Cancelled));
        assert!(!running[0].cancel_pending() && running[0].cancel());
        assert_eq!(running[0].get(), Err(TaskError::Cancelled));
        assert_eq!(pool.apply(square, (4,))?, 16);
        assert!(running[1].cancel());
    }
    Ok(())
}

fn close_and_terminate_end_all_tasks_on_each_engine() -> Outcome {
    for pool in each(|builder| builder) {
        assert!(matches!(pool.join(), Err(Error::StillOpen)));
        let results: Vec<_> = (0..1000).map(|n| pool.apply_async(square, (n,))).collect();
        pool.close();
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
        pool.join()?;
        for (result, n) in results.iter().zip(0..) {
            assert!(result.is_successful());
            assert_eq!(result.get()?, n * n);
        }
        assert!(pool.workers().is_empty());
    }
    for pool in each(|builder| builder) {
        let results: Vec<_> = (0..100).map(|_| pool.apply_async(for_ever, ())).collect();
        pool.terminate();
        pool.join()?;
        assert!(results.iter().all(|result| result.get() == Err(TaskError::Terminated)));
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
    }
    Ok(())
}

fn what_an_engine_cannot_carry_or_does_not_have_is_an_error() -> Outcome {
    let pool = Pool::builder().engine(Relay::new()).build()?;
    let Err(TaskError::Encode(why)) = pool.apply(|_: Event| (), (Event::new()?,)) else {
        panic!("an event does not leave its machine");
    };
    assert!(why.contains("arguments") && why.contains("handles"), "{why}");
    let Err(TaskError::Encode(why)) = pool.apply(|| Event::new().expect("an event"), ()) else {
        panic!("an event does not leave its machine");
    };
    assert!(why.contains("result") && why.contains("handles"), "{why}");

    let error = Pool::builder().engine(Relay::new()).workers(3).build().unwrap_err();
    assert!(matches!(error, Error::NotOurWorkers("workers")), "{error}");
    assert!(error.to_string().contains("workers()"), "{error}");
    Ok(())
}

fn bytes_that_are_no_task_are_refused() -> Outcome {
    let pool = Pool::new(1)?;
    for bytes in [&b""[..], b"mpt1", &[255; 100]] {
        let refused = pool.submit_bytes(bytes, |_| panic!("there is no outcome"));
        assert!(matches!(refused, Err(TaskError::Decode(_))));
    }
    Ok(())
}
